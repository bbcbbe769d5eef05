"""The wait before a retry: full jitter within bounds that double, and what servers say about it."""

from __future__ import annotations

from math import nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.quantities import Duration
from proxyless.model.routes import Backoff
from proxyless.policy.backoff import next_delay

LAST = nextafter(1.0, 0.0)


@pytest.mark.parametrize(
    ("failed", "bound"), [(1, 0.025), (2, 0.05), (3, 0.1), (4, 0.2), (5, 0.25), (6, 0.25), (10, 0.25)]
)
def test_the_ranges_double_up_to_the_longest(failed: int, bound: float) -> None:
    """[0, 25), [0, 50), [0, 100), [0, 200), [0, 250) ms: Envoy's JitteredExponentialBackOffStrategy."""
    dice = iter((0.0, 0.5, LAST))
    least, half, most = (next_delay(0.025, 0.25, 10, failed, 0.0, lambda: next(dice)) for _ in range(3))
    assert (least, half) == (0.0, bound / 2)
    assert most is not None
    assert bound * 0.999 < most < bound


@pytest.mark.parametrize(
    ("base", "longest"),
    [
        (0.1, 1.0),  # Envoy retry_state_impl_test.cc, PolicyBackOffIntervalDefaultMax
        (0.025, 0.25),
        (1.0, 10.0),
        (0.0, 0.0),
        (900.0, 3600.0),  # no delay of a document is longer than an hour
    ],
)
def test_the_longest_range_is_ten_bases_where_a_document_says_no_other(base: float, longest: float) -> None:
    """ "The default is 10 times the base_interval" - Envoy `RetryBackOff`. So `backoff: {base: 1s}` is enough."""
    assert Backoff(Duration(base)) == Backoff(Duration(base), Duration(longest))


@pytest.mark.parametrize(("attempts", "failed"), [(0, 1), (2, 3), (10, 11)])
def test_after_the_last_retry_there_is_no_wait(attempts: int, failed: int) -> None:
    """`attempts` counts retries after the first try: two of them are over when three tries have failed."""
    assert next_delay(0.025, 0.25, attempts, failed, 0.0, lambda: 0.5) is None
    if attempts:
        assert next_delay(0.025, 0.25, attempts, failed - 1, 0.0, lambda: 0.5) is not None


@given(
    st.floats(0, 3600),
    st.floats(0, 3600),
    st.integers(1, 10),
    st.integers(1, 12),
    st.floats(0, 1, exclude_max=True),
)
def test_no_wait_is_longer_than_its_range(base: float, more: float, attempts: int, failed: int, draw: float) -> None:
    """Whatever a document says: 0 to min(base * 2 ** (n - 1), max), until the attempts are used up."""
    delay = next_delay(base, base + more, attempts, failed, 0.0, lambda: draw)
    assert (delay is None) is (failed > attempts)
    if delay is not None:
        assert 0 <= delay <= min(base * 2 ** (failed - 1), base + more)


def test_after_a_server_has_said_when_the_ranges_begin_anew() -> None:
    """ "after a pushback the backoff starts again at initial" (vector java-pushback-resets-backoff)."""
    assert [next_delay(0.1, 0.7, 9, failed, 0.0, lambda: 0.5, told) for failed, told in ((1, 0), (4, 3), (5, 3))] == [
        0.05,
        0.05,
        0.1,
    ]
