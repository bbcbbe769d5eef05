"""What each balancer promises beside the common contract (tests/contract/test_balancers.py)."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.traffic import DEFAULTS
from proxyless.policy.balancers.least_request import least_request
from proxyless.policy.balancers.random import random as random_
from proxyless.policy.balancers.round_robin import round_robin
from tests.fakes import Asks
from tests.worlds import node

POLICY = DEFAULTS.load_balancer


def dice(*draws: float) -> random.Random:
    """Dice that fall as told, one after the other."""
    told = random.Random(0)
    falls = iter(draws)
    told.random = lambda: next(falls)  # type: ignore[method-assign]
    return told


# --- round_robin ---


def test_round_robin_starts_anywhere_and_goes_round() -> None:
    """The first pick is drawn, all others follow from it."""
    members = [node(name) for name in "abc"]
    picker = round_robin(members, [1, 1, 1], POLICY, lambda: 0.5)
    assert [picker.pick(Asks(lambda: 0.0)) for _ in range(4)] == [members[1], members[2], members[0], members[1]]


def test_round_robin_spreads_a_weight_over_its_turn() -> None:
    """5:1:1 as Envoy's schedule has it."""
    members = [node(name) for name in "abc"]
    picker = round_robin(members, [5, 1, 1], POLICY, lambda: 0.0)
    assert "".join(str(picker.pick(Asks(random.random)))[6] for _ in range(7)) == "aaaaabc"


def test_round_robin_serves_weights_too_large_to_lay_out() -> None:
    """No divisor, a sum beyond the table: the picks are scheduled one by one, in the same shares."""
    members, weights = [node("a"), node("b")], [65_521, 65_519]
    picker = round_robin(members, weights, POLICY, random.Random(1).random)
    counts = Counter(picker.pick(Asks(random.random)) for _ in range(1000))
    assert [counts[member] for member in members] == [500, 500]


# --- random ---


@given(st.lists(st.integers(1, 65_535), min_size=1, max_size=30))
def test_the_alias_table_is_exact(weights: list[int]) -> None:
    """What all columns together give to a member is its weight: nothing is lost in filling them."""
    picker = random_([node(f"n{index}") for index in range(len(weights))], weights, POLICY, random.random)
    size, given_ = len(weights), [Fraction(0)] * len(weights)
    for column in range(size):
        mark = Fraction(picker._mark[column])  # type: ignore[attr-defined]
        assert 0 <= mark <= 1
        given_[column] += mark
        given_[picker._alias[column]] += 1 - mark  # type: ignore[attr-defined]
    for had, weight in zip(given_, weights, strict=True):
        assert abs(float(had / size) - weight / sum(weights)) < 1e-9


def test_random_needs_one_draw_a_pick() -> None:
    """The same draw decides column and height."""
    members = [node("a"), node("b")]
    picker = random_(members, [3, 1], POLICY, random.random)
    rng = dice(0.0, 0.74, 0.76, 0.49).random
    assert [picker.pick(Asks(rng)) for _ in range(4)] == [members[0], members[1], members[0], members[0]]


# --- least_request ---


def test_the_less_busy_of_two_draws_is_taken() -> None:
    """Whichever was drawn first; and the first of two that are equally busy."""
    busy, idle = node("busy"), node("idle")
    busy.inflight = 3
    picker = least_request([busy, idle], [1, 1], POLICY, random.random)
    assert picker.pick(Asks(dice(0.1, 0.9).random)) is idle
    assert picker.pick(Asks(dice(0.9, 0.1).random)) is idle
    assert picker.pick(Asks(dice(0.1, 0.1).random)) is busy
    idle.inflight = 3
    assert picker.pick(Asks(dice(0.9, 0.1).random)) is idle
    assert picker.pick(Asks(dice(0.1, 0.9).random)) is busy


def test_with_two_hosts_the_busier_one_still_gets_a_quarter() -> None:
    """Draws are made with replacement: semantics.md section 4.1, least_request."""
    busy, idle = node("busy"), node("idle")
    busy.inflight = 1
    picker = least_request([busy, idle], [1, 1], POLICY, random.random)
    rng = random.Random(9).random
    counts = Counter(picker.pick(Asks(rng)) for _ in range(20_000))
    assert abs(counts[busy] / 20_000 - 0.25) < 0.01


@pytest.mark.parametrize("choices", [3, 10])
def test_more_choices_find_the_idle_one_more_often(choices: int) -> None:
    """With n choices of m nodes the one idle node is missed ((m-1)/m)^n of the time."""
    members = [node(f"n{index}") for index in range(10)]
    for member in members[1:]:
        member.inflight = 1
    picker = least_request(members, [1] * 10, replace(POLICY, choices=choices), random.random)
    rng = random.Random(4).random
    hits = sum(picker.pick(Asks(rng)) is members[0] for _ in range(20_000))
    assert abs(hits / 20_000 - (1 - 0.9**choices)) < 0.01


@pytest.mark.parametrize(("bias", "share"), [(1.0, 0.25), (0.0, 0.5), (2.0, 0.1)])
def test_unequal_weights_count_for_less_the_busier_a_node_is(bias: float, share: float) -> None:
    """weight / (active + 1) ** bias: 2 with two calls under way against 2 with none, beside one of weight 1
    that is idle. Envoy load_balancers.rst; bias 0 is plain weighted round robin."""
    busy, idle, light = node("busy"), node("idle"), node("light")
    busy.inflight = 2
    picker = least_request(
        [busy, idle, light], [2, 2, 1], replace(POLICY, active_request_bias=bias), random.Random(2).random
    )
    counts = Counter(picker.pick(Asks(random.random)) for _ in range(10_000))
    assert abs(counts[busy] / (counts[busy] + counts[idle]) - share) < 0.01


def test_least_request_follows_the_load_as_it_changes() -> None:
    """A picker is asked about nodes as they are now, not as they were when it was built."""
    members = [node("a"), node("b")]
    picker = least_request(members, [1, 1], POLICY, random.random)
    members[0].inflight = 1
    assert picker.pick(Asks(dice(0.1, 0.9).random)) is members[1]
    members[0].inflight = 0
    assert picker.pick(Asks(dice(0.1, 0.9).random)) is members[0]
