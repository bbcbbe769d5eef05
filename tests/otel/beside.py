"""A program as people run them: three tracers at once, each of which patches grpcio, and a mesh. Prints what was seen.

`python -m tests.otel.beside SOURCE ADDRESS ORDER`: ORDER says whether the mesh is connected before the tracers patch.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

os.environ["DD_INSTRUMENTATION_TELEMETRY_ENABLED"] = os.environ["DD_REMOTE_CONFIGURATION_ENABLED"] = "false"


def patch() -> tuple[Any, list[Any], list[Any]]:
    """Set OpenTelemetry's, Sentry's and ddtrace's instrumentation up; what they see ends in the three results."""
    import ddtrace
    import sentry_sdk
    from ddtrace.trace import TraceFilter, tracer
    from opentelemetry import metrics, trace
    from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
    from sentry_sdk.integrations.grpc import GRPCIntegration

    from tests.otel.world import Telling

    # OpenTelemetry's comes last, around the others: within ddtrace's its streams fail, mesh or no mesh.
    dogs: list[Any] = []

    class Keep(TraceFilter):
        def process_trace(self, trace: Any) -> None:
            dogs.extend(trace)

    tracer.configure(trace_processors=[Keep()])
    ddtrace.patch(grpc=True)

    sentry: list[Any] = []

    def keep(event: Any, _hint: Any) -> None:
        sentry.extend(event.get("spans", ()))

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1", traces_sample_rate=1.0, integrations=[GRPCIntegration()],
        before_send_transaction=keep, default_integrations=False,
    )  # fmt: skip

    told = Telling()
    trace.set_tracer_provider(told.tracers)
    metrics.set_meter_provider(told.meters)
    GrpcInstrumentorClient().instrument()  # type: ignore[no-untyped-call]
    GrpcAioInstrumentorClient().instrument()  # type: ignore[no-untyped-call]
    return told, sentry, dogs


def main(source: str, address: str, order: str) -> None:
    """Make one call of each kind inside of a span of each tracer's."""
    import proxyless

    def connected() -> proxyless.Mesh:
        mesh = proxyless.connect(source, services=["echo"])
        proxyless.install({address: "echo"}, mesh=mesh)
        return mesh

    if order == "mesh first":
        mesh = connected()
        told, sentry, dogs = patch()
    else:
        told, sentry, dogs = patch()
        mesh = connected()

    import grpc
    import sentry_sdk
    from ddtrace.trace import tracer
    from opentelemetry import trace

    from proxyless.protos import echo_pb2, echo_pb2_grpc

    def talk(stub: Any) -> None:
        pairs = [("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00")]
        stub.Unary(echo_pb2.EchoRequest(message="sync"), metadata=pairs)
        list(stub.ServerStream(echo_pb2.EchoRequest(message="sync", count=2)))

    async def talk_on_a_loop() -> None:
        async with mesh.aio_channel("echo") as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            await stub.Unary(echo_pb2.EchoRequest(message="aio"))
            assert len([reply async for reply in stub.ServerStream(echo_pb2.EchoRequest(message="aio", count=2))]) == 2

    with (
        sentry_sdk.start_transaction(name="t"),
        tracer.trace("t"),
        trace.get_tracer("t").start_as_current_span("t") as caller,
    ):
        talk(echo_pb2_grpc.EchoStub(mesh.channel("echo")))
        asyncio.run(talk_on_a_loop())
        ours = len(told.spans())
        # The mesh's interceptors, around a channel that leads nowhere and that all three have patched.
        with grpc.insecure_channel("127.0.0.1:1") as nowhere:
            talk(echo_pb2_grpc.EchoStub(grpc.intercept_channel(nowhere, *mesh.interceptors("echo"))))
        intercepted = len(told.spans())
        # A client that opens its own channel, which rules give to the mesh.
        with grpc.insecure_channel(address) as installed:
            talk(echo_pb2_grpc.EchoStub(installed))
    calls = told.points("rpc.client.call.duration")
    mesh.close()
    print(
        json.dumps(
            {
                "spans": [
                    {"name": span.name, "by": span.instrumentation_scope.name, "kind": span.kind.name,
                     "child": span.parent is not None and span.parent.span_id == caller.get_span_context().span_id}
                    for span in told.spans() if span.name != "t"
                ],
                "ours": ours,
                "intercepted": intercepted - ours,
                "calls": sum(point.count for point in calls),
                "sentry": sum(span["op"] == "grpc.client" for span in sentry),
                "ddtrace": sum(span.name == "grpc" for span in dogs),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
