"""When most endpoints fail, none is an outlier."""

from __future__ import annotations

import pytest

from proxyless.policy.panic import Panic


@pytest.mark.parametrize(
    ("kept", "inside", "out", "on"),
    [
        (1, 1, 1, True),
        (1, 2, 2, False),
        (2, 2, 2, True),
        (2, 5, 5, False),
        (3, 5, 5, True),
        (1, 9, 1, False),
        (4, 4, 0, False),
    ],
)
def test_it_begins_when_more_than_half_of_those_inside_are_kept_in(kept: int, inside: int, out: int, on: bool) -> None:
    """And only where somebody is out: without ejections there is nobody to call back."""
    panic = Panic()
    for host in range(kept):
        panic.kept(host, inside, out)
    assert panic.on is on


def test_the_same_one_again_is_no_second_one() -> None:
    """One of nine that fails and fails is one of nine."""
    panic = Panic()
    for _ in range(100):
        panic.kept("a", 9, 1)
    assert not panic.on


def test_who_failed_in_another_interval_does_not_count() -> None:
    """Two accidents a minute apart are no outage."""
    panic = Panic()
    panic.kept("a", 3, 3)
    panic.tick()
    panic.kept("b", 3, 3)
    assert not panic.on


@pytest.mark.parametrize(
    ("kept", "results", "goes_on"),
    [
        (True, [], True),
        (False, [], False),
        (False, [True, True, False], True),
        (False, [True, False], False),
        (False, [False], False),
    ],
)
def test_it_goes_on_while_the_rest_fail_or_the_ejected_are_of_use(
    kept: bool, results: list[bool], goes_on: bool
) -> None:
    """Looked at once an interval, each by itself."""
    panic = Panic()
    panic.kept("a", 1, 1)
    panic.tick()
    panic.on = True
    if kept:
        panic.kept("a", 1, 1)
    for ok in results:
        panic.called(ok)
    panic.tick()
    assert panic.on is goes_on
    panic.tick()
    assert not panic.on
