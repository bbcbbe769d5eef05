"""A mesh's telemetry: finds whom to tell, watches calls for them, and lets go when the mesh is closed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from proxyless.events import ConfigApplied, ConfigRejected, Event, NodeEjected
from proxyless.otel import names, providers

if TYPE_CHECKING:
    from proxyless.otel.calls import Paths
    from proxyless.otel.store import Reading, Store
    from proxyless.otel.tracing import Tracing

log = logging.getLogger("proxyless")

LOOK = 5.0
"""Seconds between looks for providers that the process sets after its first call."""

Watch: TypeAlias = Callable[[Any], Callable[[], None]]
"""`Mesh.watch`."""
Later: TypeAlias = Callable[[float, Callable[[], None]], None]
"""(seconds, function): calls it then, in a thread that is nobody's."""
Survey: TypeAlias = Callable[[], Mapping[str, Any]]
"""How the mesh stands: see `explain.survey`; empty where nothing has begun."""

_STORES: WeakKeyDictionary[Any, Store] = WeakKeyDictionary()
"""By provider: an instrument can be made only once."""
_STORES_LOCK = threading.Lock()


class Telemetry:
    """What one mesh tells. As long as there is no provider it watches nothing, and calls cost what they did."""

    def __init__(self, tracer_provider: Any, meter_provider: Any, watch: Watch, survey: Survey, later: Later) -> None:
        self._given = (tracer_provider, meter_provider)
        self._watch = watch
        self._survey = survey
        self._later = later
        self._lock = threading.RLock()  # the handler of a signal may close the mesh while this thread holds it
        self._closed = False
        self._tracer_provider: Any = None
        self._meter_provider: Any = None
        self._store: Store | None = None
        self._paths: Paths | None = None
        self._tracing: Tracing | None = None
        self._begin: Callable[[Any], Any] | None = None
        """What watches each call, once there is somebody to tell."""
        self._stop = watch(self._first)
        self._early: list[Event] = []
        """What happened before anybody was there to be told: the last few things."""
        self._draining = False

    # -- whom to tell

    def look(self) -> None:
        """Find the providers, if there are any that we don't know yet, and watch calls for them."""
        tracers, meters = providers.tracer_provider(self._given[0]), providers.meter_provider(self._given[1])
        if tracers is self._tracer_provider and meters is self._meter_provider:
            return
        with self._lock:
            if self._closed:
                return
            if meters is not None and meters is not self._meter_provider:
                self._meter_provider = meters
                self._measure(meters)
            if tracers is not None and tracers is not self._tracer_provider:
                self._tracer_provider = tracers
                self._trace(tracers)
            self._watch_calls()

    def _first(self, rpc: Any) -> Any:
        """Watches the first call: by then the process may have set its providers."""
        self._stop()
        self._look_on()
        return self._begin(rpc) if self._begin is not None else None

    def _look_on(self) -> None:
        """Look now, and from time to time until there is somebody to tell of both."""
        try:
            self.look()
        except Exception:
            log.exception("telemetry could not be set up; calls go on without")
            return
        if not self._closed and (self._tracer_provider is None or self._meter_provider is None):
            self._later(LOOK, self._look_on)

    def _measure(self, provider: Any) -> None:
        from proxyless.otel.calls import Paths

        store = _store_of(provider)
        if store is None:
            return
        paths = Paths(store, self._drain_soon)
        if self._store is not None:
            self._store.leave(self)
        self._store, self._paths = store, paths
        store.join(self)
        early, self._early = self._early, []
        for event in early:
            self._count(event)

    def _trace(self, provider: Any) -> None:
        from proxyless.otel.sampling import Tracer
        from proxyless.otel.tracing import Tracing

        tracer = Tracer(provider)
        self._tracing = None if tracer.does_nothing else Tracing(tracer, self._later)

    def _watch_calls(self) -> None:
        from proxyless.otel.calls import Measured, Seen

        tracing, measured = self._tracing, None if self._paths is None else partial(Measured, self._paths)

        def both(rpc: Any) -> Any:
            recorded = tracing(rpc)  # type: ignore[misc]
            seen = measured(rpc)  # type: ignore[misc]
            return seen if recorded is None else Seen(seen, recorded)

        begin = both if tracing is not None and measured is not None else tracing or measured
        if begin is None:
            return
        self._begin = begin
        before, self._stop = self._stop, self._watch(begin)
        before()

    # -- what there is to tell

    def observe(self, event: Event) -> None:
        """An `events.Observer`."""
        if isinstance(event, ConfigApplied) and self._paths is not None:
            self._paths.forget()
        if isinstance(event, (NodeEjected, ConfigRejected)):
            if self._store is None:
                self._early = [*self._early, event][-100:]
            else:
                self._count(event)

    def _count(self, event: Event) -> None:
        assert self._store is not None
        if isinstance(event, NodeEjected):
            self._store.series(names.EJECTIONS, _of(event.destination)).append(1)
        elif isinstance(event, ConfigRejected):
            self._store.series(names.CONFIG_REJECTED, {names.DOCUMENT: event.document}).append(1)

    def readings(self) -> Iterator[Reading]:
        """How the mesh stands, for the store; nothing once it is closed."""
        if self._closed:
            return
        survey = self._survey()
        if not survey:
            return
        source = {names.SOURCE: survey["source"]}
        yield names.CONFIG_VERSION, source, survey["version"]
        yield names.STALENESS, source, survey["staleness"]
        for destination in survey["destinations"]:
            named = _named(destination["service"], destination["subset"])
            yield names.RETRY_DENIED, named, destination["denied"]
            if destination["mirror"]:
                yield names.MIRRORED, named, destination["mirrored"]
                continue
            for (state, locality), count in destination["endpoints"].items():
                where = {names.GRPC_LOCALITY: locality} if locality else {}
                yield names.ENDPOINTS, {**named, **where, names.STATE: state}, count
            if destination["breaker"] is not None:
                for state in names.BREAKER_STATES:
                    yield names.BREAKER_STATE, {**named, names.STATE: state}, int(state == destination["breaker"])

    # -- handing over

    def _drain_soon(self) -> None:
        """A series has grown long: have it emptied by a thread that is nobody's."""
        if not self._draining:
            self._draining = True
            self._later(0.0, self.flush)

    def flush(self) -> None:
        """Give all that has been left by calls to the instruments."""
        self._draining = False
        if self._store is not None:
            self._store.drain()

    def renew(self) -> None:
        """In a forked child: what was not handed over is the parent's to tell."""
        global _STORES_LOCK
        _STORES_LOCK, self._lock = threading.Lock(), threading.RLock()
        self._draining = False
        self._early = []
        if self._store is not None:
            self._store.renew()
        if self._begin is None:
            self._stop()
            self._stop = self._watch(self._first)

    def close(self) -> None:
        """Watch no more, and hand over what is left."""
        with self._lock:
            if self._closed:
                return
            self._stop()
            if self._store is not None:
                self._store.leave(self)
            self._closed = True


def _of(destination: str) -> dict[str, str]:
    """A destination's name in events, taken apart."""
    service, _, subset = destination.partition("/")
    return _named(service, subset)


def _named(service: str, subset: str) -> dict[str, str]:
    return {names.SERVICE: service, names.SUBSET: subset} if subset else {names.SERVICE: service}


def _store_of(provider: Any) -> Store | None:
    from proxyless.otel.store import Store

    with _STORES_LOCK:
        store = _STORES.get(provider)
        if store is None:
            meter = provider.get_meter(names.SCOPE, names.version(), schema_url=names.SCHEMA)
            if providers.does_nothing(meter):
                return None
            store = _STORES[provider] = Store(meter)
        return store
