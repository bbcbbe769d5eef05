"""Where interceptors differ from grpcio's on purpose. Each test says what grpcio 1.85 does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from proxyless.channel import aio_intercept
from proxyless.channel.aio_intercepted_calls import LocalStatus
from tests.wire.interception import (
    Wire,
    both,
    each_arity,
    interceptor,
    many_requests,
    many_responses,
    one_response,
    passing,
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
@each_arity
async def test_time_remaining_is_the_rpcs(wire: Wire, way: str, arity: str) -> None:
    """`time_remaining` is None until the interceptors are through, then the RPC's; grpcio has none."""
    call = wire.call(way, arity, [interceptor(arity, passing)], behaviour="Hang", timeout=60.0)
    endless = wire.call(way, arity, [interceptor(arity, passing)], behaviour="Hang")
    if way == "grpcio":
        with pytest.raises(NotImplementedError):
            call.time_remaining()
    else:
        assert call.time_remaining() is None
        await soon(wire.hanging)
        assert 50.0 < call.time_remaining() <= 60.0
        assert endless.time_remaining() is None
    for each in (call, endless):
        each.cancel()
        await each.code()


@both
@each_arity
async def test_giving_up_asking_leaves_the_call_alone(wire: Wire, way: str, arity: str) -> None:
    """Who gives up waiting for the status is all that is cancelled; grpcio cancels the call instead."""
    go = asyncio.Event()

    async def pausing(continuation: Any, details: Any, request: Any) -> Any:
        await go.wait()
        return await continuation(details, request)

    call = wire.call(way, arity, [interceptor(arity, pausing)])
    asking = asyncio.create_task(call.code())
    await asyncio.sleep(0.01)
    asking.cancel()
    if way == "grpcio":
        assert await asking == grpc.StatusCode.CANCELLED
        assert call.cancelled()
    else:
        with pytest.raises(asyncio.CancelledError):
            await asking
        go.set()
        assert (await talk(call), await call.code()) == (b"ab", grpc.StatusCode.OK)


@both
@each_arity
async def test_metadata_of_a_cancelled_call_is_empty(wire: Wire, way: str, arity: str) -> None:
    """A cancelled call has empty Metadata, as the public class promises; on grpcio it has None."""
    call = wire.call(way, arity, [interceptor(arity, stuck)])
    call.cancel()
    expected = None if way == "grpcio" else grpc.aio.Metadata()
    assert await call.initial_metadata() == expected
    assert await call.trailing_metadata() == expected


async def test_a_bare_response_answers_stream_unary_as_well(wire: Wire) -> None:
    """A bare response answers stream-unary as it does unary-unary; grpcio takes it for a call and breaks."""

    async def looking(continuation: Any, details: Any, requests: Any) -> Any:
        call = await continuation(details, requests)
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"too late")
        await call.done_writing()
        call.add_done_callback(told.append)
        return call

    async def answering(continuation: Any, details: Any, requests: Any) -> bytes:
        return b"from the cache"

    told: list[Any] = []
    interceptors = [interceptor("stream_unary", body) for body in (looking, answering)]
    call = wire.call("ours", "stream_unary", interceptors)
    assert (await call, await call.code(), call.done()) == (b"from the cache", grpc.StatusCode.OK, True)
    assert await call.initial_metadata() == await call.trailing_metadata() == grpc.aio.Metadata()
    assert call.time_remaining() is None
    assert (len(told), wire.tried) == (1, [])


@many_responses
async def test_an_iterator_needs_no_rpc(wire: Wire, arity: str) -> None:
    """An iterator that answers by itself is a call that is done and OK; grpcio has AttributeErrors for it."""

    async def answering(continuation: Any, details: Any, request: Any) -> AsyncIterator[bytes]:
        async def cached() -> AsyncIterator[bytes]:
            yield b"from "
            yield b"the cache"

        return cached()

    over = asyncio.Event()
    call = wire.call("ours", arity, [interceptor(arity, passing), interceptor(arity, answering)])
    call.add_done_callback(lambda _: over.set())
    assert await talk(call) == b"from the cache"
    await soon(over)
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
    assert wire.tried == []


@many_responses
async def test_an_interceptor_may_read_from_the_iterator_below(wire: Wire, arity: str) -> None:
    """A replaced stream can be read and asked like any other call; grpcio's can only be iterated."""
    seen: list[Any] = []

    async def peeking(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await call.wait_for_connection()
        seen.extend([await call.read(), call.time_remaining() > 50.0])
        with pytest.raises(grpc.aio.UsageError):
            await call.write(b"c")
        return call

    async def iterating(continuation: Any, details: Any, request: Any) -> AsyncIterator[bytes]:
        call = await continuation(details, request)
        return (response async for response in call)

    interceptors = [interceptor(arity, body) for body in (peeking, iterating)]
    assert await talk(wire.call("ours", arity, interceptors, timeout=60.0)) == b"b"
    assert seen == [b"a", True]


async def test_an_iterator_may_send_late_and_again(wire: Wire) -> None:
    """The status of a replaced stream is that of the RPC sent last; grpcio knows none that is sent late."""

    async def resuming(continuation: Any, details: Any, request: Any) -> AsyncIterator[bytes]:
        async def responses() -> AsyncIterator[bytes]:
            for method in (b"/wire.Fail/unary_stream", details.method):
                call = await continuation(details._replace(method=method), request)
                if await call.initial_metadata():
                    async for response in call:
                        yield response

        return responses()

    call = wire.call("ours", "unary_stream", [interceptor("unary_stream", body) for body in (passing, resuming)])
    assert await talk(call) == b"ab"
    assert [method for method, _ in wire.tried] == ["/wire.Fail/unary_stream", "/wire.Echo/unary_stream"]
    assert (await call.code(), (await call.initial_metadata())["start"]) == (grpc.StatusCode.OK, "header")


@many_responses
async def test_a_forgotten_return_is_named(wire: Wire, arity: str) -> None:
    """An interceptor that returns nothing for a stream is told so; grpcio knows of an attribute of None."""

    async def forgetting(continuation: Any, details: Any, request: Any) -> None:
        await continuation(details, request)

    call = wire.call("ours", arity, [interceptor(arity, forgetting)])
    with pytest.raises(TypeError, match=r"Interceptor object .* NoneType: return what"):
        await talk(call)


@many_requests
async def test_an_interceptor_may_await_the_outcome_of_what_is_written(wire: Wire, arity: str) -> None:
    """Requests flow once the RPC asks for them; on grpcio such an interceptor waits forever (grpc#34530)."""

    async def telling(continuation: Any, details: Any, requests: Any) -> Any:
        call = await continuation(details, requests)
        if arity == "stream_unary":
            assert await call == b"abc"
        else:
            await call.initial_metadata()
        return call

    call = wire.call("ours", arity, [interceptor(arity, telling)], None)
    for request in (b"a", b"b", b"c"):
        await asyncio.wait_for(call.write(request), 5.0)
    await call.done_writing()
    assert await talk(call) == b"abc"


@many_requests
async def test_half_closed_is_closed(wire: Wire, arity: str) -> None:
    """After `done_writing` a write always raises; grpcio loses it when the RPC has not seen the end yet."""
    call = wire.call("ours", arity, [interceptor(arity, passing)], None, behaviour="Drip")
    await call.write(b"a")
    for _ in range(4):
        await asyncio.wait_for(call.done_writing(), 5.0)
    with pytest.raises(asyncio.InvalidStateError, match="half closed"):
        await call.write(b"b")
    call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED


@many_requests
async def test_requests_end_with_the_rpc(wire: Wire, arity: str) -> None:
    """Who reads what is written is told of the RPC's end; on grpcio that task waits for ever."""
    ended = asyncio.Event()

    async def watching(continuation: Any, details: Any, requests: Any) -> Any:
        async def watched() -> AsyncIterator[bytes]:
            async for request in requests:
                yield request
            ended.set()

        return await continuation(details, watched())

    call = wire.call("ours", arity, [interceptor(arity, watching)], None, behaviour="Refuse")
    assert await call.code() == grpc.StatusCode.NOT_FOUND
    await soon(ended)


@many_requests
@pytest.mark.parametrize("body", [passing, stuck])
async def test_a_cancelled_writer_cancels_the_call(wire: Wire, arity: str, body: Any) -> None:
    """A cancelled write cancels the call, as on a plain one; grpcio swallows it or lets the call run."""

    async def write_on() -> None:
        while True:
            await call.write(bytes(65536))

    call = wire.call("ours", arity, [interceptor(arity, body)], None, behaviour="Hang")
    writing = asyncio.create_task(write_on())
    if body is passing:
        await soon(wire.hanging)
    await asyncio.sleep(0.05)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await call.code() == grpc.StatusCode.CANCELLED
    if body is passing:
        await soon(wire.cancelled)


@each_arity
@pytest.mark.parametrize("end", ["cancelled", "broken"])
async def test_an_rpc_that_interceptors_began_ends_with_them(wire: Wire, arity: str, end: str) -> None:
    """Interceptors that end without a call leave no RPC behind; grpcio leaves it to the garbage collector."""

    async def holding(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await wire.hanging.wait()
        if end == "broken":
            raise LookupError("no token")
        await asyncio.Event().wait()
        return call

    call = wire.call("ours", arity, [interceptor(arity, holding)], behaviour="Hang")
    await soon(wire.hanging)
    await asyncio.sleep(0.01)
    assert call.cancel() is (end == "cancelled")
    await soon(wire.cancelled)
    with pytest.raises(asyncio.CancelledError if end == "cancelled" else LookupError):
        await talk(call)


@many_responses
async def test_a_dropped_stream_drops_its_rpc(arity: str) -> None:
    """Nothing of ours holds the RPC of a stream that nobody reads; grpcio's channel does since 1.83."""
    dropped: list[str] = []

    class Endless(LocalStatus, grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
        def done(self) -> bool:
            return False

        def add_done_callback(self, callback: Any) -> None:
            self.callback = callback

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b"a"

        async def read(self) -> bytes:
            return b"a"

        async def write(self, request: Any) -> None: ...

        async def done_writing(self) -> None: ...

        def __del__(self) -> None:
            dropped.append("the RPC")

    def invoke(method: str, request: Any, **options: Any) -> grpc.aio.Call:
        return Endless(grpc.StatusCode.OK)

    begin: Any = getattr(aio_intercept, arity)
    call = begin([interceptor(arity, passing)], invoke, "/wire.Drip", None, None, None, None, None)
    async for response in call:
        assert response == b"a"
        break
    assert dropped == []
    del call
    await asyncio.sleep(0.01)  # asyncio closes the generator that was left half-way
    assert dropped == ["the RPC"]


@one_response
async def test_an_answer_that_refuses_callbacks(wire: Wire, arity: str) -> None:
    """A finished call that refuses callbacks, as grpcio's own do (grpc#40998), isn't asked for any."""

    class Shy(aio_intercept.LocalResponse):
        def add_done_callback(self, callback: Any) -> None:
            raise NotImplementedError

    async def answering(continuation: Any, details: Any, request: Any) -> Any:
        return Shy(b"from the cache")

    over = asyncio.Event()
    call = wire.call("ours", arity, [interceptor(arity, answering)])
    call.add_done_callback(lambda _: over.set())
    assert await call == b"from the cache"
    await soon(over)
