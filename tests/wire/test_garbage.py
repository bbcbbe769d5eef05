"""What a call leaves behind: nothing that only the garbage collector would find.

A process that makes thousands of calls a second would otherwise stop for it again and again, and keep what failed
calls hold (grpcio's own objects among it) for as long as it has not come round.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tests.fakes import Watching
from tests.wire.echo import Request
from tests.wire.ways import Net

CALLS = 20
GOOD, BAD = Request(message="m", count=3), Request(message="m", count=3, fail_code=9, fail_details="no")
LATE = Request(message="m", delay_ms=500)
RETRIED = "{routes: [{retry: {attempts: 1, on: [failed-precondition], backoff: {base: 1ms, max: 1ms}}}]}"

Play = Callable[[Any], Any]


def _plain(stub: Any) -> Any:
    return stub.Unary(GOOD, timeout=5)


def _stream_up(stub: Any) -> Any:
    return stub.ClientStream(iter([GOOD, GOOD]), timeout=5)


BLOCKING: dict[str, Play] = {
    "unary": _plain,
    "with_call": lambda stub: stub.Unary.with_call(GOOD, timeout=5),
    "future": lambda stub: stub.Unary.future(GOOD, timeout=5).result(),
    "server stream": lambda stub: list(stub.ServerStream(GOOD, timeout=5)),
    "client stream": _stream_up,
    "both streams": lambda stub: list(stub.BidiStream(iter([GOOD, GOOD]), timeout=5)),
    "failed": lambda stub: stub.Unary(BAD, timeout=5),
    "failed, with_call": lambda stub: stub.Unary.with_call(BAD, timeout=5),
    "failed, requests streamed": lambda stub: stub.ClientStream(iter([BAD]), timeout=5),
    "late": lambda stub: stub.Unary(LATE, timeout=0.01),
    "refused": lambda stub: stub.Unary(GOOD, timeout=0),
}
"""How a call can go for threads. A future or a stream that fails is an error itself, of grpcio's: it knows the frame
that raised it, and grpcio's own wait for the collector."""


async def _read(stub: Any, request: Request) -> None:
    async for _ in stub.ServerStream(request, timeout=5):
        pass


async def _both(stub: Any) -> None:
    async for _ in stub.BidiStream(iter([GOOD, GOOD]), timeout=5):
        pass


async def _written(stub: Any) -> None:
    call = stub.BidiStream(timeout=5)
    await call.write(GOOD)
    await call.done_writing()
    while await call.read() is not grpc.aio.EOF:
        pass


async def _asked(stub: Any) -> None:
    call = stub.Unary(BAD, timeout=5)
    await call.code()
    await call


ASYNC: dict[str, Play] = {
    "unary": _plain,
    "server stream": lambda stub: _read(stub, GOOD),
    "client stream": _stream_up,
    "both streams": _both,
    "both streams, written": _written,
    "failed": lambda stub: stub.Unary(BAD, timeout=5),
    "failed, asked before": _asked,
    "failed, responses streamed": lambda stub: _read(stub, BAD),
    "failed, requests streamed": lambda stub: stub.ClientStream(iter([BAD]), timeout=5),
    "late": lambda stub: stub.Unary(LATE, timeout=0.01),
    "refused": lambda stub: stub.Unary(GOOD, timeout=0),
}

either_mesh = pytest.mark.parametrize(("watched", "document"), [(False, "{}"), (True, RETRIED)], ids=["", "armed"])


@pytest.fixture(autouse=True)
def by_count() -> Iterator[None]:
    """The collector comes when it is called, and shows what it finds."""
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def found() -> dict[str, int]:
    """Objects of ours that only the collector finds, by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    names = [f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage]
    gc.garbage.clear()
    return Counter(name for name in names if name.startswith("proxyless."))


def _prepared(net: Net, watched: bool, document: str) -> None:
    net.document(document)
    net.server()
    if watched:
        net.mesh.watch(Watching())


@either_mesh
@pytest.mark.parametrize("way", ["mesh", "in a scope", "interceptors"])
@pytest.mark.parametrize("call", BLOCKING)
def test_a_call_leaves_nothing(net: Net, way: str, call: str, document: str, watched: bool) -> None:
    """For threads."""
    _prepared(net, watched, document)
    stub = net.stub(way)

    def play() -> None:
        try:
            BLOCKING[call](stub)
        except grpc.RpcError:
            pass

    play()
    gc.collect()
    for _ in range(CALLS):
        play()
    assert found() == {}


@either_mesh
@pytest.mark.parametrize("way", ["mesh", "interceptors"])
@pytest.mark.parametrize("call", ASYNC)
def test_a_call_leaves_nothing_on_asyncio(net: Net, way: str, call: str, document: str, watched: bool) -> None:
    """For event loops."""
    _prepared(net, watched, document)

    async def play(stub: Any) -> None:
        try:
            await ASYNC[call](stub)
        except grpc.RpcError:
            pass

    async def scene(stub: Any) -> dict[str, int]:
        await play(stub)
        await asyncio.sleep(0.01)
        gc.collect()
        for _ in range(CALLS):
            await play(stub)
        await asyncio.sleep(0.02)  # grpcio's tasks end a little later than its calls
        return found()

    assert net.run(way, scene) == {}
