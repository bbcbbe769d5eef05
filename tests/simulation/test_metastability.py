"""Overload that outlives its cause: a pool loses 90 % of its capacity for 10 s, and then?

Bronson et al., "Metastable Failures in Distributed Systems" (HotOS 2021). Five queues of 20 calls a second,
callers that give up after a second. While capacity is gone the queues fill up with calls whose callers will
be gone when it is their turn; retries of these are what keeps them full, and so are ejections, which leave
half of the pool to do all of the work. Servers begin what has expired, or don't (`server_interceptor()`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.fakes import START
from tests.simulation.servers import Internet, Queue, seconds_of
from tests.worlds import Known, document

SIZE, RATE = 5, 20.0
FAULT, OVER, WATCHED = 5, 15, 100
"""Seconds: the fault begins, the fault ends, calls end."""

EJECTIONS_OFF = "trafficPolicy: {outlierDetection: {maxEjectionPercent: 0}"
THREE_TRIES = """routes:
- timeout: 3s
  retry:
    {attempts: 2, perTryTimeout: 1s, on: [unavailable, deadline-exceeded], backoff: {base: 25ms, max: 250ms}}
"""
NO_BUDGET = "retryBudget: {ratio: 1000, minRetriesPerSecond: 100000}"
POLICIES = {
    "all defaults": "routes: [{timeout: 1s}]",
    "default retries, no ejections": f"routes: [{{timeout: 1s}}]\n{EJECTIONS_OFF}}}",
    "three tries under the default budget": f"{THREE_TRIES}{EJECTIONS_OFF}}}",
    "naive three tries": f"{THREE_TRIES}{EJECTIONS_OFF}, {NO_BUDGET}}}",
}


@dataclass
class Row:
    """What came of one policy at one load."""

    recovered: int | None
    """Seconds after the fault until five good seconds (>= 95 % succeed) in a row; None is never."""
    goodput: float
    """Share of calls that succeed, in the last ten seconds watched."""
    attempts: float
    """A call, all in all."""


def watch(policy: str, load: float, drops: bool, rate: float = RATE) -> Row:
    """One story, of servers that answer `rate` calls a second each."""
    net, world = Internet(seed=31), Known(seed=31)
    world.services["web"] = document(POLICIES[policy])
    addresses = [f"n{number}:1" for number in range(SIZE)]
    net.snapshot = world.lives("web", *addresses).snapshot()
    queues = [Queue(net, rate, drops) for _ in addresses]
    net.servers.update(zip(addresses, queues, strict=True))

    def capacity(part: float) -> None:
        for queue in queues:
            queue.rate = rate * part

    net.at(START + FAULT, lambda: capacity(0.1))
    net.at(START + OVER, lambda: capacity(1.0))
    net.steadily(SIZE * rate * load, 0, WATCHED, lambda: net.begin(net.snapshot))
    net.run(until=START + WATCHED + 5)
    assert all(node.inflight == 0 for node in world.nodes.all())
    seconds = list(seconds_of(net.calls, 0, WATCHED))
    good = [succeeded >= 0.95 * begun for begun, succeeded in seconds]
    assert all(good[:FAULT])
    assert not any(good[FAULT + 2 : OVER])
    recovered = next((at - OVER for at in range(OVER, WATCHED - 4) if all(good[at : at + 5])), None)
    begun, succeeded = map(sum, zip(*seconds[-10:], strict=True))
    return Row(recovered, succeeded / begun, len(net.attempts) / len(net.calls))


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, float, bool], Row]:
    """All of it, once."""
    cases = [(policy, load, drops) for policy in POLICIES for drops in (False, True) for load in (0.7, 0.8, 0.9)]
    return {case: watch(*case) for case in cases}


def test_the_table(table: dict[tuple[str, float, bool], Row], shows: Callable[..., None]) -> None:
    """For people to read; the tests below hold it to its numbers."""
    big = ("three tries, a pool ten times as big", 0.8, False)
    shown = table | {big: watch("three tries under the default budget", 0.8, False, 10 * RATE)}
    for (policy, load, drops), row in shown.items():
        shows(
            "A pool of queues loses 90 % of its capacity for 10 s; how long until it is well again?",
            policy=policy,
            load=f"{load:.0%}",
            servers="drop expired" if drops else "begin all",
            recovered="never" if row.recovered is None else f"{row.recovered} s",
            goodput=f"{row.goodput:.1%}",
            attempts=f"{row.attempts:.2f} a call",
        )
    # What keeps the small pool down at 80 % is the reserve: ten retries a second are a tenth of all it can do.
    small = table["three tries under the default budget", 0.8, False]
    assert (small.recovered, shown[big].recovered) == (None, 34)
    assert len(shown) == len(POLICIES) * 2 * 3 + 1


@pytest.mark.parametrize(("load", "within"), [(0.7, 60), (0.8, 60), (0.9, 80)])
@pytest.mark.parametrize("policy", ["all defaults", "default retries, no ejections"])
def test_the_defaults_recover_at_every_load(
    table: dict[tuple[str, float, bool], Row], policy: str, load: float, within: int
) -> None:
    """Within 60 s at 70 %, and within 5 s where servers drop what has expired."""
    kept, dropped = table[policy, load, False], table[policy, load, True]
    assert kept.recovered is not None
    assert kept.recovered <= within
    assert dropped.recovered is not None
    assert dropped.recovered <= 5
    assert min(kept.goodput, dropped.goodput) > 0.99


@pytest.mark.parametrize("load", [0.7, 0.8, 0.9])
def test_naive_three_tries_never_recover(table: dict[tuple[str, float, bool], Row], load: float) -> None:
    """The fault is over, and three tries a call are more than the pool can do for ever after."""
    row = table["naive three tries", load, False]
    assert (row.recovered, row.goodput) == (None, 0.0)
    assert row.attempts > 2.5
