"""Readiness: `wait_for_ready` while there is no usable endpoint, and endpoints that can't be connected."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tests.wire.echo import Request, dead_address, eventually
from tests.wire.talks import each_call, talk
from tests.wire.ways import Net, soon

_EXPECTED = {
    "Unary": ["0"],
    "ServerStream": ["0", "0"],
    "ClientStream": ["0,1,2"],
    "BidiStream": ["0", "1", "2"],
}
_REQUESTS = [Request(message=str(number), count=2) for number in range(3)]


def _later(seconds: float, do: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.start()
    return timer


@each_call
def test_waiting_for_an_endpoint_to_appear(net: Net, style: str, method: str) -> None:
    """With `wait_for_ready` a call to a service without endpoints waits until there is one, and is made then."""
    server = net.server(named=False)
    assert net.settled()
    timer = _later(0.12, lambda: net.endpoints(server.address))
    started = time.monotonic()
    ending = talk(net, "mesh", style, method, *_REQUESTS, wait_for_ready=True, timeout=9.0).end()
    timer.join()
    assert ending[:2] == (_EXPECTED[method], grpc.StatusCode.OK)
    assert 0.1 < time.monotonic() - started < 3.0


@each_call
def test_waiting_for_a_server_to_come_up(net: Net, style: str, method: str) -> None:
    """With `wait_for_ready` a call to an endpoint where nobody listens yet waits until somebody does."""
    address = dead_address()
    net.endpoints(address)
    timer = _later(0.1, lambda: net.server(named=False, address=address))
    ending = talk(net, "mesh", style, method, *_REQUESTS, wait_for_ready=True, timeout=9.0).end()
    timer.join()
    assert ending[:2] == (_EXPECTED[method], grpc.StatusCode.OK)


@each_call
@pytest.mark.parametrize("there_is", ["no endpoint", "a dead endpoint"])
def test_waiting_ends_with_the_deadline(net: Net, style: str, method: str, there_is: str) -> None:
    """A call that waited in vain ends at its deadline, with DEADLINE_EXCEEDED."""
    net.endpoints(*([] if there_is == "no endpoint" else [dead_address()]))
    started = time.monotonic()
    ending = talk(net, "mesh", style, method, *_REQUESTS, wait_for_ready=True, timeout=0.2).end()
    assert 0.15 < time.monotonic() - started < 1.5
    assert (ending.messages, ending.code) == ([], grpc.StatusCode.DEADLINE_EXCEEDED)
    assert isinstance(ending.error, grpc.RpcError)


@each_call
@pytest.mark.parametrize("wait_for_ready", [None, True])
def test_a_dead_endpoint_beside_a_live_one(net: Net, style: str, method: str, wait_for_ready: bool | None) -> None:
    """An endpoint that can't be connected costs no call and no request: all of it goes to the one that can."""
    server = net.server(named=False)
    tried = 0
    for _ in range(4):
        dead = dead_address()
        net.endpoints(dead, server.address)
        eventually(lambda dead=dead: net.settled(dead, server.address))
        ending = talk(net, "mesh", style, method, *_REQUESTS, wait_for_ready=wait_for_ready, timeout=9.0).end()
        assert ending[:2] == (_EXPECTED[method], grpc.StatusCode.OK)
        tried += sum(node.calls for node in net.mesh._nodes.all() if node.address == dead)
    if method in ("ClientStream", "BidiStream"):
        assert {tuple(seen.requests) for seen in server.seen} == {("0", "1", "2")}
    assert tried <= 8


@each_call
def test_without_waiting_a_call_fails_at_once(net: Net, style: str, method: str) -> None:
    """Without `wait_for_ready` a call that nobody can answer fails at once, with UNAVAILABLE."""
    net.endpoints(dead_address())
    started = time.monotonic()
    ending = talk(net, "mesh", style, method, *_REQUESTS, timeout=9.0).end()
    assert (ending.messages, ending.code) == ([], grpc.StatusCode.UNAVAILABLE)
    assert time.monotonic() - started < 3.0


def test_a_slow_request_iterator_over_a_dead_endpoint(net: Net) -> None:
    """Requests that come slowly, from an iterator that an earlier attempt still waits for, arrive once and in order."""
    server = net.server(named=False)
    for _ in range(4):
        dead = dead_address()
        net.endpoints(dead, server.address)
        eventually(lambda dead=dead: net.settled(dead, server.address))

        def slowly() -> Iterator[Request]:
            for word in "abc":
                time.sleep(0.08)
                yield Request(message=word)

        assert net.stub().ClientStream(slowly(), wait_for_ready=True, timeout=9.0).message == "a,b,c"


def test_a_request_iterator_that_fails_over_a_dead_endpoint(net: Net) -> None:
    """An iterator that fails while the attempt is at a dead endpoint fails the call, and doesn't end it early."""
    server = net.server(named=False)
    for _ in range(4):
        dead = dead_address()
        net.endpoints(dead, server.address)
        eventually(lambda dead=dead: net.settled(dead, server.address))

        def failing() -> Iterator[Request]:
            time.sleep(0.05)
            yield from ()
            raise ValueError("no more")

        with pytest.raises(grpc.RpcError) as raised:
            net.stub().ClientStream(failing(), wait_for_ready=True, timeout=9.0)
        assert raised.value.code() is grpc.StatusCode.UNKNOWN


def test_writing_over_a_dead_endpoint(net: Net) -> None:
    """What is written, message by message, arrives once and in order, though the first endpoint was a dead one."""
    server = net.server(named=False)

    async def scene(stub: Any) -> None:
        for _ in range(6):
            dead = dead_address()
            net.endpoints(dead, server.address)
            await soon(lambda dead=dead: net.settled(dead, server.address))
            call = stub.BidiStream(wait_for_ready=True, timeout=9.0)
            for word in "abc":
                await call.write(Request(message=word))
                assert (await call.read()).message == word
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

    net.run("mesh", scene)


def test_a_future_that_waits_and_that_nobody_holds(net: Net) -> None:
    """A future that waits for an endpoint goes on without its caller, if somebody is to be called back."""
    server = net.server(named=False)
    assert net.settled()
    results: list[str] = []
    over = threading.Event()

    def take(future: Any) -> None:
        results.append(future.result().message)
        over.set()

    net.stub().Unary.future(Request(message="m", delay_ms=300), wait_for_ready=True).add_done_callback(take)
    gc.collect()
    net.endpoints(server.address)
    server.last()
    gc.collect()
    assert over.wait(5.0)
    assert results == ["m"]


def test_callbacks_of_calls_that_waited_in_vain(net: Net) -> None:
    """Who waits for the end of a call is told when the waiting for an endpoint is over, too."""
    net.endpoints()
    told: list[grpc.StatusCode] = []
    stub = net.stub()
    for call in (
        stub.Unary.future(Request(), wait_for_ready=True, timeout=0.1),
        stub.ServerStream(Request(), wait_for_ready=True, timeout=0.1),
    ):
        call.add_done_callback(lambda call: told.append(call.code()))
    eventually(lambda: len(told) == 2)

    async def scene(stub: Any) -> None:
        call = stub.Unary(Request(), wait_for_ready=True, timeout=0.1)
        over = asyncio.Event()
        call.add_done_callback(lambda _: over.set())
        await asyncio.wait_for(over.wait(), 5.0)
        told.append(await call.code())

    net.run("mesh", scene)
    assert told == [grpc.StatusCode.DEADLINE_EXCEEDED] * 3
