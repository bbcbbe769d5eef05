"""Faults on purpose: whether this call is held back, and whether it is then failed.

Envoy's fault filter and gRFC A33. Delay and abort are drawn apart, the delay first: 20 % and 5 % touch 24 %
of calls. Request headers may control both where the document says `headers: true`; what they ask is capped by
its percentages, so no header can touch more calls than the document allows. A header that is missing,
malformed or given twice is ignored: the document's own value holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from proxyless.model.codes import Code
from proxyless.model.routes import Fault

Metadata: TypeAlias = Iterable[tuple[str, Any]] | None

DELAY = "x-envoy-fault-delay-request"
DELAY_PERCENTAGE = "x-envoy-fault-delay-request-percentage"
ABORT_GRPC = "x-envoy-fault-abort-grpc-request"
ABORT_HTTP = "x-envoy-fault-abort-request"
ABORT_PERCENTAGE = "x-envoy-fault-abort-request-percentage"

LONGEST = 3_600_000
"""Milliseconds: the longest delay that a document may ask for, and so the longest that a header may."""

_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    431: Code.INTERNAL,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def from_http(status: int) -> Code:
    """What a gRPC client makes of an HTTP status (`grpc:doc/http-grpc-status-mapping.md`)."""
    return _HTTP.get(status, Code.UNKNOWN)


class Faults:
    """A route's faults, ready to be drawn. `delay` is asked first; `abort` when that time has passed."""

    __slots__ = ("_abort_percent", "_code", "_delay_percent", "_headers", "_seconds")

    def __init__(self, fault: Fault) -> None:
        self._headers = fault.headers
        self._delay_percent = fault.delay.percent if fault.delay is not None else 0.0
        self._seconds = float(fault.delay.fixed) if fault.delay is not None else 0.0
        self._abort_percent = fault.abort.percent if fault.abort is not None else 0.0
        self._code = Code.UNKNOWN
        if fault.abort is not None and fault.abort.status is not None:
            self._code = Code[fault.abort.status]
        elif fault.abort is not None and fault.abort.http_status is not None:
            self._code = from_http(fault.abort.http_status)

    def delay(self, metadata: Metadata, rng: Callable[[], float]) -> float:
        """Seconds to hold this call back; mostly 0."""
        percent, seconds = self._delay_percent, self._seconds
        if not percent:
            return 0.0
        if self._headers and metadata:
            percent = _capped(percent, metadata, DELAY_PERCENTAGE)
            asked = _number(metadata, DELAY)
            if asked is not None:
                seconds = min(asked, LONGEST) / 1000
        return seconds if 100 * rng() < percent else 0.0

    def abort(self, metadata: Metadata, rng: Callable[[], float]) -> Code | None:
        """The status to fail this call with, or None to let it go on."""
        percent, code = self._abort_percent, self._code
        if not percent:
            return None
        if self._headers and metadata:
            percent = _capped(percent, metadata, ABORT_PERCENTAGE)
            code = _asked(metadata, code)
        return code if 100 * rng() < percent else None

    def __repr__(self) -> str:
        delay, abort = f"{self._delay_percent:g} %", f"{self._abort_percent:g} %"
        asked = ", or as headers say" if self._headers else ""
        return f"<Faults delay {delay} by {self._seconds:g} s, abort {abort} with {self._code.name}{asked}>"


def _asked(metadata: Iterable[tuple[str, Any]], code: Code) -> Code:
    """The status that headers ask for, else `code`. "HTTP status has priority" - Envoy's filter and grpc-go's."""
    http = _number(metadata, ABORT_HTTP)
    if http is not None and 200 <= http <= 599:
        return from_http(http)
    grpc = _number(metadata, ABORT_GRPC)
    if grpc is None:
        return code
    # OK would be an answer without a message, which no unary client can take; and what is no status is UNKNOWN to
    # every client that receives it
    return Code(grpc) if 0 < grpc <= Code.UNAUTHENTICATED else Code.UNKNOWN


def _capped(percent: float, metadata: Iterable[tuple[str, Any]], name: str) -> float:
    asked = _number(metadata, name)
    return percent if asked is None else min(percent, asked)


def _number(metadata: Iterable[tuple[str, Any]], name: str) -> int | None:
    """The value of a header as a whole number; None where it is missing, given twice, or anything else."""
    found = None
    for key, value in metadata:
        if key == name:
            if found is not None:
                return None
            found = value
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) <= 10:
        return int(found)
    return None
