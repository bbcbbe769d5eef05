"""The retry budget: retries as a share of calls, so that an outage is not answered with a storm.

Finagle's window with its 1000-scaled arithmetic (`RetryBudget.scala`, `TokenBucket.newLeakyBucket`): deposits
and withdrawals live in one sliding window of ten slots, beside a constant reserve. What deposits is the
caller's to decide, and there Linkerd's rule is kept: a retryable failure deposits nothing, so a total outage
starves retries instead of feeding them.

"Every `ttl` has `reserve` tokens", says Finagle, and "(approximate)": its `WindowedAdder` sums nine slots that are
over and the one that has begun, 0.9 to 1 `ttl`, and so does this. Where retries take the whole reserve at the end
of one slot, they may take it again 0.9 `ttl` later: over a long outage that is the reserve once per 0.9 `ttl`.
"""

from __future__ import annotations

from proxyless.model.traffic import RetryBudget as Settings

SCALE = 1000
"""What one deposit is worth. Whole numbers that small (tower's 1) round a ratio of 0.75 up to 1."""
SLOTS = 10
SMALLEST = 1e-9
"""No smaller ratio is told from this one, and 1000 over the smallest float is no number."""


class RetryBudget:
    """Tokens over the last `ttl` seconds. One thread at a time; `state.DestinationState` sees to that."""

    __slots__ = (
        "_deposit",
        "_next",
        "_origin",
        "_reserve",
        "_slots",
        "_stamp",
        "_sum",
        "_width",
        "_withdraw",
    )

    def __init__(self, ttl: float, min_retries_per_second: float, ratio: float) -> None:
        # "ratio 0: deposit 0, withdraw 1" - Finagle; the reserve alone allows retries then
        self._deposit = SCALE if ratio > 0 else 0
        self._withdraw = int(SCALE / max(ratio, SMALLEST)) if ratio > 0 else 1
        # rounded first: 4.1 a second over 30 s are 123 retries, not the 122.99999999999999 of a float
        self._reserve = int(round(min_retries_per_second * ttl, 6)) * self._withdraw
        self._width = ttl / SLOTS
        self._slots = [0] * SLOTS
        self._sum = 0
        self._origin: float | None = None
        self._stamp = 0
        self._next = 0.0
        """The instant at which the present slot ends: until then a deposit is two additions."""

    @classmethod
    def of(cls, settings: Settings) -> RetryBudget:
        """The budget that a document asks for."""
        return cls(settings.ttl, settings.min_retries_per_second, settings.ratio)

    def deposit(self, now: float) -> None:
        """A call ended that nobody needs to make again."""
        if self._origin is None or now >= self._next:
            self._turn(now)
        self._slots[self._stamp % SLOTS] += self._deposit
        self._sum += self._deposit

    def withdraw(self, now: float) -> bool:
        """Whether a retry may be made now; if so, it is paid for."""
        self._turn(now)
        if self._sum + self._reserve < self._withdraw:
            return False
        self._slots[self._stamp % SLOTS] -= self._withdraw
        self._sum -= self._withdraw
        return True

    def balance(self, now: float) -> int:
        """How many retries could be made now, one after the other."""
        self._turn(now)
        return max(0, (self._sum + self._reserve) // self._withdraw)

    def _turn(self, now: float) -> None:
        """Let slots expire that lie more than a window back."""
        if self._origin is None:
            self._origin = now
        stamp = int((now - self._origin) / self._width)
        self._next = self._origin + (stamp + 1) * self._width
        passed = stamp - self._stamp
        if passed <= 0:
            return
        for ahead in range(1, min(passed, SLOTS) + 1):
            slot = (self._stamp + ahead) % SLOTS
            self._sum -= self._slots[slot]
            self._slots[slot] = 0
        self._stamp = stamp

    def __repr__(self) -> str:
        return f"<RetryBudget {self._sum + self._reserve} tokens, {self._withdraw} a retry>"
