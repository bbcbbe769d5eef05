"""Which failures may be tried again: the words of `retry.on`, in terms of what a gRPC client can see.

A client-side mesh sees trailers as well as headers, so a word holds wherever the status came from (Envoy
looks at headers alone: "gRPC status codes in trailers will not trigger retry logic"). Words for transport
failures hold only where the transport failed, which is told by C-core's own wording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from proxyless.model.codes import GATEWAY_ERRORS, SERVER_ERRORS, Code

Judge: TypeAlias = Callable[[Any, bool], bool]
"""(outcome, whether its attempt ran into the per-try timeout) -> may it be tried again?"""

CONFLICTS = frozenset((Code.ABORTED, Code.ALREADY_EXISTS))
"""`retriable-4xx` is 409 alone in Envoy: "no 408, no 429"."""

_SETS = {"5xx": SERVER_ERRORS, "gateway-error": GATEWAY_ERRORS, "retriable-4xx": CONFLICTS}
_TIMED_OUT = frozenset(("5xx", "gateway-error", "reset", "deadline-exceeded"))
"""Words that a per-try timeout answers to: Envoy's `reset` is "disconnect/reset/read timeout"."""
_RESET = (
    "Socket closed",
    "Connection reset",
    "Broken pipe",
    "RST_STREAM",
    "GOAWAY",
    "Stream removed",
    "recvmsg:",
    "Internal error from Core",
)
"""The last is grpcio's on asyncio (1.85.1): a request of a stream could not be written, because the call had ended.
What the server said of it, if it did, is lost then, for good."""
_REFUSED = ("error code 7", "REFUSED_STREAM")


def judge(words: Iterable[str]) -> Judge:
    """Make the judge for a policy's `on` list; once per snapshot."""
    words = frozenset(words)
    codes: set[int] = set()
    for word in words:
        if word in _SETS:
            codes |= _SETS[word]
        elif word.replace("-", "_").upper() in Code.__members__:
            codes.add(Code[word.replace("-", "_").upper()])
    timed = bool(words & _TIMED_OUT)
    connect = bool(words & {"connect-failure", "5xx", "gateway-error", "reset"})
    reset = bool(words & {"reset"})
    refused = bool(words & {"refused-stream", "reset"})

    def may_retry(outcome: Any, timed_out: bool) -> bool:
        if timed_out:
            return timed
        if outcome.code in codes:
            return True
        if outcome.code not in (Code.UNAVAILABLE, Code.INTERNAL):
            return False
        if outcome.unsent:
            return connect
        details = outcome.details
        return (reset and any(mark in details for mark in _RESET)) or (
            refused and any(mark in details for mark in _REFUSED)
        )

    return may_retry
