"""Channels that are opened and closed without end leave no connection behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request, eventually
from tests.wire.relay import Relay
from tests.wire.test_swaps import Hammer
from tests.wire.ways import Net, soon


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not wanted any more lingers for 0.1 s instead of 1 s."""
    monkeypatch.setattr("proxyless.channel.subchannel.LINGER", 0.1)


def _own(number: int) -> list[tuple[str, Any]]:
    """Options that no other channel has, and that ask for a connection of their own, as other credentials would."""
    return [("grpc.primary_user_agent", f"own-{number}")]


def test_channels_with_options_of_their_own(net: Net) -> None:
    """Twenty channels with other options each: once closed, their connections are, while others go on calling."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)
        with Hammer(net) as hammer:
            for number in range(20):
                with net.mesh.channel("echo", options=_own(number)) as channel:
                    echo_pb2_grpc.EchoStub(channel).Unary(Request())
            del channel
            gc.collect()
            eventually(lambda: relay.open == 2)  # the hammer's threads have one, and its loop
        assert set(hammer.ends) == {"ok"}, hammer.ends


def test_channels_that_nobody_closes(net: Net) -> None:
    """Nor do connections outlive channels that were dropped, from when others are opened."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)
        for number in range(20):
            echo_pb2_grpc.EchoStub(net.mesh.channel("echo", options=_own(number))).Unary(Request())
        gc.collect()
        net.stub().Unary(Request())
        eventually(lambda: relay.open == 1)


def test_channels_on_a_loop_with_options_of_their_own(net: Net) -> None:
    """The same on asyncio."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)

        async def scene(stub: Any) -> None:
            await stub.Unary(Request())
            for number in range(20):
                async with net.aio_channel(options=_own(number)) as channel:
                    await echo_pb2_grpc.EchoStub(channel).Unary(Request())
            del channel
            gc.collect()
            await soon(lambda: relay.open == 1)

        net.run("mesh", scene)


def test_a_channel_with_the_same_options_keeps_the_connection(net: Net) -> None:
    """Two channels with equal options share a connection; the one that is left open keeps it."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)
        kept, closed = net.channel(options=_own(1)), net.channel(options=_own(1))
        for channel in (kept, closed):
            echo_pb2_grpc.EchoStub(channel).Unary(Request())
        closed.close()
        threading.Event().wait(0.5)
        echo_pb2_grpc.EchoStub(kept).Unary(Request())
        assert (relay.open, relay.accepted) == (1, 1)


def test_a_blocking_call_on_a_closed_channel_ends_by_itself(net: Net) -> None:
    """A call that another thread waits for when its channel is closed is answered, and its connection goes then."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)
        channel = net.mesh.channel("echo", options=_own(1))
        stub = echo_pb2_grpc.EchoStub(channel)
        ended: list[str] = []

        def call() -> None:
            ended.append(stub.Unary(Request(message="m", delay_ms=600)).message)

        thread = threading.Thread(target=call)
        thread.start()
        net.servers[0].last()
        channel.close()
        thread.join(5.0)
        assert ended == ["m"]
        eventually(lambda: relay.open == 0)


def test_copies_for_a_shadow_outlive_their_channel(net: Net) -> None:
    """A copy that is under way when its channel is closed and dropped is answered: the shadow sees no call cut."""
    shadow = net.server("shadow", named=False, delay=0.5)
    net.beside("shadow", shadow.address)
    net.server("a")
    net.document("{routes: [{name: all, mirror: [{service: shadow, percent: 100}]}]}")
    with net.mesh.channel("echo", options=_own(1)) as channel:
        echo_pb2_grpc.EchoStub(channel).Unary(Request())
    del channel
    gc.collect()
    seen = shadow.last()
    assert seen.over.wait(5.0)
    assert not seen.cancelled


def test_opening_and_closing_under_traffic_loses_no_call(net: Net) -> None:
    """Four threads and a loop open, call and close channels with one of three sets of options: no call is lost."""
    net.server("a")
    net.stub().Unary(Request())
    lost: list[BaseException] = []

    def threads(which: int) -> None:
        try:
            for number in range(60):
                with net.mesh.channel("echo", options=_own((which + number) % 3)) as channel:
                    assert echo_pb2_grpc.EchoStub(channel).Unary(Request(message="m", delay_ms=5)).message == "m"
        except BaseException as error:
            lost.append(error)

    async def loop() -> None:
        for number in range(60):
            async with net.aio_channel(options=_own(number % 3)) as channel:
                assert (await echo_pb2_grpc.EchoStub(channel).Unary(Request(message="m", delay_ms=5))).message == "m"

    workers = [threading.Thread(target=threads, args=(which,)) for which in range(4)]
    for worker in workers:
        worker.start()
    asyncio.run(loop())
    for worker in workers:
        worker.join(30.0)
    assert lost == []
