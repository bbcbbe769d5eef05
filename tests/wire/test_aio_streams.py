"""Streams on asyncio: iteration, `read` and `write`, and what becomes of streams that are left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from tests.wire.echo import Request, dead_address
from tests.wire.ways import Net, either_way, soon

_ENDLESS = Request(message="m", count=100_000, delay_ms=2)
_HANG = Request(message="m", count=1, delay_ms=20_000)
_WORDS = ["a", "b", "c"]


def _requests() -> Iterator[Request]:
    for word in _WORDS:
        yield Request(message=word)


async def _async_requests() -> AsyncIterator[Request]:
    for request in _requests():
        await asyncio.sleep(0)
        yield request


_KINDS = {
    "iterator": _requests,
    "list": lambda: list(_requests()),
    "async generator": _async_requests,
}


@either_way
@pytest.mark.parametrize("kind", _KINDS)
def test_requests_of_every_kind(net: Net, way: str, kind: str) -> None:
    """Requests may come from an iterator, a list or an async generator."""
    net.server()

    async def scene(stub: Any) -> None:
        assert (await stub.ClientStream(_KINDS[kind]())).message == "a,b,c"
        replies = [reply.message async for reply in stub.BidiStream(_KINDS[kind]())]
        assert replies == _WORDS
        assert (await stub.ClientStream(request_iterator=_KINDS[kind](), timeout=9.0)).message == "a,b,c"

    net.run(way, scene)


@either_way
def test_writing_and_reading(net: Net, way: str) -> None:
    """`write` and `read` take turns for as long as the caller likes; `done_writing` ends it, as often as called."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.BidiStream()
        for word in _WORDS:
            await call.write(Request(message=word))
            assert (await call.read()).message == word
        await call.done_writing()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        call = stub.ClientStream()
        for word in _WORDS:
            await call.write(Request(message=word))
        await call.done_writing()
        assert (await call).message == "a,b,c"

    net.run(way, scene)


@either_way
def test_writing_too_late(net: Net, way: str) -> None:
    """After `done_writing`, and after the call's end, `write` raises InvalidStateError."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.BidiStream()
        await call.write(Request(message="a"))
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(Request(message="b"))
        assert [reply.message async for reply in call] == ["a"]
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(Request(message="c"))
        call = stub.ClientStream()
        call.cancel()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(Request(message="d"))
        await call.done_writing()

    net.run(way, scene)


@either_way
def test_styles_are_not_mixed(net: Net, way: str) -> None:
    """Iterating and reading, or an iterator and `write`, on one call: UsageError, and the call goes on."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.ServerStream(Request(count=3))
        await call.read()
        with pytest.raises(grpc.aio.UsageError):
            aiter(call)
        await call.read()
        call = stub.ServerStream(Request(count=3))
        await aiter(call).__anext__()
        with pytest.raises(grpc.aio.UsageError):
            await call.read()
        assert len([reply async for reply in call]) == 2
        for call in (stub.BidiStream(_requests()), stub.ClientStream(_requests())):
            with pytest.raises(grpc.aio.UsageError):
                await call.write(Request())
            with pytest.raises(grpc.aio.UsageError):
                await call.done_writing()
            call.cancel()

    net.run(way, scene)


@either_way
def test_the_end_of_an_iteration(net: Net, way: str) -> None:
    """A stream that was read to its end gives nothing more, and says how it ended."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.ServerStream(Request(count=2))
        assert len([reply async for reply in call]) == 2
        assert [reply async for reply in call] == []
        assert (await call.code(), call.done(), call.cancelled()) == (grpc.StatusCode.OK, True, False)
        call = stub.ServerStream(Request(count=2, fail_code=5, fail_details="gone", fail_after=1))
        seen = []
        with pytest.raises(grpc.aio.AioRpcError) as raised:  # noqa: PT012 - it is raised where the loop goes on
            async for reply in call:
                seen.append(reply.sequence)  # noqa: PERF401 - kept when the error follows
        assert (seen, raised.value.details()) == ([0], "gone")
        assert [reply async for reply in call] == []
        assert await call.code() is grpc.StatusCode.NOT_FOUND

    net.run(way, scene)


@either_way
def test_reading_past_a_failure(net: Net, way: str) -> None:
    """`read` raises how the stream failed, again and again."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.ServerStream(Request(count=2, fail_code=5, fail_details="gone", fail_after=1))
        assert (await call.read()).sequence == 0
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call.read()
            assert raised.value.details() == "gone"

    net.run(way, scene)


@either_way
def test_a_reader_that_is_cancelled_cancels_the_stream(net: Net, way: str) -> None:
    """A task that waits for the next message and is cancelled takes the RPC with it, in either style."""
    server = net.server()

    async def scene(stub: Any) -> None:
        for style in ("read", "__anext__"):
            call = stub.ServerStream(_HANG)
            reader = aiter(call) if style == "__anext__" else call
            task = asyncio.ensure_future(getattr(reader, style)())
            await soon(lambda: server.seen and not server.last().over.is_set())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (call.cancelled(), await call.code()) == (True, grpc.StatusCode.CANCELLED)
            await soon(server.last().over.is_set)

    net.run(way, scene)


@either_way
def test_a_writer_that_is_cancelled_cancels_the_stream(net: Net, way: str) -> None:
    """A task that waits until its request is sent and is cancelled takes the RPC with it."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.BidiStream()
        big = Request(payload=b"x" * 200_000, delay_ms=20_000)

        async def flood() -> None:
            while True:
                await call.write(big)

        task = asyncio.ensure_future(flood())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await call.code() is grpc.StatusCode.CANCELLED

    net.run(way, scene)


@either_way
@pytest.mark.parametrize("patient", [False, True], ids=["", "wait_for_ready"])
def test_a_writer_is_told_how_the_call_ends(net: Net, way: str, patient: bool) -> None:
    """Who is writing, or waiting for a connection, when the call ends for want of one is raised what it ended with."""
    net.endpoints(dead_address())
    code = grpc.StatusCode.DEADLINE_EXCEEDED if patient else grpc.StatusCode.UNAVAILABLE

    async def scene(stub: Any) -> None:
        for begin in (stub.BidiStream, stub.ClientStream):
            for waits in ("write", "wait_for_connection"):
                call = begin(timeout=0.5, wait_for_ready=patient)
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await (call.write(Request()) if waits == "write" else call.wait_for_connection())
                assert raised.value.code() is await call.code() is code

    net.run(way, scene)


def test_a_cancelled_call_keeps_nobody_waiting(net: Net) -> None:
    """Where a call is cancelled before its initial metadata is sent, those who write to grpcio's own wait for ever."""
    net.server()

    async def scene(stub: Any) -> None:
        for turns in range(12):
            call = stub.BidiStream()
            waiting = [asyncio.ensure_future(each) for each in (call.write(_HANG), call.wait_for_connection())]
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            _, left = await asyncio.wait(waiting, timeout=5.0)
            assert not left
            await asyncio.gather(*waiting, return_exceptions=True)
            assert await call.code() is grpc.StatusCode.CANCELLED

    net.run("mesh", scene)


@either_way
def test_requests_that_fail(net: Net, way: str) -> None:
    """An exception in the caller's request iterator cancels the call."""
    net.server()

    async def requests() -> AsyncIterator[Request]:
        yield Request(message="m")
        raise ValueError("no more")

    async def scene(stub: Any) -> None:
        call = stub.ClientStream(requests())
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED
        call = stub.BidiStream(requests())
        with pytest.raises(asyncio.CancelledError):
            _ = [reply async for reply in call]

    net.run(way, scene)


@either_way
def test_initial_metadata_before_the_first_message(net: Net, way: str) -> None:
    """Initial metadata can be read while the first message is still to come."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.ServerStream(_HANG, metadata=(("x-initial-a", "1"),))
        metadata = await asyncio.wait_for(call.initial_metadata(), 5.0)
        assert metadata["x-initial-a"] == "1"
        assert not call.done()
        call.cancel()

    net.run(way, scene)


@either_way
def test_callbacks_of_a_stream(net: Net, way: str) -> None:
    """A stream calls back with itself when it has ended: read to its end, failed, cancelled, or not read at all."""
    net.server()

    async def scene(stub: Any) -> None:
        for request in (Request(count=2), Request(count=2, fail_code=5), _ENDLESS, Request()):
            told: list[Any] = []
            call = stub.ServerStream(request)
            call.add_done_callback(told.append)
            if request is _ENDLESS:
                await call.read()
                call.cancel()
            elif request.count:
                try:
                    _ = [reply async for reply in call]
                except grpc.aio.AioRpcError:
                    pass
            await soon(lambda told=told: told)
            assert told == [call]
            call.add_done_callback(told.append)
            assert told == [call, call]

    net.run(way, scene)


def test_breaking_out_of_a_loop(net: Net) -> None:
    """A loop over a stream that is left early ends the RPC as soon as nothing holds the stream."""
    server = net.server()

    async def scene(stub: Any) -> None:
        async def first() -> str:
            async for reply in stub.ServerStream(_ENDLESS):
                return str(reply.message)
            raise AssertionError("a stream without messages")

        async def read_one() -> str:
            return str((await stub.ServerStream(_ENDLESS).read()).message)

        for _ in range(10):
            assert await first() == "m"
            assert await read_one() == "m"
            assert net.inflight == 0
        stub.ServerStream(_HANG)
        assert net.inflight == 0
        for seen in list(server.seen):
            await soon(seen.over.is_set)
            assert seen.cancelled

    net.run("mesh", scene)
