"""The wait before a retry in any order of events: hypothesis plays the servers, a plain model counts.

The backoff keeps nothing between two questions, so what could go wrong is in the numbers that its caller keeps for
it: how many attempts have failed, and how many had when a server last said how long to wait.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxyless.policy.backoff import next_delay
from proxyless.policy.pushback import pushback

DRAWS = st.floats(0, 1, exclude_max=True)


class Calls(RuleBasedStateMachine):
    """One after the other: attempts fail, with or without a word about when to come back, until there are no more."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = self.told = 0
        self.waits: list[tuple[float, float]] = []
        """Each wait that was drawn, and the longest that it could have been."""
        self.over = False

    @initialize(base=st.sampled_from((0.001, 0.025, 1.0)), times=st.integers(1, 40), attempts=st.integers(0, 10))
    def begin(self, base: float, times: int, attempts: int) -> None:
        self.base, self.longest, self.attempts = base, base * times, attempts

    def bound(self, grown: int) -> float:
        """What the model allows after `grown` failures in a row of which no server said anything."""
        bound = self.base
        for _ in range(grown - 1):
            bound = min(bound * 2, self.longest)
        return min(bound, self.longest)

    def asked(self, draw: float) -> float | None:
        return next_delay(self.base, self.longest, self.attempts, self.failed, 0.0, lambda: draw, self.told)

    @precondition(lambda self: not self.over)
    @rule(draw=DRAWS)
    def fails(self, draw: float) -> None:
        """Nothing is said of when to come back: full jitter, in a range that doubles with each failure."""
        self.failed += 1
        delay = self.asked(draw)
        assert (delay is None) == (self.failed > self.attempts)
        if delay is None:
            self.over = True
            return
        bound = self.bound(self.failed - self.told)
        assert abs(delay - draw * bound) <= 1e-9 * bound
        self.waits.append((delay, bound))

    @precondition(lambda self: not self.over)
    @rule(milliseconds=st.integers(0, 2**31 - 1), draw=DRAWS)
    def is_told_when(self, milliseconds: int, draw: float) -> None:
        """The server says so: exactly that, and after it the range begins anew (gRFC A6). No attempt is won by it."""
        assert pushback([("grpc-retry-pushback-ms", str(milliseconds))]) == milliseconds / 1000
        self.failed += 1
        self.over = self.asked(draw) is None
        assert self.over == (self.failed > self.attempts)
        self.told = self.failed

    @precondition(lambda self: not self.over)
    @rule(word=st.sampled_from(("-1", "soon", "", "+5", "1_000", "1.5", str(2**31), "٣")))
    def is_told_never(self, word: str) -> None:
        """Negative, or not to be read: "not to retry at all" (gRFC A6)."""
        seconds = pushback([("grpc-retry-pushback-ms", word)])
        assert seconds is not None
        assert seconds < 0
        self.over = True

    @precondition(lambda self: self.over)
    @rule()
    def another_call_begins(self) -> None:
        """Which knows nothing of the first one's failures."""
        self.failed = self.told = 0
        self.over = False

    @invariant()
    def ranges_only_grow_until_somebody_says_otherwise(self) -> None:
        """No wait is negative or longer than its range, no range is longer than the longest."""
        for delay, bound in self.waits:
            assert 0 <= delay <= bound <= self.longest


TestCalls: Any = Calls.TestCase
TestCalls.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
