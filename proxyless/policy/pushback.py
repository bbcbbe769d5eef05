"""What a server says of retries in the trailers of a failure: how long to wait, or not to try at all.

Two ways are in use: gRPC's own `grpc-retry-pushback-ms`, and `google.rpc.RetryInfo` among the details of the
status (AIP-194). The second is protobuf in a `-bin` trailer; what is needed of it is three nested messages of
two fields each, so they are read here, when a call has failed, and no library of messages is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

NEVER = -1.0

_MILLISECONDS = re.compile(r"[0-9]{1,10}")
_LONGEST = (2**31 - 1) / 1000
"""Seconds: an int32 of milliseconds, as gRFC A6 has it. A server can't park a caller for three hundred years."""

_RETRY_INFO = b"/google.rpc.RetryInfo"
_MOST_BYTES = 64 * 1024
_MOST_DETAILS = 64


def pushback(trailers: Any) -> float | None:
    """Seconds to wait before the next attempt, a negative number for never, None if nothing is said.

    "If the value for pushback is negative or unparseable, then it will be seen as the server asking the
    client not to retry at all." - gRFC A6; and so are several: "specified multiple values …; not retrying" (grpc-go).
    It wins over RetryInfo, of which what can't be read says nothing.
    """
    said = details = None
    for key, value in trailers or ():
        if key == "grpc-retry-pushback-ms":
            if said is not None or not isinstance(value, str) or not _MILLISECONDS.fullmatch(value):
                return NEVER
            said = int(value) / 1000
        elif key == "grpc-status-details-bin":
            details = value
    if said is not None:
        return said if said <= _LONGEST else NEVER
    return retry_delay(details) if isinstance(details, bytes) else None


def retry_delay(status: bytes) -> float | None:
    """The `retry_delay` of the RetryInfo in a serialized `google.rpc.Status`; None if there is none to be read."""
    if len(status) > _MOST_BYTES:
        return None
    try:
        for number, detail in enumerate(_fields(status, 3)):
            if number >= _MOST_DETAILS:
                break
            if _last(detail, 1).endswith(_RETRY_INFO):  # Any.type_url
                duration = _last(_last(detail, 2), 1)
                seconds = _number(duration, 1) + _number(duration, 2) / 1e9
                return seconds if 0 <= seconds <= _LONGEST else NEVER
    except ValueError:
        pass
    return None


# -- protobuf's wire format (protobuf.dev/programming-guides/encoding): a tag, then a varint, 8, 4 or so many bytes


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """The values of the length-delimited field with that number; raises ValueError on what is no message."""
    for number, value in _read(message):
        if number == wanted and isinstance(value, bytes):
            yield value


def _last(message: bytes, wanted: int) -> bytes:
    """ "the last value wins" where a field is there more than once."""
    found = b""
    for value in _fields(message, wanted):
        found = value
    return found


def _number(message: bytes, wanted: int) -> int:
    """A field of type int32 or int64."""
    found = 0
    for number, value in _read(message):
        if number == wanted and isinstance(value, int):
            found = value
    return found - 2**64 if found >= 2**63 else found


def _read(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("groups are long gone, and other kinds never were")
        if size > len(message) - at:
            raise ValueError("it is cut off")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise ValueError("a number of more than ten bytes")
