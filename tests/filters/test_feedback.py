"""What a balancer is told of the attempts on its nodes, where it asked to be told."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless.filters.balance import balance as last
from proxyless.model.codes import Code
from proxyless.model.snapshot import Result
from proxyless.script import OK, OPEN, Outcome, Rpc, Script
from proxyless.state import Node
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Behaviour, Reply, Simulation, play
from tests.worlds import WEB, Known, document, node, on_route, planned


class Heard:
    """Feedback that remembers what it was told: (code, seconds, when)."""

    reads_trailers = False

    def __init__(self) -> None:
        self.told: list[tuple[int, float | None, float]] = []

    def observe(self, result: Result, seconds: float | None, now: float) -> None:
        self.told.append((result.code, None if seconds is None else round(seconds, 6), round(now - START, 6)))


def balance(call: Rpc) -> Script[Outcome]:
    """The filter by itself: nothing is below it."""
    return last(call, lambda _rpc: pytest.fail("balance is the last filter"))


def listening() -> tuple[Node, Heard]:
    """A node, and what its balancer hears of it."""
    member, heard = node("a"), Heard()
    member.feedback = heard
    return member, heard


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Reply(OK, after=0.2), [(0, 0.2, 0.2)]),
        (Reply(UNAVAILABLE, after=0.3), [(14, 0.3, 0.3)]),
        (UNREACHABLE, [(14, 0.0, 0.0)]),
        (Reply(OPEN, after=0.1, end=OK, lasts=3600.0), [(0, 0.1, 0.1), (0, None, 3600.1)]),
        (Reply(OPEN, after=0.1, end=UNAVAILABLE, lasts=1.0), [(0, 0.1, 0.1), (14, None, 1.1)]),
        (Reply(Outcome(Code.INTERNAL, refused="closed"), after=0.1), []),
    ],
    ids=["success", "failure", "no connection", "stream", "stream that breaks", "our own refusal"],
)
def test_every_attempt_is_told_with_how_long_it_took(answer: Behaviour, told: list[Any]) -> None:
    """A stream's latency is the time to its first message: how long it lives says nothing about its endpoint."""
    member, heard = listening()
    play(balance, on_route(planned(member)), a=answer)
    assert heard.told == told


@pytest.mark.parametrize(
    ("when", "told"),
    [(0.05, [(1, 0.05, 0.05)]), (1.0, [(0, 0.1, 0.1), (1, None, 1.0)])],
    ids=["before the answer", "in the stream"],
)
def test_an_attempt_that_is_given_up_is_told_as_cancelled(when: float, told: list[Any]) -> None:
    """It lasted at least so long: all that is known of an endpoint that never answers its callers in time."""
    member, heard = listening()
    call = on_route(planned(member))
    simulation = Simulation(call.snapshot)
    simulation.behaviours["a"] = Reply(OPEN, after=0.1, end=OK, lasts=2.0)
    under_way = simulation.call(balance, call)
    simulation.at(START + when, lambda: simulation.abandon(under_way))
    simulation.run()
    assert heard.told == told


def test_another_policy_does_not_pay_for_what_the_last_one_asked() -> None:
    """Nodes outlive the edit that changes their balancer; what the old one kept about them does not."""
    world = Known().lives("web", "a:1")
    member = world.snapshot().clusters[WEB].nodes[0]
    member.feedback = Heard()
    assert world.lives("web", "a:1", "b:1").snapshot().clusters[WEB].nodes[0].feedback is not None
    world.services["web"] = document("trafficPolicy: {loadBalancer: {policy: round_robin}}")
    world.snapshot()
    assert member.feedback is None
