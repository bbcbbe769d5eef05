"""What a document says to no effect is told, and what has one is not."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest

from proxyless.control.idle import USED, idle
from proxyless.model.documents import MeshDocument
from proxyless.model.snapshot import NOTHING
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers import BALANCERS
from tests.fakes import START
from tests.worlds import balancing, document, node, rpc

ANSWERS = "{directResponse: {status: NOT_FOUND}, "
SENT = "has no effect: directResponse answers the call, and nothing is sent"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"routes: [{ANSWERS}mirror: [{{service: b}}]}}]", [f"routes[0].mirror: {SENT}"]),
        (f"routes: [{ANSWERS}retry: {{attempts: 3}}}}]", [f"routes[0].retry: {SENT}"]),
        (
            f"routes: [{ANSWERS}hedge: {{}}, sticky: {{header: x-a}}, hash: [{{header: x-a}}]}}]",
            [f"routes[0].{name}: {SENT}" for name in ("hedge", "sticky", "hash")],
        ),
        (f"routes: [{ANSWERS}headers: {{set: {{x-a: b}}}}}}]", [f"routes[0].headers: {SENT}"]),
        # What is asked before the answer is given holds.
        (
            f"routes: [{ANSWERS}timeout: 1s, rateLimit: {{requestsPerSecond: 1}}, "
            "fault: {delay: {percent: 1, fixed: 1s}}}]",
            [],
        ),
        (
            "routes: [{sticky: {header: x-a}, split: [{}]}]",
            ["routes[0].sticky: has no effect: there is only one destination to stick to"],
        ),
        ("routes: [{sticky: {header: x-a}, split: [{}, {service: b}]}]", []),
        ("routes: [{fault: {}}]", ["routes[0].fault: has no effect: it has neither delay nor abort"]),
        (
            "routes: [{fault: {headers: true}}]",
            [
                "routes[0].fault: has no effect: it has neither delay nor abort; their percentages cap what headers "
                "ask for"
            ],
        ),
        ("routes: [{fault: {headers: true, abort: {percent: 0, status: INTERNAL}}}]", []),
        (
            "routes: [{match: [{headers: {t-bin: {present: true}, x-a: {present: true}}}]}]",
            ['routes[0].match[0].headers["t-bin"]: is never there: keys that end in -bin can\'t be matched'],
        ),
        (
            "routes: [{match: [{path: {exact: shop.Products/Get}}, {path: {prefix: shop.}}]}]",
            [
                "routes[0].match[0].path.exact: is never true: a path is /package.Service/Method; "
                'did you mean "/shop.Products/Get"?',
                "routes[0].match[1].path.prefix: is never true: a path is /package.Service/Method; "
                'did you mean "/shop."?',
            ],
        ),
        ("routes: [{match: [{path: {prefix: /shop.}}, {path: {suffix: Get}}, {path: {regex: '.*Get'}}]}]", []),
        (
            "routes: [{match: [{headers: {a: {range: {start: 5, end: 5}}, b: {range: {start: 5, end: 6}}}}]}]",
            ["routes[0].match[0].headers.a.range: holds no number: it ends before it begins, for `end` is not in it"],
        ),
        (
            "routes: [{retry: {attempts: 3, on: []}}]",
            ["routes[0].retry.on: is empty: nothing is ever tried again; leave it out for the default"],
        ),
        ("routes: [{retry: {attempts: 0, on: []}}]", []),
        (
            "routes: [{name: a}, {name: b}]",
            ["routes[1]: is never reached: routes[0] has no match, so it takes every call"],
        ),
        (
            "routes: [{match: [{fraction: 1}]}, {}, {}, {}, {}]",
            [
                "routes[2]: is never reached: routes[1] has no match, so it takes every call; nor are the 2 after it",
            ],
        ),
        ("routes: [{match: [{fraction: 1}]}, {}]", []),
        (
            "trafficPolicy: {loadBalancer: {policy: round_robin, choices: 3, slowStart: {window: 3s}}}",
            ["trafficPolicy.loadBalancer.choices: has no effect on round_robin: it is for least_request"],
        ),
        (
            "subsets: {v1: {trafficPolicy: {loadBalancer: {policy: maglev, minimumRingSize: 64, tableSize: 7}}}}",
            [
                "subsets.v1.trafficPolicy.loadBalancer.minimumRingSize: has no effect on maglev: it is for ring_hash",
            ],
        ),
        (
            "trafficPolicy: {loadBalancer: {policy: ring_hash, slowStart: {window: 3s}}}",
            [
                "trafficPolicy.loadBalancer.slowStart: has no effect on ring_hash: it is for balancers that don't go "
                "by a hash"
            ],
        ),
        # Whose it is, is not said here: a block above or below may name the balancer.
        ("trafficPolicy: {loadBalancer: {choices: 3, tableSize: 7}}", []),
        # A plug-in's fields are its own.
        ("trafficPolicy: {loadBalancer: {policy: mine, choices: 3, tableSize: 7}}", []),
    ],
)
def test_what_has_no_effect_is_told(text: str, told: list[str]) -> None:
    """Of routes and policies: where it stands, and why nothing comes of it."""
    assert [str(one) for one in idle(document(text))] == told


def test_of_the_mesh_s_defaults_too() -> None:
    """A balancer named there has its fields there."""
    text = "defaults: {trafficPolicy: {loadBalancer: {policy: random, decayTime: 3s}}}"
    (one,) = idle(document(text, MeshDocument))
    assert str(one) == "defaults.trafficPolicy.loadBalancer.decayTime: has no effect on random: it is for peak_ewma"


class _Read:
    """The settings of a balancer, and which of them were asked for."""

    def __init__(self, settings: LoadBalancer, read: set[str]) -> None:
        self._settings, self._read = settings, read

    def __getattr__(self, name: str) -> Any:
        self._read.add(name)
        return getattr(self._settings, name)


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_the_table_of_fields_is_what_each_balancer_reads(name: str) -> None:
    """Built over equal and unequal weights, and picked from: nothing is read that is said to have no effect, and all
    that is said to have one is. Slow start is laid over the balancer from outside."""
    read: set[str] = set()
    for weights in ([1, 1, 1], [1, 2, 3]):
        for fields_ in ({}, {"entries_per_endpoint": 4}):
            settings: Any = _Read(balancing(name, table_size=7, **fields_), read)
            nodes = [node(letter, weight) for letter, weight in zip("abc", weights, strict=True)]
            picker = BALANCERS[name](nodes, weights, settings, random.Random(1).random)
            for turn in range(10):
                picker.pick(rpc(NOTHING, now=START + 100 * turn, rng=random.Random(turn).random))
    assert read - {"policy"} == USED[name] - {"slow_start"}


def test_every_field_of_the_block_is_somebody_s() -> None:
    """A field that is added is put into the table, or this fails."""
    assert set(USED) == set(BALANCERS)
    assert frozenset().union(*USED.values()) == {field.name for field in fields(LoadBalancer)} - {"policy"}
