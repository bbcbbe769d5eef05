"""The tap: what is kept of a call and what never is, who wants to see which calls, and what is too much."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxyless.admin.tap import HIGHEST_RATE, MOST_WAITING, Tap, Wanted
from proxyless.filters.watch import watched
from proxyless.script import OK, Outcome
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, Reply, play
from tests.worlds import Known, document, rpc

SECRET = "s3cr3t"


def world(route: str) -> Known:
    known = Known().lives("web", "a:1", "b:1")
    known.services["web"] = document(f"routes: [{route}]")
    return known


def tapped(route: str, asked: dict[str, Any] | None = None, **answers: Any) -> list[dict[str, Any]]:
    """What a tap shows of one call on that route."""
    tap = Tap(Wanted(asked or {}))
    call = rpc(world(route).snapshot(), rng=lambda: 0.0, metadata=[("authorization", SECRET), ("x-token-bin", b"\0")])
    play(watched(ENTRY, [tap.watcher]), call, **answers)
    calls, lost = tap.read()
    assert lost == 0
    return [{"at": at, **told} for at, told in calls]


def test_a_call_that_was_tried_twice() -> None:
    """Route, destination, each attempt with its endpoint, status and time, and the whole call's."""
    (told,) = tapped(
        "{name: shop, retry: {attempts: 1, backoff: {base: 2s, max: 2s}, on: [unavailable]}}",
        a=Reply(UNAVAILABLE, after=0.25),
        b=Reply(OK, after=0.5),
    )
    assert told == {
        "at": START + 0.75,
        "service": "web",
        "method": "/shop.Products/Get",
        "route": "shop",
        "destination": "web",
        "subset": None,
        "endpoint": "b:1",
        "status": "OK",
        "refused": None,
        "seconds": 0.75,
        "attempts": [
            {"endpoint": "a:1", "status": "UNAVAILABLE", "seconds": 0.25},
            {"endpoint": "b:1", "status": "OK", "seconds": 0.5},
        ],
    }


@pytest.mark.parametrize(
    ("answers", "endpoint", "attempts"),
    [
        ({"a": Reply(OK, after=0.2), "b": Reply(OK, after=9.0)}, "a:1", ["b:1 CANCELLED given up", "a:1 OK"]),
        ({"a": Reply(OK, after=9.0), "b": Reply(OK, after=0.05)}, "b:1", ["a:1 CANCELLED given up", "b:1 OK"]),
        ({"a": UNAVAILABLE, "b": Reply(OK, after=0.05)}, "b:1", ["a:1 UNAVAILABLE", "b:1 OK"]),
    ],
    ids=["the first wins", "the second wins", "the first fails"],
)
def test_a_call_that_was_hedged(answers: dict[str, Any], endpoint: str, attempts: list[str]) -> None:
    """The endpoint is that of the answer, which stands last; who was beside it and too late was given up."""
    route = "{name: shop, hedge: {delay: 100ms, attempts: 1, nonFatal: [unavailable]}}"
    (told,) = tapped(route, **answers)
    made = [f"{one['endpoint']} {one['status']}{' given up' * one.get('given_up', False)}" for one in told["attempts"]]
    assert (told["endpoint"], made) == (endpoint, attempts)


def test_a_call_that_was_refused() -> None:
    """The reason's word, and no endpoint, for none saw it."""
    (told,) = tapped("{name: never, match: [{path: {exact: /x/Y}}]}")
    assert (told["status"], told["refused"], told["route"], told["endpoint"]) == ("UNAVAILABLE", "no_route", None, None)


@pytest.mark.parametrize("failure", [OK, Outcome(13, f"no, {SECRET}", trailers=[("x-secret", SECRET)])])
def test_no_metadata_and_no_words_of_a_server_are_shown(failure: Outcome) -> None:
    """Neither what was sent nor what came back: values, details and names alike."""
    (told,) = tapped("{name: shop}", a=failure)
    shown = json.dumps(told)
    for secret in (SECRET, "authorization", "x-token", "x-secret"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ({"service": "web"}, True),
        ({"service": "w*"}, True),
        ({"service": "we"}, False),
        ({"method": "/shop.Products/Get"}, True),
        ({"method": "shop.Products/Get"}, True),
        ({"method": "Get"}, True),
        ({"method": "/shop.Products/*"}, True),
        ({"method": "*Products*"}, True),
        ({"method": "Set"}, False),
        ({"status": ["UNAVAILABLE"]}, True),
        ({"status": ["not-found", "unavailable"]}, True),
        ({"status": ["error"]}, True),
        ({"status": ["ok"]}, False),
        ({"service": "web", "method": "Get", "status": ["OK"]}, False),
    ],
)
def test_who_wants_to_see_what(asked: dict[str, Any], seen: bool) -> None:
    """By service, method and status; all that are given must fit."""
    assert bool(tapped("{retry: {attempts: 0}}", asked, a=UNAVAILABLE)) is seen


@pytest.mark.parametrize(
    "asked",
    [
        {"service": 7},
        {"method": "x" * 201},
        {"method": "*" * 6},
        {"status": "UNAVAILABLE"},
        {"status": ["BROKEN"]},
        {"status": [None]},
        {"status": ["OK"] * 21},
        {"rate": -1},
        {"rate": True},
        {"rate": HIGHEST_RATE + 1},
        {"rate": "10"},
    ],
)
def test_what_cannot_be_meant(asked: dict[str, Any]) -> None:
    """It is refused in words, before anything is watched."""
    with pytest.raises(ValueError, match=r"must|is no status"):
        Wanted(asked)


def ended(tap: Tap, number: int, at: float) -> None:
    """So many calls end at once."""
    call = rpc(world("{}").snapshot())
    for _ in range(number):
        call.now = at
        tap.watcher(call).ended(call, OK)


def test_more_than_the_rate_are_counted_and_not_kept() -> None:
    """A second's worth at once, then so many a second."""
    tap = Tap(Wanted({"rate": 10}))
    ended(tap, 25, START)
    calls, lost = tap.read()
    assert (len(calls), lost) == (10, 15)
    ended(tap, 25, START + 0.5)
    calls, lost = tap.read()
    assert (len(calls), lost) == (5, 20)
    assert tap.read() == ([], 0)


def test_a_slow_reader_fills_a_queue_of_fixed_length() -> None:
    """What nobody fetches is counted: neither memory nor the caller pays for it."""
    tap = Tap(Wanted({"rate": HIGHEST_RATE}))
    for second in range(5):
        ended(tap, 800, START + second)
    calls, lost = tap.read()
    assert (len(calls), lost) == (MOST_WAITING, 5 * 800 - MOST_WAITING)


def test_methods_without_end_take_no_memory() -> None:
    """Whoever invents a method for each call fills no table."""
    tap = Tap(Wanted({"method": "Get"}))
    call = rpc(world("{}").snapshot())
    for number in range(10_000):
        call.method = f"/x/{number}"
        tap.watcher(call)
    assert len(tap._known) <= 4096
