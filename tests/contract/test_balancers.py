"""What every balancer promises: whoever is in the registry is held to it, and a new one by being there."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from math import sqrt

import pytest

from proxyless.model.snapshot import Picker
from proxyless.policy.balancers import BALANCERS
from proxyless.state import DestinationState, Node
from tests.fakes import START, Asks
from tests.worlds import POLICY, WEB, balancing, node

pytestmark = pytest.mark.parametrize("policy", BALANCERS)

BY_LOAD = {"least_request", "peak_ewma"}
"""Those that look at what is under way."""


def build(policy: str, nodes: Sequence[Node], seed: int = 1) -> tuple[Picker, Callable[[], float]]:
    """A picker over `nodes` by their own weights, and dice to pick with."""
    rng = random.Random(seed).random
    weights = [member.endpoint.weight for member in nodes]
    return BALANCERS[policy](nodes, weights, balancing(policy), rng), rng


def shares(policy: str, nodes: Sequence[Node], picks: int, seed: int = 1) -> list[float]:
    """The share of the picks that each node got, nothing ever being under way."""
    picker, rng = build(policy, nodes, seed)
    counts = Counter(picker.pick(Asks(rng)) for _ in range(picks))
    return [counts[member] / picks for member in nodes]


def test_equal_nodes_get_equal_shares(policy: str) -> None:
    """Within four standard deviations of 20,000 draws, over ten nodes: forty bounds are looked at in all."""
    for share in shares(policy, [node(f"n{index}") for index in range(10)], 20_000):
        assert abs(share - 0.1) <= 4 * sqrt(0.1 * 0.9 / 20_000)


@pytest.mark.parametrize("weights", [(1, 3), (1, 1, 8), (10, 1), (65_535, 1, 65_534)], ids=str)
def test_shares_follow_the_weights(policy: str, weights: tuple[int, ...]) -> None:
    """Within four standard deviations of 20,000 draws, whatever the weights."""
    found = shares(policy, [node(f"n{index}", weight) for index, weight in enumerate(weights)], 20_000)
    for share, weight in zip(found, weights, strict=True):
        wanted = weight / sum(weights)
        assert abs(share - wanted) <= 4 * sqrt(wanted * (1 - wanted) / 20_000)


def test_no_node_is_none(policy: str) -> None:
    """An empty destination is a normal state, and no exception."""
    picker, rng = build(policy, [])
    assert picker.pick(Asks(rng)) is None


def test_one_node_is_always_it(policy: str) -> None:
    """However heavy or busy it is."""
    only = node("only", 7)
    only.inflight = 1000
    picker, rng = build(policy, [only])
    assert {picker.pick(Asks(rng)) for _ in range(10)} == {only}


def test_the_same_dice_pick_the_same(policy: str) -> None:
    """Chance is an argument, so a test or a simulation can be run again."""
    nodes = [node(f"n{index}", index + 1) for index in range(5)]
    first, second = build(policy, nodes, seed=3), build(policy, nodes, seed=3)
    assert [first[0].pick(Asks(first[1])) for _ in range(100)] == [second[0].pick(Asks(second[1])) for _ in range(100)]


def test_every_node_gets_a_turn(policy: str) -> None:
    """Nobody is left out for good, the lightest neither."""
    nodes = [node(f"n{index}", 1 if index else 50) for index in range(8)]
    picker, rng = build(policy, nodes)
    assert {picker.pick(Asks(rng)) for _ in range(5000)} == set(nodes)


@pytest.mark.parametrize("uneven", [False, True], ids=["equal", "weighted"])
def test_ten_thousand_nodes_cost_a_pick_no_more(policy: str, uneven: bool) -> None:
    """Each gets a chance, and 10,000 picks take well under a second in whatever mood the machine is."""
    nodes = [node(f"n{index}", 1 + index % 3 if uneven else 1) for index in range(10_000)]
    picker, rng = build(policy, nodes)
    started = time.perf_counter()
    picked = {picker.pick(Asks(rng)) for _ in range(10_000)}
    assert time.perf_counter() - started < 1.0
    assert None not in picked
    assert len(picked) > 4000, "63 % of draws with replacement are different ones"


def test_nodes_come_with_their_history(policy: str) -> None:
    """At every swap a new picker is built over the nodes that there were, some busy, some new, some gone."""
    nodes = [node(f"n{index}") for index in range(6)]
    rng = random.Random(8).random
    for generation in range(50):
        members = nodes[generation % 5 :]
        picker, _ = build(policy, members, seed=generation)
        for _ in range(20):
            picked = picker.pick(Asks(rng))
            assert picked in members
            picked.inflight += 1
    assert sum(member.inflight for member in nodes) == 50 * 20


@pytest.mark.parametrize("uneven", [False, True], ids=["equal", "weighted"])
def test_eight_threads_share_a_picker(policy: str, uneven: bool) -> None:
    """2,000 picks each: no exception, no pick lost, none for nobody."""
    nodes = [node(f"n{index}", 1 + index % 2 * 4 if uneven else 1) for index in range(4)]
    picker, _ = build(policy, nodes)
    state = DestinationState(WEB, POLICY, lambda *_told: None, START)
    counts: list[Counter[object]] = []
    failures: list[BaseException] = []
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        rng = random.Random(seed).random
        mine: Counter[object] = Counter()
        start.wait()
        try:
            for _ in range(2000):
                picked = picker.pick(Asks(rng))
                mine[picked] += 1
                assert isinstance(picked, Node)
                state.begin(picked)
                state.ended(picked, 0, False, START)
        except BaseException as failure:
            failures.append(failure)
        counts.append(mine)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    total = sum(counts, Counter())
    assert set(total) == set(nodes)
    assert total.total() == 16_000 == sum(member.calls for member in nodes)
    assert [member.inflight for member in nodes] == [0, 0, 0, 0]


@pytest.mark.parametrize("uneven", [False, True], ids=["equal", "weighted"])
def test_who_looks_at_load_prefers_the_idle(policy: str, uneven: bool) -> None:
    """A node with ten calls under way gets less than its share of the next, if the balancer says it cares."""
    nodes = [node(f"n{index}", 2 if uneven and index == 1 else 1) for index in range(4)]
    quiet = shares(policy, nodes, 4000)[0]
    nodes[0].inflight = 10
    loaded = shares(policy, nodes, 4000)[0]
    if policy in BY_LOAD:
        assert loaded < quiet / 2
    else:
        assert abs(loaded - quiet) < 0.02
