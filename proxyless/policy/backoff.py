"""How long to wait before a retry, and when to give up: tenacity's strategies, asked with our own dice.

Full jitter: retry n waits 0 to min(base * 2 ** (n - 1), max) (Envoy `JitteredExponentialBackOffStrategy`; "the
return on implementing full jitter is large" - AWS). tenacity draws from the global dice, which no test could
hold still, so it is asked for the bound and the draw is made here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=256)
def strategies(base: float, longest: float, attempts: int) -> tuple[Callable[[Any], bool], Callable[[Any], float]]:
    """tenacity's (stop, wait) for a policy; tenacity is imported when a first call has failed, not before."""
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
    base: float, longest: float, attempts: int, failed: int, elapsed: float, rng: Callable[[], float]
) -> float | None:
    """Seconds to wait after `failed` attempts, or None when that was the last."""
    stop, wait = strategies(base, longest, attempts)
    turn = Turn(failed, elapsed)
    return None if stop(turn) else rng() * wait(turn)


def pushback(trailers: Any) -> float | None:
    """What the server says of retries: seconds to wait, a negative number for never, None if it says nothing.

    "If the value for pushback is negative or unparseable, then it will be seen as the server asking the
    client not to retry at all." - gRFC A6
    """
    for key, value in trailers or ():
        if key == "grpc-retry-pushback-ms":
            try:
                milliseconds = int(value)
            except (TypeError, ValueError):
                return -1.0
            # int32 at most: a server can't park a caller for three hundred years
            return milliseconds / 1000 if 0 <= milliseconds < 2**31 else -1.0
    return None
