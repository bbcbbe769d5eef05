"""Watching: what is seen of a call, in which order, and that each beginning has its end."""

from __future__ import annotations

import pytest

from proxyless.filters.watch import watched
from proxyless.script import OK, OPEN, Outcome, Watcher
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, Behaviour, Reply, Simulation, Watching, play
from tests.worlds import Known, document, rpc


def known(route: str = "", *names: str) -> Known:
    """A service on these endpoints (default: a, b), with one route."""
    world = Known().lives("web", *(f"{name}:1" for name in names or "ab"))
    if route:
        world.services["web"] = document(f"routes: [{route}]")
    return world


def test_nobody_watches_and_nothing_is_there() -> None:
    """The head of the stack itself, not a wrapper that does nothing: what is not configured costs nothing."""
    assert watched(ENTRY, ()) is ENTRY


def test_a_call_with_a_retry_is_one_call_and_two_attempts() -> None:
    """The pause between the attempts belongs to the call and to neither attempt."""
    watching = Watching()
    world = known("{retry: {attempts: 1, backoff: {base: 2s, max: 2s}, on: [unavailable]}, name: shop}")
    answers = {"a": Reply(UNAVAILABLE, after=0.25), "b": Reply(OK, after=0.5)}
    play(watched(ENTRY, [watching]), rpc(world.snapshot(), rng=lambda: 0.0), **answers)
    assert watching.lines == [
        "begin /shop.Products/Get",
        "attempt a",
        "attempted a UNAVAILABLE 0.25",
        "attempt b",
        "attempted b OK 0.5",
        "ended shop OK 0.75",
    ]


@pytest.mark.parametrize(
    ("route", "ended"),
    [
        ("{match: [{path: {exact: /other}}]}", "ended - no_route 0"),
        ("{name: r, directResponse: {status: NOT_FOUND}}", "ended r direct_response 0"),
        (
            "{name: r, fault: {delay: {percent: 100, fixed: 2s}, abort: {percent: 100, status: ABORTED}}}",
            "ended r fault 2",
        ),
    ],
    ids=["no route", "direct response", "fault"],
)
def test_a_refused_call_has_no_attempt(route: str, ended: str) -> None:
    """It has its end, with the reason's word, and a route only where one was found."""
    watching = Watching()
    play(watched(ENTRY, [watching]), rpc(known(route).snapshot()))
    assert watching.lines == ["begin /shop.Products/Get", ended]


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (Reply(OK, after=3.0), ["attempted a ABANDONED 1", "ended route-0 ABANDONED 1"]),
        (Reply(OPEN, after=0.5, end=OK, lasts=9.0), ["attempted a ABANDONED 1", "ended route-0 ABANDONED 1"]),
    ],
    ids=["before the answer", "in the stream"],
)
def test_a_caller_who_walks_away_is_seen_to(answer: Behaviour, lines: list[str]) -> None:
    """Attempt and call end at that instant, not at the one at which the script was last resumed."""
    watching = Watching()
    world = known("{}", "a")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = answer
    call = simulation.call(watched(ENTRY, [watching]), rpc(world.snapshot()))
    simulation.at(START + 1.0, lambda: simulation.abandon(call))
    simulation.run()
    assert watching.lines == ["begin /shop.Products/Get", "attempt a", *lines]


def test_a_stream_ends_with_its_last_message() -> None:
    """The attempt lasts as long as the stream, and so does the call."""
    watching = Watching()
    answer = Reply(OPEN, after=0.5, end=Outcome(14, "broke", committed=True), lasts=2.0)
    play(watched(ENTRY, [watching]), rpc(known("{}", "a").snapshot()), a=answer)
    assert watching.lines[1:] == ["attempt a", "attempted a UNAVAILABLE 2.5", "ended route-0 UNAVAILABLE 2.5"]


def test_several_watch_the_same_call() -> None:
    """All see the same, and the call sees neither."""
    one, other = Watching(), Watching()
    effects, outcome = play(watched(ENTRY, [one, other]), rpc(known("{}", "a").snapshot()))
    assert (effects, outcome) == (["send a"], OK)
    assert one.lines == other.lines != []


def test_the_outcome_passes_unchanged() -> None:
    """Who watches changes nothing: the failure that comes out is the one that went in."""
    failure = Outcome(5, "gone")
    watcher: Watcher = Watching()
    assert play(watched(ENTRY, [watcher]), rpc(known("{}", "a").snapshot()), a=failure)[1] is failure
