"""Local rate limit: a token bucket per route, in this process.

Envoy's `local_ratelimit` fills its bucket by steps (`tokens_per_fill` each `fill_interval`); this one fills
continuously, so that ten a second are one each 100 ms and not ten at once on the second.
"""

from __future__ import annotations

from proxyless.model.routes import RateLimit as Settings

ROUNDING = 1e-9
"""A caller exactly on the beat must not be refused by the last bit of `now`."""


class RateLimit:
    """A bucket of `burst` tokens, full at first. One thread at a time; its owner sees to that."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, settings: Settings, now: float) -> None:
        self._rate = settings.requests_per_second
        self._burst = float(settings.burst)
        # "requestsPerSecond: 0" is a stop, and not `burst` calls per process and then a stop
        self._tokens = self._burst if self._rate else 0.0
        self._at = now

    def take(self, now: float) -> bool:
        """Whether a request may go now; if so, it has taken its token."""
        tokens = self.tokens(now)
        granted = tokens >= 1 - ROUNDING
        self._tokens = max(0.0, tokens - 1) if granted else tokens
        self._at = max(now, self._at)
        return granted

    def tokens(self, now: float) -> float:
        """How many there are; fractions are on their way."""
        # threads read the clock before they get the lock: a `now` of the past takes nothing back
        return min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)

    def configure(self, settings: Settings, now: float) -> None:
        """Follow an edit: what was saved stays, as far as the new bucket holds it."""
        tokens = self.tokens(now)
        self._rate, self._burst = settings.requests_per_second, float(settings.burst)
        self._tokens = tokens if self._rate else 0.0
        self._at = max(now, self._at)

    def __repr__(self) -> str:
        return f"<RateLimit {self._tokens:.3f} of {self._burst:g} tokens, {self._rate:g} a second>"
