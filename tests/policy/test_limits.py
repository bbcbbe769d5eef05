"""Limits on what is under way: who gets in, and what edits do (the peers' rows: test_breaker_rows.py)."""

from __future__ import annotations

import pytest

from proxyless.model.traffic import Limits as Settings
from proxyless.policy.limits import Limit, Limits


def test_a_limit_counts_who_is_inside_and_not_who_was_refused() -> None:
    """gRFC A32: what is over the limit is dropped; who leaves makes room for one."""
    limit = Limit(2)
    assert [limit.enter() for _ in range(4)] == [True, True, False, False]
    limit.leave()
    assert [limit.enter(), limit.enter(), limit.used] == [True, False, 2]


@pytest.mark.parametrize(("maximum", "inside"), [(0, 0), (1, 1), (1024, 1024), (None, 5000)])
def test_zero_is_nobody_and_none_is_everybody(maximum: int | None, inside: int) -> None:
    """A32 passes an explicit 0 on; only what is not limited at all lets five thousand in."""
    limit = Limit(maximum)
    assert sum(limit.enter() for _ in range(5000)) == inside == limit.used


def test_no_limit_on_retries_is_written_as_zero() -> None:
    """CONTRACT section 5 has `maxRetries: 0` beside a default of two attempts: the budget bounds those."""
    limits = Limits(Settings(max_requests=1, max_pending_requests=0, max_retries=0))
    assert [limits.retries.enter() for _ in range(100)] == [True] * 100
    assert [limits.requests.enter(), limits.requests.enter(), limits.pending.enter()] == [True, False, False]


def test_the_three_limits_do_not_share_their_room() -> None:
    """A call that waits is no attempt, and what leaves one of them leaves the others alone."""
    limits = Limits(Settings(max_requests=1, max_pending_requests=1, max_retries=1))
    assert [limits.requests.enter(), limits.pending.enter(), limits.retries.enter()] == [True, True, True]
    limits.pending.leave()
    assert (limits.requests.used, limits.pending.used, limits.retries.used) == (1, 0, 1)


def test_an_edit_counts_on_with_those_who_are_inside() -> None:
    """Five are inside when it falls to three: nobody is thrown out, and three leave before one enters."""
    limits = Limits(Settings(max_requests=5, max_pending_requests=5, max_retries=1))
    assert all(limits.requests.enter() for _ in range(5))
    limits.configure(Settings(max_requests=3, max_pending_requests=5, max_retries=1))
    admitted = []
    for _ in range(3):
        admitted.append(limits.requests.enter())
        limits.requests.leave()
    assert admitted == [False, False, False]
    assert [limits.requests.enter(), limits.requests.enter()] == [True, False]


def test_what_is_printed_says_how_full_it_is() -> None:
    """For the log of a bad night."""
    limits = Limits(Settings(max_requests=2, max_pending_requests=0, max_retries=0))
    limits.requests.enter()
    assert repr(limits) == ("<Limits requests=<Limit 1 of 2> pending=<Limit 0 of 0> retries=<Limit 0 of any number>>")
