"""Peak EWMA: what an endpoint is expected to cost, and the peers' table of choices by it (19)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.codes import Code
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.balancers.peak_ewma import UNKNOWN, Latency, load
from proxyless.script import OK, OPEN, Outcome
from proxyless.state import Node
from tests.fakes import START, Asks
from tests.policy.rows import rows
from tests.worlds import balancing, node

PANIC = (
    "Finagle's panic mode counts unhealthy draws; here health is asked by the balance filter, which looks further than "
    "two draws (tests/filters/test_balance.py), and panic is by the share of healthy hosts (07)"
)
NOT_OURS = {
    "p2c-all-down": PANIC,
    "p2c-panic-TenPercentUnhealthy": PANIC,
    "p2c-panic-FortyPercentUnhealthy": PANIC,
    "p2c-panic-MajorityUnhealthy": PANIC,
    "l5-blog-slow-endpoint": "a story in time: tests/simulation/test_slow_endpoint.py tells it",
}
"""Rows of 19 that are left out."""


def fed(*answers: tuple[float, float], decay: float = 10.0, penalty: float = 5.0) -> Latency:
    """A latency that was told (seconds, instant) of successes."""
    made = Latency(decay, penalty)
    for seconds, now in answers:
        made.observe(OK, seconds, now)
    return made


def run(policy: str, members: Sequence[Node], picks: int, seed: int = 1) -> Counter[Any]:
    """Picks that stay under way, as in Finagle's tests: the load of a node is what it has been given."""
    rng = random.Random(seed).random
    picker = BALANCERS[policy](members, [1] * len(members), balancing(policy), rng)
    counted: Counter[Any] = Counter()
    for _ in range(picks):
        chosen = picker.pick(Asks(rng))
        assert chosen is not None
        chosen.inflight += 1
        counted[chosen] += 1
    return counted


@pytest.mark.parametrize("row", rows("19_p2c_ewma.json", left_out=NOT_OURS))
def test_choices_are_those_of_the_peers(row: Mapping[str, Any]) -> None:
    """Finagle's P2C tests by least_request, its PeakEwma's and tower's by peak_ewma."""
    told, expect = row["given"], row["expect"]
    if row["id"] == "ewma-default-decay":
        made = Latency(told["decay_ms"] / 1e3, 0.0, told["default_rtt_ms"] / 1e3, START)
        assert made.expected(START) * 1e3 == pytest.approx(expect["load_ms_at_ms"]["0"])
        assert 9 < made.expected(START + 0.1) * 1e3 < 10
        assert 8 < made.expected(START + 0.2) * 1e3 < 9
    elif row["id"] == "p2c-even":
        each = run("least_request", [node(f"n{n}") for n in range(told["nodes"])], told["picks"])
        mean = told["picks"] / told["nodes"]
        assert all(abs(count - mean) <= expect["each_mean_load_within"] for count in each.values())
    elif row["id"] == "p2c-revive":
        revived_gets_twice_the_mean(told["nodes"], told["picks"], expect)
    else:
        a_slow_newcomer_is_probed_once(told, expect["picks_of_slow_new_node"])


def revived_gets_twice_the_mean(count: int, picks: int, expect: Mapping[str, Any]) -> None:
    """Whose load is the least is taken whenever it is drawn, which two draws do twice as often. Finagle's two are
    different ones; ours may be the same, which makes it 1.99 times."""
    members = [node(f"n{n}") for n in range(count)]
    for member in members[1:]:
        member.inflight = picks  # what they were given while it was down
    each = run("least_request", members, picks)
    assert abs(each[members[0]] - expect["picks_after_revive"]) <= 3 * expect["tolerance"]


def a_slow_newcomer_is_probed_once(told: Mapping[str, Any], probes: int) -> None:
    """A hundred that answer in a tick each, one more that takes 200,000: it is asked once, and never again while
    the others answer."""
    rng = random.Random(2).random
    members = [node(f"n{n}") for n in range(told["nodes"] + 1)]
    slow = members[-1]
    block = balancing("peak_ewma")
    tick = 1e-9
    built = BALANCERS["peak_ewma"](members[:-1], [1] * told["nodes"], block, rng)
    for member in members[:-1]:
        assert member.feedback is not None
        member.feedback.observe(OK, tick, START)
    built = BALANCERS["peak_ewma"](members, [1] * len(members), block, rng)
    asked, now, ends = 0, START, START + told["one_more_with_latency_ticks"] * tick
    for _ in range(told["picks"]):
        now += tick
        if asked and slow.inflight and now >= ends:
            slow.inflight -= 1
            slow.feedback.observe(OK, told["one_more_with_latency_ticks"] * tick, now)  # type: ignore[union-attr]
        chosen = built.pick(Asks(rng, now))
        if chosen is slow:
            asked += 1
            slow.inflight += 1
        else:
            chosen.feedback.observe(OK, tick, now)  # type: ignore[union-attr]
    assert asked == probes


# --- the average ---


def test_to_look_is_to_decay() -> None:
    """As Finagle has it: once it was looked at, an answer that is slower than what is left is a peak, and believed."""
    made = fed((0.5, START))
    assert made.expected(START + 40) == pytest.approx(0.5 * exp(-4))
    made.observe(OK, 0.010, START + 40)
    assert made.cost == pytest.approx(0.010)


# Worked out by hand from the rule: a rise at once, a fall weighed by exp(-t / 10 s).
@pytest.mark.parametrize(
    ("answers", "cost"),
    [
        ([(0.010, 0.0)], 0.010),
        ([(0.010, 0.0), (0.500, 1.0)], 0.500),
        ([(0.500, 0.0), (0.010, 10.0)], 0.500 * exp(-1) + 0.010 * (1 - exp(-1))),
        ([(0.500, 0.0), (0.010, 0.0)], 0.500),
        ([(0.500, 0.0), (0.010, 5.0), (0.010, 10.0)], 0.010 + 0.490 * exp(-1)),
        ([(0.010, 5.0), (0.010, 4.0)], 0.010),
    ],
    ids=str,
)
def test_a_rise_is_believed_at_once_and_a_fall_with_time(answers: list[tuple[float, float]], cost: float) -> None:
    """Time that runs backwards, which two threads' clocks may seem to do, counts as none."""
    assert fed(*answers).cost == pytest.approx(cost)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), min_size=1, max_size=20), st.floats(0.001, 1000))
def test_it_stays_between_the_least_and_the_most_that_was_seen(steps: list[tuple[float, float]], decay: float) -> None:
    """And is never less than the last answer."""
    made, now = Latency(decay, 0.0), 0.0
    seen = []
    for seconds, passed in steps:
        now += passed
        made.observe(OK, seconds, now)
        seen.append(seconds)
        assert min(seen) - 1e-9 <= made.cost <= max(seen) + 1e-9
        assert made.cost >= seconds - 1e-9
        assert made.expected(now + 1) <= made.cost


@pytest.mark.parametrize(
    ("result", "cost"),
    [
        (Outcome(Code.UNAVAILABLE), 5.0),
        (Outcome(Code.INTERNAL), 5.0),
        (Outcome(Code.RESOURCE_EXHAUSTED), 5.0),
        (Outcome(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "20000"),)), 20.0),
        (Outcome(Code.RESOURCE_EXHAUSTED, trailers=(("grpc-retry-pushback-ms", "999999999"),)), 300.0),
        (Outcome(Code.UNAVAILABLE, trailers=(("grpc-retry-pushback-ms", "-1"),)), 5.0),
        (Outcome(Code.NOT_FOUND), 0.002),
        (Outcome(Code.PERMISSION_DENIED), 0.002),
        (OK, 0.002),
        (OPEN, 0.002),
        (Outcome(Code.CANCELLED), 0.002),
    ],
    ids=repr,
)
def test_a_failure_counts_as_if_it_had_been_slow(result: Outcome, cost: float) -> None:
    """Errors are quick: an endpoint that fails everything would look like the best of all (Linkerd's load biaser).
    What was asked for in vain is the caller's, and no failure."""
    made = Latency(10.0, 5.0)
    made.observe(result, 0.002, START)
    assert made.cost == cost


def test_an_attempt_that_was_given_up_counts_where_it_was_slow() -> None:
    """It lasted at least so long; a quick one (a hedge that lost) says nothing."""
    made = fed((0.050, START))
    made.observe(Outcome(Code.CANCELLED), 0.001, START)
    assert made.cost == 0.050
    made.observe(Outcome(Code.CANCELLED), 2.0, START)
    assert made.cost == 2.0


def test_the_end_of_a_stream_counts_for_nothing() -> None:
    """It answered when it began."""
    made = fed((0.050, START))
    made.observe(Outcome(Code.UNAVAILABLE), None, START + 3600)
    assert made.cost == 0.050


@pytest.mark.parametrize(
    ("cost", "under_way", "weight", "expected"),
    [
        (0.010, 0, 1, 0.010),
        (0.010, 4, 1, 0.050),
        (0.010, 4, 2, 0.030),
        (0.0, 0, 1, 0.0),
        (0.0, 1, 1, UNKNOWN + 1),
        (0.0, 7, 3, UNKNOWN + 7),
    ],
)
def test_load_is_cost_times_what_is_under_way(cost: float, under_way: int, weight: int, expected: float) -> None:
    """Finagle: cost * (pending + 1); and one that has never answered is asked once, then waited for."""
    assert load(cost, under_way, weight) == pytest.approx(expected)


def test_what_was_learnt_outlives_a_swap_and_an_edit() -> None:
    """The picker goes with its snapshot; a slow endpoint stays known as slow."""
    members = [node("a"), node("b")]
    BALANCERS["peak_ewma"](members, [1, 1], balancing("peak_ewma"), random.random)
    known = members[0].feedback
    assert isinstance(known, Latency)
    known.observe(OK, 3.0, START)
    members[1].feedback.observe(OK, 0.01, START)  # type: ignore[union-attr]
    edited = BALANCERS["peak_ewma"](members, [2, 1], balancing("peak_ewma", failure_penalty=1.0), random.random)
    assert members[0].feedback is known
    rng = random.Random(1).random
    # Weighted draws may be of the same node twice: then there is no choice.
    counts = Counter(edited.pick(Asks(rng)) for _ in range(9000))
    assert abs(counts[members[0]] / 9000 - (2 / 3) ** 2) < 0.02


def test_a_slow_endpoint_is_tried_again_after_a_while() -> None:
    """100 times slower: until its cost has decayed below the others', ln(100) decay times; nobody else knows if it
    is better by now."""
    members = [node("slow"), node("quick")]
    built = BALANCERS["peak_ewma"](members, [1, 1], balancing("peak_ewma"), random.random)
    members[0].feedback.observe(OK, 1.0, START)  # type: ignore[union-attr]
    for passed in (1, 10, 20, 40, 45):
        members[1].feedback.observe(OK, 0.010, START + passed)  # type: ignore[union-attr]
        assert built.pick(Asks(random.random, START + passed)) is members[1]
    members[1].feedback.observe(OK, 0.010, START + 47)  # type: ignore[union-attr]
    assert built.pick(Asks(random.random, START + 47)) is members[0]
