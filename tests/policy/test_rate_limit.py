"""The local rate limit: a bucket that is full at first, and filled drop by drop."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.model.routes import RateLimit as Settings
from proxyless.policy.rate_limit import RateLimit


def taken(bucket: RateLimit, now: float, wanted: int) -> int:
    """How many of `wanted` requests may go at one instant."""
    return sum(bucket.take(now) for _ in range(wanted))


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    """10 a second, burst 5: five now, one each 100 ms after, and five again once it is full."""
    bucket = RateLimit(Settings(10, 5), 100.0)
    assert taken(bucket, 100.0, 20) == 5
    assert [taken(bucket, 100.0 + tenths / 10, 20) for tenths in (0.5, 1, 1.5, 2, 3, 7, 100)] == [
        0,
        1,
        0,
        1,
        1,
        4,
        5,
    ]


def test_a_caller_on_the_beat_is_never_refused() -> None:
    """A thousand requests, one each 100 ms, under 10 a second: floats are not the caller's fault."""
    bucket = RateLimit(Settings(10, 1), 0.0)
    for beat in range(1000):
        assert bucket.take(beat / 10)
        assert bucket.tokens(beat / 10) >= 0


def test_what_is_refused_costs_nothing() -> None:
    """A storm of refused requests does not push the next token away."""
    bucket = RateLimit(Settings(1, 1), 0.0)
    assert taken(bucket, 0.0, 1) == 1
    for millisecond in range(999):
        assert not bucket.take(millisecond / 1000)
    assert bucket.take(1.0)


def test_zero_a_second_is_a_stop() -> None:
    """Not one call per process and then a stop."""
    assert taken(RateLimit(Settings(0, 100), 0.0), 1000.0, 10) == 0


def test_a_rate_under_one_saves_up_over_seconds() -> None:
    """One call in ten seconds."""
    bucket = RateLimit(Settings(0.1, 1), 0.0)
    assert [bucket.take(now) for now in (0.0, 5.0, 9.9, 10.0, 19.9, 20.0)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_clock_read_before_the_lock_was_free_gives_nothing_twice() -> None:
    """Two threads read 10.0 and 11.0, and the second is served first."""
    bucket = RateLimit(Settings(1, 10), 0.0)
    assert taken(bucket, 0.0, 10) == 10
    assert taken(bucket, 11.0, 10) == 10
    assert not bucket.take(10.0)
    assert not bucket.take(11.0)
    assert bucket.take(12.0)


@pytest.mark.parametrize(
    ("settings", "now", "left"),
    [
        (Settings(10, 100), 1.0, 30),  # 20 were there, 10 came in that second at the old rate
        (Settings(10, 5), 1.0, 5),
        (Settings(0, 100), 1.0, 0),
    ],
)
def test_an_edit_keeps_what_the_new_bucket_holds(settings: Settings, now: float, left: int) -> None:
    """Nobody gets a fresh burst by editing a document."""
    bucket = RateLimit(Settings(10, 100), 0.0)
    assert taken(bucket, 0.0, 80) == 80
    bucket.configure(settings, now)
    assert taken(bucket, now, 1000) == left


@settings(deadline=None)
@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=60),
)
def test_no_span_of_time_sees_more_than_the_burst_and_its_rate(
    rate: int, burst: int, asked: list[tuple[int, int]]
) -> None:
    """In any span: grants <= burst + rate * span; and a token that is there is never refused."""
    bucket, now, grants = RateLimit(Settings(rate, burst), 0.0), 0.0, []
    for step, wanted in asked:
        now += step / 64
        for _ in range(wanted):
            there = bucket.tokens(now)
            granted = bucket.take(now)
            assert granted == (there >= 1 - 1e-9)
            if granted:
                grants.append(now)
        assert 0 <= bucket.tokens(now) <= burst
    for first, start in enumerate(grants):
        for last in range(first, len(grants)):
            assert last - first + 1 <= burst + rate * (grants[last] - start) + 1e-6


def test_what_is_printed_says_how_much_is_left() -> None:
    """For the log of a bad night."""
    assert repr(RateLimit(Settings(2.5, 3), 0.0)) == "<RateLimit 3.000 of 3 tokens, 2.5 a second>"
