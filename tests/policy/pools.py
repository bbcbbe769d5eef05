"""A destination's endpoints under outlier detection, driven as their owner drives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from proxyless.model.codes import Code
from proxyless.model.quantities import Duration
from proxyless.model.traffic import FailurePercentage, OutlierDetection, Probation, SuccessRate
from proxyless.policy.outlier import Detector, Outlier

# CONTRACT section 5
AS_WRITTEN = OutlierDetection(
    interval=Duration(10),
    consecutive5xx=5,
    consecutive_gateway_errors=0,
    consecutive_local_origin_failures=5,
    split_external_local_origin_errors=False,
    base_ejection_time=Duration(30),
    max_ejection_time=Duration(300),
    max_ejection_percent=50,
    min_health_percent=0,
    success_rate=SuccessRate(minimum_hosts=5, request_volume=100, stdev_factor=1.9),
    failure_percentage=FailurePercentage(threshold=85, minimum_hosts=5, request_volume=50),
    probation=Probation(requests=1),
)


def edited(settings: OutlierDetection, **changes: Any) -> OutlierDetection:
    """Other settings; a rule that is None is off."""
    return replace(settings, **changes)


ONLY_CONSECUTIVE = edited(AS_WRITTEN, success_rate=None, failure_percentage=None)
ONLY_RATES = edited(AS_WRITTEN, consecutive5xx=0)
NOTHING = edited(ONLY_CONSECUTIVE, consecutive5xx=0)


class Pool:
    """`size` endpoints and their detector, begun at instant 0."""

    def __init__(self, size: int, settings: OutlierDetection = ONLY_CONSECUTIVE, **changes: Any) -> None:
        self.settings = edited(settings, **changes)
        self.detector = Detector(self.settings, 0.0)
        self.hosts = [Outlier(self.settings) for _ in range(size)]
        self.detector.adopt(self.hosts)

    def answer(self, index: int, code: int = 0, times: int = 1, now: float = 0.0, local: bool = False) -> str:
        """`times` attempts end on an endpoint; returns why the last ejection was made, if one was."""
        ejected = ""
        for _ in range(times):
            why = self.hosts[index].record(code, local)
            if why and self.detector.eject(self.hosts[index], now):
                ejected = why
        return ejected

    def fail(self, index: int, times: int = 1, now: float = 0.0) -> str:
        """The endpoint fails as a server does that is down."""
        return self.answer(index, Code.UNAVAILABLE, times, now)

    def eject(self, *indexes: int, now: float = 0.0) -> None:
        """The endpoints fail as often as it takes."""
        for index in indexes:
            assert self.fail(index, self.settings.consecutive5xx, now)

    def probe(self, index: int, code: int | None, now: float) -> str:
        """One live request finds out; returns the endpoint's state after it."""
        ticket = self.hosts[index].admit(now)
        assert ticket, "it lets no probe in"
        return self.detector.probed(self.hosts[index], ticket, code, now)

    def tick(self, now: float) -> list[tuple[int, str]]:
        """The interval ends: who is ejected, and why."""
        return [(self.hosts.index(host), why) for host, why in self.detector.tick(now)]

    def serve(self, results: Sequence[tuple[int, int]]) -> None:
        """(successes, failures) for each endpoint in turn, spread so that no run decides."""
        for index, (ok, failed) in enumerate(results):
            self.answer(index, Code.INTERNAL, failed)
            self.answer(index, Code.OK, ok)

    @property
    def out(self) -> list[int]:
        """Who is ejected or on probation."""
        return [index for index, host in enumerate(self.hosts) if host.out]
