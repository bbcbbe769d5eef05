"""Blocking calls within a scope show what blocking calls show: the same errors, calls and connection.

The suites of `test_sync_calls.py` and `test_matrix.py` are run within a scope, too.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import grpc
import pytest

from proxyless.channel.sync_scoped import as_blocking
from proxyless.context import SCOPE, Scope
from tests.wire.echo import Request, eventually
from tests.wire.ways import Net

METHODS = ["Unary", "ClientStream"]


def asked(method: str, request: Request) -> Any:
    return iter([request]) if method == "ClientStream" else request


@pytest.mark.parametrize("method", METHODS)
def test_an_error_is_grpcio_s_own(net: Net, method: str) -> None:
    """Its class, its words and its metadata: whoever looks finds no trace of how the call was made."""
    net.server()
    errors = []
    for way in ("grpcio", "mesh", "in a scope"):
        with pytest.raises(grpc.RpcError) as failed:
            getattr(net.stub(way), method)(
                asked(method, Request(fail_code=5, fail_details="gone")), metadata=(("x-trailing", "1"),), timeout=9.0
            )
        error: Any = failed.value
        errors.append((type(error), _without_places(repr(error)), error.trailing_metadata(), error.initial_metadata()))
        assert (error.done(), error.cancelled(), error.cancel(), error.exception() is error) == (
            True,
            False,
            False,
            True,
        )
    assert errors[0] == errors[1] == errors[2]


def _without_places(text: str) -> str:
    return re.sub(r"\d+\.\d+\.\d+\.\d+:\d+|\d{4}-\d\d-\d\d\S*", "…", text)


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_call_is_grpcio_s_own(net: Net, method: str) -> None:
    """`with_call`: a code, metadata both ways, and no time that remains."""
    net.server()
    seen = []
    for way in ("grpcio", "mesh", "in a scope"):
        metadata = (("x-initial", "1"), ("x-trailing", "2"))
        reply, call = getattr(net.stub(way), method).with_call(
            asked(method, Request(message="m")), timeout=9.0, metadata=metadata, compression=grpc.Compression.Gzip
        )
        seen.append((reply.message, call.code(), call.details(), call.trailing_metadata(), call.is_active()))
        assert ("x-initial", "1") in [tuple(pair) for pair in call.initial_metadata()]
        assert (call.time_remaining(), call.cancel(), call.add_callback(lambda: None)) == (None, False, False)
    assert seen[0] == seen[1] == seen[2]


def test_it_goes_over_the_same_connection(net: Net) -> None:
    """An endpoint has one, whoever makes the call."""
    server = net.server()
    stub = net.stub()
    stub.Unary(Request(message="m"))
    net.stub("in a scope").Unary(Request(message="m"))
    first, second = (seen.peer for seen in server.seen)
    assert first == second


@pytest.mark.parametrize("method", METHODS)
def test_it_ends_when_the_caller_goes(net: Net, method: str) -> None:
    """In a few milliseconds, with CANCELLED, for the server too."""
    server = net.server()
    stub, scope = net.stub(), Scope()
    ended: list[Any] = []

    def call() -> None:
        SCOPE.set(scope)
        try:
            getattr(stub, method)(asked(method, Request(message="m", delay_ms=20_000)))
        except grpc.RpcError as error:
            ended.append((time.monotonic(), error))

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: server.seen and server.seen[0].requests)
    at = time.monotonic()
    scope.leave()
    thread.join(5.0)
    ((when, error),) = ended
    assert when - at < 0.5
    assert error.code() is grpc.StatusCode.CANCELLED
    eventually(lambda: server.seen[0].cancelled)


def test_a_scope_that_is_left_while_calls_come_and_go_loses_none(net: Net) -> None:
    """Whichever comes first: a call ends by itself, CANCELLED, or refused; no node stays engaged."""
    net.server()
    stub = net.stub()

    def calls(scope: Scope) -> None:
        SCOPE.set(scope)
        for _ in range(50):
            try:
                stub.Unary(Request(message="m"), timeout=9.0)
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)  # type: ignore[attr-defined]  # noqa: PT017

    for turn in range(10):
        scope = Scope()
        threads = [threading.Thread(target=calls, args=(scope,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.002 * turn)
        scope.leave()
        for thread in threads:
            thread.join(9.0)
    assert net.inflight == 0


def test_without_grpcio_s_private_words_the_stream_s_own_error_is_raised() -> None:
    """The adapter falls back; that it need not is what the tests above notice."""
    error = grpc.RpcError()
    assert as_blocking(error) is error
