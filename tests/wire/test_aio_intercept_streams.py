"""Reading and writing through interceptors, as on grpcio: each test runs on both, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.wire.interception import (
    Wire,
    both,
    interceptor,
    many_requests,
    many_responses,
    passing,
    refusing,
    soon,
    stuck,
    talk,
)

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Wire]:
    """A server of its own for each test; afterwards no task is left."""
    async with Wire() as wire:
        yield wire


@both
@many_responses
@pytest.mark.parametrize("reading", [False, True])
async def test_an_interceptor_may_answer_with_an_async_iterator(
    wire: Wire, way: str, arity: str, reading: bool
) -> None:
    """An interceptor may answer with an async iterator: its messages, the RPC's status; read or iterated."""

    async def shouting(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)

        async def responses() -> AsyncIterator[bytes]:
            async for response in call:
                yield response.upper()

        return responses()

    over, told = asyncio.Event(), list[Any]()
    call = wire.call(way, arity, [interceptor(arity, shouting)] * 2)
    call.add_done_callback(told.append)
    call.add_done_callback(lambda _: over.set())
    if reading:
        assert [await call.read(), await call.read(), await call.read()] == [b"A", b"B", grpc.aio.EOF]
    else:
        assert await talk(call) == b"AB"
    assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
    assert (await call.initial_metadata())["start"] == "header"
    assert (await call.trailing_metadata())["end"] == "trailer"
    assert await call.debug_error_string() == ""
    await soon(over)
    assert told == [call]
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)


@both
@many_responses
async def test_a_reader_gets_the_refusal(wire: Wire, way: str, arity: str) -> None:
    """`read()` raises what an interceptor raised."""
    call = wire.call(way, arity, [interceptor(arity, refusing)])
    with pytest.raises(grpc.aio.AioRpcError, match="not on a Monday"):
        await call.read()


@both
@many_requests
async def test_what_is_written_passes_all_interceptors(wire: Wire, way: str, arity: str) -> None:
    """Without an iterator the caller writes, however many interceptors look at the requests on their way."""

    async def shouting(continuation: Any, details: Any, requests: Any) -> Any:
        async def louder() -> AsyncIterator[bytes]:
            async for request in requests:
                yield request.upper()

        return await continuation(details, louder())

    call = wire.call(way, arity, [interceptor(arity, passing), interceptor(arity, shouting)], None)
    for request in (b"a", b"b", b"c", b"d"):
        await call.write(request)
    await call.done_writing()
    await call.done_writing()
    assert await talk(call) == b"ABCD"
    with pytest.raises(asyncio.InvalidStateError, match=r"RPC already finished\."):
        await call.write(b"e")


@both
async def test_writing_and_reading_take_turns(wire: Wire, way: str) -> None:
    """Writing and reading may take turns; reading ends in EOF."""
    call = wire.call(way, "stream_stream", [interceptor("stream_stream", passing)], None)
    for request in (b"a", b"b", b"c"):
        await call.write(request)
        assert await call.read() == request
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


@both
@many_requests
async def test_writing_beside_an_iterator_is_an_error(wire: Wire, way: str, arity: str) -> None:
    """Who gave an iterator of requests can't write as well."""
    call = wire.call(way, arity, [interceptor(arity, passing)])
    with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
        await call.write(b"c")
    with pytest.raises(grpc.aio.UsageError, match="may not be mixed"):
        await call.done_writing()
    assert await talk(call) == b"ab"


@both
@many_responses
async def test_reading_and_iterating_draw_from_one_stream(wire: Wire, way: str, arity: str) -> None:
    """On an intercepted call reading and iterating draw from one stream (on a plain one: UsageError)."""
    call = wire.call(way, arity, [interceptor(arity, passing)], b"abc")
    assert await call.read() == b"a"
    assert [response async for response in call] == [b"b", b"c"]
    assert await call.read() is grpc.aio.EOF


@both
@many_requests
async def test_a_refused_call_takes_no_requests(wire: Wire, way: str, arity: str) -> None:
    """What interceptors refused can't be written to: `write` finds it finished, `done_writing` tells why."""
    call = wire.call(way, arity, [interceptor(arity, refusing)], None)
    with pytest.raises(asyncio.InvalidStateError, match=r"RPC already finished\."):
        await call.write(b"a")
    with pytest.raises(grpc.aio.AioRpcError, match="not on a Monday"):
        await call.done_writing()
    assert await call.code() == grpc.StatusCode.PERMISSION_DENIED


@both
@many_requests
async def test_a_cancelled_call_takes_no_requests(wire: Wire, way: str, arity: str) -> None:
    """What was cancelled can't be written to, nor half-closed."""
    call = wire.call(way, arity, [interceptor(arity, stuck)], None)
    call.cancel()
    for attempt in (call.write(b"a"), call.done_writing()):
        with pytest.raises(asyncio.InvalidStateError, match=r"RPC already finished\."):
            await attempt


@both
@many_requests
async def test_a_waiting_writer_is_woken_by_the_end_of_the_rpc(wire: Wire, way: str, arity: str) -> None:
    """A writer that waits for its turn is woken when the server ends the RPC."""

    async def write_on(call: Any) -> None:
        while True:
            await call.write(b"a")

    call = wire.call(way, arity, [interceptor(arity, passing)], None, behaviour="Refuse")
    with pytest.raises(asyncio.InvalidStateError, match=r"RPC already finished\."):
        await asyncio.wait_for(write_on(call), 5.0)
    assert await call.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL}  # as the writing ended


@both
@many_requests
async def test_a_waiting_write_never_claims_to_have_written(wire: Wire, way: str, arity: str) -> None:
    """A write that waits for its turn when the call is cancelled raises; it doesn't return."""
    written: list[bytes] = []

    async def write_on() -> None:
        while True:
            await call.write(bytes(65536))
            written.append(b"64 KiB")

    call = wire.call(way, arity, [interceptor(arity, passing)], None, behaviour="Hang")
    writing = asyncio.create_task(write_on())
    await soon(wire.hanging)
    await asyncio.sleep(0.05)
    before = len(written)
    assert call.cancel()
    with pytest.raises(asyncio.InvalidStateError, match=r"RPC already finished\."):
        await writing
    assert len(written) == before > 0
