"""Limits: how much may be under way to a destination at one time.

Envoy's circuit breakers, which gRFC A32 gives to gRPC clients: what is over a limit is refused at once with
UNAVAILABLE, touches no endpoint and is not retried. Counting is exact here; in Envoy threads race, and may
let a few too many in.
"""

from __future__ import annotations

from proxyless.model.traffic import Limits as Settings


class Limit:
    """One limit and how much of it is used. None is no limit, 0 lets nothing in (A32)."""

    __slots__ = ("maximum", "used")

    def __init__(self, maximum: int | None) -> None:
        self.maximum = maximum
        """May be changed while in use: who is inside stays inside."""
        self.used = 0

    def enter(self) -> bool:
        """Whether one more may come in. Whoever does must leave, exactly once."""
        if self.maximum is not None and self.used >= self.maximum:
            return False
        self.used += 1
        return True

    def leave(self) -> None:
        """One that came in is done."""
        self.used -= 1

    def __repr__(self) -> str:
        return f"<Limit {self.used} of {'any number' if self.maximum is None else self.maximum}>"


class Limits:
    """The three limits of a destination: attempts under way, calls that wait for an endpoint, retries."""

    __slots__ = ("pending", "requests", "retries")

    def __init__(self, settings: Settings) -> None:
        self.requests = Limit(None)
        self.pending = Limit(None)
        self.retries = Limit(None)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Follow an edit; what is under way goes on counting.

        `maxRetries: 0` is no limit: the budget bounds retries already; to have none, `retry.attempts` is 0.
        """
        self.requests.maximum = settings.max_requests
        self.pending.maximum = settings.max_pending_requests
        self.retries.maximum = settings.max_retries or None

    def __repr__(self) -> str:
        return f"<Limits requests={self.requests} pending={self.pending} retries={self.retries}>"
