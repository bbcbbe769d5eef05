"""Limits: each attempt is admitted anew, and whoever is in leaves again."""

from __future__ import annotations

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, Outcome
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Reply, Simulation, play
from tests.worlds import WEB, Known, document, rpc

SLOW = Reply(OK, after=1.0)


def limited(text: str, *endpoints: str) -> Known:
    """A service `web` with these limits."""
    world = Known().lives("web", *(endpoints or ("a:1",)))
    world.services["web"] = document(f"trafficPolicy: {{limits: {{{text}}}}}")
    return world


def test_what_is_over_the_limit_is_refused_at_once_and_touches_no_node() -> None:
    """UNAVAILABLE, with which limit of what it was."""
    world = limited("maxRequests: 2")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = SLOW
    calls = [simulation.call(ENTRY, rpc(simulation.snapshot)) for _ in range(3)]
    simulation.run(until=START + 0.5)
    assert [call.outcome is None for call in calls] == [True, True, False]
    refusal = calls[2].outcome
    assert refusal is not None
    assert (refusal.code, refusal.refused, refusal.unsent) == (Code.UNAVAILABLE, "limit", True)
    assert refusal.details == "proxyless: limit: 2 requests are under way to web already (maxRequests)"
    assert calls[2].effects == []
    assert world.nodes.all()[0].calls == 2


def test_who_leaves_makes_room() -> None:
    """The limit is of what is under way, not of what has been."""
    simulation = Simulation(limited("maxRequests: 1").snapshot())
    simulation.behaviours["a"] = SLOW
    calls = [simulation.call(ENTRY, rpc(simulation.snapshot, now=START + at)) for at in (0.0, 1.1, 2.2)]
    simulation.run()
    assert [call.outcome for call in calls] == [OK, OK, OK]


def test_a_limit_of_zero_lets_nothing_in() -> None:
    """As gRFC A32 has it."""
    effects, outcome = play(ENTRY, rpc(limited("maxRequests: 0").snapshot()))
    assert (effects, outcome.refused) == ([], "limit")


def test_a_refusal_is_not_tried_again_and_no_failure_of_anybody() -> None:
    """ "Such failed calls will not be retried." - gRFC A32"""
    world = limited("maxRequests: 0")
    world.services["web"] = document(
        "routes: [{retry: {attempts: 3}}]\n"
        "trafficPolicy: {limits: {maxRequests: 0}, circuitBreaker: {minimumRequests: 1}}"
    )
    snapshot = world.snapshot()
    for _ in range(5):
        assert play(ENTRY, rpc(snapshot))[1].refused == "limit"
    status = snapshot.clusters[WEB].state.status(START)
    assert (status["retries"], status["refused"], status["breaker"]) == (0, 5, "CLOSED")
    assert world.told == []


def test_each_attempt_is_admitted_anew() -> None:
    """While one waits to try again it is not under way, so that somebody else may be."""
    world = limited("maxRequests: 1", "a:1", "b:1")
    world.services["web"] = document(
        "routes: [{retry: {attempts: 1, backoff: {base: 10s, max: 10s}}}]\ntrafficPolicy: {limits: {maxRequests: 1}}"
    )
    simulation = Simulation(world.snapshot())
    simulation.behaviours.update(a=UNAVAILABLE, b=SLOW)
    first = simulation.call(ENTRY, rpc(simulation.snapshot, rng=lambda: 0.4))
    second = simulation.call(ENTRY, rpc(simulation.snapshot, rng=lambda: 0.9, now=START + 1))
    simulation.run()
    assert first.effects == ["send a", "sleep 4", "send b"]
    assert second.effects == ["send b"]
    assert [call.outcome for call in (first, second)] == [OK, OK]


def test_a_stream_is_under_way_until_it_ends() -> None:
    """It began long ago, but it is still there."""
    simulation = Simulation(limited("maxRequests: 1").snapshot())
    simulation.behaviours["a"] = Reply(Outcome(0, committed=True, open=True), end=OK, lasts=5.0)
    calls = [simulation.call(ENTRY, rpc(simulation.snapshot, now=START + at)) for at in (0.0, 4.0, 6.0)]
    simulation.run()
    assert [call.outcome.refused for call in calls if call.outcome] == ["", "limit", ""]


@pytest.mark.parametrize("wait_for_ready", [True, None])
def test_so_many_wait_for_an_endpoint_and_no_more(wait_for_ready: bool | None) -> None:
    """Of a destination that nobody has heard of yet, or where nobody lives."""
    world = limited("maxPendingRequests: 1")
    world.endpoints.clear()
    if wait_for_ready:
        world.lives("web")
    simulation = Simulation(world.snapshot())
    calls = [
        simulation.call(ENTRY, rpc(simulation.snapshot, timeout=9.0, wait_for_ready=wait_for_ready)) for _ in range(2)
    ]
    simulation.at(START + 1, lambda: simulation.publish(world.lives("web", "a:1").snapshot()))
    simulation.run()
    assert [call.effects for call in calls] == [["wait", "send a"], []]
    assert calls[1].outcome is not None
    assert calls[1].outcome.details == (
        "proxyless: limit: 1 requests wait for an endpoint of web already (maxPendingRequests)"
    )
    assert simulation.snapshot.clusters[WEB].state.status(START)["pending"] == 0


def test_a_call_that_waits_and_gives_up_makes_room() -> None:
    """By its deadline, or because its caller walked away."""
    world = limited("maxPendingRequests: 1")
    simulation = Simulation(world.lives("web").snapshot())
    by_deadline = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=1.0, wait_for_ready=True))
    walks_away = simulation.call(ENTRY, rpc(simulation.snapshot, wait_for_ready=True, now=START + 2))
    simulation.at(START + 3, lambda: simulation.abandon(walks_away))
    last = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=1.0, wait_for_ready=True, now=START + 4))
    simulation.run()
    assert [call.effects for call in (by_deadline, walks_away, last)] == [["wait"]] * 3


def test_an_attempt_that_waits_to_be_connected_is_under_way() -> None:
    """wait_for_ready over dead endpoints holds its place: it was let in, and not refused."""
    simulation = Simulation(limited("maxRequests: 1").snapshot())
    simulation.behaviours["a"] = UNREACHABLE
    waits = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=1.0, wait_for_ready=True))
    other = simulation.call(ENTRY, rpc(simulation.snapshot, now=START + 0.5))
    simulation.run()
    assert waits.outcome is not None
    assert other.outcome is not None
    assert (waits.outcome.refused, other.outcome.refused) == ("deadline", "limit")
