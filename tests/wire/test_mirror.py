"""Copies of requests over real servers: the shadow sees what the call sends, and the call never sees the shadow."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from proxyless.channel.sync_shadow import BUFFER
from proxyless.policy.mirror import MOST
from tests.wire.echo import EchoServer, Request, dead_address, eventually
from tests.wire.relay import Frames
from tests.wire.talks import each_call, talk
from tests.wire.ways import Net, soon

REQUESTS = {"Unary": 1, "ServerStream": 1, "ClientStream": 2, "BidiStream": 2}
ANSWERS = {"Unary": ["m"], "ServerStream": ["m"] * 3, "ClientStream": ["m,m"], "BidiStream": ["m", "m"]}


def mirrored(net: Net, address: str | None = None, mirror: str = "", more: str = "") -> EchoServer:
    """A server that is called, and a shadow that gets a copy of everything; returns the shadow."""
    net.server("a")
    shadow = net.server("shadow", named=False)
    net.beside("shadow", address or shadow.address)
    net.document(f"{{routes: [{{mirror: [{{service: shadow{mirror}}}]{more}}}]}}")
    assert net.mesh.ready("echo", timeout=5.0)
    eventually(lambda: "shadow (mirror)" in net.mesh.status()["destinations"])
    eventually(lambda: any(entry.get("mirror") for entry in net.mesh.status()["endpoints"]))
    return shadow


def copies(net: Net) -> dict[str, Any]:
    status: dict[str, Any] = net.mesh.status()["destinations"]["shadow (mirror)"]
    return status


def quiet(net: Net) -> bool:
    return net.inflight == 0 and copies(net)["requests"] == 0


@each_call
def test_the_shadow_gets_what_the_call_sends(net: Net, style: str, method: str) -> None:
    """Every request and no credential; the call has its own server's answer."""
    shadow = mirrored(net)
    metadata = (("authorization", "Bearer x"), ("cookie", "c"), ("x-user", "1"))
    requests = [Request(message="m", count=3)] * REQUESTS[method]
    conversation = talk(net, "mesh", style, method, *requests, metadata=metadata)
    ending = conversation.end()
    assert (ending.messages, ending.code, ending.error) == (ANSWERS[method], grpc.StatusCode.OK, None)
    if style == "aio":  # its loop runs only while something is asked for
        conversation._do(soon(lambda: bool(shadow.seen) and shadow.seen[0].over.is_set()))
        conversation._do(soon(lambda: quiet(net)))
    seen = shadow.last()
    eventually(seen.over.is_set)
    assert not seen.cancelled
    assert seen.requests[: len(requests)] == ["m"] * len(requests)
    keys = dict(seen.metadata)
    assert keys["x-user"] == "1"
    assert not {"authorization", "cookie"} & set(keys)
    (called,) = net.servers[0].seen
    assert dict(called.metadata)["authorization"] == "Bearer x"
    eventually(lambda: quiet(net))
    assert copies(net)["mirrored"] == 1


@each_call
def test_what_the_shadow_does_is_not_the_call_s_affair(net: Net, style: str, method: str) -> None:
    """It hangs, and the call is over long before; its deadline is the call's."""
    shadow = mirrored(net)
    shadow.echo.delay = 20.0
    requests = [Request(message="m", count=3)] * REQUESTS[method]
    began = time.monotonic()
    conversation = talk(net, "mesh", style, method, *requests, timeout=2.5)
    assert conversation.end().messages == ANSWERS[method]
    assert time.monotonic() - began < 2.3
    if style == "aio":
        conversation._do(soon(lambda: quiet(net)))
    eventually(lambda: quiet(net))
    assert copies(net)["retries"] == 0


def test_the_shadow_is_called_by_another_name(net: Net) -> None:
    """`:authority` ends in `-shadow`, before the port where there is one."""
    with Named() as server:
        mirrored(net, server.address)
        net.stub().Unary(Request(message="m"))
        channel = net.mesh.channel("echo", options=[("grpc.default_authority", "shop.example:443")])
        channel.unary_unary("/echo.Echo/Unary")(b"")
        eventually(lambda: len(server.names) == 2)
    assert server.names == ["echo-shadow", "shop.example-shadow:443"]


@pytest.mark.parametrize("target", ["dead", "silent"])
def test_a_shadow_that_is_gone_costs_nothing(net: Net, target: str) -> None:
    """Nobody listens, or somebody who says nothing: the calls have their answers, in the same time as without it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = dead_address() if target == "dead" else f"127.0.0.1:{silent.getsockname()[1]}"
        mirrored(net, address)
        stub = net.stub()
        for number in range(3 * MOST):
            assert stub.Unary(Request(message=str(number)), timeout=2.0).message == str(number)
        status = net.mesh.status()["destinations"]
        assert status["shadow (mirror)"]["requests"] <= MOST
        assert (status["echo"]["retries"], status["echo"]["ejected"], status["echo"]["requests"]) == (0, 0, 0)
        eventually(lambda: quiet(net))


def test_closing_the_mesh_does_not_wait_for_a_shadow(net: Net) -> None:
    """What nobody waits for is no reason to wait."""
    shadow = mirrored(net)
    shadow.echo.delay = 20.0
    net.stub().Unary(Request(message="m"))
    shadow.last()
    began = time.monotonic()
    net.mesh.close()
    assert time.monotonic() - began < 1.0


def test_a_slow_shadow_of_a_stream_is_dropped_and_not_waited_for(net: Net) -> None:
    """The stream is larger than the buffer and all that a connection takes in; the call goes at its own pace."""
    shadow = mirrored(net)
    shadow.echo.delay = 20.0
    payload = bytes(BUFFER // 4)

    def requests() -> Iterator[Request]:
        for _ in range(200):
            yield Request(message="m", payload=payload)

    began = time.monotonic()
    answer = net.stub().ClientStream(requests())
    assert answer.message.count("m") == 200
    assert time.monotonic() - began < 10
    eventually(lambda: quiet(net))
    eventually(lambda: all(seen.cancelled for seen in shadow.seen))


def test_an_asyncio_stream_of_writes_is_copied(net: Net) -> None:
    """Message by message, with the end of it."""
    shadow = mirrored(net)

    async def scene(stub: Any) -> None:
        call = stub.ClientStream()
        for number in range(3):
            await call.write(Request(message=str(number)))
        await call.done_writing()
        assert (await call).message == "0,1,2"
        await soon(lambda: bool(shadow.seen) and shadow.seen[0].over.is_set())
        await soon(lambda: quiet(net))

    net.run("mesh", scene)
    assert shadow.last().requests == ["0", "1", "2"]
    assert not shadow.last().cancelled


@pytest.mark.parametrize("style", ["blocking", "aio"])
def test_half_a_stream_never_looks_like_a_whole_one(net: Net, style: str) -> None:
    """The caller's iterator fails in the middle: the shadow sees its call cancelled, as the server does."""
    shadow = net.server("shadow", named=False)

    def requests() -> Iterator[Request]:
        yield Request(message="m")
        shadow.last()
        raise ValueError("no more")

    async def asynchronous() -> Any:
        yield Request(message="m")
        await soon(lambda: bool(shadow.seen))
        raise ValueError("no more")

    async def scene(stub: Any) -> None:
        with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
            await stub.ClientStream(asynchronous())
        await soon(shadow.seen[0].over.is_set)
        await soon(lambda: quiet(net))

    with Frames(shadow.address) as frames:
        mirrored(net, frames.address)
        if style == "aio":
            net.run("mesh", scene)
        else:
            with pytest.raises(grpc.RpcError):
                net.stub().ClientStream(requests())
        eventually(lambda: quiet(net))
        eventually(lambda: frames.endings)
        assert frames.endings == ["broken off"]


def test_the_request_is_copied_as_it_was(net: Net) -> None:
    """Its owner changes it right after the call."""
    shadow = mirrored(net)
    stub = net.stub()
    request = Request()
    for number in range(50):
        request.message = str(number)
        stub.Unary(request)
        request.message = "changed"
    eventually(lambda: len(shadow.seen) == 50)
    eventually(lambda: all(seen.over.is_set() for seen in shadow.seen))
    assert sorted(message for seen in shadow.seen for message in seen.requests) == sorted(map(str, range(50)))


def test_a_hedged_call_is_copied_once(net: Net) -> None:
    """With attempts beside each other."""
    shadow = mirrored(net, more=", hedge: {delay: 0s, attempts: 1}")
    assert net.stub().Unary(Request(message="m")).message == "m"
    eventually(lambda: quiet(net))
    assert len(shadow.seen) == 1


class Named:
    """A server that notes by which name it is called; grpcio's own server does not tell its handlers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((self,))  # type: ignore[arg-type]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, _details: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            self.names.append(context._rpc_event.call_details.host.decode())
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def __enter__(self) -> Named:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
