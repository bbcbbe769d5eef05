"""Hedging and mirroring at scale, in virtual time: what they gain, what they cost, and what they must not touch."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless.model.documents import ServiceDocument
from proxyless.model.quantities import Duration
from proxyless.model.routes import Hedge, Mirror, Route
from proxyless.model.snapshot import ClusterKey
from proxyless.model.traffic import RetryBudget, TrafficPolicy
from proxyless.policy.mirror import LONGEST, MOST
from proxyless.script import OK
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, Reply, Simulation
from tests.worlds import Known, rpc

NEVER = Reply(OK, after=1e6)
NAMES = "abcdefghij"


def p99(latencies: list[float]) -> float:
    return sorted(latencies)[int(len(latencies) * 0.99)]


def slow_tail(route: Route, budget: RetryBudget | None = None) -> tuple[Simulation, Known]:
    """10,000 calls, 500 a second, to ten endpoints; one answer in twenty takes 1 s instead of 10 ms."""
    world = Known(seed=5).lives("web", *(f"{name}:1" for name in NAMES))
    policy = TrafficPolicy(retry_budget=budget) if budget else TrafficPolicy()
    world.services["web"] = ServiceDocument(routes=(route,), traffic_policy=policy)
    simulation = Simulation(world.snapshot(), seed=11)

    def answer(_attempt: Any) -> Reply:
        return Reply(OK, after=1.0 if simulation.rng() < 0.05 else 0.01)

    simulation.behaviours.update(dict.fromkeys(NAMES, answer))
    for number in range(10_000):
        simulation.call(ENTRY, rpc(simulation.snapshot, now=START + number / 500, rng=simulation.rng))
    simulation.run()
    return simulation, world


def test_a_hedge_halves_the_tail_for_the_few_calls_that_are_in_it() -> None:
    """5 % of calls slow (scenario hedge-extra-load): p99 at least halved, and nothing more sent than those 5 %."""
    plain, _ = slow_tail(Route())
    hedged, world = slow_tail(Route(hedge=Hedge(Duration(0.05), 1)))
    before, after = ([call.ended_at - call.began_at for call in one.calls] for one in (plain, hedged))
    extra = world.snapshot().clusters[ClusterKey("web")].state.status(world.now)["hedges"]
    assert p99(before) == pytest.approx(1.0)
    assert p99(after) <= 0.5 * p99(before)
    assert 0.04 <= extra / 10_000 <= 0.06


def test_the_budget_bounds_what_hedging_adds() -> None:
    """With 1 % of extra load allowed (`ratio: 0.01`) and a reserve of one a second: 1 % and the reserve, no more."""
    budget = RetryBudget(0.01, 1, Duration(10))
    _, world = slow_tail(Route(hedge=Hedge(Duration(0.05), 1)), budget)
    status = world.snapshot().clusters[ClusterKey("web")].state.status(world.now)
    seconds = 10_000 / 500
    # The window's slots grant the reserve over any 0.9 of its length.
    assert status["hedges"] <= 0.01 * 10_000 + 1 * 10 * (seconds / 9 + 1)
    assert status["retries_denied"] > 0


def test_when_all_servers_hang_hedging_does_not_double_the_load() -> None:
    """200 calls a second for 10 s, nobody answers: what is added stays within the reserve."""
    world = Known(seed=5).lives("web", *(f"{name}:1" for name in NAMES))
    world.services["web"] = ServiceDocument(routes=(Route(hedge=Hedge(Duration(0.05), 5, ("unavailable",))),))
    simulation = Simulation(world.snapshot(), seed=11)
    simulation.behaviours.update({name: Reply(UNAVAILABLE, after=0.2) for name in NAMES})
    for number in range(2000):
        simulation.call(ENTRY, rpc(simulation.snapshot, now=START + number / 200, rng=simulation.rng, timeout=1.0))
    simulation.run()
    attempts = sum(node.calls for node in world.nodes.all())
    assert attempts <= 1.2 * 2000 + 100 * (10 / 9 + 1)
    assert not any(node.inflight for node in world.nodes.all())


@pytest.mark.parametrize("shadow", [OK, UNAVAILABLE, NEVER], ids=["answers", "fails", "is silent"])
def test_a_mirror_changes_nothing_about_the_calls(shadow: Any) -> None:
    """100 % mirrored, whatever the shadow does (scenario mirror-isolation): the calls' times, outcomes and budget are
    those of a run without it, to the last one, and what is under way to the shadow stays under its cap."""

    def run(mirrored: bool) -> tuple[list[Any], Any, Simulation]:
        world = Known(seed=5).lives("web", *(f"{name}:1" for name in NAMES)).lives("shadow", "s:1")
        rule = Route(mirror=(Mirror(service="shadow"),) if mirrored else ())
        world.services["web"] = ServiceDocument(routes=(rule,))
        simulation = Simulation(world.snapshot(), seed=11)
        answers = [Reply(OK, 0.01), Reply(UNAVAILABLE, 0.02), Reply(OK, 0.2)]
        for name in NAMES:
            simulation.behaviours[name] = lambda attempt: answers[int(attempt.now * 500) % 3]
        simulation.behaviours["s"] = shadow
        for number in range(5000):
            simulation.call(ENTRY, rpc(simulation.snapshot, now=START + number / 500, rng=lambda: 0.37))
        high = 0
        for step in range(100):
            simulation.run(START + step / 10)
            if mirrored:
                copies = simulation.snapshot.clusters[ClusterKey("shadow", "", True)].state.status(world.now)
                high = max(high, copies["requests"])
        simulation.run()
        ends = [(call.began_at, call.ended_at, call.outcome and call.outcome.code) for call in simulation.calls]
        assert high <= MOST
        own = simulation.snapshot.clusters[ClusterKey("web")].state.status(simulation.clock.now)
        return (
            ends,
            {key: own[key] for key in ("retries", "retries_denied", "ejected", "requests", "refused")},
            simulation,
        )

    without, numbers, _ = run(False)
    with_it, same, simulation = run(True)
    assert with_it == without
    assert same == numbers
    assert max(copy.ended_at - copy.began_at for copy in simulation.shadows) <= LONGEST
