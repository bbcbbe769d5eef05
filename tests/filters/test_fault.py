"""Faults on purpose: felt by the caller as real ones, and by nobody else."""

from __future__ import annotations

import random

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, Outcome
from proxyless.stack import ENTRY
from tests.fakes import START, Reply, Simulation, play
from tests.worlds import WEB, Known, document, rpc


def faulty(fault: str, rest: str = "") -> Known:
    """A service whose only route has this fault."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(f"routes: [{{name: chaos, fault: {{{fault}}}{rest}}}]")
    return world


def test_a_delay_is_slept_before_anything_is_sent() -> None:
    """The endpoint is not occupied meanwhile."""
    world = faulty("delay: {percent: 100, fixed: 5s}")
    simulation = Simulation(world.snapshot())
    call = simulation.call(ENTRY, rpc(simulation.snapshot))
    simulation.run(until=START + 4.9)
    assert world.nodes.all()[0].inflight == 0
    assert simulation.snapshot.clusters[WEB].state.status(START)["requests"] == 0
    simulation.run()
    assert (call.effects, call.outcome, call.ended_at) == (["sleep 5", "send a"], OK, START + 5)


def test_an_abort_ends_the_call_with_the_status_that_was_asked_for() -> None:
    """Nothing is sent, and whoever reads the error sees that it was on purpose."""
    effects, outcome = play(ENTRY, rpc(faulty("abort: {percent: 100, status: DATA_LOSS}").snapshot()))
    assert effects == []
    assert (outcome.code, outcome.refused, outcome.unsent) == (Code.DATA_LOSS, "fault", True)
    assert outcome.details == "proxyless: fault: injected by route chaos of web"


def test_an_abort_is_not_tried_again_and_opens_no_breaker() -> None:
    """ "Abort by fault is generated above retry" (Envoy): it tests the caller, not our retries."""
    world = faulty("abort: {percent: 100, status: UNAVAILABLE}", ", retry: {attempts: 3}")
    world.services["web"] = document(
        "routes: [{fault: {abort: {percent: 100, status: UNAVAILABLE}}, retry: {attempts: 3}}]\n"
        "trafficPolicy: {circuitBreaker: {minimumRequests: 1, failureRate: 1}}"
    )
    snapshot = world.snapshot()
    assert [play(ENTRY, rpc(snapshot)) for _ in range(5)] != []
    status = snapshot.clusters[WEB].state.status(START)
    assert (status["retries"], status["retries_denied"], status["breaker"]) == (0, 0, "CLOSED")
    assert world.nodes.all()[0].calls == 0


def test_a_delay_ends_with_the_deadline() -> None:
    """DEADLINE_EXCEEDED at the deadline, not after the delay: a caller never waits longer than it would."""
    world = faulty("delay: {percent: 100, fixed: 5s}")
    simulation = Simulation(world.snapshot())
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=2.0))
    simulation.run()
    assert (call.effects, call.ended_at) == (["sleep 2"], START + 2)
    assert call.outcome is not None
    assert (call.outcome.code, call.outcome.refused) == (Code.DEADLINE_EXCEEDED, "deadline")
    assert call.outcome.details == (
        "proxyless: deadline: the deadline passed during an injected delay of 5 s (route chaos)"
    )


def test_the_route_s_timeout_runs_during_a_delay() -> None:
    """A delay is felt as a real one: what is left for the endpoint is what it left."""
    world = faulty("delay: {percent: 100, fixed: 2s}", ", timeout: 3s")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = Reply(OK, after=2.0)
    call = simulation.call(ENTRY, rpc(simulation.snapshot))
    simulation.run()
    assert call.outcome is not None
    assert (call.effects, call.outcome.code, call.ended_at) == (
        ["sleep 2", "send a"],
        Code.DEADLINE_EXCEEDED,
        START + 3,
    )


def test_a_delay_that_leaves_no_time_is_an_expired_call() -> None:
    """A deadline that had passed before: no time is slept away."""
    effects, outcome = play(ENTRY, rpc(faulty("delay: {percent: 100, fixed: 5s}").snapshot(), timeout=-1.0))
    assert (effects, outcome.refused) == (["sleep 0"], "deadline")


def test_who_walks_away_during_a_delay_leaves_nothing() -> None:
    """There was nothing begun yet."""
    world = faulty("delay: {percent: 100, fixed: 5s}")
    script = ENTRY(rpc(world.snapshot()))
    next(script)
    script.close()
    assert world.nodes.all()[0].calls == 0


def test_delay_and_abort_are_drawn_apart() -> None:
    """20 % and 5 % touch 24 % of calls, 1 % both (Envoy's documentation of its fault filter)."""
    world = faulty("delay: {percent: 20, fixed: 1s}, abort: {percent: 5, status: INTERNAL}")
    snapshot, rng = world.snapshot(), random.Random(3).random
    played = [play(ENTRY, rpc(snapshot, rng=rng)) for _ in range(10_000)]
    delayed = [effects[:1] == ["sleep 1"] for effects, _ in played]
    aborted = [outcome.refused == "fault" for _, outcome in played]
    touched = sum(a or b for a, b in zip(delayed, aborted, strict=True))
    # three standard deviations: 0.012 of a share of 0.2, 0.0065 of 0.05, 0.0128 of 0.24
    assert sum(delayed) == pytest.approx(2000, abs=120)
    assert sum(aborted) == pytest.approx(500, abs=65)
    assert touched == pytest.approx(2400, abs=128)


@pytest.mark.parametrize(
    ("headers", "effects", "code"),
    [
        ((), ["sleep 5", "send a"], 0),
        ((("x-envoy-fault-delay-request", "1500"),), ["sleep 1.5", "send a"], 0),
        ((("x-envoy-fault-delay-request-percentage", "0"),), ["send a"], 0),
        ((("x-envoy-fault-delay-request", "soon"),), ["sleep 5", "send a"], 0),
    ],
    ids=["none", "another delay", "no delay", "nonsense"],
)
def test_headers_may_control_a_delay_where_the_document_lets_them(
    headers: tuple[tuple[str, str], ...], effects: list[str], code: int
) -> None:
    """`headers: true`; the metadata of the call is what the filter reads."""
    world = faulty("delay: {percent: 100, fixed: 5s}, headers: true")
    played: tuple[list[str], Outcome] = play(ENTRY, rpc(world.snapshot(), metadata=headers))
    assert (played[0], played[1].code) == (effects, code)
