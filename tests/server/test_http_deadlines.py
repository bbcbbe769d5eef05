"""Deadlines that come over HTTP: what the headers say, and what ASGI and WSGI applications see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

import proxyless
from proxyless.server.http import asgi_deadlines, grpc_timeout, milliseconds, wsgi_deadlines

NS = 1e-9

# vectors/14, decode-*: grpc/grpc-go internal/transport/http_util_test.go, TestDecodeTimeout; in nanoseconds,
# None for what is not valid. Those of more than 1e8 s are no bound to us.
DECODED = [
    ("00000001n", 1),
    ("00000010m", 10_000_000),
    ("00000001M", 60_000_000_000),
    ("99999999S", 99_999_999_000_000_000),
    ("2562047H", None),
    ("99999999H", None),
    ("00000000S", 0),
    ("1234x", None),
    ("1234", None),
    ("", None),
    ("000000000S", None),
]
DECODED_OURS = [("1H", 3_600_000_000_000), ("2S", 2_000_000_000), ("250u", 250_000), (" 2S ", 2_000_000_000)]
MALFORMED = ["-1S", "+1S", "1.5S", "S", "1 S", "1s", "1S2S", "\u0661S", "0x1S"]


@pytest.mark.parametrize(("text", "ns"), DECODED + DECODED_OURS + [(text, None) for text in MALFORMED])
def test_grpc_timeout_is_at_most_eight_digits_and_a_letter(text: str, ns: int | None) -> None:
    """What is anything else says nothing."""
    assert grpc_timeout(text) == (None if ns is None else pytest.approx(ns * NS, rel=1e-12))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250", 0.25),
        (" 250 ", 0.25),
        ("+250", 0.25),
        ("0", 0.0),
        ("-40", -0.04),
        ("", None),
        ("1.5", None),
        ("1e3", None),
        ("250ms", None),
        ("250, 300", None),
        ("\u0662\u0665\u0660", None),
        ("9" * 15, None),
        ("9" * 5000, None),
    ],
)
def test_milliseconds_are_a_whole_number(text: str, seconds: float | None) -> None:
    """What is anything else says nothing, nor does more than three years."""
    assert milliseconds(text) == seconds


Headers = list[tuple[str, str]]

# The headers of a request, and between which bounds what is left must be; None: no deadline.
SAID: list[tuple[Headers, tuple[float, float] | None]] = [
    ([], None),
    ([("accept", "*/*")], None),
    ([("x-envoy-expected-rq-timeout-ms", "3000")], (2.5, 3.0)),
    ([("X-Envoy-Expected-Rq-Timeout-Ms", "3000")], (2.5, 3.0)),
    ([("grpc-timeout", "3S")], (2.5, 3.0)),
    ([("grpc-timeout", "9S"), ("x-envoy-expected-rq-timeout-ms", "3000")], (2.5, 3.0)),
    ([("grpc-timeout", "3S"), ("x-envoy-expected-rq-timeout-ms", "9000")], (2.5, 3.0)),
    ([("grpc-timeout", "3 S"), ("x-envoy-expected-rq-timeout-ms", "9000")], (8.5, 9.0)),
    ([("grpc-timeout", "soon")], None),
    ([("x-envoy-expected-rq-timeout-ms", "soon")], None),
    ([("x-other-timeout-ms", "3000")], None),
]
EXPIRED: list[Headers] = [
    [("x-envoy-expected-rq-timeout-ms", "0")],
    [("x-envoy-expected-rq-timeout-ms", "-5")],
    [("grpc-timeout", "0m")],
    [("grpc-timeout", "9S"), ("x-envoy-expected-rq-timeout-ms", "0")],
]


def fits(left: float | None, bounds: tuple[float, float] | None) -> bool:
    """Whether what is left is as expected."""
    if left is None or bounds is None:
        return left is None and bounds is None
    return bounds[0] < left <= bounds[1]


# -- ASGI


class Asgi:
    """An application that notes what it sees of the deadline; and a server that sends it requests."""

    def __init__(self, **settings: Any) -> None:
        self.seen: list[float | None] = []
        self.sent: list[Any] = []
        self.served = asgi_deadlines(self.app, **settings)

    async def app(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.seen.append(proxyless.remaining())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0)
        self.seen.append(proxyless.remaining())

    async def request(self, headers: Headers, kind: str = "http") -> None:
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.served({"type": kind, "headers": raw}, None, send)  # type: ignore[arg-type]
        assert proxyless.remaining() is None


@pytest.mark.parametrize(("headers", "bounds"), SAID)
async def test_an_asgi_application_has_what_its_caller_has_left(
    headers: Headers, bounds: tuple[float, float] | None
) -> None:
    """From beginning to end, and whoever serves it has nothing of it."""
    app = Asgi()
    await app.request(headers)
    assert len(app.seen) == 2
    assert all(fits(left, bounds) for left in app.seen)


@pytest.mark.parametrize("headers", EXPIRED)
async def test_an_expired_request_to_an_asgi_application_is_answered_504(headers: Headers) -> None:
    """The application is not called."""
    app = Asgi()
    await app.request(headers)
    assert app.seen == []
    start, body = app.sent
    assert (start["type"], start["status"]) == ("http.response.start", 504)
    assert body["type"] == "http.response.body"
    assert body["body"].startswith(b"proxyless: deadline: ")
    assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]


async def test_an_expired_grpc_request_over_asgi_is_answered_in_its_language() -> None:
    """Trailers only, with HTTP's 200: "for calls that produce an immediate error" (gRPC over HTTP/2)."""
    app = Asgi()
    await app.request([("content-type", "application/grpc-web+proto"), ("grpc-timeout", "0S")])
    start, body = app.sent
    assert start["status"] == 200
    assert (b"grpc-status", b"4") in start["headers"]
    assert (b"content-type", b"application/grpc-web+proto") in start["headers"]
    assert body["body"] == b""


async def test_the_header_and_the_reserve_can_be_chosen() -> None:
    """Another name, and half a second for the way back; Envoy's name then says nothing."""
    app = Asgi(header="X-Request-Timeout", reserve=0.5)
    await app.request([("x-request-timeout", "3000"), ("x-envoy-expected-rq-timeout-ms", "0")])
    assert all(fits(left, (2.0, 2.5)) for left in app.seen)


async def test_what_is_not_a_request_has_no_deadline() -> None:
    """A websocket lives as long as it lives, and the lifespan has no headers at all."""
    app = Asgi()
    await app.request([("grpc-timeout", "0S")], kind="websocket")
    await app.request([], kind="lifespan")
    assert app.seen == [None] * 4


async def test_an_earlier_bound_stays() -> None:
    """A middleware further out may have set one."""
    app = Asgi()

    async def request() -> None:
        with proxyless.deadline(1.0):
            await app.served({"type": "http", "headers": [(b"grpc-timeout", b"3S")]}, None, _ignore)  # type: ignore[arg-type]

    await request()
    assert all(fits(left, (0.5, 1.0)) for left in app.seen)


async def _ignore(_message: Any) -> None: ...


# -- WSGI


class Wsgi:
    """The same for WSGI; `body` makes the answer."""

    def __init__(self, **settings: Any) -> None:
        self.seen: list[float | None] = []
        self.closed = 0
        self.status: str | None = None
        self.headers: Headers = []
        self.served = wsgi_deadlines(self.app, **settings)

    def app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.seen.append(proxyless.remaining())
        start_response("200 OK", [])
        return environ.get("test.body") or self.pieces()

    def pieces(self) -> Iterator[bytes]:
        try:
            for piece in (b"a", b"b"):
                self.seen.append(proxyless.remaining())
                yield piece
        finally:
            self.seen.append(proxyless.remaining())
            self.closed += 1

    def start(self, status: str, headers: Headers) -> None:
        self.status, self.headers = status, headers

    def request(self, headers: Headers, **more: Any) -> Iterable[bytes]:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        for name, value in headers:
            key = name.upper().replace("-", "_")
            environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
        return self.served({**environ, **more}, self.start)


@pytest.mark.parametrize(("headers", "bounds"), SAID)
def test_a_wsgi_application_has_what_its_caller_has_left(headers: Headers, bounds: tuple[float, float] | None) -> None:
    """Also while its answer is being sent; and between the pieces whoever sends them has nothing of it."""
    app = Wsgi()
    answer = app.request(headers)
    sent = []
    for piece in answer:
        sent.append(piece)
        assert proxyless.remaining() is None
    answer.close()  # type: ignore[attr-defined]
    assert sent == [b"a", b"b"]
    assert len(app.seen) == 4
    assert all(fits(left, bounds) for left in app.seen)


def test_an_answer_that_is_not_taken_to_its_end_is_closed_with_its_deadline() -> None:
    """PEP 3333: the server closes it whatever happened."""
    app = Wsgi()
    answer = iter(app.request([("grpc-timeout", "3S")]))
    assert next(answer) == b"a"
    answer.close()  # type: ignore[attr-defined]
    assert app.closed == 1
    assert all(fits(left, (2.5, 3.0)) for left in app.seen)


@pytest.mark.parametrize("headers", EXPIRED)
def test_an_expired_request_to_a_wsgi_application_is_answered_504(headers: Headers) -> None:
    """The application is not called."""
    app = Wsgi(header="x-envoy-expected-rq-timeout-ms")
    (body,) = app.request(headers)
    assert app.seen == []
    assert app.status == "504 Gateway Timeout"
    assert body.startswith(b"proxyless: deadline: ")
    assert ("content-length", str(len(body))) in app.headers


def test_an_expired_grpc_request_over_wsgi_is_answered_in_its_language() -> None:
    """Trailers only, with HTTP's 200."""
    app = Wsgi()
    assert list(app.request([("content-type", "application/grpc"), ("grpc-timeout", "0S")])) == [b""]
    assert app.status == "200 OK"
    assert ("grpc-status", "4") in app.headers


def test_what_the_server_knows_how_to_send_better_is_left_as_it_is(tmp_path: Any) -> None:
    """A list has a length, and a file is sent by the kernel: servers look for the kind."""
    app = Wsgi(reserve=0.5)
    pieces = [b"a"]
    assert app.request([("grpc-timeout", "3S")], **{"test.body": pieces}) is pieces
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with path.open("rb") as file:
        wrapped = FileWrapper(file)
        more = {"test.body": wrapped, "wsgi.file_wrapper": FileWrapper}
        assert app.request([("grpc-timeout", "3S")], **more) is wrapped
    assert all(fits(left, (2.0, 2.5)) for left in app.seen)


@pytest.mark.parametrize("wrap", [asgi_deadlines, wsgi_deadlines])
def test_a_reserve_below_zero_is_refused(wrap: Any) -> None:
    """When the application is wrapped, not when it serves."""
    with pytest.raises(proxyless.ConfigError, match="reserve="):
        wrap(lambda *_: None, reserve=-1.0)
