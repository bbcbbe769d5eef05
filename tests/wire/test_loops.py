"""Event loops: several at once in threads, one after the other, and what a loop leaves behind when it ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest

from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request, eventually
from tests.wire.ways import Net

_HANG = Request(message="m", delay_ms=20_000)
_ENDLESS = Request(message="m", count=100_000, delay_ms=2)


def _in_threads(count: int, work: Any) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert not failures, failures


def _run(loop: str) -> Any:
    """`asyncio.run` on that kind of loop."""
    return asyncio.run if loop == "asyncio" else pytest.importorskip("uvloop").run


either_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@either_loop
def test_one_channel_on_loop_after_loop(net: Net, loop: str) -> None:
    """One channel, and one stub, serve one `asyncio.run` after the other."""
    run = _run(loop)
    net.server()
    stub = echo_pb2_grpc.EchoStub(net.aio_channel())

    async def scene(word: str) -> tuple[str, list[str]]:
        reply = await stub.Unary(Request(message=word))
        return reply.message, [reply.message async for reply in stub.ServerStream(Request(message=word, count=2))]

    for word in ("a", "b", "c"):
        assert run(scene(word)) == (word, [word, word])


@either_loop
def test_one_channel_on_several_loops_at_once(net: Net, loop: str) -> None:
    """One channel, and one stub, serve several loops in threads at the same time, and each gets its own answers."""
    run = _run(loop)
    net.server()
    net.server("b")
    stub = echo_pb2_grpc.EchoStub(net.aio_channel())

    def work(number: int) -> None:
        async def scene() -> None:
            for round_ in range(60):
                words = [f"{number}/{round_}/{index}" for index in range(4)]
                replies = await asyncio.gather(*(stub.Unary(Request(message=word)) for word in words))
                assert [reply.message for reply in replies] == words
            call = stub.BidiStream()
            await call.write(Request(message=str(number)))
            assert (await call.read()).message == str(number)
            await call.done_writing()

        run(scene())

    _in_threads(4, work)


def test_channels_of_one_mesh_on_several_loops(net: Net) -> None:
    """Each loop with a channel of its own, closed on it, on one mesh, beside threads with a blocking one."""
    net.server()
    blocking = net.stub()

    def work(number: int) -> None:
        async def scene() -> None:
            async with net.aio_channel() as channel:
                stub = echo_pb2_grpc.EchoStub(channel)
                for _ in range(50):
                    assert (await stub.Unary(Request(message=str(number)))).message == str(number)

        if number % 2:
            for _ in range(50):
                assert blocking.Unary(Request(message=str(number))).message == str(number)
        else:
            asyncio.run(scene())

    _in_threads(6, work)


@pytest.mark.parametrize("ending", ["asyncio.run", "run_until_complete"])
def test_what_a_loop_leaves_behind(net: Net, ending: str) -> None:
    """Calls that nobody had awaited when their loop ended are over, and engage no node once the channel is used."""
    net.server()
    channel = net.aio_channel()
    stub = echo_pb2_grpc.EchoStub(channel)
    kept: list[Any] = []

    async def leave() -> None:
        kept.append(stub.ServerStream(_ENDLESS))
        await kept[0].read()
        kept.append(stub.Unary(_HANG))
        stub.Unary(_HANG)
        assert net.inflight == 3

    async def use() -> str:
        return str((await stub.Unary(Request(message="m"))).message)

    if ending == "asyncio.run":
        asyncio.run(leave())
    else:  # a loop that ends without cancelling what still runs on it
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()
    assert asyncio.run(use()) == "m"
    assert net.inflight == 0
    assert all(call.done() for call in kept)
    kept.clear()
    assert asyncio.run(use()) == "m"


def test_closing_a_channel_that_another_loop_uses(net: Net) -> None:
    """A channel that is closed on one loop cancels its calls on another loop, there and safely."""
    server = net.server()
    channel = net.aio_channel()
    stub = echo_pb2_grpc.EchoStub(channel)
    ended: list[type[BaseException]] = []

    def wait() -> None:
        async def scene() -> None:
            try:
                await stub.Unary(_HANG)
            except BaseException as end:
                ended.append(type(end))

        asyncio.run(scene())

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: server.seen)
    asyncio.run(channel.close())
    thread.join(5.0)
    assert ended == [asyncio.CancelledError]


def test_a_channel_made_outside_of_a_loop(net: Net) -> None:
    """An asyncio channel and its stub may be made where no loop runs; a call may not."""
    net.server()
    stub = echo_pb2_grpc.EchoStub(net.aio_channel())
    with pytest.raises(RuntimeError):
        stub.Unary(Request())
    assert net.inflight == 0

    async def scene() -> grpc.StatusCode:
        return await stub.Unary(Request()).code()  # type: ignore[no-any-return]

    assert asyncio.run(scene()) is grpc.StatusCode.OK


def test_loops_of_two_kinds_one_after_the_other_and_a_thread(net: Net) -> None:
    """asyncio's loop, then uvloop's, then asyncio's again, on one channel, while threads make blocking calls."""
    uvloop = pytest.importorskip("uvloop")
    net.server()
    stub, blocking = echo_pb2_grpc.EchoStub(net.aio_channel()), net.stub()

    async def scene(word: str) -> list[str]:
        replies = await asyncio.gather(*(stub.Unary(Request(message=f"{word}{n}"), timeout=5.0) for n in range(8)))
        return [reply.message for reply in replies]

    stop = threading.Event()
    failures: list[BaseException] = []

    def hammer() -> None:
        while not stop.is_set():
            try:
                assert blocking.Unary(Request(message="m"), timeout=5.0).message == "m"
            except BaseException as failure:
                failures.append(failure)

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        for run in (asyncio.run, uvloop.run, asyncio.run, uvloop.run):
            assert run(scene("w")) == [f"w{n}" for n in range(8)]
    finally:
        stop.set()
        thread.join(10.0)
    assert failures == []
