"""Spans, at a price that lets people leave tracing on: a call that is not sampled costs a look at its number.

The SDK's `start_span` spends microseconds before it finds that a span is not wanted. Here its sampler is asked first,
once, with the trace id that the span will have; only a span that is wanted is started, by the SDK's own tracer, which
is told the answer instead of asking again. And the commonest sampler of all, a share of all trace ids, need not be
asked about the ids that it can't want.

What is used of the SDK has public names; a tracer that lacks them (another implementation of the API) is asked for a
span per call, as the API has it.
"""

from __future__ import annotations

import copy
import sys
from random import getrandbits
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from proxyless.otel import names, providers
from proxyless.otel.propagation import traceparent

LOW = (1 << 64) - 1
"""`TraceIdRatioBased` compares the lower half of a trace id with its bound."""
RANDOM = 0x02
"""W3C Trace Context level 2: the trace id was drawn by chance."""


class Tracer:
    """The tracer of one provider."""

    def __init__(self, provider: Any) -> None:
        self._tracer = provider.get_tracer(names.SCOPE, names.version(), schema_url=names.SCHEMA)
        self.does_nothing = providers.does_nothing(self._tracer)
        sampler, ids = getattr(self._tracer, "sampler", None), getattr(self._tracer, "id_generator", None)
        self._asks_first = hasattr(sampler, "should_sample") and hasattr(ids, "generate_trace_id")
        self._sampler: Any = sampler
        self._ids: Any = ids
        self.bound = _bound(sampler) if self._asks_first else None
        """No root span whose trace id's lower half is this or more is wanted; None where that is not known."""
        self.follows = self._asks_first and _drops_what_its_parent_drops(sampler)
        """Whether a child of what was not sampled is never wanted."""
        random = getattr(ids, "is_trace_id_random", None)
        self._root_flags = RANDOM if random is not None and random() else 0
        self._random = type(ids) is getattr(sys.modules.get("opentelemetry.sdk.trace"), "RandomIdGenerator", None)

    def root(self) -> int | str:
        """A new root: its trace id, where the sampler has to be asked about it, else the traceparent to send."""
        bound = self.bound
        if bound is None:
            return 0
        if self._random:
            # As `RandomIdGenerator` draws, for both ids in one go.
            drawn = getrandbits(192)
            if (drawn >> 64) & LOW < bound:
                return drawn >> 64
            both = drawn.to_bytes(24, "big").hex("-", -16)  # a dash after the trace id, 16 bytes from the left
            return f"00-{both}-02" if self._root_flags else f"00-{both}-00"
        trace_id: int = self._ids.generate_trace_id()
        return trace_id if trace_id & LOW < bound else traceparent(trace_id, self._span_id(), self._root_flags)

    def child(self, parent: SpanContext) -> str:
        """The traceparent of a child that is not wanted, as its parent was not."""
        return traceparent(parent.trace_id, self._span_id(), parent.trace_flags & RANDOM)

    def _span_id(self) -> int:
        drawn: int = self._ids.generate_span_id()
        return drawn

    def start(self, name: str, context: Context, attributes: dict[str, Any], root: int = 0) -> Span:
        """A CLIENT span: one that records, or one that only carries its context. A root has the trace id `root`."""
        if not self._asks_first:
            started: Span = self._tracer.start_span(name, context, SpanKind.CLIENT, attributes)
            return started
        parent = trace.get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else root or self._ids.generate_trace_id()
        result = self._sampler.should_sample(context, trace_id, name, SpanKind.CLIENT, attributes, ())
        if not result.decision.is_recording():
            flags = parent.trace_flags & RANDOM if parent.is_valid else self._root_flags
            dropped = SpanContext(trace_id, self._span_id(), False, TraceFlags(flags), result.trace_state)
            return NonRecordingSpan(dropped)
        tracer = copy.copy(self._tracer)
        tracer.sampler = _Answered(result)
        tracer.id_generator = _Given(self._ids, trace_id)
        span: Span = tracer.start_span(name, context, SpanKind.CLIENT, attributes)
        return span


class _Answered:
    """A sampler that has been asked already."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def should_sample(self, *_arguments: Any, **_named: Any) -> Any:
        return self._result

    def get_description(self) -> str:
        return "proxyless: asked before"


class _Given:
    """The ids of a span whose trace id is known already."""

    def __init__(self, ids: Any, trace_id: int) -> None:
        self._ids = ids
        self._trace_id = trace_id

    def generate_trace_id(self) -> int:
        return self._trace_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


def _bound(sampler: Any) -> int | None:
    sdk: Any = sys.modules.get("opentelemetry.sdk.trace.sampling")
    if sdk is None:
        return None
    root = getattr(sampler, "_root", None) if type(sampler) in _parent_based(sdk) else sampler
    if root is sdk.ALWAYS_OFF:
        return 0
    bound = getattr(root, "bound", None) if type(root) is sdk.TraceIdRatioBased else None
    return bound if isinstance(bound, int) else None


def _drops_what_its_parent_drops(sampler: Any) -> bool:
    sdk: Any = sys.modules.get("opentelemetry.sdk.trace.sampling")
    if sdk is None or type(sampler) not in _parent_based(sdk):
        return False
    parents = (getattr(sampler, f"_{where}_parent_not_sampled", None) for where in ("remote", "local"))
    return all(parent is sdk.ALWAYS_OFF for parent in parents)


def _parent_based(sdk: Any) -> tuple[type, ...]:
    """The class, and the one that `OTEL_TRACES_SAMPLER=parentbased_traceidratio` makes; subclasses decide as they
    like."""
    return sdk.ParentBased, sdk.ParentBasedTraceIdRatio
