"""What `explain` says a call would be refused for is what the next call is refused for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxyless.explain import explain
from proxyless.model.snapshot import Snapshot
from proxyless.stack import ENTRY
from tests.fakes import START, play
from tests.worlds import WEB, Known, document, fail, rpc

BREAKER = "trafficPolicy: {circuitBreaker: {minimumRequests: 2, openFor: 30s}, outlierDetection: {consecutive5xx: 0}}"
EJECTS = "outlierDetection: {consecutive5xx: 1, maxEjectionPercent: 100}"
NO_PANIC = f"trafficPolicy: {{locality: {{panicThreshold: 0}}, {EJECTS}}}"
EMPTY = "subsets: {none: {labels: {version: v9}}}\n"


def _opened(snapshot: Snapshot) -> None:
    state = snapshot.clusters[WEB].state
    for _ in range(2):
        state.judge(state.admit(START), False, START)


def _ejected(snapshot: Snapshot) -> None:
    for node in snapshot.clusters[WEB].nodes:
        fail(snapshot.clusters[WEB].state, node)


def _one_unreachable(snapshot: Snapshot) -> None:
    first, second = snapshot.clusters[WEB].nodes
    fail(snapshot.clusters[WEB].state, first)
    second.unreachable(START, 0.5)


def _all_unreachable(snapshot: Snapshot) -> None:
    for node in snapshot.clusters[WEB].nodes:
        node.unreachable(START, 0.5)


def _busy(snapshot: Snapshot) -> None:
    cluster = snapshot.clusters[WEB]
    assert cluster.state.begin(cluster.nodes[0])


def _nothing(_snapshot: Snapshot) -> None:
    """It is the document alone that refuses, or that does not."""


@pytest.mark.parametrize(
    ("text", "before", "later", "reason"),
    [
        ("routes: []", _nothing, 0.0, None),
        (BREAKER, _opened, 0.0, "circuit_open"),
        (BREAKER, _opened, 29.0, "circuit_open"),
        (BREAKER, _opened, 30.0, None),  # half open: it is let in
        (NO_PANIC, _ejected, 0.0, "no_endpoints"),
        (NO_PANIC, _ejected, 31.0, None),  # on probation
        (NO_PANIC, _one_unreachable, 0.0, "no_endpoints"),
        (NO_PANIC, _all_unreachable, 0.0, None),  # nobody is ejected: it is tried
        (f"trafficPolicy: {{{EJECTS}}}", _ejected, 0.0, None),  # the panic calls them
        ("trafficPolicy: {limits: {maxRequests: 1}}", _busy, 0.0, "limit"),
        ("trafficPolicy: {limits: {maxRequests: 2}}", _busy, 0.0, None),
        ("trafficPolicy: {limits: {maxRequests: 0}}", _nothing, 0.0, "limit"),
        (EMPTY + "routes: [{split: [{subset: none}]}]", _nothing, 0.0, "no_endpoints"),
        (EMPTY + "routes: [{split: [{subset: none}, {weight: 0}]}]", _nothing, 0.0, "no_endpoints"),
        (EMPTY + "routes: [{split: [{subset: none, weight: 0}, {}]}]", _nothing, 0.0, None),
        ("routes: [{directResponse: {status: NOT_FOUND}}]", _nothing, 0.0, "direct_response"),
        ("routes: [{match: [{path: {exact: /a/B}}]}]", _nothing, 0.0, "no_route"),
    ],
)
def test_explain_refuses_what_the_next_call_is_refused_for(
    text: str, before: Callable[[Snapshot], None], later: float, reason: str | None
) -> None:
    """The reason's word, or None: of documents, and of what the breaker, the detector and the limits know."""
    world = Known().lives("web", "a:1", "b:1")
    world.services["web"] = document(text)
    snapshot = world.snapshot()
    before(snapshot)
    now = START + later
    assert explain(snapshot, "web", "/s/M", (), now).refusal == reason
    assert (play(ENTRY, rpc(snapshot, method="/s/M", now=now))[1].refused or None) == reason


def test_of_a_sticky_split_the_side_that_the_request_is_on_decides() -> None:
    """Half of the users are refused, and `explain` knows which; without the header it is drawn."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(EMPTY + "routes: [{sticky: {header: x-user}, split: [{subset: none}, {}]}]")
    snapshot = world.snapshot()
    found = set()
    for number in range(20):
        user = (("x-user", f"user-{number}"),)
        refusal = explain(snapshot, "web", "/s/M", user, START).refusal
        assert (play(ENTRY, rpc(snapshot, method="/s/M", metadata=user))[1].refused or None) == refusal
        found.add(refusal)
    assert found == {"no_endpoints", None}
    assert explain(snapshot, "web", "/s/M", (), START).refusal is None
