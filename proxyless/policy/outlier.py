"""Outlier detection: an endpoint that fails is ejected for a while, and readmitted on probation.

Envoy's algorithm (`source/common/upstream/outlier_detection_impl.cc`) for one destination, but for this:

- Trailers count as much as headers. A result is a gRPC status wherever it stood; Envoy "does not handle the
  case when an error grpc-status is sent as a trailer" (comment in its `router.cc`).
- No endpoint returns to full traffic at once: after its time it is on probation, where live requests go to it
  one at a time until enough have succeeded (Linkerd's failure accrual, Finagle's `ProbeOpen`).
- Its time ends at the exact instant, seen by whoever asks next; Envoy looks on the interval tick alone, so an
  ejection there may last up to an interval longer.
- One endpoint may always be ejected, unless `maxEjectionPercent` is 0 (Envoy: `always_eject_one_host`).
- Within a tick the worst go first, so that a full quota is spent on those who deserve it.

An `Outlier` is what one endpoint has to remember; counting a result touches nothing else, so its owner can
guard it with the endpoint's lock. What is about several (shares, quotas, the tick) is `Detector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt
from typing import TypeAlias

from proxyless.model.codes import GATEWAY_ERRORS, SERVER_ERRORS
from proxyless.model.traffic import OutlierDetection

HEALTHY = "healthy"
EJECTED = "ejected"
PROBING = "probing"

ROUNDING = 1e-9
"""Percent by which a rate must lie under the threshold: equal endpoints are no outliers by a last bit."""

Results: TypeAlias = Sequence[tuple["Outlier", int, int]]
"""(endpoint, successes, failures) of the interval that ended."""


class Outlier:
    """One endpoint's record. While `out` is False, a pick need not look at anything else here."""

    __slots__ = (
        "ejected_until",
        "errors",
        "gateway_run",
        "issued",
        "local_run",
        "out",
        "passed",
        "readmitted_at",
        "run",
        "settings",
        "successes",
        "ticket",
        "times",
        "unreached",
    )

    def __init__(self, settings: OutlierDetection) -> None:
        self.settings = settings
        self.out = False
        """Ejected or on probation."""
        self.ejected_until = 0.0
        self.readmitted_at = 0.0
        self.times = 0
        """How many base ejection times the last ejection was worth; decays while it is healthy."""
        self.passed = 0
        self.ticket = 0
        """Of the probe under way; 0 when there is none."""
        self.issued = 0
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.successes = self.errors = self.unreached = 0
        self.run = self.gateway_run = self.local_run = 0

    def record(self, code: int, local: bool = False) -> str:
        """Count how an attempt ended; returns why this endpoint should be ejected, or "" if it should not.

        `local`: the failure is the transport's (no connection, a reset, no answer in time), not the server's.
        Our own refusals and attempts that their caller gave up must not come here. What began before an
        ejection and ends after it says nothing new, and is not counted.
        """
        if self.out:
            return ""
        if code not in SERVER_ERRORS:
            self.successes += 1
            self.run = self.gateway_run = self.local_run = 0
            return ""
        return self._failed(code, local)

    def _failed(self, code: int, local: bool) -> str:
        # A limit of 0 is off. Envoy fires at the exact count, so a limit lowered under it would never fire.
        settings = self.settings
        if local and settings.split_external_local_origin_errors:
            self.unreached += 1
            self.local_run += 1
            if 0 < settings.consecutive_local_origin_failures <= self.local_run:
                self.local_run = 0
                return "consecutive_local_origin_failure"
            return ""
        self.errors += 1
        self.local_run = 0  # it was reached
        self.run += 1
        # As in Envoy, any other 5xx ends a run of gateway errors.
        self.gateway_run = self.gateway_run + 1 if code in GATEWAY_ERRORS else 0
        # A counter that has fired starts again: an ejection that is not allowed now may be after another run.
        if 0 < settings.consecutive_gateway_errors <= self.gateway_run:
            self.gateway_run = 0
            return "consecutive_gateway_failure"
        if 0 < settings.consecutive5xx <= self.run:
            self.run = 0
            return "consecutive_5xx"
        return ""

    def admit(self, now: float) -> int | None:
        """May a request be sent here? None: no. 0: yes. Else: yes, as a probe; this is its ticket.

        Whoever holds a ticket hands it to `Detector.probed` when that request has ended, however it did,
        instead of recording it here.
        """
        if not self.out:
            return 0
        if self.ticket or now < self.ejected_until:
            return None
        self.issued += 1
        self.ticket = self.issued
        return self.ticket

    def state(self, now: float) -> str:
        """HEALTHY, EJECTED or PROBING."""
        if not self.out:
            return HEALTHY
        return EJECTED if now < self.ejected_until else PROBING

    def __repr__(self) -> str:
        out = f", out until {self.ejected_until:.3f}" if self.out else ""
        failed = self.errors + self.unreached
        return f"<Outlier {self.successes} ok, {failed} failed, {self.run} in a row{out}>"


class Detector:
    """Who of a destination's endpoints is out. One thread at a time; its owner sees to that."""

    __slots__ = ("_hosts", "_members", "due_at", "out", "settings", "ticked_at")

    def __init__(self, settings: OutlierDetection, now: float) -> None:
        """`settings` are complete, but for `success_rate` and `failure_percentage`: None there is off."""
        self.settings = settings
        self._hosts: Sequence[Outlier] = ()
        self._members: frozenset[Outlier] = frozenset()
        self.out = 0
        """How many are ejected or on probation: neither takes its full share, so quotas count both."""
        self.ticked_at = now
        self.due_at = now + settings.interval

    def adopt(self, hosts: Sequence[Outlier]) -> None:
        """These are the endpoints now. Who left is forgotten, even if it was ejected."""
        members = frozenset(hosts)
        for gone in self._members - members:
            self._readmit(gone, gone.readmitted_at)
        for host in members - self._members:
            host.settings = self.settings
        self._hosts, self._members = tuple(hosts), members
        self.out = sum(host.out for host in hosts)

    def configure(self, settings: OutlierDetection, now: float) -> None:
        """Follow an edit. Who is out stays out, unless nothing could have ejected it any more.

        The interval that is running keeps the time that has passed (gRFC A50).
        """
        self.settings = settings
        self.due_at = max(now, self.ticked_at + settings.interval)
        for host in self._hosts:
            host.settings = settings
        if not can_eject(settings):
            self.release(now)

    def release(self, now: float) -> None:
        """Everybody takes part again: outlier detection was switched off."""
        for host in self._hosts:
            self._readmit(host, now)
        self.out = 0

    def eject(self, host: Outlier, now: float) -> bool:
        """Eject it, as far as the quotas allow and it is not out already."""
        if host.out or host not in self._members or not self.may_eject():
            return False
        self.out += 1
        self._put_out(host, now)
        return True

    def may_eject(self) -> bool:
        """Whether one more may go: with it the share must hold, as in Envoy since 2023 (A50: without it)."""
        settings, size = self.settings, len(self._hosts)
        after = self.out + 1
        if settings.max_ejection_percent == 0:
            return False
        if self.out and 100 * after > settings.max_ejection_percent * size:
            return False
        return 100 * (size - after) >= settings.min_health_percent * size

    def probed(self, host: Outlier, ticket: int, code: int | None, now: float) -> str:
        """The probe with this ticket ended with `code`, or None if nobody knows (its caller gave up).

        Returns the endpoint's state after it. A failed probe ejects without asking the quotas: the endpoint
        has not stopped counting as ejected.
        """
        if not ticket or ticket != host.ticket:
            return host.state(now)  # released or replaced while it was under way
        host.ticket = 0
        if code is None:
            return host.state(now)
        if code in SERVER_ERRORS:
            self._put_out(host, now)
            return EJECTED
        host.passed += 1
        if host.passed < self.settings.probation.requests:
            return host.state(now)
        self.out -= 1
        self._readmit(host, now)
        return HEALTHY

    def tick(self, now: float) -> list[tuple[Outlier, str]]:
        """Compare the endpoints, once per interval; returns who was ejected, and why. Early calls do nothing.

        Envoy's order: rates of what servers answered, then of what never reached one, then the decay.
        """
        if now < self.due_at:
            return []
        interval = self.settings.interval
        missed = int((now - self.due_at) / interval)
        self.ticked_at, self.due_at = now, now + interval
        inside = [host for host in self._hosts if not host.out]
        answered = [(host, host.successes, host.errors) for host in inside]
        reached: Results = ()
        if self.settings.split_external_local_origin_errors:
            reached = [(host, host.successes + host.errors, host.unreached) for host in inside]
        for host in inside:
            host.successes = host.errors = host.unreached = 0
        ejected = self._compare(answered, "", now) + self._compare(reached, "local_origin_", now)
        for host in inside:
            # Only what has been healthy for a whole interval since its return decays, a step per interval.
            if host.times and not host.out:
                healthy = int((now - host.readmitted_at) / interval + ROUNDING)
                host.times = max(0, host.times - min(missed + 1, healthy))
        return ejected

    def _compare(self, results: Results, kind: str, now: float) -> list[tuple[Outlier, str]]:
        wanted = [
            *((host, f"{kind}success_rate") for host in self._below_their_peers(results)),
            *((host, f"{kind}failure_percentage") for host in self._failing_too_much(results)),
        ]
        return [(host, why) for host, why in wanted if self.eject(host, now)]

    def _below_their_peers(self, results: Results) -> list[Outlier]:
        rule = self.settings.success_rate
        if rule is None:
            return []
        rates = _rates(results, rule.request_volume)
        if not rates or len(rates) < rule.minimum_hosts:
            return []
        bound = threshold([rate for rate, _ in rates], rule.stdev_factor)
        return _worst_first([(rate, host) for rate, host in rates if rate < bound - ROUNDING])

    def _failing_too_much(self, results: Results) -> list[Outlier]:
        rule = self.settings.failure_percentage
        if rule is None:
            return []
        rates = _rates(results, rule.request_volume)
        if len(rates) < rule.minimum_hosts:
            return []
        # A threshold of 0 means "any failure": who never failed is no outlier.
        bound = 100 - rule.threshold + ROUNDING
        return _worst_first([(rate, host) for rate, host in rates if rate <= bound and rate < 100])

    def _put_out(self, host: Outlier, now: float) -> None:
        """Out it goes, for longer each time: `min(base * times, max)`."""
        base, longest = self.settings.base_ejection_time, self.settings.max_ejection_time
        if not host.times or (base and base * host.times < longest):
            host.times += 1
        host.out = True
        host.ejected_until = now + min(base * host.times, longest)
        host.passed = 0
        host.forget()

    @staticmethod
    def _readmit(host: Outlier, now: float) -> None:
        """Back to full traffic. Its record is clean, but how often it was ejected is not forgotten yet."""
        if host.out:
            host.out = False
            host.readmitted_at = now
            host.ticket = 0

    def __repr__(self) -> str:
        return f"<Detector {self.out} of {len(self._hosts)} out>"


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation."""
    mean = fsum(values) / len(values)
    return mean, sqrt(fsum((value - mean) ** 2 for value in values) / len(values))


def threshold(rates: Sequence[float], stdev_factor: float) -> float:
    """The success rate in percent under which an endpoint is an outlier among these."""
    mean, deviation = spread(rates)
    return mean - deviation * stdev_factor


def _rates(results: Results, volume: int) -> list[tuple[float, Outlier]]:
    """Success rates in percent of those with enough results to have one."""
    enough = max(volume, 1)
    return [
        (100 * successes / (successes + failures), host)
        for host, successes, failures in results
        if successes + failures >= enough
    ]


def _worst_first(rates: list[tuple[float, Outlier]]) -> list[Outlier]:
    return [host for _, host in sorted(rates, key=lambda rate: rate[0])]


def can_eject(settings: OutlierDetection) -> bool:
    """Whether any rule is left that ejects."""
    local = settings.split_external_local_origin_errors and settings.consecutive_local_origin_failures
    consecutive = settings.consecutive5xx or settings.consecutive_gateway_errors or local
    rates = settings.success_rate is not None or settings.failure_percentage is not None
    return settings.max_ejection_percent > 0 and bool(consecutive or rates)
