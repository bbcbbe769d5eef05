"""grpc's words and the script's, one into the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from proxyless.channel.given import HERE
from proxyless.model.codes import Code
from proxyless.script import OK, Outcome, Rpc

_KEY = re.compile(r"[0-9a-z_.-]+")
_KNOWN_KEYS: set[str] = set()
_MOST_KNOWN = 4096

FORBIDDEN = frozenset("te host connection keep-alive proxy-connection transfer-encoding upgrade content-length".split())
"""Keys that end the whole HTTP/2 connection, or are meant for it alone (RFC 9113, 8.2.2)."""

_NEVER_SENT = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "errors resolving ",
)
"""How C-core's messages begin when a connection could not be made (`pick_first.cc`) or a name has no address: the
request never left. They name whom they could not reach, and that has to be the endpoint: a server may say the same
words of servers of its own, as many do that hand on what has befallen them, and it has seen the request."""

_NEVER_SEEN = (
    "Stream removed (GOAWAY received",
    "GOAWAY received",
    "Stream removed (Transport closed (",
    "Transport closed (",
)
"""How they begin where a server closed the connection and had not taken the request up: C-core ends so "the streams
with an ID greater than the last one" that the GOAWAY names, and no others; and with the second words a stream whose
first frame was still to be written when its connection had been closed, whatever for (`chttp2_transport.cc`)."""

_HOMEMADE = (
    "Exception serializing request!",
    "Exception iterating requests!",
    "Getting metadata from plugin failed with error",
)
"""How they begin where it was the caller who failed: his message could not be written or his stream of requests raised
(`grpc/_channel.py`), or his call credentials did (`plugin_credentials.cc`). grpcio gives them a server's codes."""

CODES = {code.value[0]: code for code in grpc.StatusCode}
LOCALLY_CANCELLED = "Locally cancelled by application!"

_LATE = "Deadline Exceeded"
_LATE_WITHOUT_RETRIES = f"Stream removed ({_LATE})"
"""What C-core says of a deadline that has passed, and what it makes of that where its own retries are off. That
they are is no business of the caller's: he is told what grpcio would tell him."""


def checked(metadata: Iterable[tuple[str, str | bytes]]) -> Any:
    """The caller's metadata, once it is known to be harmless; else raises ValueError, or TypeError as grpcio
    does.

    One hostile value can end a connection that others share (CVE-2023-32731 and kin), so what HTTP/2 forbids
    is refused here, before any connection sees it.
    """
    if not isinstance(metadata, (tuple, list, grpc.aio.Metadata)):
        metadata = tuple(metadata)
    for key, value in metadata:
        if key not in _KNOWN_KEYS:
            if isinstance(key, bytes):
                return checked(_as_sent(metadata))
            _check_key(key)
        if key[-4:] == "-bin":
            continue
        if not isinstance(value, (str, bytes)):
            if value is None:
                return checked(_as_sent(metadata))
            raise TypeError(f"metadata {key!r} has a value that is neither str nor bytes: {type(value).__name__}")
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not (text.isascii() and text.isprintable()):
            raise ValueError(
                f"metadata {key!r} has a value that HTTP/2 can't carry (control or non-ASCII characters); "
                f"encode it, or use a key that ends in -bin with bytes"
            )
    return metadata


def _as_sent(metadata: Iterable[tuple[Any, Any]]) -> list[tuple[str, Any]]:
    """Keys as text, for routes are matched on text and grpcio takes bytes too; and "" for None, which grpcio sends so
    unless the key says that it is bytes."""
    texts = [(key.decode("latin-1") if isinstance(key, bytes) else key, value) for key, value in metadata]
    return [(key, "" if value is None and not key.endswith("-bin") else value) for key, value in texts]


def _check_key(key: str) -> None:
    if not isinstance(key, str):
        raise TypeError(f"metadata key {key!r} is neither str nor bytes")
    if not _KEY.fullmatch(key):
        raise ValueError(f"metadata key {key!r} is not lower-case letters, digits and _ . -")
    if key in FORBIDDEN:
        raise ValueError(f"metadata key {key!r} belongs to HTTP/2 itself and could end the connection for every caller")
    if len(_KNOWN_KEYS) < _MOST_KNOWN:
        _KNOWN_KEYS.add(key)


class Pairs(grpc.aio.Metadata):
    """Metadata for grpcio to send, which reads it through once.

    Of anything else it makes a mapping first, to make pairs of that again (1.85.1): 2.0 us a call against 0.6, and 0.8
    against 0.4 where nothing is sent. It is no mapping, and so for grpcio's eyes alone: who else is given metadata gets
    a `grpc.aio.Metadata`.
    """

    def __init__(self, pairs: Iterable[Any]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(tuple(self._pairs))

    def __bool__(self) -> bool:
        return True  # or grpcio would make another, where there are none

    def __repr__(self) -> str:
        return f"Pairs({self._pairs!r})"


NO_PAIRS = Pairs(())


def name_of(method: str | bytes) -> str:
    """A method's name: grpcio takes it as bytes, too."""
    return method.decode() if isinstance(method, bytes) else method


def reads_trailers(rpc: Rpc) -> bool:
    """Whether somebody wants the trailers of the attempt even if it succeeds."""
    feedback = rpc.node.feedback
    return feedback is not None and feedback.reads_trailers


def success(trailers: Any) -> Outcome:
    """`OK`, with trailers that somebody reads."""
    return Outcome(0, trailers=trailers or (), committed=True)


def ended(rpc: Rpc, native: Any) -> Outcome:
    """How an attempt that is over ended: for calls that say so without waiting (grpcio's synchronous ones)."""
    if native.code() is not grpc.StatusCode.OK:
        return failure(rpc, native)
    return success(native.trailing_metadata()) if reads_trailers(rpc) else OK


def _reword(error: Any, details: str) -> None:
    """grpcio keeps an error's words in private (1.85.1); where it no longer does, they stay as they are."""
    for holder, name in ((getattr(error, "_state", None), "details"), (error, "_details")):
        if hasattr(holder, name):
            setattr(holder, name, details)


def began(native: Any) -> bool:
    """Whether an answer had begun before the failure: an RPC becomes committed when "the client receives
    Response-Headers" - gRFC A6. What a server sends with its status alone has no initial metadata.

    As far as grpcio knows now. Its `initial_metadata()` may block, and not only the caller's thread; so what it
    keeps in private is looked at (1.85.1), and where there is no such thing no answer had begun.
    """
    if isinstance(native, grpc.aio.AioRpcError):
        return bool(native.initial_metadata())
    return bool(getattr(getattr(native, "_state", None), "initial_metadata", None))


def _of_endpoint(details: str, address: str) -> bool:
    """Whether it is this address that C-core tells of: `…: ipv4:10.0.0.7:50051: Connection refused`."""
    host, _, port = address.rpartition(":")
    # Names are told as the addresses that they stand for, IPv6 in another spelling: those by their ports alone.
    plain = host.replace(".", "").isdecimal()
    return address == HERE or f":{address if plain else port}: " in details


def failure(rpc: Rpc, error: Any) -> Outcome:
    """What a failed call of grpcio's (sync or asyncio) came to. Nothing of the error is lost: it is passed on."""
    status = error.code()
    details = error.details() or ""
    if status is grpc.StatusCode.DEADLINE_EXCEEDED and details == _LATE_WITHOUT_RETRIES:
        details = _LATE
        _reword(error, details)
    return Outcome(
        status.value[0] if status is not None else Code.UNKNOWN,
        details,
        trailers=error.trailing_metadata() or (),
        unsent=status is grpc.StatusCode.UNAVAILABLE
        and details.startswith(_NEVER_SENT)
        and _of_endpoint(details, rpc.node.address),
        unseen=status is grpc.StatusCode.UNAVAILABLE and details.startswith(_NEVER_SEEN),
        homemade=details.startswith(_HOMEMADE),
        error=error,
    )
