"""Streams of responses from threads: iterator, `grpc.Call` and `grpc.Future` at once, as on bare grpcio."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.wire.echo import Request, eventually
from tests.wire.ways import Net, any_way

_ENDLESS = Request(message="m", count=100_000, delay_ms=2)
_HANG = Request(message="m", count=1, delay_ms=20_000)


@any_way
def test_a_finished_stream_stays_finished(net: Net, way: str) -> None:
    """After its end a stream goes on saying so, by `next` and by its old name, and knows how it ended."""
    net.server()
    call = net.stub(way).ServerStream(Request(message="m", count=2))
    assert [reply.sequence for reply in call] == [0, 1]
    for step in (lambda: next(call), call.next):
        with pytest.raises(StopIteration):
            step()
    assert (call.code(), call.done(), call.running(), call.cancelled()) == (
        grpc.StatusCode.OK,
        True,
        False,
        False,
    )
    assert (call.result(), call.exception(), call.traceback()) == (None, None, None)
    assert not call.cancel()


@any_way
def test_a_failed_stream_stays_failed(net: Net, way: str) -> None:
    """After its failure a stream raises the same error at every step, and from `result`."""
    net.server()
    call = net.stub(way).ServerStream(Request(count=2, fail_code=5, fail_details="gone", fail_after=1))
    assert next(call).sequence == 0
    for step in (lambda: next(call), lambda: next(call), call.result):
        with pytest.raises(grpc.RpcError) as raised:
            step()
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert call.exception().code() is grpc.StatusCode.NOT_FOUND
    assert call.traceback() is not None
    assert call.debug_error_string()


@any_way
def test_a_stream_under_way(net: Net, way: str) -> None:
    """A stream under way is active with time remaining, and whoever asks for its end has to wait."""
    net.server()
    call = net.stub(way).ServerStream(_ENDLESS, timeout=9.0)
    next(call)
    assert (call.is_active(), call.running(), call.done(), call.cancelled()) == (True, True, False, False)
    assert 8.0 < call.time_remaining() <= 9.0
    for ask in (call.result, call.exception, call.traceback):
        with pytest.raises(grpc.FutureTimeoutError):
            ask(timeout=0.01)
    assert call.cancel()
    for ask in (call.result, call.exception, call.traceback):
        with pytest.raises(grpc.FutureCancelledError):
            ask(timeout=1.0)
    assert (call.is_active(), call.running(), call.done(), call.cancelled()) == (False, False, True, True)


@any_way
def test_initial_metadata_before_the_first_message(net: Net, way: str) -> None:
    """Initial metadata can be read while the first message is still to come."""
    net.server()
    call = net.stub(way).ServerStream(_HANG, metadata=(("x-initial-a", "1"),))
    started = time.monotonic()
    assert ("x-initial-a", "1") in [tuple(pair) for pair in call.initial_metadata()]
    assert time.monotonic() - started < 5.0
    assert call.is_active()
    call.cancel()


@any_way
def test_callbacks_of_a_stream(net: Net, way: str) -> None:
    """A stream calls back with itself when it has ended, and at once when it had ended before."""
    net.server()
    told: list[Any] = []
    over = threading.Event()
    call = net.stub(way).ServerStream(Request(count=3))
    call.add_done_callback(told.append)
    assert call.add_callback(over.set)
    assert len(list(call)) == 3
    assert over.wait(5.0)
    assert told == [call]
    call.add_done_callback(told.append)
    assert told == [call, call]
    assert not call.add_callback(over.set)


@any_way
def test_cancelling_calls_back_from_another_thread(net: Net, way: str) -> None:
    """Who cancels a stream under a lock is not called back under it."""
    net.server()
    call = net.stub(way).ServerStream(_ENDLESS)
    told: list[threading.Thread] = []
    call.add_done_callback(lambda _: told.append(threading.current_thread()))
    next(call)
    assert call.cancel()
    eventually(lambda: told)
    assert told != [threading.current_thread()]


@any_way
def test_cancelling_from_another_thread(net: Net, way: str) -> None:
    """A thread that waits for the next message is woken when another cancels the stream."""
    server = net.server()
    call = net.stub(way).ServerStream(_HANG)
    threading.Timer(0.1, call.cancel).start()
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is grpc.StatusCode.CANCELLED
    assert server.last().over.wait(2.0)


@any_way
def test_breaking_out_of_a_loop(net: Net, way: str) -> None:
    """A loop over a stream that is left early ends the RPC as soon as nothing holds the stream."""
    server = net.server()
    stub = net.stub(way)

    def first() -> str:
        for reply in stub.ServerStream(_ENDLESS):
            return str(reply.message)
        raise AssertionError("a stream without messages")

    for _ in range(20):
        assert first() == "m"
    for seen in server.seen:
        assert seen.over.wait(2.0)
        assert seen.cancelled
    if way == "mesh":
        eventually(lambda: net.inflight == 0, 1.0)


@any_way
def test_a_stream_that_is_never_read(net: Net, way: str) -> None:
    """A stream that is begun and dropped is cancelled, too."""
    server = net.server()
    net.stub(way).ServerStream(_HANG)
    eventually(lambda: not server.seen or server.last().over.is_set())
    if way == "mesh":
        eventually(lambda: net.inflight == 0, 1.0)


@any_way
def test_a_conversation(net: Net, way: str) -> None:
    """A bidirectional stream answers each request as it comes, for as long as the caller likes."""
    net.server()
    asked: queue.Queue[Request | None] = queue.Queue()

    def requests() -> Iterator[Request]:
        while (request := asked.get()) is not None:
            yield request

    call = net.stub(way).BidiStream(requests())
    for word in ("a", "b", "c"):
        asked.put(Request(message=word))
        assert next(call).message == word
    asked.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


@any_way
def test_many_streams_at_once(net: Net, way: str) -> None:
    """Streams that are read side by side keep their messages apart."""
    net.server()
    stub = net.stub(way)
    calls = [stub.ServerStream(Request(message=str(number), count=5)) for number in range(8)]
    for _ in range(5):
        assert [next(call).message for call in calls] == [str(number) for number in range(8)]
    assert [list(call) for call in calls] == [[]] * 8


@any_way
def test_a_single_threaded_stream(net: Net, way: str) -> None:
    """The option SingleThreadedUnaryStream works as on grpcio: who asks before the end is told off."""
    server = net.server()
    options = [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
    stub = net.stub(way, options=options)
    call = stub.ServerStream(Request(message="m", count=3))
    assert next(call).sequence == 0
    for ask in (call.code, call.details, call.trailing_metadata, call.result, call.exception):
        with pytest.raises(grpc.experimental.UsageError):
            ask()
    assert [reply.sequence for reply in call] == [1, 2]
    assert (call.code(), call.done()) == (grpc.StatusCode.OK, True)
    call = stub.ServerStream(Request(count=1, fail_code=5, fail_details="gone"))
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    call = stub.ServerStream(_ENDLESS)
    next(call)
    del call
    assert server.last().over.wait(2.0)
