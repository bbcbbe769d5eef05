"""The server of the wire tests: it does what each request says (`protos/echo.proto`) and notes what it saw.

Metadata under a key that begins with `x-initial` or `x-trailing` goes back as it came, duplicates and bytes
included, so that both directions can be compared.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from proxyless.protos import echo_pb2, echo_pb2_grpc

Request = echo_pb2.EchoRequest
Reply = echo_pb2.EchoReply
Pairs = list[tuple[str, "str | bytes"]]

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_NO_DEADLINE = 1e8
"""Seconds: without a deadline grpcio's server says 9.2e18 (`grpc/_server.py`)."""


class Seen:
    """One call as the server saw it. `cancelled` is told when it is over: did the caller walk away?"""

    def __init__(self, method: str, context: grpc.ServicerContext) -> None:
        self.method = method
        self.metadata: Pairs = [(key, value) for key, value in context.invocation_metadata()]
        self.peer: str = context.peer()
        self.requests: list[str] = []
        self.answered = 0
        self.over = threading.Event()
        self.cancelled = False
        self._finished = False
        self._is_active = context.is_active
        if not context.add_callback(self._end):
            self._end()

    def finish(self) -> None:
        """The handler is through; what ends after this was not cancelled. To a handler that reads requests, a call
        that was cancelled may look like one whose requests have ended."""
        self._finished = self._is_active()

    def _end(self) -> None:
        self.cancelled = not self._finished
        self.over.set()


class Echo(echo_pb2_grpc.EchoServicer):  # type: ignore[misc]
    """The four methods."""

    def __init__(self, name: str, delay: float) -> None:
        self.name = name
        self.delay = delay
        self.seen: list[Seen] = []
        self.trailers: Pairs = []
        """What every call ends with, beside what its own metadata asks for."""
        self._failed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def Unary(self, request: Request, context: grpc.ServicerContext) -> Reply:
        seen = self._begin("Unary", context)
        return self._last(seen, self._answer(seen, request, 0, context))

    def ServerStream(self, request: Request, context: grpc.ServicerContext) -> Iterator[Reply]:
        seen = self._begin("ServerStream", context)
        for sequence in range(request.count):
            yield self._answer(seen, request, sequence, context)
        self._fail(seen, request, request.count, context)
        seen.finish()

    def ClientStream(self, requests: Iterable[Request], context: grpc.ServicerContext) -> Reply:
        seen = self._begin("ClientStream", context)
        answer = Reply(served_by=self.name)
        for request in requests:
            answer = self._answer(seen, request, 0, context)
        answer.message = ",".join(seen.requests)
        return self._last(seen, answer)

    def BidiStream(self, requests: Iterable[Request], context: grpc.ServicerContext) -> Iterator[Reply]:
        seen = self._begin("BidiStream", context)
        for sequence, request in enumerate(requests):
            yield self._answer(seen, request, sequence, context)
        seen.finish()

    def _begin(self, method: str, context: grpc.ServicerContext) -> Seen:
        seen = Seen(method, context)
        with self._lock:
            self.seen.append(seen)
        back = [(key, value) for key, value in seen.metadata if key.startswith("x-initial")]
        if back:
            context.send_initial_metadata(back)
        asked = [pair for pair in seen.metadata if pair[0].startswith("x-trailing")]
        context.set_trailing_metadata([*asked, *self.trailers])
        return seen

    @staticmethod
    def _last(seen: Seen, answer: Reply) -> Reply:
        seen.finish()
        seen.answered += 1
        return answer

    def _answer(self, seen: Seen, request: Request, sequence: int, context: grpc.ServicerContext) -> Reply:
        seen.requests.append(request.message)
        if request.delay_ms or self.delay:
            seen.over.wait(max(request.delay_ms / 1000, self.delay))
        self._fail(seen, request, sequence, context)
        left = context.time_remaining()
        attempts = [value for key, value in seen.metadata if key == "grpc-previous-rpc-attempts"]
        return Reply(
            message=request.message,
            payload=request.payload,
            served_by=self.name,
            metadata={key: _joined(seen.metadata, key) for key in request.echo_metadata},
            attempt=int(attempts[0]) + 1 if attempts else 1,
            sequence=sequence,
            remaining_ms=-1 if left is None or left > _NO_DEADLINE else int(left * 1000),
        )

    def _fail(self, seen: Seen, request: Request, sequence: int, context: grpc.ServicerContext) -> None:
        if not request.fail_code or sequence < request.fail_after:
            return
        with self._lock:
            self._failed[request.fail_key] += 1
            if request.fail_times and self._failed[request.fail_key] > request.fail_times:
                return
        seen.finish()
        if request.fail_rich:
            context.abort_with_status(rpc_status.to_status(rich_status(request.fail_code, request.fail_details)))
        context.abort(_STATUS[request.fail_code], request.fail_details)


def rich_status(code: int, message: str) -> Any:
    """A `google.rpc.Status` with one detail, as it travels in `grpc-status-details-bin`."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="WIRE_TEST", domain="proxyless"))
    return status_pb2.Status(code=code, message=message, details=[detail])


def _joined(metadata: Pairs, key: str) -> str:
    values = [value for name, value in metadata if name == key]
    return ",".join(v if isinstance(v, str) else base64.b64encode(v).decode() for v in values)


class EchoServer:
    """A grpc server on loopback with an `Echo` behind it; `delay`: seconds before each of its answers."""

    def __init__(
        self,
        name: str = "a",
        *,
        credentials: grpc.ServerCredentials | None = None,
        address: str = "127.0.0.1:0",
        options: Sequence[tuple[str, Any]] = (),
        delay: float = 0.0,
    ) -> None:
        self.echo = Echo(name, delay)
        self.name = name
        self._pool = futures.ThreadPoolExecutor(24, thread_name_prefix=f"echo-{name}")
        defaults = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        self._server = grpc.server(self._pool, options=[*defaults, *options])
        echo_pb2_grpc.add_EchoServicer_to_server(self.echo, self._server)
        host = address.rpartition(":")[0]
        port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self.address = f"{host}:{port}"
        self._server.start()

    @property
    def seen(self) -> list[Seen]:
        """Every call so far, oldest first."""
        return self.echo.seen

    def last(self, within: float = 5.0) -> Seen:
        """The newest call; waits for it where none has arrived yet."""
        eventually(lambda: bool(self.seen), within)
        return self.seen[-1]

    def stop(self) -> None:
        """Stop at once; calls under way are cancelled."""
        self._server.stop(None).wait()
        self._pool.shutdown()

    def __enter__(self) -> EchoServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def dead_address() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def eventually(true: Callable[[], Any], within: float = 5.0) -> None:
    """Wait for what must come true by itself; the one wait of these tests that is not bound to an event."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"did not come true within {within:g} s"
        time.sleep(0.002)
