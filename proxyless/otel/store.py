"""What calls leave behind on their way, and who takes it to the instruments: off the call path, many at a time.

A call appends to a few plain lists, which is one instruction of the interpreter's and needs no lock; it never touches
an instrument. The lists are emptied when somebody collects, or by the mesh's timer thread when one has grown long, or
when the mesh is closed. One `Store` serves all meshes of a process that report to the same provider: an instrument can
be made only once.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from proxyless.otel import names
from proxyless.otel.histograms import Attributes, Feed, feeder
from proxyless.otel.names import Metric

log = logging.getLogger("proxyless")

BATCH = 2048
"""Values of one series after which it is emptied without waiting for a collection: 64 KB, a third of a second of the
busiest process."""
MOST = 2000
"""Series of one instrument; the SDK's own limit ("a default of 2000"). What is beyond is counted together."""
PATIENCE = 5.0
"""Seconds that a collection waits for an emptying that is under way, rather than report without its values."""

_FIRST = names.ENDPOINTS
"""The instrument that collections ask first: the SDK asks in the order in which observable instruments were made."""

Reading: TypeAlias = tuple[Metric, Attributes, float]


class Store:
    """The instruments of one provider, and what is still to be given to them."""

    def __init__(self, meter: Any) -> None:
        self._meter = meter
        self._lock = threading.RLock()
        """Re-entrant: a call that the garbage collector ends may end in the thread that holds it."""
        self._draining = threading.Lock()
        self._series: dict[Metric, dict[Any, list[Any]]] = {}
        self._feeds: dict[Metric, Feed] = {}
        self._meshes: weakref.WeakKeyDictionary[Any, dict[Any, float]] = weakref.WeakKeyDictionary()
        """By mesh, how far each of its counts has been added to its counter."""
        self._readings: list[Reading] = []
        """What they stood at when this collection began."""
        for metric in (names.CALL_DURATION, names.ATTEMPT_DURATION, names.CALL_RETRIES):
            self._histogram(metric)
        for metric in (names.ATTEMPT_STARTED, names.REFUSALS, names.EJECTIONS, names.CONFIG_REJECTED):
            self._counter(metric)
        self._counts = {metric: self._counter(metric) for metric in (names.RETRY_DENIED, names.MIRRORED)}
        for metric in (_FIRST, names.BREAKER_STATE):
            self._observed(meter.create_observable_up_down_counter, metric)
        for metric in (names.CONFIG_VERSION, names.STALENESS):
            self._observed(meter.create_observable_gauge, metric)

    # -- instruments

    def _histogram(self, metric: Metric) -> None:
        advice = {"explicit_bucket_boundaries_advisory": metric.buckets}
        try:
            histogram = self._meter.create_histogram(metric.name, metric.unit, metric.says, **advice)
        except TypeError:  # an API before 1.30: views alone choose buckets there
            histogram = self._meter.create_histogram(metric.name, metric.unit, metric.says)
        self._feeds[metric] = feeder(histogram)
        self._series[metric] = {}

    def _counter(self, metric: Metric) -> Any:
        counter = self._meter.create_counter(metric.name, metric.unit, metric.says)
        self._feeds[metric] = lambda attributes, ones: counter.add(len(ones), attributes)
        self._series[metric] = {}
        return counter

    def _observed(self, create: Callable[..., Any], metric: Metric) -> None:
        from opentelemetry.metrics import Observation

        def observe(_options: Any) -> list[Observation]:
            if metric is _FIRST:  # a collection begins: what it is to see is handed over now
                self.drain(look=True)
            return [Observation(value, attributes) for attributes, value in self._now(metric)]

        create(metric.name, [observe], metric.unit, metric.says)

    # -- what calls leave

    def series(self, metric: Metric, attributes: Mapping[str, Any]) -> list[Any]:
        """The list to append to: values of a histogram, anything for a counter. Always the same for the same."""
        key = tuple(sorted(attributes.items()))
        with self._lock:
            known = self._series[metric]
            if key not in known and len(known) >= MOST:
                key = tuple(names.OVERFLOW.items())
            return known.setdefault(key, [])

    def drain(self, *, look: bool = False) -> None:
        """Give what has been left so far to the instruments. Not on a call's path: it takes the SDK's locks.

        And `look` where the meshes stand, which may take a while: for collections.
        """
        if not self._draining.acquire(timeout=PATIENCE):
            return
        try:
            for metric, known in self._series.items():
                feed = self._feeds[metric]
                for key, values in known.copy().items():
                    count = len(values)
                    if count:
                        # Others append meanwhile: what they add stays behind the first `count`.
                        batch = values[:count]
                        del values[:count]
                        feed(dict(key), batch)
            if look:
                self._readings = self._read()
        except Exception:
            log.exception("telemetry could not be handed over; calls go on")
        finally:
            self._draining.release()

    # -- what meshes stand at

    def join(self, mesh: Any) -> None:
        """Have `mesh.readings()` asked at each collection, for as long as somebody holds it."""
        self._meshes.setdefault(mesh, {})

    def leave(self, mesh: Any) -> None:
        """Undo `join`, once the last of what it counted is handed over."""
        self.drain(look=True)
        self._meshes.pop(mesh, None)

    def _read(self) -> list[Reading]:
        """What all meshes stand at. What they have counted since the last time is added to its counter: an observable
        counter would fall back whenever a mesh is closed or forgets a destination."""
        found: list[Reading] = []
        for mesh, added in list(self._meshes.items()):
            readings = list(mesh.readings())
            found += readings
            for metric, attributes, value in readings:
                if metric in self._counts:
                    key = (metric, *sorted(attributes.items()))
                    before = added.get(key)
                    if before is None or value != before:
                        more = value - before if before is not None and value > before else value
                        self._counts[metric].add(more, attributes)
                        added[key] = value
        return found

    def _now(self, metric: Metric) -> list[tuple[Attributes, float]]:
        """One instrument's observations. Several meshes that stand before the same thing see one thing."""
        found: dict[Any, float] = {}
        for read, attributes, value in self._readings:
            if read is metric:
                key = tuple(sorted(attributes.items()))
                found[key] = max(found.get(key, value), value)
        return [(dict(key), value) for key, value in found.items()]

    def renew(self) -> None:
        """In a forked child: what the parent's calls left is the parent's to report, and its locks may be held."""
        self._lock = threading.RLock()
        self._draining = threading.Lock()
        for known in self._series.values():
            for values in known.values():
                values.clear()
        for added in self._meshes.values():
            added.clear()  # the child's counts begin at nothing, too
