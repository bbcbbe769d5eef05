"""py-consul with a transport that can be cancelled, and a read that hands over all that Consul said.

py-consul waits 30 s for a connection, holds a blocked thread until its query ends, decodes and interprets
every body, lets CONSUL_HTTP_TOKEN beat the token it was given, and asks for no consistency on health. So its
two seams are used: `http_connect` brings in our transport, and `read` goes past the interpretation.
Everything else of py-consul (kv, agent, catalog) works as ever, over the same transport.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlencode
from weakref import WeakSet

import consul
import consul.std
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.watcher import PLAIN, Answer, Unanswered

CONNECT_WITHIN: Final = 2.0
"""An agent is on this machine or near it; what takes longer is a black hole."""

TRANSFER_WITHIN: Final = 60.0
"""For a body once its headers are there, however slowly it drips."""

LARGEST: Final = 64 * 1024 * 1024
"""No answer is larger: 40,000 instances, or every document that a prefix should have a hundred times over."""

_CHUNK: Final = 256 * 1024


class Connections:
    """The open connections of one client, so that a thread that waits on one can be woken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[HTTPConnection] = WeakSet()
        self._pid = os.getpid()
        self.closed = False

    def opened(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._open.add(connection)
            closed = self.closed
        if closed:  # while it was being opened
            _shut_down(connection)

    def forked(self) -> None:
        """In a forked child, without the lock, which a thread of the parent may hold: they are the parent's, and here
        nobody reads from them. Threads that are greenlets (gevent) go on in a child, and would take the parent's
        answers away: what they wait on becomes a connection that has ended."""
        self.closed = True
        with contextlib.suppress(OSError):
            ended, other = socket.socketpair()
            other.close()
            with ended:
                for connection in list(self._open):
                    if (sock := connection.sock) is not None and sock.fileno() >= 0:
                        os.dup2(ended.fileno(), sock.fileno(), inheritable=False)

    def shut_down(self) -> None:
        """Every read on them ends at once. `session.close()` alone wakes nobody."""
        if os.getpid() != self._pid:
            return  # in a forked child these are the parent's connections too, and would end for both
        with self._lock:
            self.closed = True
            connections = list(self._open)
        for connection in connections:
            _shut_down(connection)


def _shut_down(connection: HTTPConnection) -> None:
    if (sock := connection.sock) is not None:
        with contextlib.suppress(OSError):
            # The plain socket's: an SSLSocket's own would take its TLS state away from the reading thread.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Stream(io.RawIOBase):
    """What a connection says. As long as `until` is set, all of it has to come by then: a socket's own patience is for
    one read, and a line that drips is many."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        self._patience = sock.gettimeout()
        self.until = None if self._patience is None else time.monotonic() + self._patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.until is None:
            return self._raw.readinto(buffer)
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        try:
            return self._raw.readinto(buffer)
        finally:
            self._sock.settimeout(self._patience)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose headers are all there within the time for one read, however they drip, and however often it is
    said that it will go on (100 Continue): else a watch would wait on, and nobody would know that it hears nothing."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        buffered: Any = self.fp
        self._stream = _Stream(buffered.detach(), sock)
        self.fp = io.BufferedReader(self._stream)

    def begin(self) -> None:
        super().begin()
        self._stream.until = None


class _Adapter(HTTPAdapter):
    """requests' adapter, over connections that report themselves when they are opened."""

    def __init__(self, connections: Connections, server_name: str) -> None:
        self._connections, self._server_name = connections, server_name
        super().__init__(pool_connections=1, pool_maxsize=2, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        opened = self._connections.opened

        class Plain(HTTPConnection):
            response_class = _Response

            def connect(self) -> None:
                super().connect()
                opened(self)

        class Secure(HTTPSConnection):
            response_class = _Response

            def connect(self) -> None:
                super().connect()
                opened(self)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        if self._server_name:
            options["server_hostname"] = self._server_name
        super().init_poolmanager(connections, maxsize, block, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


class Transport(consul.std.HTTPClient):  # type: ignore[misc]  # py-consul has no types
    """py-consul's HTTP client with its own session; `close` ends what is being read."""

    def __init__(self, *args: Any, server_name: str = "", identity: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connections = Connections()
        # Neither proxies nor a netrc for an agent; and no other header than what we send.
        self.session.trust_env = False
        if identity:
            self.session.headers["Accept-Encoding"] = "identity"
        self.session.mount(f"{self.scheme}://", _Adapter(self.connections, server_name))

    def timeout(self, params: Any) -> tuple[float, float]:
        """py-consul's one number is the patience for an answer; a connection has its own."""
        return CONNECT_WITHIN, super().timeout(params)

    def fetch(self, path: str, params: Sequence[tuple[str, str]], headers: dict[str, str], timeout: float) -> Answer:
        """GET a path that is quoted already, whatever the status is. Raises Unanswered."""
        if self.connections.closed:
            raise Unanswered("the client is closed")
        try:
            response = self.session.get(
                f"{self.base_uri}{path}?{urlencode(params)}",
                headers=headers,
                verify=self.verify,
                cert=self.cert,
                timeout=(CONNECT_WITHIN, timeout),
                stream=True,
                allow_redirects=False,  # the token would go along
            )
            with response:
                started = time.monotonic()
                body = _body(response.raw, started + TRANSFER_WITHIN)
                names = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status_code, names, body, time.monotonic() - started)
        except (requests.RequestException, HTTPError, OSError) as e:
            raise Unanswered(_reason(e, timeout)) from None

    def close(self) -> None:
        self.connections.shut_down()
        self.session.close()


class ConsulClient(consul.Consul):  # type: ignore[misc]  # py-consul has no types
    """py-consul's client for `settings`. For one thread that reads and another that closes it."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._settings = settings
        super().__init__(
            host=f"[{settings.host}]" if ":" in settings.host else settings.host,
            port=settings.port,
            scheme="https" if settings.tls else "http",
            dc=settings.dc or None,
            verify=settings.ca_cert or _system_roots(),
            cert=(settings.client_cert, settings.client_key) if settings.client_cert else None,
        )
        self.token = None  # py-consul took CONSUL_HTTP_TOKEN, which is the settings' business

    def http_connect(self, host: str, port: int, scheme: str, verify: Any = True, cert: Any = None) -> Transport:
        return Transport(
            host,
            port,
            scheme,
            verify,
            cert,
            connections_timeout=self.connections_timeout,
            server_name=self._settings.server_name,
            # On one machine compressing only costs: 10,000 instances took 0.7 s plain and 1.2 s gzipped.
            identity=self._settings.local,
        )

    def prepare_headers(self, token: str | None = None) -> dict[str, str]:
        """For every request anew, so that a token that was replaced in its file counts at once."""
        token = token or self._settings.current_token()
        return {"X-Consul-Token": token} if token else {}

    def read(self, path: str, params: Sequence[tuple[str, str]] = (), timeout: float = PLAIN) -> Answer:
        """GET /v1/`path` with any parameters. Raises Unanswered, and ValueError if it has no token."""
        headers = self.prepare_headers()
        answer: Answer = self.http.fetch(f"/v1/{path}", params, headers, timeout)
        token = headers.get("X-Consul-Token")
        if token and answer.status != requests.codes.ok and token.encode() in answer.body:
            # Whoever answers an error by showing the request: it would be in the next log line.
            body = answer.body.replace(token.encode(), b"<token>")
            return Answer(answer.status, answer.headers, body, answer.transfer)
        return answer

    def forked(self) -> None:
        """In a forked child: there is no reading here, and the parent goes on."""
        self.http.connections.forked()

    def close(self) -> None:
        """End what is being read, at once; there is no reading afterwards."""
        self.http.close()


def _body(raw: BaseHTTPResponse, deadline: float) -> bytes:
    body = io.BytesIO()
    for chunk in _chunks(raw):
        if body.tell() + len(chunk) > LARGEST:
            raise Unanswered(f"answer larger than {LARGEST >> 20} MiB")
        if time.monotonic() > deadline:
            raise Unanswered(f"the answer was not complete within {TRANSFER_WITHIN:g} s")
        body.write(chunk)
    return body.getvalue()  # the buffer itself, not a copy


def _chunks(raw: BaseHTTPResponse) -> Iterator[bytes]:
    """As they come: `read` would wait until a chunk is full, and a body that drips would keep it waiting."""
    while chunk := raw.read1(_CHUNK, decode_content=True):
        yield chunk


def _system_roots() -> str | bool:
    """The machine's certificate authorities, to which a company adds its own; else those of requests."""
    return ssl.get_default_verify_paths().cafile or True


def _reason(error: BaseException, timeout: float) -> str:
    """The cause under the layers that requests and urllib3 put around it, in a few words."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        parts = (getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__)
        cause = next((part for part in parts if isinstance(part, BaseException)), None)
    names = {type(e).__name__ for e in seen}
    if names & {"ConnectTimeout", "ConnectTimeoutError"}:
        return f"no connection within {CONNECT_WITHIN:g} s"
    if names & {"ReadTimeout", "ReadTimeoutError"} or isinstance(seen[-1], TimeoutError):
        return f"no answer within {timeout:.1f} s"
    if names & {"IncompleteRead", "InvalidChunkLength"}:
        return "the connection ended in the middle of the answer"
    if "DecodeError" in names:
        return "the answer can't be decompressed"
    if names & {"BadStatusLine", "LineTooLong", "HTTPException"}:
        return "what answers there does not speak HTTP as Consul does; is it the port of Consul's HTTP API?"
    last = seen[-1]
    if isinstance(last, ssl.SSLError):
        return _tls(getattr(last, "verify_message", "") or last.reason or str(last))
    if isinstance(last, OSError) and last.strerror:
        return last.strerror[:1].lower() + last.strerror[1:]
    return f"{type(last).__name__}: {ascii(str(last)[:200])[1:-1]}"  # whoever answers may have chosen the words


def _tls(words: str) -> str:
    """What went wrong between the two, and what that comes from: OpenSSL's own words say neither to everybody."""
    return f"TLS failed: {words.rstrip('.')}" + next((f"; {mend}" for sign, mend in _TLS if sign in words), "")


_PLAIN = "what answers there speaks no TLS: is it the port for plain HTTP?"
_AUTHORITY = "its authority is not known here: CONSUL_CACERT names a file with it"
_CLIENTS = "the agent may want a certificate of ours: CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY"
_TLS = (
    ("WRONG_VERSION_NUMBER", _PLAIN),
    ("HTTP_REQUEST", _PLAIN),
    ("expired", "renew it at the agent; or this machine's clock is wrong"),
    ("not yet valid", "is this machine's clock right?"),
    ("issuer", _AUTHORITY),
    ("self-signed", _AUTHORITY),
    ("KEY_VALUES_MISMATCH", "CONSUL_CLIENT_KEY is not the key of CONSUL_CLIENT_CERT"),
    ("mismatch", "CONSUL_TLS_SERVER_NAME says which name it is for"),
    ("EOF", _CLIENTS),
    ("CERTIFICATE_REQUIRED", _CLIENTS),
    ("HANDSHAKE_FAILURE", _CLIENTS),
    ("BAD_CERTIFICATE", _CLIENTS),
    ("UNKNOWN_CA", "the agent does not know the authority of our certificate (CONSUL_CLIENT_CERT)"),
)
