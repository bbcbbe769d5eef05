"""Closing: channels of both kinds, with calls under way, and the mesh as a whole."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider

import proxyless
from proxyless.admin import places
from proxyless.admin.listener import LISTENER
from proxyless.channel.profile import Profile
from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request, eventually
from tests.wire.relay import Relay
from tests.wire.ways import NOWHERE, Net, either_way, soon

_HANG = Request(message="m", delay_ms=20_000)
_SOON = Request(message="m", delay_ms=300)
_ENDLESS = Request(message="m", count=100_000, delay_ms=2)


@either_way
def test_no_calls_on_a_closed_channel(net: Net, way: str) -> None:
    """A call on a closed channel is a ValueError, in every style; closing again is nothing."""
    server = net.server()
    with net.channel(way) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        stub.Unary(Request())
    channel.close()
    for call in (stub.Unary, stub.Unary.with_call, stub.Unary.future, stub.ServerStream):
        with pytest.raises(ValueError, match="losed"):
            call(Request())
    for call in (stub.ClientStream, stub.BidiStream):
        with pytest.raises(ValueError, match="losed"):
            call(iter([Request()]))
    assert len(server.seen) == 1


@either_way
def test_closing_ends_what_is_under_way(net: Net, way: str) -> None:
    """Futures and streams under way on a channel that is closed fail with CANCELLED, at the server too."""
    server = net.server()
    channel = net.channel(way)
    stub = echo_pb2_grpc.EchoStub(channel)
    future = stub.Unary.future(_HANG)
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    stream = stub.ServerStream(_ENDLESS)
    next(stream)
    eventually(lambda: len(server.seen) == 2)
    channel.close()
    with pytest.raises(grpc.RpcError) as raised:
        future.result(timeout=2.0)
    assert raised.value.code() is grpc.StatusCode.CANCELLED
    assert (future.cancelled(), future.code()) == (False, grpc.StatusCode.CANCELLED)
    with pytest.raises(grpc.RpcError) as raised:
        _ = list(stream)
    assert raised.value.code() is grpc.StatusCode.CANCELLED
    assert "Channel closed!" in str(raised.value.details())
    assert told.wait(2.0)
    for seen in server.seen:
        assert seen.over.wait(2.0)


def test_closing_leaves_other_channels_alone(net: Net) -> None:
    """Closing one channel of a mesh neither ends nor delays a call on another to the same endpoint."""
    net.server()
    channel, other = net.channel(), net.stub()
    future = other.Unary.future(_SOON)
    stream = other.ServerStream(_ENDLESS)
    next(stream)
    echo_pb2_grpc.EchoStub(channel).Unary(Request())
    channel.close()
    assert future.result(timeout=5.0).message == "m"
    assert next(stream).message == "m"
    assert other.Unary(Request(message="m")).message == "m"
    stream.cancel()


def test_a_blocking_call_outlives_its_channel(net: Net) -> None:
    """A blocking call in another thread goes on to its end when its channel is closed, which grpcio's does not."""
    net.server()
    channel = net.channel()
    stub = echo_pb2_grpc.EchoStub(channel)
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(stub.Unary(_SOON).message))
    thread.start()
    time.sleep(0.1)
    channel.close()
    thread.join(5.0)
    assert answers == ["m"]


@pytest.mark.parametrize("document", ["{}", "{routes: [{hedge: {delay: 10ms, attempts: 2}}]}"], ids=["plain", "hedged"])
@pytest.mark.parametrize("closed", ["channel", "mesh"])
def test_closing_ends_a_call_that_waits_for_an_endpoint(net: Net, closed: str, document: str) -> None:
    """Nobody goes on waiting for an endpoint on a channel that is closed, in whatever style."""
    net.document(document)
    net.endpoints()
    channel = net.channel()
    stub = echo_pb2_grpc.EchoStub(channel)
    codes: list[Any] = []

    def block() -> None:
        try:
            stub.Unary(Request(), wait_for_ready=True)
        except grpc.RpcError as error:
            codes.append(error.code())

    thread = threading.Thread(target=block, daemon=True)
    thread.start()
    future = stub.Unary.future(Request(), wait_for_ready=True)
    stream = stub.ServerStream(Request(), wait_for_ready=True)
    time.sleep(0.05)
    (channel if closed == "channel" else net.mesh).close()
    thread.join(2.0)
    assert codes == [grpc.StatusCode.CANCELLED]
    assert future.code() is stream.code() is grpc.StatusCode.CANCELLED


def test_closing_the_mesh_ends_who_waits_until_it_is_ready(net: Net) -> None:
    """A thread that waits without a limit for a service that is not there must not keep its process from ending."""
    net.endpoints()
    mesh = proxyless.connect(Mute())
    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(mesh.ready("nobody")))
    thread.start()
    eventually(lambda: bool(mesh._slot._waiters))
    mesh.close()
    thread.join(2.0)
    assert said == [False]
    assert mesh.ready() is False


def test_a_channel_that_is_made_while_the_mesh_closes_is_closed(net: Net) -> None:
    """Its calls would wait for ever for what nobody follows any more."""
    mesh = proxyless.connect(Mute())

    class Options(list[Any]):
        def __iter__(self) -> Any:
            mesh.close()  # as another thread might
            return super().__iter__()

    channel = mesh.channel("web", options=Options([("a", 1)]))
    assert channel.closed
    with pytest.raises(ValueError, match="closed channel"):
        channel.unary_unary("/echo.Echo/Unary")(b"")


def while_connecting(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint's connection is being made."""
    stub, arguments = net.stub(), Profile.arguments

    def interrupted(*given: Any) -> Any:
        net.mesh.close()
        return arguments(*given)

    monkeypatch.setattr(Profile, "arguments", interrupted)
    with pytest.raises(ValueError, match="closed channel"):
        stub.Unary(Request())
    assert len(net.mesh._subchannels) == 0


def while_listening(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process begins to listen for those who look into it."""
    listen = places.listen

    def interrupted(*given: Any) -> Any:
        for mesh in list(LISTENER._subjects):
            LISTENER.dismiss(mesh)
        return listen(*given)

    monkeypatch.setattr(places, "listen", interrupted)
    _ = net.mesh
    assert LISTENER._socket is None


def while_telling(net: Net, _: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's provider is asked for a meter."""
    meshes: list[proxyless.Mesh] = []

    class Provider(MeterProvider):
        def get_meter(self, *given: Any, **named: Any) -> Any:
            meshes[0].close()
            return NoOpMeterProvider().get_meter("test")

    meshes.append(proxyless.connect(net.source))
    meshes[0]._telemetry._given = (None, Provider())
    meshes[0]._telemetry.look()


@pytest.mark.parametrize("moment", [while_connecting, while_listening, while_telling])
def test_the_handler_of_a_signal_may_close_the_mesh_at_any_moment(
    net: Net, moment: Callable[[Net, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM comes when it likes: in the middle of what the very thread that handles it holds a lock for."""
    net.server()
    failures: list[BaseException] = []

    def main() -> None:
        try:
            moment(net, monkeypatch)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    thread.join(5.0)
    assert (thread.is_alive(), failures) == (False, [])


class Mute:
    """A source that never says anything."""

    name = "mute"

    def start(self, _sink: object) -> None:
        """It has nothing to say."""

    watch = unwatch = start

    def close(self) -> None:
        """Nothing to stop."""

    def status(self) -> dict[str, Any]:
        return {}


@either_way
def test_closing_an_asyncio_channel(net: Net, way: str) -> None:
    """Closing an asyncio channel cancels its calls, at the server too; new ones are a UsageError."""
    server = net.server()

    async def scene(_: Any) -> None:
        async with net.aio_channel(way) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            call, stream = stub.Unary(_HANG), stub.ServerStream(_ENDLESS)
            await stream.read()
            await soon(lambda: len(server.seen) == 2)
        for one in (call, stream):
            assert one.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await call
        await channel.close()
        for begin in (lambda: stub.Unary(Request()), lambda: stub.ServerStream(Request()), stub.BidiStream):
            with pytest.raises(grpc.aio.UsageError):
                begin()
        for seen in server.seen:
            await soon(seen.over.is_set)

    net.run(way, scene)


@either_way
def test_closing_with_grace(net: Net, way: str) -> None:
    """`close(grace)` waits for calls under way, no longer than they take, and cancels what takes longer."""
    net.server()

    async def scene(_: Any) -> None:
        channel = net.aio_channel(way)
        call = echo_pb2_grpc.EchoStub(channel).Unary(_SOON)
        started = time.monotonic()
        await channel.close(10.0)
        assert time.monotonic() - started < 5.0
        assert (await call).message == "m"
        channel = net.aio_channel(way)
        call = echo_pb2_grpc.EchoStub(channel).Unary(_HANG)
        started = time.monotonic()
        await channel.close(0.2)
        assert 0.15 < time.monotonic() - started < 5.0
        assert call.cancelled()
        channel = net.aio_channel(way)
        with pytest.raises(ValueError, match="non-negative"):
            await channel.close(-1.0)
        await channel.close()

    net.run(way, scene)


def test_closing_the_mesh_is_prompt(net: Net) -> None:
    """`Mesh.close` stops within 100 ms, ends calls, closes connections and every channel; twice is once."""
    server = net.server(named=False)
    with Relay(server.address) as relay:
        net.endpoints(relay.address)
        stub = net.stub()
        stream = stub.ServerStream(_ENDLESS)
        next(stream)
        future = stub.Unary.future(_HANG)
        eventually(lambda: len(server.seen) == 2)
        started = time.monotonic()
        net.mesh.close()
        assert time.monotonic() - started < 0.1
        for call in (stream, future):
            assert call.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(ValueError, match="losed"):
            stub.Unary(Request())
        with pytest.raises(ValueError, match="closed"):
            net.mesh.channel("echo")
        eventually(lambda: relay.open == 0)
        net.mesh.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("proxyless-") and _outlives(t)]


def _outlives(thread: threading.Thread) -> bool:
    thread.join(0.5)
    return thread.is_alive()


def test_closing_the_mesh_with_grace(net: Net) -> None:
    """`Mesh.close(grace)` lets calls under way finish, and does not wait longer than they take."""
    net.server()
    stub = net.stub()
    future = stub.Unary.future(_SOON)
    stream = stub.ServerStream(Request(message="m", count=10, delay_ms=20))
    started = time.monotonic()
    closing = threading.Thread(target=lambda: net.mesh.close(grace=10.0))
    closing.start()
    assert [reply.message for reply in stream] == ["m"] * 10
    assert future.result(timeout=5.0).message == "m"
    closing.join(5.0)
    assert time.monotonic() - started < 3.0


def test_closing_the_mesh_waits_for_who_is_no_longer_named(net: Net) -> None:
    """A call on an endpoint that has left meanwhile has the grace of all others."""
    net.server()
    future = net.stub().Unary.future(Request(message="m", delay_ms=1500))
    eventually(lambda: net.inflight == 1)
    net.endpoints(NOWHERE)
    eventually(lambda: net.settled(NOWHERE))
    net.mesh.close(grace=10.0)
    assert future.result(timeout=5.0).message == "m"


def test_closing_the_mesh_waits_for_calls_on_wrapped_channels(net: Net) -> None:
    """A call through `Mesh.interceptors` of a method that protobuf doesn't know has the grace of all others."""
    server = net.server()
    channel = net.channel("interceptors, no protobuf")
    call = channel.unary_unary("/echo.Echo/Unary", bytes, bytes)
    future = call.future(Request(message="m", delay_ms=500).SerializeToString())
    eventually(lambda: len(server.seen) == 1)
    net.mesh.close(grace=10.0)
    assert future.exception(timeout=5.0) is None


def test_closing_the_mesh_under_an_asyncio_channel(net: Net) -> None:
    """Closing the mesh ends the calls of its asyncio channels on their loop, from the loop or from a thread."""
    net.server()

    async def scene(from_the_loop: bool) -> None:
        mesh = proxyless.connect(net.source)
        stub = echo_pb2_grpc.EchoStub(mesh.aio_channel("echo"))
        call, stream = stub.Unary(_HANG), stub.ServerStream(_ENDLESS)
        await stream.read()
        if from_the_loop:
            mesh.close()
        else:
            await asyncio.to_thread(mesh.close)
        for one in (call, stream):
            assert await asyncio.wait_for(one.code(), 2.0) is grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.aio.UsageError):
            stub.Unary(Request())

    asyncio.run(scene(True))
    asyncio.run(scene(False))


def test_a_mesh_is_a_context_manager(net: Net) -> None:
    """A mesh is closed at the end of its `with`, and the same source can be connected again."""
    net.server()
    for _ in range(3):
        with proxyless.connect(net.source) as mesh:
            assert echo_pb2_grpc.EchoStub(mesh.channel("echo")).Unary(Request(message="m")).message == "m"
        with pytest.raises(ValueError, match="closed"):
            mesh.channel("echo")
