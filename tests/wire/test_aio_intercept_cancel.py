"""Cancelled and abandoned calls under interceptors, as on grpcio: every test runs on both."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.wire.interception import Wire, both, each_arity, interceptor, passing, refusing, soon, stuck, talk

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Wire]:
    """A server of its own for each test; afterwards no task is left."""
    async with Wire() as wire:
        yield wire


@both
@each_arity
async def test_cancelling_while_interceptors_run(wire: Wire, way: str, arity: str) -> None:
    """A call can be cancelled while its interceptors run: nothing is sent, and all its answers say so."""
    over = asyncio.Event()
    call = wire.call(way, arity, [interceptor(arity, stuck)])
    call.add_done_callback(lambda _: over.set())
    await asyncio.sleep(0)
    assert (call.done(), call.cancelled()) == (False, False)
    assert call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"
    assert not await call.initial_metadata()
    assert not await call.trailing_metadata()
    assert await call.debug_error_string() == ""
    assert (call.done(), call.cancelled(), call.cancel()) == (True, True, False)
    with pytest.raises(asyncio.CancelledError):
        await talk(call)
    with pytest.raises(asyncio.CancelledError):
        await call.wait_for_connection()
    await soon(over)
    assert wire.tried == []


@both
@each_arity
async def test_cancelling_before_interceptors_start(wire: Wire, way: str, arity: str) -> None:
    """A call that is cancelled before its interceptors had a chance to start sends nothing."""
    call = wire.call(way, arity, [interceptor(arity, passing)])
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talk(call)
    assert (call.cancelled(), wire.tried) == (True, [])


@both
@each_arity
async def test_cancelling_after_the_interceptors(wire: Wire, way: str, arity: str) -> None:
    """Once the interceptors are through, cancelling the call cancels its RPC."""
    call = wire.call(way, arity, [interceptor(arity, passing)], behaviour="Hang")
    await soon(wire.hanging)
    assert not call.done()
    assert call.cancel()
    await soon(wire.cancelled)
    with pytest.raises(asyncio.CancelledError):
        await talk(call)
    assert (await call.code(), call.cancelled(), call.cancel()) == (grpc.StatusCode.CANCELLED, True, False)


@both
@each_arity
@pytest.mark.parametrize("waits", ["above", "inside"])
async def test_a_cancelled_caller_takes_the_rpc_along(wire: Wire, way: str, arity: str, waits: str) -> None:
    """A task that is cancelled while it waits for a response takes the RPC along, wherever that is."""

    async def awaiting(continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        await talk(call)
        return call

    body = awaiting if waits == "inside" else passing
    task = asyncio.create_task(talk(wire.call(way, arity, [interceptor(arity, body)], behaviour="Hang")))
    await soon(wire.hanging)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(wire.cancelled)


@both
@each_arity
async def test_an_abandoned_call_leaves_no_complaint(wire: Wire, way: str, arity: str) -> None:
    """A call that failed and that nobody looked at leaves no complaint of asyncio's behind."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    for body in (passing, refusing):
        call = wire.call(way, arity, [interceptor(arity, body)], behaviour="Fail")
        await asyncio.sleep(0.05)  # without a question: to ask would be to look
        del call
        gc.collect()
        await asyncio.sleep(0.01)
    assert complaints == []
