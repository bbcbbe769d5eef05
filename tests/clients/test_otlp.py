"""The OTLP exporter, which bound grpcio's factories at import and closes its channel when a server is gone."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.clients.conftest import Adopt
from tests.clients.town import Town, needs

needs("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "opentelemetry.sdk.trace")

import opentelemetry.exporter.otlp.proto.grpc.exporter as exporter_module  # noqa: E402
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: E402
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: E402

import proxyless  # noqa: E402
from proxyless.channel.sync import MeshChannel  # noqa: E402

TARGET = "collector.test:4317"


def _collector(server: grpc.Server, _name: str) -> None:
    class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, _context: Any) -> Any:
            assert request.resource_spans
            return trace_service_pb2.ExportTraceServiceResponse()

    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)


def _span() -> Any:
    span = TracerProvider().get_tracer("t").start_span("s")
    span.end()
    return span


def test_spans(town: Town, brought: Adopt) -> None:
    """Every span arrives, whoever is killed meanwhile."""
    town.stand_ins(_collector)
    exporter = brought(lambda: OTLPSpanExporter(endpoint=f"http://{TARGET}", insecure=True), TARGET)

    def export() -> None:
        assert exporter.export([_span()]) is SpanExportResult.SUCCESS

    town.lives(export)
    exporter.shutdown()


def test_the_names_that_were_bound_are_reported_and_given_back(town: Town) -> None:
    """`install` says which names it rebound, the library's own among them; `uninstall` gives them all back."""
    town.stand_ins(_collector)
    own = exporter_module.insecure_channel
    name = "opentelemetry.exporter.otlp.proto.grpc.exporter.insecure_channel"
    assert name in proxyless.install({TARGET: town.service}, mesh=town.mesh)
    assert isinstance(exporter_module.insecure_channel(TARGET), MeshChannel)
    assert not isinstance(exporter_module.insecure_channel("other:1"), MeshChannel)
    assert name in proxyless.uninstall()
    assert exporter_module.insecure_channel is own


def test_a_rule_for_one_of_two_exporters(town: Town) -> None:
    """What no rule means stays grpcio's, untouched."""
    town.stand_ins(_collector)
    proxyless.install({"collector.test": town.service}, mesh=town.mesh)
    ours = OTLPSpanExporter(endpoint=f"http://{TARGET}", insecure=True)
    theirs = OTLPMetricExporter(endpoint="http://metrics.test:4317", insecure=True)
    assert isinstance(ours._channel, MeshChannel)
    assert not isinstance(theirs._channel, MeshChannel)
    for exporter in (ours, theirs):
        exporter.shutdown()


pytestmark = pytest.mark.timeout(90)
