"""One endpoint as a member of one destination."""

from __future__ import annotations

import threading
from collections.abc import Callable

from proxyless.model.snapshot import ClusterKey, Feedback
from proxyless.model.topology import Endpoint
from proxyless.model.traffic import DEFAULTS
from proxyless.policy.fail_fast import PROBE, pause
from proxyless.policy.outlier import Outlier


class Node:
    """One endpoint as a member of one destination: what is under way there, and what came of the rest.

    Its numbers are guarded by its destination's lock, so that an attempt costs two turns of one lock: one when it
    begins and one when it ends (`DestinationState.begin`, `ended`).
    """

    __slots__ = (
        "address",
        "calls",
        "cluster",
        "endpoint",
        "failures",
        "feedback",
        "inflight",
        "lock",
        "on_health",
        "on_idle",
        "on_settled",
        "outlier",
        "reachable_at",
        "refusals",
        "retired",
        "send",
        "since",
    )

    def __init__(
        self,
        cluster: ClusterKey,
        endpoint: Endpoint,
        make_send: Callable[[Node], object],
        lock: threading.RLock | None = None,
        now: float = 0.0,
    ) -> None:
        self.cluster = cluster
        self.endpoint = endpoint
        self.address = endpoint.address
        self.inflight = 0
        self.calls = 0
        self.failures = 0
        self.reachable_at = 0.0
        self.refusals = 0
        self.feedback: Feedback | None = None
        self.retired = False
        self.on_idle: Callable[[Node], None] | None = None
        self.on_health: Callable[[Node], None] | None = None
        """Told, under the lock, when it fell sick or got well."""
        self.on_settled: Callable[[], None] | None = None
        """Told after that, without the lock."""
        self.since = now
        """The instant from which it has been there, and well: what slow start counts from."""
        self.outlier = Outlier(DEFAULTS.outlier_detection)
        """What outlier detection remembers of it."""
        self.lock = lock or threading.RLock()
        self.send = make_send(self)

    def unreachable(self, now: float, draw: float) -> None:
        """It could not be connected: keep calls away for a while, longer each time in a row."""
        with self.lock:
            self.refusals += 1
            self.reachable_at = now + pause(self.refusals, draw)
            if self.on_health is not None:
                self.on_health(self)
        if self.on_settled is not None:
            self.on_settled()

    def probe(self, now: float) -> bool:
        """Whether the caller may be the one who finds out if it can be connected again."""
        with self.lock:
            if self.reachable_at > now:
                return False
            self.reachable_at = now + PROBE
            return True

    def reached(self, now: float) -> None:
        """It was connected: it takes part again."""
        with self.lock:
            if not self.reachable_at:
                return
            self.refusals = 0
            self.reachable_at = 0.0
            self.since = now
            if self.on_health is not None:
                self.on_health(self)
        if self.on_settled is not None:
            self.on_settled()

    @property
    def sick(self) -> bool:
        """Whether calls should rather go to another: it is ejected, on probation, or could not be connected."""
        return self.outlier.out or self.reachable_at > 0

    def retire(self, on_idle: Callable[[Node], None]) -> None:
        """No snapshot names this node any more: call `on_idle` once, as soon as nothing is under way on it."""
        with self.lock:
            self.on_idle = on_idle
            self.retired = True
            idle = self.inflight == 0
        if idle:
            on_idle(self)

    def __repr__(self) -> str:
        marks = " retired" if self.retired else ""
        return f"<Node {self.address} of {self.cluster}: {self.inflight} in flight, {self.calls} calls{marks}>"
