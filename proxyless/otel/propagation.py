"""Trace context into and out of metadata, by whatever propagator the process has configured.

The caller's own keys are kept as they are, duplicates and bytes included. What the propagator says about the trace
stands in the place of what was said there before, for a peer that finds two parents believes neither; baggage is added
to what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator

Metadata: TypeAlias = Sequence[tuple[str, Any]]

_ADDED = frozenset(("baggage",))
"""Keys that may stand in metadata more than once (W3C Baggage, "multiple baggage headers are allowed")."""


class _Append(Setter[list[tuple[str, Any]]]):
    def set(self, carrier: list[tuple[str, Any]], key: str, value: str) -> None:
        if value.isascii() and value.isprintable():  # HTTP/2 carries no other, and one bad value ends a connection
            carrier.append((key.lower(), value))


class _Read(Getter[Metadata]):
    def get(self, carrier: Metadata, key: str) -> list[str] | None:
        key = key.lower()
        return [value for name, value in carrier if name == key and isinstance(value, str)] or None

    def keys(self, carrier: Metadata) -> list[str]:
        return [name for name, _ in carrier]


_APPEND, _READ = _Append(), _Read()


def injected(metadata: Iterable[tuple[str, Any]] | None, context: Context) -> Metadata:
    """`metadata`, with what the propagator says of `context`."""
    said: list[tuple[str, Any]] = []
    propagate.get_global_textmap().inject(said, context, _APPEND)
    if not metadata:
        return tuple(said)
    replaced = {key for key, _ in said} - _ADDED
    return (*(pair for pair in metadata if pair[0] not in replaced), *said)


def extracted(metadata: Metadata, context: Context) -> Context:
    """`context`, with what the propagator reads in `metadata`."""
    return propagate.get_global_textmap().extract(metadata, context, _READ)


_KNOWN = [
    trace.SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7, False, trace.TraceFlags(flags))
    for flags in (0, 1, 2)
]


class Propagator:
    """What there is to know of the process's propagator, asked once, and again when the process configures another."""

    def __init__(self) -> None:
        self._asked: TextMapPropagator | None = None
        self.fields: frozenset[str] = frozenset()
        """The keys that say which trace a call belongs to."""
        self.plain = False
        """Whether it writes W3C's `traceparent` and nothing else for a context that holds no more than a span. Nearly
        all do, and then that one header can be written without asking."""

    def look(self) -> None:
        """Find out whether it is still the same."""
        propagator = propagate.get_global_textmap()
        if propagator is not self._asked:
            self.fields = frozenset(propagator.fields) - _ADDED
            self.plain = all(_writes_only(propagator, known) for known in _KNOWN)
            self._asked = propagator


def _writes_only(propagator: TextMapPropagator, span: trace.SpanContext) -> bool:
    said: list[tuple[str, Any]] = []
    context = trace.set_span_in_context(trace.NonRecordingSpan(span), Context())
    propagator.inject(said, context, _APPEND)
    return said == [("traceparent", traceparent(span.trace_id, span.span_id, span.trace_flags))]


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """W3C Trace Context, version 00."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
