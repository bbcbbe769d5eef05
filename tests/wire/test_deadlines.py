"""Deadlines: the caller's, the ambient one and the route's; the earliest holds, and what is late is never sent."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest

import proxyless
from tests.wire.echo import Request
from tests.wire.talks import each_call, talk
from tests.wire.ways import Net, either_way

_HANG = Request(message="m", delay_ms=20_000, count=1)


def _left(net: Net, **options: Any) -> float:
    """Milliseconds that the server saw left; -1 without a deadline."""
    return float(net.stub().Unary(Request(), **options).remaining_ms)


def _about(milliseconds: float, seconds: float) -> bool:
    """Whether it is nearly all of `seconds`; C-core rounds up by up to 1 % as it encodes `grpc-timeout`."""
    return seconds * 1000 - 600 < milliseconds <= seconds * 1010


@each_call
def test_a_deadline_that_has_passed(net: Net, style: str, method: str) -> None:
    """A call whose deadline has passed before it is sent fails at once with DEADLINE_EXCEEDED, unsent."""
    server = net.server()
    for timeout in (0.0, -1.0):
        ending = talk(net, "mesh", style, method, Request(message="m"), timeout=timeout).end()
        assert (ending.messages, ending.code) == ([], grpc.StatusCode.DEADLINE_EXCEEDED)
        assert ending.trailing == [("proxyless-reason", "deadline")]
        assert isinstance(ending.error, proxyless.MeshRpcError)
    with proxyless.deadline(0.0):
        ending = talk(net, "mesh", style, method, Request(message="m")).end()
    assert ending.trailing == [("proxyless-reason", "deadline")]
    assert server.seen == []


@each_call
def test_the_ambient_deadline_shortens_a_call(net: Net, style: str, method: str) -> None:
    """Inside `proxyless.deadline` a call ends when that does, though its own timeout is longer."""
    server = net.server()
    talk(net, "mesh", style, method, Request(message="warm")).end()
    started = time.monotonic()
    with proxyless.deadline(0.15):
        ending = talk(net, "mesh", style, method, _HANG, timeout=9.0).end()
    assert 0.12 < time.monotonic() - started < 1.5
    assert ending.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.last().over.wait(2.0)


@either_way
def test_the_server_sees_the_timeout(net: Net, way: str) -> None:
    """The server sees what is left of the caller's timeout, and none where none was given."""
    net.server()
    stub = net.stub(way)
    assert stub.Unary(Request()).remaining_ms == -1
    assert _about(stub.Unary(Request(), timeout=9.0).remaining_ms, 9.0)
    replies = list(stub.ServerStream(Request(count=2), timeout=9.0))
    assert all(_about(reply.remaining_ms, 9.0) for reply in replies)


def test_the_earliest_deadline_holds(net: Net) -> None:
    """Of timeout, ambient deadline and route timeout the earliest reaches the server; `shield` lifts the ambient."""
    net.server()
    net.document("{routes: [{name: all, split: [{service: echo}], timeout: 6s}]}")
    assert net.mesh.ready("echo", timeout=5.0)
    assert _about(_left(net), 6.0)
    assert _about(_left(net, timeout=3.0), 3.0)
    assert _about(_left(net, timeout=9.0), 6.0)
    with proxyless.deadline(2.0):
        assert _about(_left(net), 2.0)
        assert _about(_left(net, timeout=1.0), 1.0)
        with proxyless.deadline(60.0):
            assert _about(_left(net), 2.0)
        with proxyless.shield():
            assert _about(_left(net), 6.0)
    assert proxyless.remaining() is None


def test_the_ambient_deadline_belongs_to_its_task(net: Net) -> None:
    """Tasks inherit the deadline they were made under, and do not change that of others."""
    net.server()

    async def scene(stub: Any) -> None:
        async def left() -> int:
            return int((await stub.Unary(Request())).remaining_ms)

        async def hurried() -> int:
            with proxyless.deadline(2.0):
                await asyncio.sleep(0.05)
                return await left()

        with proxyless.deadline(6.0):
            outer, inner = await asyncio.gather(left(), hurried())
        assert _about(outer, 6.0)
        assert _about(inner, 2.0)
        assert await left() == -1

    net.run("mesh", scene)


def test_the_ambient_deadline_belongs_to_its_thread(net: Net) -> None:
    """A thread that was started plainly does not inherit it: it may outlive the work it was meant for."""
    net.server()
    seen: list[float] = []
    with proxyless.deadline(2.0):
        thread = threading.Thread(target=lambda: seen.append(_left(net)))
        thread.start()
        thread.join(5.0)
    assert seen == [-1.0]


def test_a_deadline_bounds_retries(net: Net) -> None:
    """Retries happen inside the caller's deadline: no attempt begins after it, and the call ends with it."""
    server = net.server()
    net.document(
        "{routes: [{name: all, split: [{service: echo}], "
        "retry: {attempts: 10, on: [unavailable], backoff: {base: 50ms, max: 100ms}}}]}"
    )
    assert net.mesh.ready("echo", timeout=5.0)
    started = time.monotonic()
    with pytest.raises(grpc.RpcError):
        net.stub().Unary(Request(fail_code=14, delay_ms=50), timeout=0.4)
    assert time.monotonic() - started < 1.0
    assert 2 <= len(server.seen) <= 8
