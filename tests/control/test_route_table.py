"""The plan of a method: where a call goes without asking, and that it is never elsewhere than where asking leads."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.route_table import ServiceTable
from proxyless.policy.matcher import joined
from proxyless.script import Rpc
from proxyless.stack import ENTRY
from tests.worlds import Known, document, rpc

NAMES = ("x-user", "x-tier", "content-type")
VALUES = ("a", "b", "application/grpc", "3")

WAYS = st.one_of(
    st.builds(lambda value: {"exact": value}, st.sampled_from(VALUES)),
    st.builds(lambda value: {"exact": value, "invert": True}, st.sampled_from(VALUES)),
    st.builds(lambda value: {"prefix": value, "ignoreCase": True}, st.sampled_from(VALUES)),
    st.builds(lambda value: {"present": value}, st.booleans()),
    st.just({"regex": "[a-c]*"}),
    st.just({"range": {"start": 1, "end": 5}}),
)
ASKED = st.dictionaries(st.sampled_from(NAMES), WAYS, max_size=2)
BLOCKS = st.builds(
    lambda headers, without, path: {
        **({"headers": headers} if headers else {}),
        **({"withoutHeaders": without} if without else {}),
        **({"path": {"prefix": path}} if path else {}),
    },
    ASKED,
    ASKED,
    st.sampled_from(["", "/shop.", "/other."]),
).filter(bool)
ROUTES = st.lists(st.lists(BLOCKS, max_size=2), min_size=1, max_size=5)
METADATA = st.lists(
    st.tuples(st.sampled_from((*NAMES, "traceparent", "x-other-bin")), st.sampled_from(VALUES)), max_size=3
)


def table(routes: list[dict[str, Any]]) -> tuple[ServiceTable, Known]:
    """What a document with these routes, by number, comes to."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(json.dumps({"routes": routes}))
    return world.snapshot().services["web"], world


@given(ROUTES, METADATA)
def test_a_call_goes_where_the_first_route_that_matches_leads(
    matches: list[list[dict[str, Any]]], metadata: list[tuple[str, str]]
) -> None:
    """Whether its plan had to be asked or not."""
    routes = [{"name": f"r{number}", **({"match": match} if match else {})} for number, match in enumerate(matches)]
    known, world = table(routes)
    headers = joined(metadata)
    steps = known.plan("/shop.Products/Get", "web").steps
    asked = next((route.name for test, route in steps if test is None or test(headers, lambda: 0.0)), None)
    call: Rpc = rpc(world.snapshot(), metadata=tuple(metadata) or None)
    ENTRY(call).close()
    assert (call.route.name if hasattr(call, "route") else None) == asked


def test_only_what_a_route_of_that_method_asks_about_has_to_be_looked_at() -> None:
    """A call without these goes straight where it goes."""
    known, _ = table(
        [
            {"name": "canary", "match": [{"headers": {"x-user": {"exact": "u1"}}, "path": {"prefix": "/shop."}}]},
            {"name": "elsewhere", "match": [{"headers": {"x-tier": {"exact": "1"}}, "path": {"prefix": "/other."}}]},
            {"name": "rest"},
        ]
    )
    plan = known.plan("/shop.Products/Get", "web")
    assert plan.asked == {"x-user"}
    assert plan.usual is not None
    assert plan.usual.name == "rest"
    assert known.plan("/any.Thing/Do", "web").asked == frozenset()


def test_where_chance_has_a_say_it_is_asked_each_time() -> None:
    """Half of all calls follow the first route."""
    known, world = table([{"name": "half", "match": [{"fraction": 50}]}, {"name": "rest"}])
    assert known.plan("/shop.Products/Get", "web").usual is None
    went = set()
    for draw in (0.1, 0.9):
        call: Rpc = rpc(world.snapshot(), rng=lambda draw=draw: draw)  # type: ignore[misc]
        ENTRY(call).close()
        went.add(call.route.name)
    assert went == {"half", "rest"}


def test_a_route_that_wants_a_header_absent_is_what_is_usual() -> None:
    """The answer for calls that carry nothing is found like any other, by asking."""
    known, _ = table([{"name": "bare", "match": [{"headers": {"x-user": {"present": False}}}]}, {"name": "rest"}])
    plan = known.plan("/shop.Products/Get", "web")
    assert plan.usual is not None
    assert plan.usual.name == "bare"
