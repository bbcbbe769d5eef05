"""Slow start: Envoy's formula, and shares that follow it whatever the balancer."""

from __future__ import annotations

import random
from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.quantities import Duration
from proxyless.model.topology import Endpoint
from proxyless.model.traffic import DEFAULTS, SlowStart
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.balancers.slow_start import factor, slow_start
from proxyless.script import OK
from proxyless.stack import ENTRY
from proxyless.state import Node
from tests.fakes import START, UNREACHABLE, Asks, play
from tests.worlds import WEB, Known, document, node, rpc

MINUTE = SlowStart(window=Duration(60), aggression=1.0, min_weight_percent=10.0)


# envoy: docs/root/intro/arch_overview/upstream/load_balancing/slow_start.rst, by its formula
@pytest.mark.parametrize(
    ("age", "aggression", "wanted"),
    [
        (0.0, 1.0, 0.1),
        (1.0, 1.0, 0.1),
        (6.0, 1.0, 0.1),
        (15.0, 1.0, 0.25),
        (30.0, 1.0, 0.5),
        (59.0, 1.0, 59 / 60),
        (60.0, 1.0, 1.0),
        (600.0, 1.0, 1.0),
        (15.0, 2.0, 0.5),
        (30.0, 2.0, sqrt(0.5)),
        (30.0, 0.5, 0.25),
        (1.0, 2.0, sqrt(1 / 60)),
    ],
)
def test_the_formula_is_envoys(age: float, aggression: float, wanted: float) -> None:
    """Linear at an aggression of 1, faster at first above it, slower below; never less than the least."""
    assert factor(age, 60.0, aggression) == pytest.approx(wanted)


@given(st.floats(0, 100), st.floats(0.01, 3600), st.floats(0.01, 100), st.floats(0, 1))
def test_the_factor_is_a_share_and_grows(age: float, window: float, aggression: float, least: float) -> None:
    """Between the least and all, and never less for who is older."""
    found = factor(age, window, aggression, least)
    assert least <= found <= 1.0
    assert found <= factor(age + 1.0, window, aggression, least)


def warming(policy: str, ages: list[float], weights: list[int] | None = None) -> tuple[list[Node], Counter[Node]]:
    """Nodes of these ages, and how often each was picked of 20,000."""
    nodes = [node(f"n{index}", (weights or [1] * len(ages))[index]) for index in range(len(ages))]
    for member, age in zip(nodes, ages, strict=True):
        member.since = START - age
    rng = random.Random(4).random
    picker = BALANCERS[policy](nodes, [n.endpoint.weight for n in nodes], DEFAULTS.load_balancer, rng)
    picker = slow_start(picker, nodes, MINUTE)
    counts: Counter[Node] = Counter()
    for _ in range(20_000):
        picked = picker.pick(Asks(rng))
        assert isinstance(picked, Node)
        counts[picked] += 1
    return nodes, counts


FREE = ("least_request", "random", "round_robin")


@pytest.mark.parametrize("policy", FREE)
@pytest.mark.parametrize("age", [0.0, 15.0, 30.0, 60.0])
def test_a_new_endpoint_gets_the_share_of_its_factor(policy: str, age: float) -> None:
    """One of ten is new: within four standard deviations of what its weight times the factor gives."""
    nodes, counts = warming(policy, [3600.0] * 9 + [age])
    part = factor(age, 60.0)
    wanted = part / (9 + part)
    assert abs(counts[nodes[9]] / 20_000 - wanted) <= 4 * sqrt(wanted * (1 - wanted) / 20_000)


@pytest.mark.parametrize("policy", ["random", "round_robin"])
def test_weights_count_beside_it(policy: str) -> None:
    """A heavy one at half its warmth."""
    nodes, counts = warming(policy, [3600.0, 3600.0, 30.0], [1, 1, 4])
    assert counts[nodes[2]] / 20_000 == pytest.approx(2 / 4, abs=0.015)


@pytest.mark.parametrize("policy", FREE)
def test_where_all_are_new_none_is_spared(policy: str) -> None:
    """A process that has just begun has only just heard of everybody."""
    nodes, counts = warming(policy, [2.0] * 5)
    for member in nodes:
        assert counts[member] / 20_000 == pytest.approx(0.2, abs=0.012)


def test_nothing_is_laid_over_what_nobody_asked_for() -> None:
    """Not configured, or a window of nothing: the balancer's own picker, and no other."""
    nodes = [node("a"), node("b")]
    picker = BALANCERS["random"](nodes, [1, 1], DEFAULTS.load_balancer, lambda: 0.0)
    assert slow_start(picker, nodes, None) is picker
    assert slow_start(picker, nodes, SlowStart(window=Duration(0), aggression=1.0, min_weight_percent=10.0)) is picker


def test_a_document_turns_it_on_and_a_newcomer_is_spared() -> None:
    """The endpoint that joined 3 s ago gets a tenth; so does one that was away; all get their share in the end."""
    known = Known().lives("web", "a:1", "b:1")
    known.services["web"] = document(
        "routes: [{retry: {attempts: 0}}]\ntrafficPolicy: {loadBalancer: {policy: random, slowStart: {window: 30s}}}"
    )
    known.snapshot()
    known.now += 100.0
    known.lives("web", "a:1", "b:1", Endpoint("c:1"))
    snapshot = known.snapshot()

    def share(name: str, now: float) -> float:
        rng = random.Random(6).random
        picker = snapshot.clusters[WEB].picker
        picked = [picker.pick(Asks(rng, now)) for _ in range(6000)]
        return sum(one is not None and one.address == f"{name}:1" for one in picked) / 6000

    assert share("c", START + 103) == pytest.approx(0.1 / 2.1, abs=0.012)
    assert share("c", START + 115) == pytest.approx(0.5 / 2.5, abs=0.022)
    assert share("c", START + 130) == pytest.approx(1 / 3, abs=0.026)
    (a,) = (one for one in known.nodes.all() if one.address == "a:1")
    play(ENTRY, rpc(snapshot, now=START + 200, rng=lambda: 0.0), a=UNREACHABLE)
    assert a.reachable_at
    play(ENTRY, rpc(snapshot, now=START + 260, rng=lambda: 0.0), a=OK)
    assert not a.reachable_at
    assert share("a", START + 261) == pytest.approx(0.1 / 2.1, abs=0.012)
