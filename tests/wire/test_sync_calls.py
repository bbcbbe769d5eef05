"""Calls with one response from threads: `__call__`, `with_call` and `.future()`, as on bare grpcio."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Reply, Request, eventually
from tests.wire.ways import Net, scoped_too

_HANG = Request(message="m", delay_ms=20_000)
_SOON = Request(message="m", delay_ms=150)


@scoped_too
def test_with_call_gives_the_call_too(net: Net, way: str) -> None:
    """`with_call` gives the response and a finished call with its code and metadata."""
    net.server()
    metadata = (("x-initial-a", "1"), ("x-trailing-a", "2"))
    reply, call = net.stub(way).Unary.with_call(Request(message="m"), timeout=9.0, metadata=metadata)
    assert reply.message == "m"
    assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
    assert ("x-initial-a", "1") in [tuple(pair) for pair in call.initial_metadata()]
    assert [tuple(pair) for pair in call.trailing_metadata()] == [("x-trailing-a", "2")]
    assert not call.is_active()
    assert call.time_remaining() is None


@scoped_too
def test_arguments_by_position(net: Net, way: str) -> None:
    """All arguments may be given by position, in grpcio's order, or by grpcio's names."""
    server = net.server()
    stub = net.stub(way)
    arguments = (9.0, (("x-user", "ann"),), None, True, grpc.Compression.NoCompression)
    assert stub.Unary(Request(message="m"), *arguments).message == "m"
    assert stub.Unary.with_call(Request(message="m"), *arguments)[0].message == "m"
    assert stub.Unary.future(Request(message="m"), *arguments).result().message == "m"
    assert stub.ClientStream(iter([Request(message="m")]), *arguments).message == "m"
    assert [reply.message for reply in stub.ServerStream(Request(message="m", count=1), *arguments)] == ["m"]
    assert [reply.message for reply in stub.BidiStream(iter([Request(message="m")]), *arguments)] == ["m"]
    assert stub.Unary(request=Request(message="m")).message == "m"
    assert stub.ClientStream(request_iterator=iter([Request(message="m")])).message == "m"
    assert stub.ClientStream.future(request_iterator=iter([Request(message="m")])).result().message == "m"
    assert [reply.message for reply in stub.BidiStream(request_iterator=iter([Request()]))] == [""]
    assert all(("x-user", "ann") in seen.metadata for seen in server.seen[:6])


@scoped_too
def test_a_future_tells_how_far_it_is(net: Net, way: str) -> None:
    """A future is running and active with time remaining, then done; `result` waits as long as it is told."""
    net.server()
    future = net.stub(way).Unary.future(_SOON, timeout=9.0)
    assert (future.running(), future.done(), future.cancelled(), future.is_active()) == (
        True,
        False,
        False,
        True,
    )
    assert 8.0 < future.time_remaining() <= 9.0
    for ask in (future.result, future.exception, future.traceback):
        with pytest.raises(grpc.FutureTimeoutError):
            ask(timeout=0.01)
    assert future.result(timeout=5.0).message == "m"
    assert (future.running(), future.done(), future.cancelled(), future.is_active()) == (
        False,
        True,
        False,
        False,
    )
    assert (future.exception(), future.traceback(), future.code()) == (None, None, grpc.StatusCode.OK)
    assert not future.cancel()
    assert future.result() is future.result()
    assert net.stub(way).Unary.future(Request()).time_remaining() is None


@scoped_too
def test_a_failed_future(net: Net, way: str) -> None:
    """A failed future gives its error from `exception`, raises it from `result`, and has a traceback."""
    net.server()
    future = net.stub(way).Unary.future(Request(fail_code=5, fail_details="gone"))
    error = future.exception(timeout=5.0)
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "gone")  # type: ignore[attr-defined]
    with pytest.raises(grpc.RpcError) as raised:
        future.result()
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert future.traceback() is not None
    assert (future.done(), future.cancelled(), future.cancel()) == (True, False, False)
    assert future.debug_error_string()


@scoped_too
def test_callbacks_are_called_once_with_the_future(net: Net, way: str) -> None:
    """Callbacks are called with the future when it is done; one that is added later is called at once."""
    net.server()
    told: list[Any] = []
    over = threading.Event()
    future = net.stub(way).Unary.future(_SOON)
    future.add_done_callback(told.append)
    assert future.add_callback(over.set)
    assert told == []
    assert over.wait(5.0)
    assert told == [future]
    future.add_done_callback(told.append)
    assert told == [future, future]
    assert not future.add_callback(over.set)


@scoped_too
def test_callbacks_keep_a_future_alive(net: Net, way: str) -> None:
    """A future that nobody holds but that has a callback is not abandoned."""
    server = net.server()
    results: list[str] = []
    over = threading.Event()

    def take(future: Any) -> None:
        results.append(future.result().message)
        over.set()

    net.stub(way).Unary.future(_SOON).add_done_callback(take)
    gc.collect()
    assert over.wait(5.0)
    assert results == ["m"]
    assert not server.last().cancelled


@scoped_too
def test_a_callback_that_fails(net: Net, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged, and takes neither other callbacks nor later calls with it."""
    net.server()
    stub = net.stub(way)
    over = threading.Event()
    future = stub.Unary.future(_SOON)
    with caplog.at_level(logging.ERROR):
        future.add_done_callback(lambda _: 1 / 0)
        future.add_done_callback(lambda _: over.set())
        assert over.wait(5.0)
    assert future.result().message == "m"
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    assert stub.Unary.future(Request(message="next")).result(timeout=5.0).message == "next"


@scoped_too
def test_a_callback_may_ask_from_another_thread(net: Net, way: str) -> None:
    """A callback is called without locks: it may wait for another thread that asks the same call."""
    net.server()
    codes: list[Any] = []
    over = threading.Event()
    stub = net.stub(way)

    def ask(call: Any) -> None:
        thread = threading.Thread(target=lambda: codes.append(call.code()))
        thread.start()
        thread.join(2.0)
        over.set()

    future = stub.Unary.future(_SOON)
    future.add_done_callback(ask)
    assert over.wait(5.0)
    over.clear()
    stream = stub.ServerStream(_SOON)
    stream.add_done_callback(ask)
    assert over.wait(5.0)
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.OK]


@scoped_too
def test_cancelling_a_future(net: Net, way: str) -> None:
    """A cancelled future is done at once, raises FutureCancelledError, and calls back from another thread."""
    server = net.server()
    future = net.stub(way).Unary.future(_HANG)
    told: list[threading.Thread] = []
    future.add_done_callback(lambda _: told.append(threading.current_thread()))
    server.last()
    assert future.cancel()
    assert (future.cancelled(), future.done(), future.running(), future.is_active()) == (
        True,
        True,
        False,
        False,
    )
    for ask in (future.result, future.exception, future.traceback):
        with pytest.raises(grpc.FutureCancelledError):
            ask()
    eventually(lambda: told)
    assert told != [threading.current_thread()]
    assert server.last().over.wait(2.0)


@scoped_too
def test_cancelling_before_anything_was_sent(net: Net, way: str) -> None:
    """A future can be cancelled while its endpoint is still being connected to, or can't be."""
    net.endpoints("127.0.0.1:9")
    future = net.stub(way).Unary.future(_HANG, wait_for_ready=True)
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    time.sleep(0.05)
    assert future.cancel()
    assert told.wait(2.0)
    assert (future.code(), future.initial_metadata() or ()) == (grpc.StatusCode.CANCELLED, ())
    assert not future.cancel()


def _wrong(_: Any) -> Any:
    raise ValueError("not what was expected")


@scoped_too
def test_a_request_that_can_not_be_serialized(net: Net, way: str) -> None:
    """A request that can't be serialized fails the call with INTERNAL before it is made, and frees its node."""
    server = net.server()
    channel = net.channel(way)
    unary = channel.unary_unary("/echo.Echo/Unary", _wrong)
    for call in (
        unary,
        unary.with_call,
        unary.future,
        channel.unary_stream("/echo.Echo/ServerStream", _wrong),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call(Request())
        assert raised.value.code() is grpc.StatusCode.INTERNAL
        assert raised.value.details() == "Exception serializing request!"
    assert server.seen == []


@scoped_too
def test_a_response_that_can_not_be_read(net: Net, way: str) -> None:
    """A response that can't be deserialized fails the call with INTERNAL, whatever the arity."""
    net.server()
    channel = net.channel(way)
    serialize = Request.SerializeToString
    unary = channel.unary_unary("/echo.Echo/Unary", serialize, _wrong)
    stream = channel.unary_stream("/echo.Echo/ServerStream", serialize, _wrong)
    for call in (
        lambda: unary(Request()),
        lambda: unary.future(Request()).result(),
        lambda: next(stream(Request(count=2))),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert raised.value.code() is grpc.StatusCode.INTERNAL
        assert raised.value.details() == "Exception deserializing response!"


@scoped_too
def test_without_serializers_bytes_are_bytes(net: Net, way: str) -> None:
    """A multicallable without serializers takes and gives bytes."""
    net.server()
    raw = net.channel(way).unary_unary("/echo.Echo/Unary")(Request(message="m").SerializeToString())
    assert isinstance(raw, bytes)
    assert Reply.FromString(raw).message == "m"


@scoped_too
def test_requests_that_fail(net: Net, way: str) -> None:
    """An exception in the caller's request iterator ends the call with UNKNOWN."""
    net.server()

    def requests() -> Iterator[Request]:
        yield Request(message="m")
        raise ValueError("no more")

    stub = net.stub(way)
    with pytest.raises(grpc.RpcError) as raised:
        stub.ClientStream(requests())
    assert raised.value.code() is grpc.StatusCode.UNKNOWN
    assert raised.value.details() == "Exception iterating requests!"
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.BidiStream(requests()))
    assert raised.value.code() is grpc.StatusCode.UNKNOWN


@scoped_too
def test_a_signal_interrupts_a_blocking_call(net: Net, way: str) -> None:
    """An exception from a signal handler (Ctrl-C) leaves a blocking call at once, and nothing stays engaged."""
    server = net.server()
    stub = net.stub(way)
    stub.Unary(Request())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            stub.Unary(_HANG)
        assert time.monotonic() - started < 2.0
    finally:
        signal.signal(signal.SIGALRM, before)
    assert server.last().over.wait(5.0)
    if way == "mesh":
        assert net.inflight == 0


def test_the_old_and_the_new_stub_live_together(net: Net) -> None:
    """Stubs are cheap: two on one channel, or on two channels of a mesh, share connections."""
    server = net.server()
    channel = net.channel()
    for stub in (echo_pb2_grpc.EchoStub(channel), echo_pb2_grpc.EchoStub(channel), net.stub()):
        stub.Unary(Request())
    assert len({seen.peer for seen in server.seen}) == 1
