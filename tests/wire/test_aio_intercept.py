"""Interceptors on our asyncio channel behave as on grpcio's: each test here runs on both, over a real server.

Beside it: `test_aio_intercept_cancel.py`, `test_aio_intercept_streams.py`, and what we do differently on
purpose in `test_aio_intercept_differences.py`.
"""

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
    each_arity,
    interceptor,
    one_response,
    passing,
    refusing,
    soon,
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
async def test_interceptors_run_in_list_order(wire: Wire, way: str, arity: str) -> None:
    """Interceptors run in list order on the way out and in the reverse order on the way back."""
    order: list[str] = []

    def named(name: str) -> Any:
        async def body(continuation: Any, details: Any, request: Any) -> Any:
            order.append(f"{name} out")
            call = await continuation(details, request)
            order.append(f"{name} back")
            return call

        return interceptor(arity, body)

    assert await talk(wire.call(way, arity, [named("first"), named("second")])) == b"ab"
    assert order == ["first out", "second out", "second back", "first back"]


@both
@each_arity
@pytest.mark.parametrize("metadata", [None, [("x-user", "ann")], grpc.aio.Metadata(("x-user", "ann"))])
async def test_interceptors_see_what_the_call_was_made_with(wire: Wire, way: str, arity: str, metadata: Any) -> None:
    """Interceptors are told the method in bytes, metadata in grpcio's class, and the rest as it was given."""
    seen: list[Any] = []

    async def looking(continuation: Any, details: Any, request: Any) -> Any:
        seen.append(details)
        return await continuation(details, request)

    call = wire.call(way, arity, [interceptor(arity, looking)], timeout=9.0, metadata=metadata, wait_for_ready=True)
    assert await talk(call) == b"ab"
    (details,) = seen
    assert (details.method, details.timeout) == (f"/wire.Echo/{arity}".encode(), 9.0)
    assert (details.credentials, details.wait_for_ready) == (None, True)
    assert isinstance(details.metadata, grpc.aio.Metadata)
    assert isinstance(details, grpc.aio.ClientCallDetails)
    assert list(details.metadata) == ([("x-user", "ann")] if metadata else [])
    assert wire.tried[0][1].get("x-user") == ("ann" if metadata else None)


@both
@each_arity
async def test_changed_details_are_what_is_sent(wire: Wire, way: str, arity: str) -> None:
    """What an interceptor changes in the details is what is sent."""

    async def rerouting(continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("x-user", "bob")
        method = details.method.replace(b"Fail", b"Echo")
        return await continuation(details._replace(method=method, timeout=9.0), request)

    assert await talk(wire.call(way, arity, [interceptor(arity, rerouting)], behaviour="Fail")) == b"ab"
    ((method, metadata),) = wire.tried
    assert (method, metadata["x-user"]) == (f"/wire.Echo/{arity}", "bob")


@both
@each_arity
async def test_a_list_that_changes_leaves_the_running_call_alone(wire: Wire, way: str, arity: str) -> None:
    """A list of interceptors that changes while a call is under way changes only later calls."""
    interceptors: list[Any] = []

    async def emptying(continuation: Any, details: Any, request: Any) -> Any:
        interceptors.clear()
        return await continuation(details, request)

    async def marking(continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("x-marked", "yes")
        return await continuation(details, request)

    interceptors += [interceptor(arity, emptying), interceptor(arity, marking)]
    assert await talk(wire.call(way, arity, interceptors)) == b"ab"
    assert wire.tried[0][1]["x-marked"] == "yes"


@both
@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
async def test_an_interceptor_may_go_on_again(wire: Wire, way: str, arity: str) -> None:
    """An interceptor may go on as often as it likes, through those below it each time."""
    passed: list[bytes] = []

    async def retrying(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        while await call.code() == grpc.StatusCode.UNAVAILABLE:
            call = await continuation(details, request)
            if len(passed) == 3:
                break
        return call

    async def counting(continuation: Any, details: Any, request: Any) -> Any:
        passed.append(details.method)
        return await continuation(details, request)

    interceptors = [interceptor(arity, retrying), interceptor(arity, counting)]
    assert await talk(wire.call(way, arity, interceptors, behaviour="Flaky")) == b"ab"
    assert len(passed) == len(wire.tried) == 3


@both
async def test_an_interceptor_may_answer_with_a_bare_response(wire: Wire, way: str) -> None:
    """An interceptor may answer with a bare response: those above it and the caller see a finished call."""
    seen: list[Any] = []

    async def looking(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        seen.extend([call.done(), call.cancel(), call.cancelled(), await call.code(), await call])
        return call

    async def answering(continuation: Any, details: Any, request: Any) -> bytes:
        return b"from the cache"

    interceptors = [interceptor("unary_unary", body) for body in (looking, answering)]
    call = wire.call(way, "unary_unary", interceptors)
    assert await call == b"from the cache"
    assert await call == b"from the cache"
    assert seen == [True, False, False, grpc.StatusCode.OK, b"from the cache"]
    assert (call.done(), await call.code(), await call.details()) == (True, grpc.StatusCode.OK, "")
    assert (await call.debug_error_string() or "", call.cancel()) == ("", False)
    await call.wait_for_connection()
    assert wire.tried == []


@both
@each_arity
async def test_status_and_metadata_are_the_servers(wire: Wire, way: str, arity: str) -> None:
    """A call that passes has the server's metadata and status."""
    call = wire.call(way, arity, [interceptor(arity, passing)])
    assert (await call.initial_metadata())["start"] == "header"
    await call.wait_for_connection()
    assert await talk(call) == b"ab"
    assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
    assert (await call.trailing_metadata())["end"] == "trailer"
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)


@both
@each_arity
async def test_an_error_of_the_server_reaches_the_caller(wire: Wire, way: str, arity: str) -> None:
    """The server's error is raised to whoever reads, and told to whoever asks."""
    call = wire.call(way, arity, [interceptor(arity, passing)], behaviour="Fail")
    with pytest.raises(grpc.aio.AioRpcError, match="no such thing") as raised:
        await talk(call)
    assert raised.value.code() == await call.code() == grpc.StatusCode.NOT_FOUND
    assert await call.details() == "no such thing"
    assert (await call.trailing_metadata())["end"] == "trailer"
    assert "no such thing" in await call.debug_error_string()


@both
@each_arity
async def test_a_refusal_is_the_outcome_of_the_call(wire: Wire, way: str, arity: str) -> None:
    """An AioRpcError from an interceptor is the outcome of the call, whoever asks and however."""
    call = wire.call(way, arity, [interceptor(arity, passing), interceptor(arity, refusing)])
    with pytest.raises(grpc.aio.AioRpcError, match="not on a Monday"):
        await talk(call)
    with pytest.raises(grpc.aio.AioRpcError, match="not on a Monday"):
        await call.wait_for_connection()
    assert (await call.code(), await call.details()) == (grpc.StatusCode.PERMISSION_DENIED, "not on a Monday")
    assert await call.debug_error_string() == "calendar"
    assert (await call.initial_metadata())["start"] == "mine"
    assert (await call.trailing_metadata())["end"] == "mine"
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    assert wire.tried == []


@both
@each_arity
async def test_any_other_exception_is_raised_as_it_is(wire: Wire, way: str, arity: str) -> None:
    """Any other exception of an interceptor is raised as it is, by the response and by every question."""

    async def broken(continuation: Any, details: Any, request: Any) -> Any:
        raise LookupError("no token")

    call = wire.call(way, arity, [interceptor(arity, broken)])
    with pytest.raises(LookupError, match="no token"):
        await talk(call)
    for question in (
        call.code,
        call.details,
        call.initial_metadata,
        call.trailing_metadata,
        call.wait_for_connection,
    ):
        with pytest.raises(LookupError, match="no token"):
            await question()
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)


@both
@each_arity
@pytest.mark.parametrize("body", [passing, refusing])
async def test_done_callbacks_get_the_callers_call_once(wire: Wire, way: str, arity: str, body: Any) -> None:
    """Done callbacks get the caller's own call, once: added before it ends or after, however it ends."""
    over, told = asyncio.Event(), list[Any]()
    call = wire.call(way, arity, [interceptor(arity, body)])
    call.add_done_callback(told.append)
    call.add_done_callback(lambda _: over.set())
    assert told == []
    try:
        await talk(call)
    except grpc.aio.AioRpcError:
        assert body is refusing
    await soon(over)
    assert told == [call]
    call.add_done_callback(told.append)
    assert told == [call, call]


@both
async def test_a_callback_added_while_the_rpc_runs_is_told_of_its_end(wire: Wire, way: str) -> None:
    """A callback that is added while the RPC runs, after the interceptors, is told when the RPC ends."""
    told: list[Any] = []
    call = wire.call(way, "unary_stream", [interceptor("unary_stream", passing)], behaviour="Drip")
    assert await call.read() == b"a"
    call.add_done_callback(told.append)
    assert told == []
    assert call.cancel()
    await call.code()
    assert told == [call]


@both
@each_arity
async def test_waiting_until_ready(wire: Wire, way: str, arity: str) -> None:
    """An interceptor may make a call wait for a connection, as long as the call's timeout allows."""

    async def patient(continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(wait_for_ready=True), request)

    call = wire.call(way, arity, [interceptor(arity, patient)], target="127.0.0.1:1", timeout=0.2)
    assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@both
@each_arity
async def test_waiting_for_a_connection_that_never_comes(wire: Wire, way: str, arity: str) -> None:
    """`wait_for_connection` raises when there is nobody to connect to."""
    call = wire.call(way, arity, [interceptor(arity, passing)], target="127.0.0.1:1")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.wait_for_connection()
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE


@both
@one_response
async def test_a_response_can_be_awaited_twice(wire: Wire, way: str, arity: str) -> None:
    """A response can be awaited again, and by two at a time."""
    call = wire.call(way, arity, [interceptor(arity, passing)])

    async def once() -> bytes:
        return bytes(await call)

    assert list(await asyncio.gather(once(), once())) == [b"ab", b"ab"]
    assert await call == b"ab"
