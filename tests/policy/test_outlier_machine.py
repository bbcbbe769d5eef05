"""Outlier detection in any order of events: hypothesis plays a destination, a plain model keeps the books."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxyless.model.codes import SERVER_ERRORS, Code
from proxyless.model.traffic import FailurePercentage, Probation, SuccessRate
from proxyless.policy.outlier import EJECTED, HEALTHY, PROBING, Detector, Outlier
from tests.policy.pools import AS_WRITTEN, edited

CODES = st.sampled_from((Code.OK, Code.OK, Code.NOT_FOUND, Code.UNAVAILABLE, Code.UNAVAILABLE, Code.INTERNAL))
WHICH = st.integers(0, 99)


class Destination(RuleBasedStateMachine):
    """Endpoints come and go, succeed, fail, are probed; time passes by whole seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000
        self.runs: dict[Outlier, int] = {}
        self.probes: dict[Outlier, int] = {}

    @initialize(
        size=st.integers(1, 12),
        percent=st.sampled_from((0, 1, 10, 33.3, 50, 100)),
        healthy=st.sampled_from((0, 0, 25, 60)),
        base=st.integers(0, 30),
        longest=st.integers(0, 100),
        probation=st.integers(1, 3),
        run=st.integers(1, 4),
        gateway=st.integers(0, 3),
        split=st.booleans(),
        rates=st.booleans(),
    )
    def begin(
        self,
        size: int,
        percent: float,
        healthy: float,
        base: int,
        longest: int,
        probation: int,
        run: int,
        gateway: int,
        split: bool,
        rates: bool,
    ) -> None:
        self.settings = edited(
            AS_WRITTEN,
            consecutive5xx=run,
            consecutive_gateway_errors=gateway,
            split_external_local_origin_errors=split,
            base_ejection_time=base,
            max_ejection_time=longest,
            max_ejection_percent=percent,
            min_health_percent=healthy,
            probation=Probation(probation),
            success_rate=SuccessRate(2, 1, 0.5) if rates else None,
            failure_percentage=FailurePercentage(50, 1, 2) if rates else None,
        )
        self.detector = Detector(self.settings, self.now)
        self.hosts = [Outlier(self.settings) for _ in range(size)]
        self.detector.adopt(self.hosts)

    # --- what the model says ---

    def share_holds(self, out: int) -> bool:
        """Whether so many may be out, by the contract's words and in exact arithmetic."""
        size, part = len(self.hosts), Fraction(out, len(self.hosts)) * 100
        if out > 1 and part > Fraction(self.settings.max_ejection_percent):
            return False
        if self.settings.max_ejection_percent == 0 or out > size:
            return False
        return 100 - part >= Fraction(self.settings.min_health_percent)

    def host(self, which: int) -> Outlier:
        return self.hosts[which % len(self.hosts)]

    # --- what may happen ---

    @rule(which=WHICH, code=CODES, local=st.booleans(), times=st.integers(1, 3))
    def ends(self, which: int, code: Code, local: bool, times: int) -> None:
        """Attempts end; the model knows when five hundreds in a row are too many."""
        host = self.host(which)
        for _ in range(times):
            before, count = host.out, sum(host.out for host in self.hosts)
            why = host.record(code, local)
            local_kind = local and self.settings.split_external_local_origin_errors
            if before:
                assert why == "", "what is out is not measured"
            elif code not in SERVER_ERRORS:
                self.runs[host] = 0
                assert why == ""
            elif not local_kind:
                self.runs[host] = self.runs.get(host, 0) + 1
                if self.runs[host] >= self.settings.consecutive5xx:
                    assert why, "the run was long enough"
                if why == "consecutive_5xx":
                    assert self.runs[host] >= self.settings.consecutive5xx
                    self.runs[host] = 0
            if why:
                ejected = self.detector.eject(host, self.now)
                assert ejected is self.share_holds(count + 1)
                if ejected:
                    self.runs[host] = 0

    @rule(which=WHICH)
    def asks(self, which: int) -> None:
        """A request wants to go there."""
        host = self.host(which)
        state, ticket = host.state(self.now), host.admit(self.now)
        if state == HEALTHY:
            assert ticket == 0
        elif state == EJECTED or host in self.probes:
            assert ticket is None
        else:
            assert ticket, "the first on probation is let in"
            self.probes[host] = ticket

    @precondition(lambda self: self.probes)
    @rule(data=st.data(), code=st.one_of(st.none(), CODES))
    def probe_ends(self, data: st.DataObject, code: Code | None) -> None:
        """A probe ends somehow, or its caller gives up."""
        host = data.draw(st.sampled_from(list(self.probes)))
        times, passed, until = host.times, host.passed, host.ejected_until
        after = self.detector.probed(host, self.probes.pop(host), code, self.now)
        if code is None:
            assert (after, host.times, host.passed) == (PROBING, times, passed)
        elif code in SERVER_ERRORS:
            assert after == EJECTED
            assert host.ejected_until >= until
            assert host.times >= times
        else:
            enough = passed + 1 == self.settings.probation.requests
            assert after == (HEALTHY if enough else PROBING)
            self.runs[host] = 0

    @rule(seconds=st.integers(1, 40))
    def waits(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def ticks(self) -> None:
        """The interval may be over; nobody is ejected twice, nobody beyond the share."""
        count, due = sum(host.out for host in self.hosts), self.now >= self.detector.due_at
        times = {host: host.times for host in self.hosts}
        ejected = self.detector.tick(self.now)
        assert due or not ejected
        assert not ejected or self.share_holds(count + len(ejected))
        assert len({host for host, _ in ejected}) == len(ejected)
        for host, why in ejected:
            assert host.ejected_until >= self.now
            assert why.endswith(("success_rate", "failure_percentage"))
            self.runs[host] = 0
        assert all(host.times <= times[host] for host in self.hosts if not host.out), "healthy: never longer"

    @rule(data=st.data(), joining=st.integers(0, 3))
    def membership_changes(self, data: st.DataObject, joining: int) -> None:
        """Some leave, in the middle of anything; some join."""
        staying = data.draw(st.lists(st.sampled_from(self.hosts), unique_by=id))
        gone = set(self.hosts) - set(staying)
        self.hosts = [*staying, *(Outlier(self.settings) for _ in range(joining))] or [Outlier(self.settings)]
        self.detector.adopt(self.hosts)
        for host in gone:
            if ticket := self.probes.pop(host, None):
                self.detector.probed(host, ticket, Code.INTERNAL, self.now)
            assert not host.out
            assert not self.detector.eject(host, self.now)

    @rule(run=st.integers(1, 5), percent=st.sampled_from((10, 50, 100)))
    def is_edited(self, run: int, percent: int) -> None:
        """Other limits; nobody's ejection is forgotten."""
        out = [host for host in self.hosts if host.out]
        self.settings = edited(self.settings, consecutive5xx=run, max_ejection_percent=percent)
        self.detector.configure(self.settings, self.now)
        assert out == [host for host in self.hosts if host.out]

    @rule()
    def is_switched_off(self) -> None:
        """Everybody is back, and probes that are under way mean nothing any more."""
        self.detector.release(self.now)
        assert not any(host.out for host in self.hosts)
        for host, ticket in self.probes.items():
            assert self.detector.probed(host, ticket, Code.UNAVAILABLE, self.now) == HEALTHY
        self.runs.clear()
        self.probes.clear()
        for host in self.hosts:
            host.forget()

    # --- what always holds ---

    @invariant()
    def the_books_are_right(self) -> None:
        """Counts are those of the endpoints, none is negative, and no time is longer than the longest."""
        if not hasattr(self, "hosts"):
            return
        base, longest = self.settings.base_ejection_time, self.settings.max_ejection_time
        most = max(1, ceil(longest / base)) if base else 1
        assert self.detector.out == sum(host.out for host in self.hosts) >= 0
        for host in self.hosts:
            counters = (
                host.successes,
                host.errors,
                host.unreached,
                host.run,
                host.gateway_run,
                host.local_run,
            )
            assert min(counters) >= 0
            assert 0 <= host.times <= most
            assert host.passed <= self.settings.probation.requests
            assert host.passed < self.settings.probation.requests or not host.out
            assert (host in self.probes) == bool(host.ticket), "one probe under way, or none"
            if host.out:
                assert host.times >= 1
                assert host.ejected_until <= self.now + longest
                assert host.admit(host.ejected_until - 1) is None


TestDestination: Any = Destination.TestCase
TestDestination.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
