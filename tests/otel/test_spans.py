"""One span per call: its parent, what it says, and what of it travels."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator, default_setter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

import proxyless
from proxyless.protos import echo_pb2_grpc
from tests.otel.world import Telling
from tests.wire.echo import EchoServer, Request, eventually
from tests.wire.ways import Net

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0x00F067AA0BA902B7


@contextmanager
def inside(span: Any, **more: str) -> Iterator[None]:
    """As the current span, with `more` as baggage."""
    ctx = trace.set_span_in_context(span)
    for key, value in more.items():
        ctx = baggage.set_baggage(key, value, ctx)
    token = context.attach(ctx)
    try:
        yield
    finally:
        context.detach(token)


def remote(sampled: bool) -> trace.NonRecordingSpan:
    """A parent in another process."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else 0)
    return trace.NonRecordingSpan(trace.SpanContext(TRACE, SPAN, True, flags))


class Scene:
    """A server, a mesh that traces, and a stub."""

    def __init__(self, net: Net, sampler: Sampler | None = None, document: str = "{}") -> None:
        self.server: EchoServer = net.server()
        net.endpoints(self.server.address, version="v1")
        net.document(document)
        self.told = Telling(sampler)
        self.mesh = proxyless.connect(net.source, services=["echo"], tracer_provider=self.told.tracers)
        net.closing(self.told.close)
        net.closing(self.mesh.close)
        assert self.mesh.ready("echo", timeout=5.0)
        self.stub = echo_pb2_grpc.EchoStub(self.mesh.channel("echo"))

    @property
    def sent(self) -> list[tuple[str, str | bytes]]:
        """The metadata of the last call, as it arrived."""
        return self.server.seen[-1].metadata

    def parents(self) -> list[str]:
        """Every traceparent of the last call, as it arrived."""
        return [str(value) for key, value in self.sent if key == "traceparent"]


def test_a_call_is_one_client_span(net: Net) -> None:
    """Named as the conventions have it; with route, subset and the endpoint that answered."""
    subset = "subsets: {v1: {labels: {version: v1}}}"
    scene = Scene(net, document=f"{{{subset}, routes: [{{name: all, split: [{{subset: v1}}]}}]}}")
    scene.stub.Unary(Request())
    (span,) = scene.told.spans()
    host, port = scene.server.address.split(":")
    assert (span.name, span.kind, span.parent, span.status.status_code) == (
        "echo.Echo/Unary",
        SpanKind.CLIENT,
        None,
        StatusCode.UNSET,
    )
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "echo.Echo/Unary",
        "server.address": "echo",
        "rpc.response.status_code": "OK",
        "proxyless.route": "all",
        "proxyless.service": "echo",
        "proxyless.subset": "v1",
        "proxyless.attempts": 1,
        "network.peer.address": host,
        "network.peer.port": int(port),
    }
    at = span.context
    assert scene.parents() == [f"00-{at.trace_id:032x}-{at.span_id:016x}-{at.trace_flags:02x}"]


def test_retries_are_inside(net: Net) -> None:
    """One span, with an event for the attempt that failed."""
    scene = Scene(net, document="{routes: [{name: all, retry: {attempts: 2, on: [unavailable]}}]}")
    scene.stub.Unary(Request(fail_code=14, fail_times=1, fail_key="once"))
    (span,) = scene.told.spans()
    assert (span.attributes or {})["proxyless.attempts"] == 2
    (event,) = span.events
    assert (event.name, (event.attributes or {})["grpc.status"]) == ("attempt failed", "UNAVAILABLE")
    assert len(scene.server.seen) == 2
    assert len(set(scene.parents())) == 1


def test_hedges_are_inside(net: Net) -> None:
    """One span for however many attempts were under way at once; what came second of them is no failure."""
    scene = Scene(net, document="{routes: [{name: all, hedge: {delay: 20ms, attempts: 1}}]}")
    scene.stub.Unary(Request(delay_ms=200), timeout=5)
    (span,) = scene.told.spans()
    assert ((span.attributes or {})["proxyless.attempts"], span.events) == (2, ())
    assert len(set(scene.parents())) == 1


def test_the_endpoint_of_a_hedged_call_is_the_one_that_answered(net: Net) -> None:
    """The first attempt is answered after the second has begun: the span names the endpoint of the first."""
    scene = Scene(net, document="{routes: [{name: all, hedge: {delay: 20ms, attempts: 1}}]}")
    servers = {server.name: server for server in (scene.server, net.server("b"))}
    eventually(lambda: len(scene.mesh.status()["endpoints"]) == 2)
    reply = scene.stub.Unary(Request(delay_ms=300), timeout=5)
    (span,) = scene.told.spans()
    answered = int(servers[reply.served_by].address.rpartition(":")[2])
    assert [len(server.seen) for server in servers.values()] == [1, 1]
    assert (span.attributes or {})["network.peer.port"] == answered


def test_a_failure_is_an_error_and_a_refusal_says_why(net: Net) -> None:
    """What the server said stays with the caller: it may be anything."""
    scene = Scene(net, document="{routes: [{name: no, match: [{headers: {x: {present: true}}}], "
                  "directResponse: {status: ABORTED}}, {name: all}]}")  # fmt: skip
    with pytest.raises(grpc.RpcError):
        scene.stub.Unary(Request(fail_code=5, fail_details="secret"))
    with pytest.raises(grpc.RpcError):
        scene.stub.Unary(Request(), metadata=[("x", "1")])
    failed, refused = scene.told.spans()
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "NOT_FOUND")
    assert (failed.attributes or {})["error.type"] == "NOT_FOUND"
    assert "secret" not in failed.to_json()
    assert (refused.attributes or {})["proxyless.reason"] == "direct_response"
    assert "direct_response" in str(refused.status.description)


@pytest.mark.parametrize("arity", ["Unary", "ServerStream", "ClientStream", "BidiStream"])
def test_every_arity_on_both_stacks(net: Net, arity: str) -> None:
    """A span each, with the caller's span as its parent."""
    scene = Scene(net)
    requests = [Request(count=2)]
    with scene.told.tracers.get_tracer("t").start_as_current_span("caller") as caller:
        answer = getattr(scene.stub, arity)(iter(requests) if "Cl" in arity or "Bi" in arity else requests[0])
        if arity in ("ServerStream", "BidiStream"):
            list(answer)

        async def talk() -> None:
            async with scene.mesh.aio_channel("echo") as channel:
                stub = echo_pb2_grpc.EchoStub(channel)
                call = getattr(stub, arity)(iter(requests) if "Cl" in arity or "Bi" in arity else requests[0])
                if arity in ("ServerStream", "BidiStream"):
                    assert [reply async for reply in call]
                else:
                    await call

        asyncio.run(talk())
    eventually(lambda: len(scene.told.spans()) == 3)
    one, other, _ = scene.told.spans()
    for span in (one, other):
        assert span.parent is not None
        assert (span.name, span.parent.span_id) == (f"echo.Echo/{arity}", caller.get_span_context().span_id)


def test_an_abandoned_stream_ends_its_span(net: Net) -> None:
    """When it is let go of, by whichever thread lets go of it."""
    scene = Scene(net)
    stream = scene.stub.ServerStream(Request(count=100_000, delay_ms=5))
    next(stream)
    del stream
    gc.collect()
    eventually(lambda: len(scene.told.spans()) == 1)
    assert (scene.told.spans()[0].attributes or {})["rpc.response.status_code"] == "CANCELLED"


# -- what travels


def test_nothing_of_the_callers_metadata_is_lost(net: Net) -> None:
    """Duplicate keys in their order, and bytes."""
    scene = Scene(net)
    pairs: list[tuple[str, str | bytes]] = [("x-a", "1"), ("x-b-bin", b"\x00\xff"), ("x-a", "2"), ("x-b-bin", b"\x01")]
    with inside(scene.told.tracers.get_tracer("t").start_span("caller"), user="7"):
        scene.stub.Unary(Request(), metadata=pairs)
    assert [pair for pair in scene.sent if pair[0].startswith("x-")] == pairs
    assert ("baggage", "user=7") in scene.sent
    assert len(scene.parents()) == 1


def test_baggage_is_added_to_baggage(net: Net) -> None:
    """Sentry puts its own there."""
    scene = Scene(net)
    with inside(remote(True), user="7"):
        scene.stub.Unary(Request(), metadata=[("baggage", "sentry-release=1")])
    assert [value for key, value in scene.sent if key == "baggage"] == ["sentry-release=1", "user=7"]


def test_context_that_was_put_there_by_hand_is_the_parent(net: Net) -> None:
    """A program that forwards its own caller's header; a peer that finds two parents believes neither."""
    scene = Scene(net)
    scene.stub.Unary(Request(), metadata=[("traceparent", f"00-{TRACE:032x}-{SPAN:016x}-01")])
    (span,) = scene.told.spans()
    assert span.parent is not None
    assert (span.context.trace_id, span.parent.span_id) == (TRACE, SPAN)
    assert scene.parents() == [f"00-{TRACE:032x}-{span.context.span_id:016x}-01"]


def test_an_injected_current_span_is_the_parent(net: Net) -> None:
    """The program injected its own span, which is no call's: it gets a child as always."""
    scene = Scene(net)
    with scene.told.tracers.get_tracer("t").start_as_current_span("caller") as caller:
        at = caller.get_span_context()
        scene.stub.Unary(Request(), metadata=[("traceparent", f"00-{at.trace_id:032x}-{at.span_id:016x}-01")])
    call = scene.told.spans()[0]
    assert call.parent is not None
    assert (call.parent.span_id, len(scene.parents())) == (at.span_id, 1)


SAMPLERS = {
    "off": (ALWAYS_OFF, False),
    "ratio": (TraceIdRatioBased(0.0), False),
    "parent, ratio": (ParentBased(TraceIdRatioBased(0.0)), False),
    "environment": (ParentBasedTraceIdRatio(0.0), False),
    "parent, on": (ParentBased(ALWAYS_ON), True),
    "all": (ParentBasedTraceIdRatio(1.0), True),
}


@pytest.mark.parametrize(("sampler", "wanted"), SAMPLERS.values(), ids=SAMPLERS.keys())
def test_a_root_that_is_not_sampled_still_travels(net: Net, sampler: Sampler, wanted: bool) -> None:
    """The next process must not decide anew: half a trace is none."""
    scene = Scene(net, sampler)
    scene.stub.Unary(Request(), metadata=[("x-a", "1")])
    assert len(scene.told.spans()) == wanted
    (parent,) = scene.parents()
    version, trace_id, span_id, flags = parent.split("-")
    assert (version, int(flags, 16) & 1) == ("00", wanted)
    assert int(trace_id, 16) > 0
    assert int(span_id, 16) > 0
    scene.stub.Unary(Request())
    assert scene.parents() != [parent]


@pytest.mark.parametrize("sampled", [True, False])
def test_a_child_goes_by_its_parent(net: Net, sampled: bool) -> None:
    """In the parent's trace either way."""
    scene = Scene(net, ParentBased(TraceIdRatioBased(0.0)))
    with inside(remote(sampled)):
        scene.stub.Unary(Request())
    assert len(scene.told.spans()) == sampled
    (parent,) = scene.parents()
    assert parent.startswith(f"00-{TRACE:032x}-")
    assert (parent.endswith("-01"), f"{SPAN:016x}" in parent) == (sampled, False)


@pytest.mark.parametrize("sampled", [True, False])
def test_baggage_travels_whether_the_trace_is_sampled_or_not(net: Net, sampled: bool) -> None:
    """What the caller carries along is for the next process, and no affair of the sampler's."""
    scene = Scene(net, ParentBased(TraceIdRatioBased(0.0)))
    with inside(remote(sampled), tenant="acme"):
        scene.stub.Unary(Request())
    assert [value for key, value in scene.sent if key == "baggage"] == ["tenant=acme"]
    assert len(scene.parents()) == 1


class B3(TextMapPropagator):
    """Zipkin's single header, in the place of W3C's."""

    fields = frozenset(("b3",))  # type: ignore[assignment]

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = default_setter) -> None:
        span = trace.get_current_span(context).get_span_context()
        if span.is_valid:
            setter.set(carrier, "b3", f"{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags.sampled)}")

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        return context or Context()


@pytest.mark.parametrize("wanted", [True, False])
def test_another_propagator_writes_its_own(net: Net, wanted: bool) -> None:
    """Of a root that is sampled, and of one that is not: in its own words, and nothing in W3C's."""
    net.closing(partial(propagate.set_global_textmap, propagate.get_global_textmap()))
    propagate.set_global_textmap(B3())
    scene = Scene(net, ParentBasedTraceIdRatio(float(wanted)))
    scene.stub.Unary(Request())
    (b3,) = (str(value) for key, value in scene.sent if key == "b3")
    trace_id, span_id, flag = b3.split("-")
    assert (int(trace_id, 16) > 0, int(span_id, 16) > 0, flag) == (True, True, str(int(wanted)))
    assert (scene.parents(), len(scene.told.spans())) == ([], wanted)


class Asked(Sampler):
    """Wants every other root, and counts the questions."""

    def __init__(self) -> None:
        self.trace_ids: list[int] = []

    def should_sample(self, parent_context: Any, trace_id: int, *_rest: Any, **_named: Any) -> SamplingResult:
        self.trace_ids.append(trace_id)
        return SamplingResult(Decision.RECORD_AND_SAMPLE if len(self.trace_ids) % 2 else Decision.DROP, {"asked": True})

    def get_description(self) -> str:
        return "Asked"


def test_a_sampler_is_asked_once(net: Net) -> None:
    """One that counts, or limits a rate, would be misled by a second question; what it adds is on the span."""
    sampler = Asked()
    scene = Scene(net, sampler)
    for _ in range(4):
        scene.stub.Unary(Request())
    assert [span.context.trace_id for span in scene.told.spans()] == sampler.trace_ids[::2]
    assert (len(sampler.trace_ids), (scene.told.spans()[0].attributes or {})["asked"]) == (4, True)


def test_a_share_of_traces_is_that_share(net: Net) -> None:
    """400 of 2,000 within four sigma (18 each), and each of them whole."""
    scene = Scene(net, ParentBased(TraceIdRatioBased(0.2)))
    for _ in range(2000):
        scene.stub.Unary(Request())
    spans = scene.told.spans()
    assert 328 <= len(spans) <= 472
    sent = [str(value) for seen in scene.server.seen for key, value in seen.metadata if key == "traceparent"]
    assert len({parent for parent in sent if int(parent[-2:], 16) & 1}) == len(spans)


def test_what_must_not_be_traced_is_not(net: Net) -> None:
    """The exporter's own calls would be traced for ever."""
    scene = Scene(net)
    key = context._SUPPRESS_INSTRUMENTATION_KEY
    token = context.attach(context.set_value(key, True, Context()))
    try:
        scene.stub.Unary(Request())
    finally:
        context.detach(token)
    assert (scene.told.spans(), scene.parents()) == ([], [])
