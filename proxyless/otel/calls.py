"""One call as telemetry sees it: what is measured of it and its attempts, and its span where there is one.

On the path of a call there are look-ups of what was made before, and appends to lists (`store.py`). Nothing here may
fail a call: what goes wrong is logged, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from proxyless.otel import names
from proxyless.otel.names import STATUSES
from proxyless.otel.store import BATCH, Store

log = logging.getLogger("proxyless")

NEAR = 16384
"""Routes to nodes that are known by identity; beyond that they are forgotten all at once, and found again by name."""
METHODS = 500
"""Methods that are told apart; a program that takes method names from its callers must not fill the memory."""
STATUS_COUNT = len(STATUSES)


class CallPath:
    """A method on a route to a destination: where the durations of its calls go, by status."""

    __slots__ = ("ended", "named", "retries")

    def __init__(self, named: Mapping[str, Any]) -> None:
        self.named = named
        self.ended: list[list[float] | None] = [None] * STATUS_COUNT
        self.retries: list[int] | None = None


class Path:
    """The same, to one locality of the destination: where what is known of its attempts goes."""

    __slots__ = ("attempts", "call", "named", "started")

    def __init__(self, call: CallPath, named: Mapping[str, Any], started: list[int]) -> None:
        self.call = call
        self.named = named
        self.started = started
        self.attempts: list[list[float] | None] = [None] * STATUS_COUNT


class Paths:
    """Every path that calls have taken, and what each is called."""

    def __init__(self, store: Store, drain_soon: Callable[[], None]) -> None:
        self.store = store
        self.drain_soon = drain_soon
        self.near: dict[Any, Path] = {}
        """By method, route and node themselves: the quickest way to what a call has passed before."""
        self._far: dict[Any, Path] = {}
        self._calls: dict[Any, CallPath] = {}
        self._methods: set[str] = set()
        self._failed = False

    def forget(self) -> None:
        """Routes and nodes have changed: keep none alive that is gone."""
        self.near = {}

    def find(self, rpc: Any) -> Path:
        """The path of an attempt."""
        locality = rpc.node.endpoint.locality
        place = (locality.region, locality.zone, locality.subzone)
        key = (rpc.service, self.method(rpc.method), rpc.route.name, rpc.cluster.key, place)
        path = self._far.get(key)
        if path is None:
            call = self.call(rpc)
            named = _of_attempt(rpc, key[1], str(locality))
            path = Path(call, named, self.store.series(names.ATTEMPT_STARTED, named))
            if len(self._far) >= NEAR:
                self._far = {}
            self._far[key] = path
        if len(self.near) >= NEAR:
            self.near = {}
        self.near[rpc.method, rpc.route, rpc.node] = path
        return path

    def call(self, rpc: Any) -> CallPath:
        """The path of a call, which may have been refused before it found a route, or a destination."""
        method = self.method(rpc.method)
        route, cluster = getattr(rpc, "route", None), getattr(rpc, "cluster", None)
        key = (rpc.service, method, route and route.name, cluster and cluster.key)
        path = self._calls.get(key)
        if path is None:
            if len(self._calls) >= NEAR:
                self._calls = {}
            path = self._calls[key] = CallPath(_of_call(rpc, method, route, cluster))
        return path

    def method(self, method: str) -> str:
        """`/package.Service/Method` as metrics name it."""
        if method not in self._methods:
            if len(self._methods) >= METHODS:
                return names.OTHER
            self._methods.add(method)
        return method[1:] if method[:1] == "/" else method

    def attempts(self, path: Path, code: int) -> list[float]:
        """Where the durations of attempts that ended so go."""
        named = {**path.named, names.GRPC_STATUS: STATUSES[code]}
        values = path.attempts[code] = self.store.series(names.ATTEMPT_DURATION, named)
        return values

    def ended(self, path: CallPath, code: int) -> list[float]:
        """Where the durations of calls that ended so go."""
        values = path.ended[code] = self.store.series(names.CALL_DURATION, ended(path, code))
        return values

    def retries(self, path: CallPath) -> list[int]:
        """Where the numbers of retries go."""
        of = (names.ROUTE, names.SUBSET)
        named = {key: path.named[key] for key in of if key in path.named}
        named[names.GRPC_METHOD] = path.named[names.METHOD]
        named[names.GRPC_TARGET] = names.target(path.named[names.SERVER])
        values = path.retries = self.store.series(names.CALL_RETRIES, named)
        return values

    def refused(self, rpc: Any, reason: str) -> None:
        """One more refusal."""
        route = getattr(rpc, "route", None)
        named = {names.SERVER: rpc.service, names.REASON: reason}
        if route is not None:
            named[names.ROUTE] = route.name
        self.store.series(names.REFUSALS, named).append(1)

    def failed(self) -> None:
        """Telemetry has failed for a call, which goes on without."""
        if not self._failed:
            self._failed = True
            log.exception("telemetry failed for a call; this is logged once, and calls go on")


def _of_call(rpc: Any, method: str, route: Any, cluster: Any) -> dict[str, Any]:
    named = {names.SYSTEM: "grpc", names.METHOD: method, names.SERVER: rpc.service}
    if route is not None:
        named[names.ROUTE] = route.name
    if cluster is not None:
        named[names.SERVICE] = cluster.key.service
        if cluster.key.subset:
            named[names.SUBSET] = cluster.key.subset
    return named


def _of_attempt(rpc: Any, method: str, locality: str) -> dict[str, Any]:
    key = rpc.cluster.key
    named = {
        names.GRPC_METHOD: method,
        names.GRPC_TARGET: names.target(rpc.service),
        names.GRPC_BACKEND: str(key),
        names.ROUTE: rpc.route.name,
    }
    more = {names.SUBSET: key.subset, names.GRPC_LOCALITY: locality}
    return {**named, **{name: value for name, value in more.items() if value}}


def ended(path: CallPath, code: int) -> dict[str, Any]:
    """How a call is called that has ended so. "error.type": set where the status is an error, to the status."""
    named = {**path.named, names.STATUS: STATUSES[code]}
    if code:
        named[names.ERROR] = STATUSES[code]
    return named


class Seen:
    """A call under way that is measured and recorded."""

    __slots__ = ("_measured", "_recorded")

    def __init__(self, measured: Measured, recorded: Any) -> None:
        self._measured = measured
        self._recorded = recorded

    def attempt(self, rpc: Any) -> None:
        """An attempt begins."""
        self._measured.attempt(rpc)
        self._recorded.attempt(rpc)

    def attempted(self, rpc: Any, began: float, outcome: Any) -> None:
        """It has ended."""
        self._measured.attempted(rpc, began, outcome)
        self._recorded.attempted(rpc, began, outcome)

    def ended(self, rpc: Any, outcome: Any) -> None:
        """So has the call."""
        self._measured.ended(rpc, outcome)
        self._recorded.ended(rpc, outcome)


class Measured:
    """A call under way, as a `Watch`: its measurements."""

    __slots__ = ("_attempts", "_began", "_path", "_paths", "_rpc")

    def __init__(self, paths: Paths, rpc: Any) -> None:
        self._paths = paths
        self._rpc = rpc
        self._began = rpc.now
        self._path: Path | None = None
        self._attempts = 0

    def attempt(self, rpc: Any) -> None:
        """An attempt begins."""
        try:
            path = self._paths.near.get((rpc.method, rpc.route, rpc.node)) or self._paths.find(rpc)
            path.started.append(1)
            self._path = path
            if rpc is self._rpc:  # hedged attempts have a record each, and are no retries
                self._attempts += 1
        except Exception:
            self._paths.failed()

    def attempted(self, rpc: Any, began: float, outcome: Any) -> None:
        """It has ended."""
        try:
            path = self._path
            if path is None or rpc is not self._rpc:  # one of several at once: another may have begun since
                path = self._paths.near.get((rpc.method, rpc.route, rpc.node)) or self._paths.find(rpc)
            values = path.attempts[outcome.code]
            if values is None:
                values = self._paths.attempts(path, outcome.code)
            values.append(rpc.now - began)
        except Exception:
            self._paths.failed()

    def ended(self, rpc: Any, outcome: Any) -> None:
        """So has the call."""
        try:
            code = outcome.code
            path = self._path.call if self._path is not None else self._paths.call(rpc)
            values = path.ended[code]
            if values is None:
                values = self._paths.ended(path, code)
            values.append(rpc.now - self._began)
            if len(values) >= BATCH:
                self._paths.drain_soon()
            if self._attempts > 1:
                (path.retries if path.retries is not None else self._paths.retries(path)).append(self._attempts - 1)
            if outcome.refused:
                self._paths.refused(rpc, outcome.refused)
        except Exception:
            self._paths.failed()
