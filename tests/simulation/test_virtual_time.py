"""The fourth driver keeps the promises that scripts rely on, and is quick enough for storms."""

from __future__ import annotations

import time

import pytest

from proxyless.model.codes import Code
from proxyless.script import DRAIN, OK, OPEN, Outcome, Rpc, Script, Send, sleep
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, Reply, Simulation, play
from tests.worlds import Known, document, node, on_route, planned, rpc


def test_time_passes_by_the_effects_alone() -> None:
    """`rpc.now` is the present at every resumption."""
    seen = []

    def service(call: Rpc) -> Script[Outcome]:
        seen.append(call.now)
        yield from sleep(3600.0)
        seen.append(call.now)
        outcome: Outcome = yield Send(target)
        seen.append(call.now)
        return outcome

    target = node("a")
    effects, outcome = play(service, on_route(planned(target)), a=Reply(OK, after=0.5))
    assert (effects, outcome) == (["sleep 3600", "send a"], OK)
    assert seen == [START, START + 3600, START + 3600.5]


def test_the_deadline_of_an_attempt_is_kept_by_the_wire() -> None:
    """For the answer, and for the end of a stream that began in time."""
    for reply, effects in (
        (Reply(OK, after=9.0), ["send a"]),
        (Reply(OPEN, end=OK, lasts=9.0), ["send a", "drain"]),
    ):
        simulation = Simulation()
        simulation.behaviours["a"] = reply
        call = simulation.call(streaming, on_route(planned(node("a")), timeout=2.0))
        simulation.run()
        assert call.effects == effects
        assert call.outcome is not None
        assert (call.outcome.code, call.ended_at) == (Code.DEADLINE_EXCEEDED, START + 2)


def streaming(call: Rpc) -> Script[Outcome]:
    """Send, and drain what is open."""
    outcome: Outcome = yield call.route.clusters[0].nodes[0].send
    if outcome.open:
        outcome = yield DRAIN
    return outcome


def test_walking_away_closes_the_script_once() -> None:
    """What stands in `finally:` runs, and nothing resumes the script afterwards."""
    ends = []

    def service(_call: Rpc) -> Script[Outcome]:
        try:
            yield from sleep(5.0)
        finally:
            ends.append(simulation.clock.now)
        return OK

    simulation = Simulation()
    call = simulation.call(service, rpc(simulation.snapshot))
    simulation.at(START + 1, lambda: simulation.abandon(call))
    simulation.at(START + 2, lambda: simulation.abandon(call))
    simulation.run()
    assert ends == [START + 1]
    assert call.outcome is not None
    assert call.outcome.code == Code.CANCELLED


def test_run_stops_where_it_is_told() -> None:
    """What lies beyond stays to be done."""
    simulation = Simulation()
    call = simulation.call(ENTRY, rpc(Known().lives("web", "a:1").snapshot(), now=START + 10))
    simulation.run(until=START + 5)
    assert (call.outcome, simulation.clock.now) == (None, START + 5)
    simulation.run()
    assert call.outcome is OK


def test_answers_come_one_after_the_other_and_the_last_one_stays() -> None:
    """A conversation is told as a list."""
    simulation = Simulation(Known().lives("web", "a:1").snapshot())
    simulation.behaviours["a"] = [Outcome(Code.NOT_FOUND), OK]
    calls = [simulation.call(ENTRY, rpc(simulation.snapshot, now=START + at)) for at in range(3)]
    simulation.run()
    assert [call.outcome.code for call in calls if call.outcome] == [Code.NOT_FOUND, 0, 0]


def test_a_call_that_nothing_will_end_is_a_failed_test() -> None:
    """`play` says what it did until then."""
    with pytest.raises(AssertionError, match=r"waits for ever, after \['wait'\]"):
        play(ENTRY, rpc(Simulation().snapshot))


def storm(seed: int) -> tuple[list[str], float]:
    """Two thousand calls within ten seconds, on a service of which one of three instances is broken."""
    world = Known(seed=seed).lives("web", "a:1", "b:1", "c:1")
    world.services["web"] = document("routes: [{retry: {attempts: 3}, timeout: 2s}]")
    simulation = Simulation(world.snapshot(), seed=seed)
    simulation.behaviours.update(a=UNAVAILABLE, b=Reply(OK, after=0.01), c=Reply(OK, after=0.03))
    for number in range(2000):
        simulation.call(ENTRY, rpc(simulation.snapshot, now=START + number / 200, rng=simulation.rng))
    simulation.run()
    assert all(member.inflight == 0 for member in world.nodes.all())
    return [effect for call in simulation.calls for effect in call.effects], simulation.clock.now


def test_a_storm_of_thousands_of_calls_is_milliseconds_and_repeatable() -> None:
    """The same seed gives the same story, to the last effect; another seed another one."""
    started = time.perf_counter()
    first = storm(seed=7)
    assert time.perf_counter() - started < 2.0
    assert first == storm(seed=7)
    assert first != storm(seed=8)
    assert 2000 < len(first[0]) < 4000, "retries stay within the budget: 20 % and 10 a second, and their sleeps"
