"""The local rate limit of a route."""

from __future__ import annotations

from proxyless.model.codes import Code
from proxyless.script import OK
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, play
from tests.worlds import WEB, Known, document, rpc


def limited(rate: str, more: str = "") -> Known:
    """A service with a limited route `r`, and an unlimited one for /free."""
    world = Known().lives("web", "a:1")
    free = "{name: free, match: [{path: {prefix: /free}}]}"
    world.services["web"] = document(f"routes: [{free}, {{name: r, rateLimit: {{{rate}}}{more}}}]")
    return world


def granted(world: Known, *instants: float) -> list[bool]:
    """Which of the calls at these instants were let through."""
    snapshot = world.snapshot()
    return [play(ENTRY, rpc(snapshot, now=START + at))[1] is OK for at in instants]


def test_a_burst_and_then_the_rate() -> None:
    """Two at once, and one each tenth of a second."""
    world = limited("requestsPerSecond: 10, burst: 2")
    assert granted(world, 0, 0, 0, 0.05, 0.1, 0.1, 0.2) == [True, True, False, False, True, False, True]


def test_what_is_refused_costs_nothing_else_and_says_why() -> None:
    """RESOURCE_EXHAUSTED, before a fault is drawn, a breaker asked or a node touched."""
    world = limited("requestsPerSecond: 0.5", ", fault: {delay: {percent: 100, fixed: 1s}}, retry: {attempts: 2}")
    snapshot = world.snapshot()
    play(ENTRY, rpc(snapshot))
    effects, outcome = play(ENTRY, rpc(snapshot))
    assert effects == []
    assert (outcome.code, outcome.refused, outcome.unsent) == (Code.RESOURCE_EXHAUSTED, "rate_limit", True)
    assert outcome.details == "proxyless: rate_limit: route r of web is limited to 0.5 a second in this process"
    assert snapshot.clusters[WEB].state.status(START)["requests"] == 0
    assert world.nodes.all()[0].calls == 1


def test_a_rate_of_zero_is_a_stop() -> None:
    """Not `burst` calls and then a stop."""
    assert granted(limited("requestsPerSecond: 0, burst: 5"), 0, 100) == [False, False]


def test_other_routes_are_not_limited() -> None:
    """The bucket is the route's own."""
    snapshot = limited("requestsPerSecond: 0").snapshot()
    assert play(ENTRY, rpc(snapshot, method="/free/Call"))[1] is OK


def test_retries_take_no_tokens() -> None:
    """It is the caller who is limited."""
    world = limited("requestsPerSecond: 1, burst: 1", ", retry: {attempts: 3, previousHosts: allow}")
    effects, outcome = play(ENTRY, rpc(world.snapshot()), a=[UNAVAILABLE, UNAVAILABLE, OK])
    assert [effect for effect in effects if effect == "send a"] == ["send a"] * 3
    assert outcome is OK


def test_an_edit_keeps_what_was_saved_and_no_more() -> None:
    """A document that is saved again hands out no second burst."""
    world = limited("requestsPerSecond: 1, burst: 2")
    assert granted(world, 0, 0, 0) == [True, True, False]
    world.services["web"] = limited("requestsPerSecond: 10, burst: 5").services["web"]
    assert granted(world, 0, 0.1, 0.1) == [False, True, False]


def test_a_route_that_is_named_no_more_leaves_no_bucket() -> None:
    """Who names routes by build or by date makes new ones for ever; an edit of one keeps what it has saved."""
    world = limited("requestsPerSecond: 1, burst: 1")
    for number in range(20):
        rate = f"rateLimit: {{requestsPerSecond: {number % 2 + 1}, burst: 1}}"
        world.services["web"] = document(f"routes: [{{name: r{number // 10}, {rate}}}]")
        snapshot = world.snapshot()
        world.nodes.adopt(snapshot)
        assert play(ENTRY, rpc(snapshot))[1] is OK or number % 10
    assert list(world.nodes._rates) == [("web", "r1")]
