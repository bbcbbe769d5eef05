"""What the telemetry tests share: providers that keep what they are told, and ways to read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler


class Telling:
    """A meter provider and a tracer provider, and what they were told."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def both(self) -> dict[str, Any]:
        """For `proxyless.connect`."""
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    def spans(self) -> list[ReadableSpan]:
        """Those that have ended."""
        return list(self._exporter.get_finished_spans())

    def metrics(self) -> dict[str, Any]:
        """Every metric of one collection, by name."""
        return {metric.name: metric for metric in collected(self.reader)}

    def points(self, name: str) -> list[Any]:
        """The points of one metric."""
        metric = self.metrics().get(name)
        return list(metric.data.data_points) if metric is not None else []

    def close(self) -> None:
        """Let go of both."""
        self.meters.shutdown()
        self.tracers.shutdown()


def collected(reader: InMemoryMetricReader) -> Iterator[Any]:
    """What a collection finds."""
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            yield from scope.metrics
