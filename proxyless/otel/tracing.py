"""One CLIENT span per call, retries inside, and its context in the metadata that is sent.

A call that somebody outside has a span for already (OpenTelemetry's own gRPC instrumentation around the channel) gets
no second one; ours then only adds what it knows to theirs. A call that is not sampled is not watched: its context is
sent, and that is all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from proxyless.otel import names
from proxyless.otel.propagation import Propagator, extracted, injected
from proxyless.otel.sampling import Tracer

log = logging.getLogger("proxyless")

_SUPPRESSED = [
    key for key in (getattr(contexts, "_SUPPRESS_INSTRUMENTATION_KEY", None), "suppress_instrumentation") if key
]
"""Set in the context of what must not be traced, such as the exporting of traces."""


class Tracing:
    """A watcher: sees each call begin, and keeps watching those that are recorded."""

    def __init__(self, tracer: Tracer, later: Callable[[float, Callable[[], None]], None]) -> None:
        self._tracer = tracer
        self._later = later
        self._propagator = Propagator()
        self._failed = False

    def __call__(self, rpc: Any) -> Recorded | None:
        try:
            context = get_current()
            propagator = self._propagator
            propagator.look()
            metadata = rpc.metadata
            if metadata:
                fields = propagator.fields
                for key, _ in metadata:
                    if key in fields:
                        return self._continued(rpc, context)
            root: int | str = 0
            if not context:
                root = self._tracer.root()
                if root.__class__ is str and propagator.plain:
                    rpc.metadata = (*metadata, ("traceparent", root)) if metadata else (("traceparent", root),)
                    return None
            elif propagator.plain and self._tracer.follows and len(context) == 1:
                # That one thing is the span, where there is a span.
                parent = trace.get_current_span(context).get_span_context()
                if parent.is_valid and not parent.trace_flags.sampled and not parent.trace_state:
                    rpc.metadata = (*(metadata or ()), ("traceparent", self._tracer.child(parent)))
                    return None
            return self._start(rpc, context, root if isinstance(root, int) else int(root[3:35], 16))
        except Exception:
            self.failed()
            return None

    def failed(self) -> None:
        """Tracing has failed for a call, which goes on without."""
        if not self._failed:
            self._failed = True
            log.exception("tracing failed for a call; this is logged once, and calls go on")

    def _continued(self, rpc: Any, context: Context) -> Recorded | None:
        """Somebody has put trace context into the metadata by hand, or instruments the channel from outside."""
        outer = trace.get_current_span(context)
        known = outer.get_span_context()
        if not known.is_valid:
            return self._start(rpc, extracted(tuple(rpc.metadata), context), 0)
        said = trace.get_current_span(extracted(tuple(rpc.metadata), Context())).get_span_context()
        if not outer.is_recording() and (said.trace_id, said.span_id) == (known.trace_id, known.span_id):
            return None
        return self._start(rpc, context, 0)

    def _start(self, rpc: Any, context: Context, root: int) -> Recorded | None:
        if any(context.get(key) for key in _SUPPRESSED):
            return None
        method = rpc.method[1:] if rpc.method[:1] == "/" else rpc.method
        outer = trace.get_current_span(context)
        if outer.is_recording() and _is_of(outer, method):
            return Recorded(self, rpc, outer, owned=False)
        attributes = {names.SYSTEM: "grpc", names.METHOD: method, names.SERVER: rpc.service}
        span = self._tracer.start(method, context, attributes, root)
        rpc.metadata = injected(rpc.metadata, trace.set_span_in_context(span, context))
        return Recorded(self, rpc, span, owned=True) if span.is_recording() else None

    def end_soon(self, span: Span) -> None:
        """End a span whose call was abandoned, perhaps by the garbage collector, which may have come while this very
        thread held a lock of the exporter's."""
        now = time.time_ns()
        self._later(0.0, lambda: span.end(now))


def _is_of(span: Any, method: str) -> bool:
    """Whether a span was made for a call of `method`, by an instrumentation around ours: in the conventions of 2021
    (`rpc.system`, `rpc.service`, `rpc.method`) or the present ones. It has sent its context itself."""
    if getattr(span, "kind", None) is not SpanKind.CLIENT:
        return False
    attributes = getattr(span, "attributes", None) or {}
    if attributes.get("rpc.system") == "grpc":
        return f"{attributes.get('rpc.service')}/{attributes.get(names.METHOD)}" == method
    return bool(attributes.get(names.SYSTEM) == "grpc" and attributes.get(names.METHOD) == method)


def _abandoned(outcome: Any) -> bool:
    """Whether it is `script.ABANDONED`: cancelled, and not by anything that came from the wire."""
    return bool(outcome.code == 1 and outcome.committed and outcome.error is None)


class Recorded:
    """A call under way, as a `Watch`: its span. `owned`: it is ours to end."""

    __slots__ = ("_attempts", "_last", "_owned", "_span", "_tracing")

    def __init__(self, tracing: Tracing, rpc: Any, span: Span, *, owned: bool) -> None:
        self._tracing = tracing
        self._span = span
        self._owned = owned
        self._last = rpc
        self._attempts = 0

    def attempt(self, rpc: Any) -> None:
        """An attempt begins."""
        self._last = rpc
        self._attempts += 1

    def attempted(self, rpc: Any, began: float, outcome: Any) -> None:
        """It has ended; a failed one leaves an event, for another may mend it."""
        if outcome.code == 0 or _abandoned(outcome):
            return
        try:
            seen = {names.GRPC_STATUS: names.STATUSES[outcome.code], names.PEER: rpc.node.address}
            self._span.add_event("attempt failed", {**seen, "proxyless.duration": rpc.now - began})
        except Exception:
            self._tracing.failed()

    def ended(self, rpc: Any, outcome: Any) -> None:
        """So has the call."""
        span = self._span
        try:
            if not span.is_recording():
                return
            status = names.STATUSES[outcome.code]
            span.set_attributes({**_where(rpc, self._last), names.STATUS: status, names.ATTEMPTS: self._attempts})
            if outcome.code:
                span.set_attribute(names.ERROR, status)
            if outcome.refused:
                span.set_attribute(names.REASON, outcome.refused)
            if not self._owned:
                return
            if outcome.code:
                # Our own refusals say what and where; what a server says may be anything, and is not ours to spread.
                span.set_status(Status(StatusCode.ERROR, outcome.details if outcome.refused else status))
            if _abandoned(outcome):
                self._tracing.end_soon(span)
            else:
                span.end()
        except Exception:
            self._tracing.failed()


def _where(rpc: Any, last: Any) -> dict[str, Any]:
    """Which way the call went, as far as it came: its route, and the endpoint of its last attempt. Of one that is
    hedged that is the attempt that was the call's in the end, if any was; then `rpc` has its node."""
    found: dict[str, Any] = {}
    if (route := getattr(rpc, "route", None)) is not None:
        found[names.ROUTE] = route.name
    if (cluster := getattr(rpc, "cluster", None)) is not None:
        found[names.SERVICE] = cluster.key.service
        if cluster.key.subset:
            found[names.SUBSET] = cluster.key.subset
    if (node := getattr(rpc, "node", None) or getattr(last, "node", None)) is not None:
        host, _, port = node.address.rpartition(":")
        found[names.PEER] = host.strip("[]")
        found[names.PEER_PORT] = int(port)
        if locality := str(node.endpoint.locality):
            found[names.GRPC_LOCALITY] = locality
    return found
