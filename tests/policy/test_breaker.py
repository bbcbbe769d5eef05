"""The circuit breaker: when it opens, whom it lets through half open, and what decides then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxyless.model.quantities import Duration
from proxyless.model.traffic import CircuitBreaker
from proxyless.policy.breaker import CLOSED, HALF_OPEN, OPEN, Breaker

# CONTRACT section 5
AS_WRITTEN = CircuitBreaker(
    failure_rate=50,
    minimum_requests=20,
    window=Duration(10),
    open_for=Duration(30),
    half_open_requests=3,
)


def play(breaker: Breaker, results: str, now: float = 0.0) -> None:
    """Requests one after the other: S succeeds, F fails; each must be let in."""
    for result in results:
        generation = breaker.admit(now)
        assert generation, f"refused while {breaker.state(now)}"
        breaker.record(generation, result == "S", now)


def opened(at: float = 0.0, **changes: Any) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(replace(AS_WRITTEN, **changes))
    play(breaker, "F" * 20, at)
    assert breaker.state(at) == OPEN
    return breaker


def admitted(breaker: Breaker, now: float, wanted: int) -> list[int]:
    """The generations of as many as are let in of `wanted`."""
    return [generation for _ in range(wanted) if (generation := breaker.admit(now))]


# --- closed ---


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("F" * 19, CLOSED),
        ("F" * 20, OPEN),
        ("S" * 10 + "F" * 10, OPEN),
        ("S" * 11 + "F" * 10, CLOSED),
        ("F" * 10 + "S" * 10, OPEN),  # the twentieth completes the picture, though it succeeded itself
        ("F" * 9 + "S" * 11, CLOSED),
        ("S" * 1000, CLOSED),
    ],
)
def test_it_opens_at_the_failure_rate_once_there_are_enough_requests(results: str, state: str) -> None:
    """50 % of at least 20 (CONTRACT section 5): the rate itself is too many already."""
    breaker = Breaker(AS_WRITTEN)
    play(breaker, results)
    assert breaker.state(0.0) == state


def test_a_rate_of_zero_means_any_failure() -> None:
    """It does not mean that a destination without failures is cut off."""
    breaker = Breaker(replace(AS_WRITTEN, failure_rate=0, minimum_requests=1))
    play(breaker, "S" * 100)
    assert breaker.state(0.0) == CLOSED
    play(breaker, "F")
    assert breaker.state(0.0) == OPEN


def test_what_lies_more_than_a_window_back_is_forgotten() -> None:
    """Nineteen failures at 0 s are still there at 9.9 s, and gone at 10 s."""
    for now, state in ((9.9, OPEN), (10.0, CLOSED)):
        breaker = Breaker(AS_WRITTEN)
        play(breaker, "F" * 19)
        play(breaker, "F", now)
        assert breaker.state(now) == state


def test_a_shorter_window_forgets_sooner() -> None:
    """Two seconds: what came at 0 s is there at 1.9 s and gone at 2 s."""
    breaker = Breaker(replace(AS_WRITTEN, window=Duration(2)))
    play(breaker, "F" * 5)
    assert [breaker.rate(now) for now in (1.9, 2.0)] == [100, None]


def test_the_window_slides_by_its_slots() -> None:
    """A failure a second for 60 s: never more than ten in the window, so never twenty."""
    breaker = Breaker(AS_WRITTEN)
    for second in range(60):
        play(breaker, "F", float(second))
        assert breaker.rate(float(second)) == 100
    assert breaker.state(60.0) == CLOSED
    assert breaker.rate(69.0) is None


def test_a_request_without_a_verdict_counts_for_nothing() -> None:
    """Cancelled by its caller, or refused by ourselves further down."""
    breaker = Breaker(AS_WRITTEN)
    play(breaker, "F" * 19)
    for _ in range(100):
        breaker.cancel(breaker.admit(0.0))
    assert breaker.state(0.0) == CLOSED
    assert breaker.rate(0.0) == 100


# --- open ---


def test_open_means_that_nobody_is_let_in_for_its_time() -> None:
    """30 s to the instant; and it can say how long that still is."""
    breaker = opened(at=5.0)
    assert not any(breaker.admit(now) for now in (5.0, 20.0, 34.999))
    assert [breaker.retry_in(now) for now in (5.0, 20.0, 35.0, 99.0)] == [30, 15, 0, 0]
    assert [breaker.state(now) for now in (34.999, 35.0)] == [OPEN, HALF_OPEN]
    assert breaker.admit(35.0)


def test_requests_of_the_time_before_do_not_speak_for_the_time_after() -> None:
    """Admitted while closed, ended while open or half open: neither verdict nor place is theirs."""
    breaker = Breaker(AS_WRITTEN)
    slow = admitted(breaker, 0.0, 5)
    play(breaker, "F" * 20)
    breaker.record(slow[0], True, 10.0)
    assert breaker.state(10.0) == OPEN
    probes = admitted(breaker, 30.0, 5)
    assert len(probes) == 3
    for generation in slow[1:4]:
        breaker.record(generation, False, 31.0)
    breaker.cancel(slow[4])
    assert breaker.state(31.0) == HALF_OPEN
    assert not breaker.admit(31.0)
    for generation in probes:
        breaker.record(generation, True, 31.0)
    assert breaker.state(31.0) == CLOSED


# --- half open ---


@pytest.mark.parametrize(
    ("results", "state"),
    [("SSS", CLOSED), ("SFS", CLOSED), ("FSF", OPEN), ("FFF", OPEN), ("SFF", OPEN), ("FSS", CLOSED)],
)
def test_the_rate_of_the_half_open_requests_decides(results: str, state: str) -> None:
    """All three are judged; one of three is under 50 %, two are over it."""
    breaker = opened()
    for result, generation in zip(results, admitted(breaker, 30.0, 3), strict=True):
        assert breaker.state(30.0) == HALF_OPEN
        breaker.record(generation, result == "S", 30.0)
    assert breaker.state(30.0) == state


def test_half_open_lets_in_so_many_and_no_more() -> None:
    """Three, whether they are under way or judged already: the fourth must wait for the decision."""
    breaker = opened()
    first, *_ = admitted(breaker, 30.0, 10)
    breaker.record(first, True, 31.0)
    assert not breaker.admit(31.0)


def test_a_half_open_request_without_a_verdict_gives_its_place_to_another() -> None:
    """Its caller went away: nobody knows, so somebody else has to find out."""
    breaker = opened()
    for generation in admitted(breaker, 30.0, 3):
        breaker.cancel(generation)
    assert len(admitted(breaker, 30.0, 5)) == 3


def test_a_closed_breaker_begins_with_an_empty_window() -> None:
    """The failures that opened it are not held against it twice."""
    breaker = opened()
    play(breaker, "SSS", 30.0)
    assert breaker.rate(30.0) is None
    play(breaker, "F" * 19, 30.0)
    assert breaker.state(30.0) == CLOSED


def test_a_breaker_that_opened_again_waits_its_whole_time_again() -> None:
    """From the decision on, not from the first opening."""
    breaker = opened()
    play(breaker, "FFF", 40.0)
    assert not breaker.admit(69.999)
    assert breaker.admit(70.0)


@pytest.mark.parametrize(("judged", "admits"), [("", False), ("S", False), ("SS", True), ("FF", False)])
def test_requests_that_hang_do_not_keep_it_half_open_for_ever(judged: str, admits: bool) -> None:
    """Who has not answered for `openFor` has failed: 1 of 3 hanging is under 50 %, 2 of 3 are over."""
    breaker = opened()
    generations = admitted(breaker, 30.0, 3)
    for result, generation in zip(judged, generations, strict=False):
        breaker.record(generation, result == "S", 31.0)
    assert not breaker.admit(59.999)
    assert bool(breaker.admit(60.0)) is admits
    assert breaker.state(60.0) == (CLOSED if admits else OPEN)
    breaker.record(generations[-1], False, 61.0)
    assert breaker.state(61.0) == (CLOSED if admits else OPEN)


def test_who_hangs_takes_no_place_of_the_next_half_open() -> None:
    """Three never answered; when it is half open again, three others may find out."""
    breaker = opened()
    assert len(admitted(breaker, 30.0, 3)) == 3
    assert not breaker.admit(60.0)
    assert len(admitted(breaker, 90.0, 5)) == 3


# --- edits ---


def test_an_edit_never_forgets_an_open_breaker() -> None:
    """Its time is that of the new document, from when it opened."""
    breaker = opened()
    breaker.configure(replace(AS_WRITTEN, open_for=Duration(10), window=Duration(5)))
    assert not breaker.admit(9.999)
    assert breaker.admit(10.0)


def test_an_edit_of_the_window_begins_a_new_one_and_any_other_does_not() -> None:
    """Slots of another width can't be compared; other limits see what was counted."""
    breaker = Breaker(AS_WRITTEN)
    play(breaker, "F" * 5)
    breaker.configure(replace(AS_WRITTEN, minimum_requests=6))
    assert breaker.rate(0.0) == 100
    breaker.configure(replace(AS_WRITTEN, window=Duration(20)))
    assert breaker.rate(0.0) is None


def test_an_edit_half_open_forgets_no_verdict() -> None:
    """Two have failed when the window is edited: the third alone does not close it."""
    breaker = opened()
    first, second, third = admitted(breaker, 30.0, 3)
    breaker.record(first, False, 30.0)
    breaker.record(second, False, 30.0)
    breaker.configure(replace(AS_WRITTEN, window=Duration(20)))
    breaker.record(third, True, 30.0)
    assert breaker.state(30.0) == OPEN


def test_a_forked_child_waits_for_none_of_its_parents_requests() -> None:
    """One verdict was in and two were under way at the fork: the child sends two of its own."""
    breaker = opened()
    first, *_ = admitted(breaker, 30.0, 3)
    breaker.record(first, True, 30.0)
    breaker.renew()
    mine = admitted(breaker, 30.0, 5)
    assert len(mine) == 2
    for generation in mine:
        breaker.record(generation, True, 31.0)
    assert breaker.state(31.0) == CLOSED


def test_fewer_half_open_requests_than_are_judged_already_decide_at_once() -> None:
    """Three were wanted and two have answered when the document says one."""
    breaker = opened()
    first, second, third = admitted(breaker, 30.0, 3)
    breaker.record(first, True, 30.0)
    breaker.record(second, True, 30.0)
    breaker.cancel(third)
    breaker.configure(replace(AS_WRITTEN, half_open_requests=1))
    assert breaker.admit(30.0)
    assert breaker.state(30.0) == CLOSED


def test_a_change_of_state_is_a_change_of_generation() -> None:
    """That is how its owner knows that there is something to tell."""
    breaker = Breaker(AS_WRITTEN)
    seen = [breaker.generation]
    play(breaker, "F" * 19)
    seen.append(breaker.generation)
    play(breaker, "F")
    seen.append(breaker.generation)
    play(breaker, "S", 30.0)
    seen.append(breaker.generation)
    play(breaker, "SS", 30.0)
    seen.append(breaker.generation)
    assert seen == [1, 1, 2, 3, 4]
    assert repr(breaker) == "<Breaker CLOSED since 30.000: 0 of 0 failed>"
