"""Deadlines in, over HTTP: the ingress of a program that is called by HTTP and calls others through the mesh.

HTTP has no deadline of its own. Two headers are in use: `grpc-timeout` (gRPC over HTTP/2; gRPC-Web and
gateways pass it on) and whole milliseconds under some name, with Envoy `x-envoy-expected-rq-timeout-ms`. A
value that can't be read is ignored: it would be wrong to fail a request for a hint.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextvars import Context, copy_context
from typing import Any, TypeAlias

from proxyless.context import DEADLINE
from proxyless.server.deadlines import FOREVER, checked

ENVOY_HEADER = "x-envoy-expected-rq-timeout-ms"

AsgiApp: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
WsgiApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MILLISECONDS = re.compile(r"[+-]?[0-9]{1,15}")

EXPIRED = "proxyless: deadline: the time of the request was up before it was begun; it was not"


def asgi_deadlines(app: AsgiApp, *, header: str = ENVOY_HEADER, reserve: float = 0.0) -> AsgiApp:
    """An ASGI application that makes its calls with what its own caller has left, less `reserve` seconds.

    `header` names the one that says so in milliseconds; `grpc-timeout` is always read, and the earlier of the
    two holds. A request that has expired is answered 504 (gRPC: DEADLINE_EXCEEDED), and `app` is not called.
    """
    reserve = checked(reserve)
    readers = {header.lower().encode("latin-1"): milliseconds, b"grpc-timeout": grpc_timeout}

    async def served(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        left = None
        if scope["type"] == "http":
            headers = [(readers.get(name.lower()), value) for name, value in scope["headers"]]
            left = _earliest(reader(value.decode("latin-1")) for reader, value in headers if reader)
        if left is None:
            await app(scope, receive, send)
        elif left <= 0.0:
            content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
            status, answer, body = _refusal(content_type)
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer]
            await send({"type": "http.response.start", "status": int(status[:3]), "headers": raw})
            await send({"type": "http.response.body", "body": body})
        else:
            token = DEADLINE.set(_instant(left, reserve))
            try:
                await app(scope, receive, send)
            finally:
                DEADLINE.reset(token)

    return served


def wsgi_deadlines(app: WsgiApp, *, header: str = ENVOY_HEADER, reserve: float = 0.0) -> WsgiApp:
    """A WSGI application that makes its calls with what the request's caller has left; see `asgi_deadlines`.

    What `app` does while its answer is being sent, piece by piece, is within the deadline as well.
    """
    reserve = checked(reserve)
    readers = {"HTTP_" + header.upper().replace("-", "_"): milliseconds, "HTTP_GRPC_TIMEOUT": grpc_timeout}

    def served(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        left = _earliest(reader(environ[key]) for key, reader in readers.items() if key in environ)
        if left is None:
            return app(environ, start_response)
        if left <= 0.0:
            status, answer, body = _refusal(environ.get("CONTENT_TYPE", ""))
            start_response(status, answer)
            return [body]
        inside = copy_context()
        inside.run(DEADLINE.set, _instant(left, reserve))
        parts = inside.run(app, environ, start_response)
        # These two the server knows how to send better: with a length, and by the kernel.
        files = environ.get("wsgi.file_wrapper")
        if isinstance(parts, (list, tuple)) or (isinstance(files, type) and isinstance(parts, files)):
            return parts
        return _Body(parts, inside)

    return served


def grpc_timeout(text: str) -> float | None:
    """Seconds of a `grpc-timeout`, at most eight digits and a letter (gRPC over HTTP/2, "Timeout").

    None if it is not that, and for more than anybody waits: "99999999H".
    """
    found = _GRPC_TIMEOUT.fullmatch(text.strip())
    if found is None:
        return None
    seconds = int(found[1]) * _SECONDS[found[2]]
    return seconds if seconds < FOREVER else None


def milliseconds(text: str) -> float | None:
    """A whole number of milliseconds, in seconds; of one below zero the caller means that it is too late."""
    text = text.strip()
    if not _MILLISECONDS.fullmatch(text):
        return None
    seconds = int(text) / 1000.0
    return seconds if seconds < FOREVER else None


def _earliest(said: Iterable[float | None]) -> float | None:
    return min((left for left in said if left is not None), default=None)


def _instant(left: float, reserve: float) -> float:
    """When the request's time is up; an earlier bound that is there already stays."""
    at, earlier = time.monotonic() + left - reserve, DEADLINE.get()
    return at if earlier is None else min(at, earlier)


def _refusal(content_type: str) -> tuple[str, list[tuple[str, str]], bytes]:
    """The answer to an expired request, in the language it was asked in."""
    if content_type.startswith("application/grpc"):
        # "Trailers-Only is permitted for calls that produce an immediate error" - gRPC over HTTP/2
        said = [("content-type", content_type), ("grpc-status", "4"), ("grpc-message", EXPIRED)]
        return "200 OK", said, b""
    body = EXPIRED.encode()
    plain = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
    return "504 Gateway Timeout", plain, body


class _Body:
    """An answer that is made while it is being sent, each piece in the context the request was begun in."""

    __slots__ = ("_inside", "_parts", "_rest")

    def __init__(self, parts: Iterable[bytes], inside: Context) -> None:
        self._parts = parts
        self._rest: Iterator[bytes] | None = None
        self._inside = inside

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        if self._rest is None:
            self._rest = self._inside.run(iter, self._parts)
        return self._inside.run(next, self._rest)

    def close(self) -> None:
        """PEP 3333: called by the server at the end, whatever happened."""
        close = getattr(self._parts, "close", None)
        if close is not None:
            self._inside.run(close)
