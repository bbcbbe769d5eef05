"""A proxy in front of a Consul agent that lies: it breaks, delays and rewrites answers, and counts."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias


@dataclass
class Reply:
    """What goes out: after a delay, with a pause after each byte; the last `cut` bytes are promised only."""

    status: int
    headers: dict[str, str]
    body: bytes
    delay: float = 0.0
    pause: float = 0.0
    cut: int = 0


Lie: TypeAlias = "Callable[[str, Mapping[str, str], Reply], Reply]"
"""Of the path, the request's headers and the true reply."""


def honest(_path: str, _headers: Mapping[str, str], reply: Reply) -> Reply:
    return reply


def failing(_path: str, _headers: Mapping[str, str], _reply: Reply) -> Reply:
    """500, with the index that Consul's errors carry."""
    return Reply(500, {"X-Consul-Index": "1"}, b"rpc error making call: EOF")


def echoing(_path: str, headers: Mapping[str, str], _reply: Reply) -> Reply:
    """A debugging proxy's error page: it shows the request."""
    return Reply(502, {}, repr(dict(headers)).encode())


def truncating(_path: str, _headers: Mapping[str, str], reply: Reply) -> Reply:
    """Half of the JSON, as if it were all."""
    return Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2])


def resetting(_path: str, _headers: Mapping[str, str], reply: Reply) -> Reply:
    """The connection breaks in the middle of the body."""
    return Reply(reply.status, reply.headers, reply.body, cut=len(reply.body) // 2 or 1)


def dripping(_path: str, _headers: Mapping[str, str], reply: Reply) -> Reply:
    """Ten bytes a second."""
    return Reply(reply.status, reply.headers, reply.body, pause=0.1)


def zipping(_path: str, _headers: Mapping[str, str], reply: Reply) -> Reply:
    """Compressed, whatever was asked for."""
    return Reply(reply.status, {**reply.headers, "Content-Encoding": "gzip"}, gzip.compress(reply.body))


def late(seconds: float) -> Lie:
    return lambda _path, _headers, reply: Reply(reply.status, reply.headers, reply.body, delay=seconds)


def index_is(index: object) -> Lie:
    return lambda _path, _headers, reply: Reply(
        reply.status, {**reply.headers, "X-Consul-Index": str(index)}, reply.body
    )


@dataclass
class LyingProxy:
    """Forwards GETs to the agent at `port`, and lies about the answers."""

    port: int
    lie: Lie = honest
    asked: list[tuple[float, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    own_port: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.own_port}"

    def count(self, start: float, part: str = "") -> int:
        """How many requests came since that instant, for paths with this in them."""
        return sum(at >= start and part in path for at, path in list(self.asked))


@contextlib.contextmanager
def lying_proxy(port: int) -> Iterator[LyingProxy]:
    proxy = LyingProxy(port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            proxy.asked.append((time.monotonic(), self.path))
            proxy.tokens.add(self.headers.get("X-Consul-Token", ""))
            with contextlib.suppress(OSError):
                truth = self._truth()  # first: it may take a whole wait, and the lie is that of the moment after
                self._answer(proxy.lie(self.path, dict(self.headers), truth))

        do_PUT = do_GET

        def _truth(self) -> Reply:
            agent = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
            with contextlib.closing(agent):
                kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding")}
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                agent.request(self.command, self.path, body=body or None, headers=kept)
                response = agent.getresponse()
                headers = {k: v for k, v in response.headers.items() if k.lower().startswith("x-")}
                return Reply(response.status, headers, response.read())

        def _answer(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            body = reply.body[: len(reply.body) - reply.cut]
            for part in [body[i : i + 1] for i in range(len(body))] if reply.pause else [body]:
                self.wfile.write(part)
                time.sleep(reply.pause)
            if reply.cut:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    proxy.own_port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True, name="lying-proxy")
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
