"""How long to wait before a retry, and when to give up: tenacity's strategies, asked with our own dice.

Full jitter: retry n waits 0 to min(base * 2 ** (n - 1), max) (Envoy `JitteredExponentialBackOffStrategy`; "The return
on implementation complexity of using jittered backoff is huge" - AWS Architecture Blog). tenacity draws from the global
dice, which no test could hold still, so it is asked for the bound and the draw is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=256)
def strategies(base: float, longest: float, attempts: int) -> tuple[Callable[[Any], bool], Callable[[Any], float]]:
    """tenacity's (stop, wait) for a policy; tenacity is imported by who asks first: the compiler, off the call path."""
    from tenacity import stop_after_attempt, wait_exponential

    return stop_after_attempt(attempts + 1), wait_exponential(multiplier=base, max=longest)


class Turn:
    """The part of tenacity's `RetryCallState` that strategies read."""

    __slots__ = ("attempt_number", "idle_for", "outcome", "seconds_since_start")

    def __init__(self, attempt_number: int, seconds_since_start: float) -> None:
        self.attempt_number = attempt_number
        self.seconds_since_start = seconds_since_start
        self.idle_for = 0.0
        self.outcome = None


def next_delay(
    base: float,
    longest: float,
    attempts: int,
    failed: int,
    elapsed: float,
    rng: Callable[[], float],
    told: int = 0,
) -> float | None:
    """Seconds to wait after `failed` attempts, or None when that was the last.

    `told`: how many of them had failed when the server last said how long to wait; from there the range grows
    anew ("retry delay will reset to initial backoff for the following retry" - gRFC A6).
    """
    stop, wait = strategies(base, longest, attempts)
    return None if stop(Turn(failed, elapsed)) else rng() * wait(Turn(failed - told, elapsed))
