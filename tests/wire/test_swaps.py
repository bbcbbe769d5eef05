"""Endpoints come and go under traffic: no call is lost, and what was begun on an endpoint that went is finished."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from typing import Any

import grpc
import pytest

from proxyless.channel.profile import Profile
from proxyless.channel.subchannel import Subchannels
from proxyless.channel.timers import Timers
from proxyless.model.traffic import DEFAULTS
from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request, dead_address, eventually
from tests.wire.relay import Relay
from tests.wire.ways import Net, rest, soon

_STREAM = Request(message="m", count=40, delay_ms=20)


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of endpoints that are no longer named linger for 0.1 s instead of 1 s."""
    monkeypatch.setattr("proxyless.channel.subchannel.LINGER", 0.1)


class Hammer:
    """Calls without a pause from threads and from a loop, in all styles, and counts what comes of it."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.ends: Counter[str] = Counter()
        self._stub = net.stub()
        styles = [self._unary, self._unary, self._future, self._stream, self._requests]
        self._threads = [threading.Thread(target=self._repeat, args=(style,)) for style in styles]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._on_a_loop())))

    def _note(self, end: str) -> None:
        with self._lock:
            self.ends[end] += 1

    def _repeat(self, style: Any) -> None:
        while not self._stop.is_set():
            try:
                style()
                self._note("ok")
            except Exception as error:
                self._note(repr(error))

    def _unary(self) -> None:
        assert self._stub.Unary(Request(message="m")).message == "m"

    def _future(self) -> None:
        assert self._stub.Unary.future(Request(message="m")).result(timeout=10.0).message == "m"

    def _stream(self) -> None:
        assert len(list(self._stub.ServerStream(Request(count=3)))) == 3

    def _requests(self) -> None:
        requests = iter([Request(message="a"), Request(message="b")])
        assert self._stub.ClientStream(requests).message == "a,b"

    async def _on_a_loop(self) -> None:
        async with self._net.aio_channel() as channel:
            stub = echo_pb2_grpc.EchoStub(channel)

            async def repeat() -> None:
                while not self._stop.is_set():
                    try:
                        assert (await stub.Unary(Request(message="m"))).message == "m"
                        assert len([reply async for reply in stub.ServerStream(Request(count=2))]) == 2
                        self._note("ok")
                    except Exception as error:
                        self._note(repr(error))

            await asyncio.gather(*(repeat() for _ in range(4)))

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20.0)


def test_a_hundred_swaps_lose_no_call(net: Net) -> None:
    """Six threads and a loop call without pause while the file names other endpoints a hundred times: all succeed."""
    addresses = [net.server(name).address for name in ("a", "b", "c")]
    choices = [chosen for size in (1, 2, 3) for chosen in itertools.combinations(addresses, size)]
    assert net.settled(*addresses)
    with Hammer(net) as hammer:
        for swap in range(100):
            chosen = choices[(swap * 3) % len(choices)]
            net.endpoints(*chosen)
            eventually(lambda chosen=chosen: net.settled(*chosen))
            time.sleep(0.01)
    assert set(hammer.ends) == {"ok"}, hammer.ends
    assert hammer.ends["ok"] > 500
    assert all(server.seen for server in net.servers)


def test_an_endpoint_that_goes_is_drained(net: Net, short_linger: None) -> None:
    """A stream on an endpoint that is no longer named is finished; then its connection is closed."""
    going, staying = net.server("a", named=False), net.server("b", named=False)
    with Relay(going.address) as relay:
        net.endpoints(relay.address)
        stub = net.stub()
        stream = stub.ServerStream(_STREAM)
        next(stream)
        net.endpoints(staying.address)
        eventually(lambda: net.settled(staying.address))
        assert stub.Unary(Request()).served_by == "b"
        time.sleep(0.3)
        assert relay.open == 1
        assert len(list(stream)) == 39
        assert stream.code() is grpc.StatusCode.OK
        eventually(lambda: relay.open == 0)
        eventually(lambda: len(net.mesh._subchannels) == 1)
        assert stub.Unary(Request()).served_by == "b"


def test_an_endpoint_that_goes_is_drained_on_a_loop(net: Net, short_linger: None) -> None:
    """The same for a stream on asyncio."""
    going, staying = net.server("a", named=False), net.server("b", named=False)
    with Relay(going.address) as relay:
        net.endpoints(relay.address)

        async def scene(stub: Any) -> None:
            stream = stub.ServerStream(_STREAM)
            await stream.read()
            net.endpoints(staying.address)
            await soon(lambda: net.settled(staying.address))
            assert (await stub.Unary(Request())).served_by == "b"
            await asyncio.sleep(0.3)
            assert (1 + await rest(stream), await stream.code()) == (40, grpc.StatusCode.OK)
            del stream  # C-core keeps a connection for as long as somebody holds a call that was made on it
            await soon(lambda: relay.open == 0)

        net.run("mesh", scene)


def test_an_idle_endpoint_that_goes_is_closed(net: Net, short_linger: None) -> None:
    """The connection of an endpoint that is no longer named, and where nothing is under way, is closed soon."""
    going, staying = net.server("a", named=False), net.server("b", named=False)
    with Relay(going.address) as relay:
        net.endpoints(relay.address)
        net.stub().Unary(Request())
        assert relay.open == 1
        net.endpoints(staying.address)
        eventually(lambda: relay.open == 0)


def test_an_endpoint_that_comes_back_keeps_its_connection(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that is named again before its connection was closed is served by the same connection."""
    monkeypatch.setattr("proxyless.channel.subchannel.LINGER", 0.4)
    server, other = net.server("a", named=False), net.server("b", named=False)
    with Relay(server.address) as relay:
        net.endpoints(relay.address)
        stub = net.stub()
        stub.Unary(Request())
        net.endpoints(other.address)
        eventually(lambda: net.settled(other.address))
        net.endpoints(relay.address)
        eventually(lambda: net.settled(relay.address))
        time.sleep(0.6)
        assert stub.Unary(Request()).served_by == "a"
        assert relay.accepted == 1


def test_a_stream_survives_coming_and_going(net: Net, short_linger: None) -> None:
    """An endpoint that goes, comes back and goes again while a stream is under way on it: the stream is finished."""
    going, staying = net.server("a", named=False), net.server("b", named=False)
    net.endpoints(going.address)
    stub = net.stub()
    stream = stub.ServerStream(_STREAM)
    next(stream)
    for addresses in ([staying.address], [going.address, staying.address], [staying.address]):
        net.endpoints(*addresses)
        eventually(lambda addresses=addresses: net.settled(*addresses))
    assert len(list(stream)) == 39
    assert stream.code() is grpc.StatusCode.OK


def test_a_stream_survives_beside_an_idle_subset(net: Net, short_linger: None) -> None:
    """An endpoint in two subsets goes, with a stream under way in one and nothing in the other: it is finished."""
    going, staying = net.server("a", named=False), net.server("b", named=False)
    net.document(
        "{subsets: {one: {labels: {version: v1}}, two: {labels: {version: v1}}}, routes: ["
        "{name: one, match: [{headers: {x-subset: {exact: one}}}], split: [{subset: one}]}, "
        "{name: two, split: [{subset: two}]}]}"
    )
    net.endpoints(going.address, version="v1")
    stub = net.stub()
    assert stub.Unary(Request()).served_by == "a"
    stream = stub.ServerStream(_STREAM, metadata=(("x-subset", "one"),))
    next(stream)
    net.endpoints(staying.address, version="v1")
    eventually(lambda: net.settled(staying.address))
    assert stub.Unary(Request()).served_by == "b"
    assert len(list(stream)) == 39
    assert stream.code() is grpc.StatusCode.OK


def test_who_needs_an_endpoint_just_as_it_is_being_closed_gets_another_connection(short_linger: None) -> None:
    """It is named again in the very moment in which nobody needs it any more: no call is made on what is closed."""
    timers = Timers()
    subchannels = Subchannels(timers)
    address, settings, profile = dead_address(), DEFAULTS.connection, Profile("web")
    closing = subchannels.sync(address, settings, profile)
    given: list[Any] = []
    needer = threading.Thread(target=lambda: given.append(subchannels.sync(address, settings, profile)))

    def needed(_: str) -> bool:
        needer.start()
        needer.join(0.2)
        return False

    subchannels.retire(address, needed)
    eventually(lambda: bool(given))
    needer.join()
    assert given[0] is not closing
    assert given == [subchannels.peek(None, address, settings, profile)]
    subchannels.close()
