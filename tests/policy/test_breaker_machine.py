"""The circuit breaker in any order of events, beside a model that keeps every result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxyless.model.quantities import Duration
from proxyless.model.traffic import CircuitBreaker
from proxyless.policy.breaker import CLOSED, HALF_OPEN, OPEN, Breaker


class Destination(RuleBasedStateMachine):
    """Requests come, end, hang and are cancelled; instants are quarters of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.state = CLOSED
        self.since = 0.0
        self.results: list[tuple[float, bool]] = []
        self.under_way: list[int] = []
        self.late: list[int] = []

    @initialize(
        rate=st.sampled_from((0, 1, 33, 50, 100)),
        minimum=st.integers(1, 6),
        open_for=st.integers(1, 10),
        half_open=st.integers(1, 4),
    )
    def begin(self, rate: float, minimum: int, open_for: int, half_open: int) -> None:
        self.settings = CircuitBreaker(rate, minimum, Duration(10), Duration(open_for), half_open)
        self.breaker = Breaker(self.settings)

    def enter(self, state: str) -> None:
        self.state, self.since, self.results = state, self.now, []
        self.late += self.under_way
        self.under_way = []

    def judged(self) -> Sequence[bool]:
        """What counts now: in CLOSED, the present slot of a second and the nine before it."""
        if self.state != CLOSED or not self.results:
            return [ok for _, ok in self.results]
        origin = self.results[0][0]
        slot = (self.now - origin) // 1.0
        return [ok for at, ok in self.results if slot - (at - origin) // 1.0 < 10]

    def too_many(self, oks: Sequence[bool]) -> bool:
        failed = len(oks) - sum(oks)
        return failed > 0 and 100 * failed >= self.settings.failure_rate * len(oks)

    @rule()
    def asks(self) -> None:
        """A request wants to be sent."""
        if self.state == OPEN and self.now >= self.since + self.settings.open_for:
            self.enter(HALF_OPEN)
        full = len(self.under_way) + len(self.results) >= self.settings.half_open_requests
        if self.state == HALF_OPEN and full and self.now >= self.since + self.settings.open_for:
            hanging = [False] * len(self.under_way)
            self.enter(OPEN if self.too_many([*self.judged(), *hanging]) else CLOSED)
            full = False
        generation = self.breaker.admit(self.now)
        if self.state == OPEN or (self.state == HALF_OPEN and full):
            assert generation == 0
        else:
            assert generation
            self.under_way.append(generation)

    def end(self, index: int, ok: bool) -> None:
        """A request of the present state ends."""
        self.breaker.record(self.under_way.pop(index), ok, self.now)
        self.results.append((self.now, ok))
        oks = self.judged()
        if self.state == HALF_OPEN and len(oks) == self.settings.half_open_requests:
            self.enter(OPEN if self.too_many(oks) else CLOSED)
        elif self.state == CLOSED and len(oks) >= self.settings.minimum_requests and self.too_many(oks):
            self.enter(OPEN)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99), ok=st.booleans())
    def ends(self, which: int, ok: bool) -> None:
        """One of those under way ends."""
        self.end(which % len(self.under_way), ok)

    @rule(ok=st.booleans(), times=st.integers(1, 6))
    def serves(self, ok: bool, times: int) -> None:
        """Several quick requests, one after the other."""
        for _ in range(times):
            before = len(self.under_way)
            self.asks()
            if len(self.under_way) > before:
                self.end(-1, ok)

    @precondition(lambda self: self.under_way)
    @rule()
    def is_cancelled(self) -> None:
        """A request of the present state ends without a verdict."""
        self.breaker.cancel(self.under_way.pop())

    @precondition(lambda self: self.late)
    @rule(ok=st.booleans(), verdict=st.booleans())
    def ends_late(self, ok: bool, verdict: bool) -> None:
        """A request of an earlier state ends: it must not be seen."""
        generation = self.late.pop()
        if verdict:
            self.breaker.record(generation, ok, self.now)
        else:
            self.breaker.cancel(generation)

    @rule(quarters=st.sampled_from((1, 3, 4, 10, 39, 40, 41, 200)))
    def waits(self, quarters: int) -> None:
        self.now += quarters / 4

    @invariant()
    def the_breaker_is_where_the_model_is(self) -> None:
        """State, rate, and never more under way half open than are allowed."""
        if not hasattr(self, "breaker"):
            return
        over = self.state == OPEN and self.now >= self.since + self.settings.open_for
        assert self.breaker.state(self.now) == (HALF_OPEN if over else self.state)
        if self.state == HALF_OPEN:
            assert len(self.under_way) <= self.settings.half_open_requests
        oks = self.judged()
        expected = 100 * (len(oks) - sum(oks)) / len(oks) if oks else None
        assert self.breaker.rate(self.now) == expected


TestDestination: Any = Destination.TestCase
TestDestination.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
