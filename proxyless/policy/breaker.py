"""The circuit breaker of a destination: CLOSED, OPEN, HALF_OPEN.

The classic three states (Nygard, "Release It!") with resilience4j's rules: the failure rate over a sliding
window opens it; after `openFor` a few live requests are let through, and their own rate decides. Here the
window is of time, in ten slots. What counts as a failure is the caller's to say: the statuses that are 5xx to
Envoy (`retriable.SERVER_ERRORS`); refusals of ours and what callers gave up are neither.

Every state has its `generation`, and a request carries the one that admitted it (as in Sony's gobreaker): a
slow request of the bad old days must not speak for the state that came after it.
"""

from __future__ import annotations

from proxyless.model.traffic import CircuitBreaker

SLOTS = 10

CLOSED = "CLOSED"
OPEN = "OPEN"
HALF_OPEN = "HALF_OPEN"


class Breaker:
    """One thread at a time; its owner sees to that. A state has changed when `generation` has."""

    __slots__ = (
        "_at",
        "_failed",
        "_failures",
        "_next",
        "_origin",
        "_settings",
        "_since",
        "_stamp",
        "_state",
        "_total",
        "_totals",
        "_under_way",
        "_width",
        "closed",
        "generation",
    )

    def __init__(self, settings: CircuitBreaker) -> None:
        self.generation = 0
        self._settings = settings
        self._enter(CLOSED, 0.0)

    def admit(self, now: float) -> int:
        """0: refused. Else the request may be sent; give the number back to `record` or `cancel`, once."""
        if self._state is CLOSED:
            return self.generation
        settings = self._settings
        if self._state is OPEN:
            if now < self._since + settings.open_for:
                return 0
            self._enter(HALF_OPEN, now)
        elif self._under_way + self._total >= settings.half_open_requests:
            # All must be judged; but one that hangs must not keep the rest out for ever: when `openFor` has
            # passed once more, no answer is a failure. (Nobody is waited for if an edit lowered the limit.)
            if self._under_way and now < self._since + settings.open_for:
                return 0
            self._total += self._under_way
            self._failed += self._under_way
            self._decide(now)
            return self.generation if self._state is CLOSED else 0
        self._under_way += 1
        return self.generation

    def record(self, generation: int, ok: bool, now: float) -> None:
        """A request that was admitted with `generation` ended."""
        if generation != self.generation:
            return
        if self._state is CLOSED:
            if now >= self._next:
                self._turn(now)
            self._totals[self._at] += 1
            self._total += 1
            if not ok:
                self._failures[self._at] += 1
                self._failed += 1
            if self._failed and self._total >= self._settings.minimum_requests and self._too_many():
                self._enter(OPEN, now)
            return
        self._under_way -= 1
        self._total += 1
        self._failed += not ok
        if self._total >= self._settings.half_open_requests:
            self._decide(now)

    def cancel(self, generation: int) -> None:
        """A request ended of which nobody knows whether it failed: in HALF_OPEN another takes its place."""
        if generation == self.generation and self._state is HALF_OPEN:
            self._under_way -= 1

    def configure(self, settings: CircuitBreaker) -> None:
        """Follow an edit: an open breaker stays open, a window of another length begins empty."""
        old, self._settings = self._settings, settings
        if self._state is CLOSED and settings.window != old.window:
            self._empty()

    def renew(self) -> None:
        """In a forked child: what was under way is the parent's, and will not be reported here."""
        self._under_way = 0

    def state(self, now: float) -> str:
        """The state in which a request would find it now."""
        return HALF_OPEN if self._state is OPEN and self.retry_in(now) == 0 else self._state

    def retry_in(self, now: float) -> float:
        """Seconds until a request may find out whether it is better; 0 unless OPEN."""
        return max(0.0, self._since + self._settings.open_for - now) if self._state is OPEN else 0.0

    def rate(self, now: float) -> float | None:
        """Failures in percent, of the window or of HALF_OPEN's own requests; None without results."""
        if self._total and now >= self._next:
            self._turn(now)
        return 100 * self._failed / self._total if self._total else None

    def _too_many(self) -> bool:
        # `failureRate: 0` means any failure, not none
        return self._failed > 0 and 100 * self._failed >= self._settings.failure_rate * self._total

    def _decide(self, now: float) -> None:
        self._enter(OPEN if self._too_many() else CLOSED, now)

    def _enter(self, state: str, now: float) -> None:
        self._state = state
        self.closed = state is CLOSED
        self._since = now
        self._under_way = 0
        self.generation += 1
        self._empty()

    def _empty(self) -> None:
        self._totals = [0] * SLOTS
        self._failures = [0] * SLOTS
        self._total = self._failed = self._at = self._stamp = 0
        self._width = self._settings.window / SLOTS
        self._origin = 0.0
        self._next = float("-inf")  # the first result begins the window

    def _turn(self, now: float) -> None:
        """Let slots expire that lie more than a window back; a window begins with its first result."""
        if self._next == float("-inf"):
            self._origin = now
        stamp = int((now - self._origin) / self._width)
        self._next = self._origin + (stamp + 1) * self._width
        for ahead in range(1, min(stamp - self._stamp, SLOTS) + 1):
            slot = (self._stamp + ahead) % SLOTS
            self._total -= self._totals[slot]
            self._failed -= self._failures[slot]
            self._totals[slot] = self._failures[slot] = 0
        self._stamp = stamp
        self._at = stamp % SLOTS

    def __repr__(self) -> str:
        return f"<Breaker {self._state} since {self._since:.3f}: {self._failed} of {self._total} failed>"
