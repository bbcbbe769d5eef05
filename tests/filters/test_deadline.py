"""The route's timeout: it shortens what the caller allows, and an expired call is never sent."""

from __future__ import annotations

import pytest

from proxyless.filters.balance import balance
from proxyless.filters.deadline import deadline
from proxyless.model.codes import Code
from proxyless.model.quantities import Duration
from proxyless.script import OK, Outcome, Rpc, Script
from tests.fakes import START, Reply, play
from tests.worlds import node, on_route, planned


def bounded(call: Rpc) -> Script[Outcome]:
    """The filter over the one that sends."""
    return deadline(call, lambda inner: balance(inner, _nobody))


def _nobody(_rpc: Rpc) -> Script[Outcome]:
    raise AssertionError("balance is the last filter")


@pytest.mark.parametrize(
    ("route", "caller", "effective"),
    [
        (3.0, 10.0, 3.0),
        (3.0, 1.0, 1.0),
        (3.0, None, 3.0),
        (None, 2.0, 2.0),
        (None, None, None),
        (0.0, 2.0, 2.0),
    ],
)
def test_the_earliest_deadline_wins(route: float | None, caller: float | None, effective: float | None) -> None:
    """The route "never extends the app deadline" (gRFC A31), and `0s` sets none."""
    timeout = None if route is None else Duration(route)
    call = on_route(planned(node("a"), timeout=timeout), timeout=caller)
    assert play(bounded, call) == (["send a"], OK)
    assert call.deadline == (None if effective is None else START + effective)


def test_an_expired_call_is_never_sent() -> None:
    """DEADLINE_EXCEEDED of our own, without an attempt: no node is touched."""
    target = node("a")
    effects, outcome = play(bounded, on_route(planned(target, timeout=Duration(5)), timeout=0.0))
    assert effects == []
    assert (outcome.code, outcome.refused, outcome.unsent) == (Code.DEADLINE_EXCEEDED, "deadline", True)
    assert outcome.details == (
        "proxyless: deadline: the deadline of /shop.Products/Get had passed before it was sent to web; nothing was sent"
    )
    assert (target.calls, target.inflight) == (0, 0)


def test_a_deadline_long_past_is_expired_too() -> None:
    """An inherited deadline may have passed a minute ago."""
    assert play(bounded, on_route(planned(node("a")), timeout=-60.0))[1].refused == "deadline"


def test_the_wire_ends_what_takes_longer() -> None:
    """The attempt is bounded by the effective deadline: here the route's."""
    effects, outcome = play(bounded, on_route(planned(node("a"), timeout=Duration(1))), a=Reply(OK, after=7.0))
    assert effects == ["send a"]
    assert (outcome.code, outcome.refused) == (Code.DEADLINE_EXCEEDED, "")
