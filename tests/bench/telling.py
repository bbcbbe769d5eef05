"""Somebody to tell, for the bench: OpenTelemetry's SDK as a process would set it up, exporting to nowhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

SHARE = 0.01
"""Of traces that are sampled."""


class _Nowhere(SpanExporter):
    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def providers(*, traces: bool) -> tuple[dict[str, Any], Callable[[], object]]:
    """What `connect` takes, and a collection: whoever measures makes one a turn and counts it with the calls, which is
    thousands of times more often than a process that exports once a minute."""
    reader = InMemoryMetricReader()
    given: dict[str, Any] = {"meter_provider": MeterProvider([reader])}
    if traces:
        given["tracer_provider"] = tracers = TracerProvider(sampler=ParentBased(TraceIdRatioBased(SHARE)))
        tracers.add_span_processor(BatchSpanProcessor(_Nowhere()))
    return given, reader.get_metrics_data
