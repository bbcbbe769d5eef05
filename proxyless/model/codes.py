"""The gRPC status codes, as numbers that need no grpc, and what HTTP-minded peers call them."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The 17 status codes of gRPC, by their wire number (`grpc:doc/statuscodes.md`)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


FAILURE_NAMES = tuple(code.name for code in Code if code is not Code.OK)
"""The names a document may answer with: everything but OK, which would have no message to go with it."""

SERVER_ERRORS = frozenset(
    (Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS)
)
"""What is 5xx to Envoy (`source/common/grpc/status.cc`)."""

GATEWAY_ERRORS = frozenset((Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED))
"""Of these, what would be 502, 503 or 504."""
