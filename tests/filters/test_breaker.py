"""The circuit breaker over a destination: who is judged, who is not, and what a caller is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, OPEN, Outcome
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, Behaviour, Reply, Simulation, play
from tests.worlds import WEB, Known, document, rpc

TIGHT = """
trafficPolicy:
  circuitBreaker: {failureRate: 50, minimumRequests: 4, window: 10s, openFor: 30s, halfOpenRequests: 2}
  outlierDetection: {maxEjectionPercent: 0}
"""


class World:
    """One endpoint `a` behind a breaker, called one call after the other."""

    def __init__(self, text: str = TIGHT) -> None:
        self.known = Known().lives("web", "a:1")
        self.known.services["web"] = document(text)
        self.snapshot = self.known.snapshot()

    def call(self, answer: Behaviour, at: float = 0.0) -> Outcome:
        return play(ENTRY, rpc(self.snapshot, now=START + at), a=answer)[1]

    def state(self, at: float = 0.0) -> str:
        state: str = self.snapshot.clusters[WEB].state.status(START + at)["breaker"]
        return state

    def opened(self) -> World:
        for _ in range(4):
            self.call(UNAVAILABLE)
        assert self.state() == "OPEN"
        return self


def test_an_open_breaker_refuses_at_once_and_says_so() -> None:
    """No endpoint is asked, and everybody is told once."""
    world = World().opened()
    effects, outcome = play(ENTRY, rpc(world.snapshot, now=START + 29.9))
    assert effects == []
    assert (outcome.code, outcome.refused, outcome.unsent) == (Code.UNAVAILABLE, "circuit_open", True)
    assert outcome.details == (
        "proxyless: circuit_open: the circuit breaker of web is open: too many of its calls failed; "
        "it is tried again in 1 s"
    )
    assert world.known.told == [("breaker", "", "OPEN")]
    assert world.snapshot.clusters[WEB].state.status(START + 12)["breaker_retry_in"] == 18.0


def test_half_open_lets_a_few_in_and_closes_when_they_succeed() -> None:
    """After `openFor`, `halfOpenRequests` live calls find out."""
    world = World().opened()
    simulation = Simulation(world.snapshot)
    simulation.behaviours["a"] = Reply(OK, after=1.0)
    calls = [simulation.call(ENTRY, rpc(world.snapshot, now=START + at)) for at in (30, 30, 30, 32)]
    simulation.run()
    assert [call.outcome.refused for call in calls if call.outcome] == ["", "", "circuit_open", ""]
    assert [why for _, _, why in world.known.told] == ["OPEN", "HALF_OPEN", "CLOSED"]


def test_half_open_opens_again_when_they_fail() -> None:
    """For the whole of its time."""
    world = World().opened()
    assert [world.call(UNAVAILABLE, 30).refused for _ in range(3)] == ["", "", "circuit_open"]
    assert [world.call(OK, at).refused for at in (59.9, 60)] == ["circuit_open", ""]


@pytest.mark.parametrize(
    "answer",
    [Outcome(Code.NOT_FOUND), Outcome(Code.INVALID_ARGUMENT), Outcome(Code.CANCELLED), Outcome(Code.ABORTED)],
    ids=lambda answer: answer.code.name,
)
def test_answers_that_blame_the_caller_do_not_open_it(answer: Outcome) -> None:
    """What is a 4xx to Envoy is a success to the breaker."""
    world = World()
    for _ in range(20):
        world.call(answer)
    assert world.state() == "CLOSED"


def test_a_stream_that_breaks_is_a_failure_and_one_that_is_let_go_is_nothing() -> None:
    """The end of a stream is judged, not its beginning."""
    world = World()
    for _ in range(4):
        world.call(Reply(OPEN, end=UNAVAILABLE, lasts=1.0))
    assert world.state() == "OPEN"
    world = World()
    for _ in range(20):
        script = ENTRY(rpc(world.snapshot))
        next(script)
        script.send(OPEN)
        script.close()
    assert world.state() == "CLOSED"
    assert world.call(UNAVAILABLE).refused == ""


def test_it_judges_calls_and_not_attempts() -> None:
    """What a retry mended is a success."""
    world = World(TIGHT + "routes: [{retry: {attempts: 1, previousHosts: allow}}]\n")
    for _ in range(20):
        assert world.call([UNAVAILABLE, OK]) is OK
    assert world.state() == "CLOSED"


def test_refusals_of_ours_are_no_verdict() -> None:
    """A destination without endpoints has not failed: nobody has asked it."""
    known = Known().lives("web")
    known.services["web"] = document(TIGHT)
    snapshot = known.snapshot()
    assert [play(ENTRY, rpc(snapshot))[1].refused for _ in range(20)] == ["no_endpoints"] * 20


def cancelled(world: World) -> None:
    script = ENTRY(rpc(world.snapshot, now=START + 30))
    next(script)
    script.close()


def interrupted(world: World) -> None:
    script = ENTRY(rpc(world.snapshot, now=START + 30))
    next(script)
    with pytest.raises(KeyboardInterrupt):
        script.throw(KeyboardInterrupt())


def never_begun(world: World) -> None:
    ENTRY(rpc(world.snapshot, now=START + 30)).close()


@pytest.mark.parametrize("leave", [cancelled, interrupted, never_begun])
def test_who_leaves_without_a_verdict_gives_the_place_to_another(leave: Callable[[World], None]) -> None:
    """Or a half-open breaker would wait for an answer that nobody will give."""
    world = World().opened()
    for _ in range(5):
        leave(world)
    assert [world.call(OK, 30).refused for _ in range(2)] == ["", ""]
    assert world.state(30) == "CLOSED"


def test_a_destination_without_a_breaker_beside_one_that_has_it_is_let_through() -> None:
    """The route needs the filter for one of its two destinations."""
    known = Known().lives("web", "a:1").lives("other", "b:1")
    known.services["web"] = document("routes: [{split: [{service: web, weight: 0}, {service: other}]}]" + TIGHT)
    snapshot = known.snapshot()
    for _ in range(20):
        assert play(ENTRY, rpc(snapshot, rng=lambda: 0.5), b=UNAVAILABLE)[1].refused == ""
