"""Calls with one response on asyncio: what `await` sees, and everything else a call can be asked."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest

from tests.wire.echo import Request
from tests.wire.ways import Net, either_way, soon

_HANG = Request(message="m", delay_ms=20_000)
_SOON = Request(message="m", delay_ms=100)
_GONE = Request(fail_code=5, fail_details="gone")


@either_way
def test_a_call_can_be_asked_in_any_order(net: Net, way: str) -> None:
    """Code, details and metadata can be asked before the response is awaited, after it, and again."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.Unary(_SOON, metadata=(("x-initial-a", "1"), ("x-trailing-a", "2")))
        assert not call.done()
        assert (await call.initial_metadata())["x-initial-a"] == "1"
        assert await call.code() is grpc.StatusCode.OK
        assert (await call).message == "m"
        assert (await call).message == "m"
        assert (await call.trailing_metadata())["x-trailing-a"] == "2"
        assert await call.details() == ""
        assert isinstance(await call.trailing_metadata(), grpc.aio.Metadata)
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)

    net.run(way, scene)


@either_way
def test_a_failure_can_be_asked_in_any_order(net: Net, way: str) -> None:
    """A failed call says so whether it is awaited or asked, as often as one likes."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.Unary(_GONE, metadata=(("x-trailing-a", "2"),))
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
            assert raised.value.trailing_metadata()["x-trailing-a"] == "2"
        assert await call.details() == "gone"
        assert await call.debug_error_string()
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)

    net.run(way, scene)


@either_way
def test_a_call_begins_when_it_is_made(net: Net, way: str) -> None:
    """A call is under way before anybody awaits it, and is done without being awaited."""
    server = net.server()

    async def scene(stub: Any) -> None:
        call = stub.Unary(_SOON)
        await soon(lambda: server.seen)
        await soon(call.done)
        await soon(server.last().over.is_set)

    net.run(way, scene)


@either_way
def test_several_await_one_call(net: Net, way: str) -> None:
    """Several tasks may await one call, and ask it at the same time."""
    net.server()

    async def scene(stub: Any) -> None:
        async def response(call: Any) -> Any:
            return await call

        call = stub.Unary(_SOON)
        answers = await asyncio.gather(response(call), call.code(), response(call), call.details())
        assert [answers[0].message, answers[2].message] == ["m", "m"]
        assert answers[1] is grpc.StatusCode.OK
        call = stub.Unary(_GONE)
        failures = await asyncio.gather(response(call), response(call), call.code(), return_exceptions=True)
        assert [failure.code() for failure in failures[:2]] == [grpc.StatusCode.NOT_FOUND] * 2
        assert failures[2] is grpc.StatusCode.NOT_FOUND

    net.run(way, scene)


@either_way
def test_who_awaits_and_is_cancelled_cancels_the_call(net: Net, way: str) -> None:
    """A task that awaits the response and is cancelled takes its RPC with it, at the server too."""
    server = net.server()

    async def scene(stub: Any) -> None:
        for begin in (lambda: stub.Unary(_HANG), lambda: stub.ClientStream(iter([_HANG]))):
            call = begin()

            async def response(call: Any = call) -> Any:
                return await call

            task = asyncio.ensure_future(response())
            await soon(lambda: server.seen and not server.last().over.is_set())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED
            await soon(server.last().over.is_set)
            assert server.last().cancelled
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stub.Unary(_HANG), 0.1)
        await soon(server.last().over.is_set)

    net.run(way, scene)


@either_way
def test_who_only_asks_and_is_cancelled_does_not(net: Net, way: str) -> None:
    """A task that only asks for the code or the metadata leaves the RPC alone when it is cancelled."""
    server = net.server()

    async def scene(stub: Any) -> None:
        call = stub.Unary(Request(message="m", delay_ms=300))
        for ask in (call.code, call.details, call.trailing_metadata, call.initial_metadata):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ask(), 0.02)
        assert not call.done()
        assert (await call).message == "m"
        assert not server.last().cancelled

    net.run(way, scene)


def test_the_question_is_cancelled_as_the_call_ends(net: Net) -> None:
    """Whoever asks and is cancelled in the very moment that the call ends does not leave it unfinished."""
    net.server()

    async def scene(stub: Any) -> None:
        for _ in range(30):
            call = stub.Unary(Request(message="m"))
            task = asyncio.ensure_future(call.code())
            while not call._native.done():
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            await soon(call.done)
            assert net.inflight == 0

    net.run("mesh", scene)


@either_way
def test_cancelling_at_once(net: Net, way: str) -> None:
    """A call may be cancelled before its request has left, with all that `cancelled` means."""
    net.server()

    async def scene(stub: Any) -> None:
        for call in (stub.Unary(_HANG), stub.ClientStream(iter([_HANG])), stub.ClientStream()):
            assert (call.done(), call.cancelled()) == (False, False)
            assert call.cancel()
            assert (call.done(), call.cancelled(), call.cancel()) == (True, True, False)
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await call.code() is grpc.StatusCode.CANCELLED
            assert await call.details() == "Locally cancelled by application!"
            assert list(await call.initial_metadata()) == []
            assert list(await call.trailing_metadata()) == []

    net.run(way, scene)


@either_way
def test_callbacks_are_called_once_with_the_call(net: Net, way: str) -> None:
    """Callbacks are called with the call when it is done: after success, failure and cancellation, or at once."""
    net.server()

    async def scene(stub: Any) -> None:
        for request, cancel in ((_SOON, False), (_GONE, False), (_HANG, True)):
            told: list[Any] = []
            call = stub.Unary(request)
            call.add_done_callback(told.append)
            call.add_done_callback(told.append)
            assert told == []
            if cancel:
                call.cancel()
            await soon(lambda told=told: len(told) == 2)
            assert told == [call, call]
            assert call.done()
            call.add_done_callback(told.append)
            assert told == [call, call, call]

    net.run(way, scene)


def test_a_callback_that_fails(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    """It takes no other with it, and the call ends as it would have: grpcio would raise it to whoever awaits."""
    net.server()

    def fail(_call: Any) -> None:
        raise KeyError("the callback's own mistake")

    async def scene(stub: Any) -> None:
        codes = grpc.StatusCode
        for request, cancel, code in ((_SOON, False, codes.OK), (_GONE, False, codes.NOT_FOUND), (_HANG, True, None)):
            told: list[Any] = []
            call = stub.Unary(request)
            call.add_done_callback(fail)
            call.add_done_callback(told.append)
            if cancel:
                assert call.cancel()
            ended = await asyncio.gather(call, return_exceptions=True)
            assert "callback" not in repr(ended)
            assert await call.code() is (code or codes.CANCELLED)
            assert told == [call]
        stream = stub.ServerStream(Request(count=2))
        stream.add_done_callback(fail)
        assert len([reply async for reply in stream]) == 2
        assert await stream.code() is codes.OK

    net.run("mesh", scene)
    assert [record.getMessage() for record in caplog.records] == ["a callback of a finished call failed"] * 4


@either_way
def test_time_remaining(net: Net, way: str) -> None:
    """A call knows how long it may still take, or that nobody has said."""
    net.server()

    async def scene(stub: Any) -> None:
        call = stub.Unary(_SOON, timeout=9.0)
        assert 8.0 < call.time_remaining() <= 9.0
        await call
        assert stub.Unary(Request()).time_remaining() is None

    net.run(way, scene)


@either_way
def test_waiting_for_the_connection(net: Net, way: str) -> None:
    """`wait_for_connection` returns when there is one, and raises how the call ended where there is none."""
    net.server()

    async def scene(stub: Any) -> None:
        for call in (
            stub.Unary(Request()),
            stub.ServerStream(Request()),
            stub.ClientStream(),
            stub.BidiStream(),
        ):
            await call.wait_for_connection()
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Unary(_GONE).wait_for_connection()
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND

    net.run(way, scene)


@either_way
@pytest.mark.parametrize(
    "metadata",
    [(("x-user", "ann"),), [("x-user", "ann")], grpc.aio.Metadata(("x-user", "ann"))],
    ids=["tuple", "list", "Metadata"],
)
def test_metadata_of_every_kind(net: Net, way: str, metadata: Any) -> None:
    """Metadata may be a tuple, a list or grpcio's class."""
    server = net.server()

    async def scene(stub: Any) -> None:
        await stub.Unary(Request(), metadata=metadata)
        _ = [reply async for reply in stub.ServerStream(Request(count=1), metadata=metadata)]

    net.run(way, scene)
    assert all(("x-user", "ann") in seen.metadata for seen in server.seen)


@either_way
def test_a_response_that_can_not_be_read(net: Net, way: str) -> None:
    """A response that can't be deserialized comes as grpcio's asyncio hands it over, and nothing stays engaged."""
    net.server()

    def wrong(_: bytes) -> Any:
        raise ValueError("not what was expected")

    async def scene(stub: Any) -> Any:
        async with net.aio_channel(way) as channel:
            call = channel.unary_unary("/echo.Echo/Unary", Request.SerializeToString, wrong)(Request())
            try:
                return await call
            except Exception as error:
                return type(error)

    assert net.run(way, scene) == net.run("grpcio", scene)


@either_way
def test_a_request_that_can_not_be_serialized(net: Net, way: str) -> None:
    """A request that can't be serialized fails as on grpcio's asyncio, and nothing stays engaged."""
    net.server()

    def wrong(_: Any) -> bytes:
        raise ValueError("not what was expected")

    async def scene(stub: Any) -> Any:
        async with net.aio_channel(way) as channel:
            call = channel.unary_unary("/echo.Echo/Unary", wrong)(Request())
            try:
                return await call
            except BaseException as error:
                return type(error)

    assert net.run(way, scene) == net.run("grpcio", scene)


@either_way
def test_a_thousand_calls_at_once(net: Net, way: str) -> None:
    """A thousand calls are answered side by side, each with its own answer."""
    net.server()

    async def scene(stub: Any) -> None:
        started = time.monotonic()
        calls = [stub.Unary(Request(message=str(number))) for number in range(1000)]
        assert [(await call).message for call in calls] == [str(number) for number in range(1000)]
        assert time.monotonic() - started < 20.0

    net.run(way, scene)
