"""Connectivity: `subscribe`, `channel_ready_future`, and asyncio's `get_state` and its kin."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.wire.echo import Request, dead_address, eventually
from tests.wire.ways import Net, either_way, soon

State = grpc.ChannelConnectivity


@pytest.fixture(autouse=True)
def no_more_polling(net: Net) -> Iterator[None]:
    """grpcio polls the state of a channel on a thread that notices up to 0.2 s late that nobody is subscribed
    any
    more, and dies noisily if the channel was closed by then: the channels are closed after that."""
    yield
    time.sleep(0.25)


@either_way
def test_a_channel_becomes_ready(net: Net, way: str) -> None:
    """`channel_ready_future` is done as soon as an endpoint is connected, and calls back."""
    net.server()
    channel = net.channel(way)
    future = grpc.channel_ready_future(channel)
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    assert future.result(timeout=5.0) is None
    assert told.wait(2.0)
    assert (future.done(), future.cancelled()) == (True, False)
    grpc.channel_ready_future(channel).result(timeout=5.0)


@either_way
def test_a_channel_does_not_become_ready(net: Net, way: str) -> None:
    """Where nobody listens `channel_ready_future` waits as long as it is told, and can be cancelled."""
    net.endpoints(dead_address())
    future = grpc.channel_ready_future(net.channel(way))
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.1)
    assert future.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        future.result(timeout=0.1)


def test_a_channel_becomes_ready_later(net: Net) -> None:
    """A channel to a service without endpoints is ready as soon as the first is named and connected."""
    server = net.server(named=False)
    future = grpc.channel_ready_future(net.channel())
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.2)
    net.endpoints(server.address)
    future.result(timeout=5.0)


def test_one_live_endpoint_is_enough(net: Net) -> None:
    """A channel is ready when one of its endpoints is, whichever it is."""
    server = net.server(named=False)
    net.endpoints(dead_address(), dead_address(), server.address)
    started = time.monotonic()
    grpc.channel_ready_future(net.channel()).result(timeout=9.0)
    assert time.monotonic() - started < 5.0


@either_way
def test_subscribers_are_told_every_change(net: Net, way: str) -> None:
    """A subscriber is told the present state and every change, each once; after `unsubscribe` nothing more."""
    server = net.server()
    channel = net.channel(way)
    told: list[State] = []
    channel.subscribe(told.append, try_to_connect=True)
    eventually(lambda: State.READY in told)
    assert told[0] in (State.IDLE, State.CONNECTING)
    assert all(one is not next_ for one, next_ in itertools.pairwise(told))
    late: list[State] = []
    channel.subscribe(late.append)
    eventually(lambda: late == [State.READY])
    channel.unsubscribe(late.append)
    server.stop()
    eventually(lambda: told[-1] is not State.READY)
    channel.unsubscribe(told.append)
    channel.unsubscribe(told.append)
    assert late == [State.READY]


@either_way
def test_a_subscriber_without_connecting(net: Net, way: str) -> None:
    """Who subscribes without trying to connect is told IDLE, and READY once a call has connected the channel."""
    net.server()
    channel = net.channel(way)
    told: list[State] = []
    channel.subscribe(told.append)
    eventually(lambda: told)
    time.sleep(0.1)
    assert told == [State.IDLE]
    channel.unary_unary("/echo.Echo/Unary")(Request().SerializeToString())
    eventually(lambda: told[-1] is State.READY)
    channel.unsubscribe(told.append)


@either_way
def test_a_subscriber_that_fails(net: Net, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """A subscriber that raises is logged, and the others are told all the same."""
    net.server()
    channel = net.channel(way)
    told: list[State] = []

    def fail(state: State) -> None:
        raise ValueError(state)

    with caplog.at_level(logging.ERROR):
        channel.subscribe(fail, try_to_connect=True)
        channel.subscribe(told.append, try_to_connect=True)
        eventually(lambda: State.READY in told)
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    channel.unsubscribe(fail)
    channel.unsubscribe(told.append)


@either_way
def test_asyncio_states(net: Net, way: str) -> None:
    """An asyncio channel is IDLE, CONNECTING when it is told to, READY, and SHUTDOWN once it is closed."""
    net.server()

    async def scene(_: Any) -> None:
        channel = net.aio_channel(way, options=[("grpc.use_local_subchannel_pool", 1)])
        assert channel.get_state() is State.IDLE
        assert channel.get_state() is State.IDLE
        state = channel.get_state(try_to_connect=True)
        while state is not State.READY:
            await asyncio.wait_for(channel.wait_for_state_change(state), 5.0)
            state = channel.get_state(try_to_connect=True)
        await asyncio.wait_for(channel.channel_ready(), 5.0)
        assert channel.get_state() is State.READY
        waiting = asyncio.ensure_future(channel.wait_for_state_change(State.READY))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await channel.close()
        await asyncio.wait_for(waiting, 5.0)
        assert channel.get_state() is State.SHUTDOWN

    net.run(way, scene)


@either_way
def test_asyncio_waits_for_a_server(net: Net, way: str) -> None:
    """`channel_ready` waits until somebody listens, and gives up when it is cancelled."""
    address = dead_address()
    net.endpoints(address)
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]

    async def scene(_: Any) -> None:
        channel = net.aio_channel(way, options=options)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(channel.channel_ready(), 0.2)
        net.server(named=False, address=address)
        await asyncio.wait_for(channel.channel_ready(), 9.0)
        await channel.close()

    net.run(way, scene)


def test_asyncio_waits_for_an_endpoint(net: Net) -> None:
    """`channel_ready` waits until an endpoint is named."""
    server = net.server(named=False)

    async def scene(_: Any) -> None:
        channel = net.aio_channel()
        assert channel.get_state(try_to_connect=True) is not State.READY
        waiting = asyncio.ensure_future(channel.channel_ready())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        net.endpoints(server.address)
        await asyncio.wait_for(waiting, 5.0)
        await soon(lambda: channel.get_state() is State.READY)

    net.run("mesh", scene)


@either_way
def test_a_closed_asyncio_channel_does_not_become_ready(net: Net, way: str) -> None:
    """Waiting for a closed channel is a UsageError, not an endless wait."""
    net.server()

    async def scene(_: Any) -> None:
        channel = net.aio_channel(way)
        await channel.close()
        for wait in (channel.channel_ready(), channel.wait_for_state_change(State.SHUTDOWN)):
            with pytest.raises(grpc.aio.UsageError):
                await asyncio.wait_for(wait, 2.0)

    net.run(way, scene)
