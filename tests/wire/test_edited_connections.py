"""Who edits `connection` has new connections made; the earlier ones go when nobody needs them any more."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import grpc
import pytest

from proxyless.state import Node
from tests.wire.echo import Request, eventually
from tests.wire.relay import Relay
from tests.wire.test_swaps import Hammer
from tests.wire.ways import Net, rest, soon

_STREAM = Request(message="m", count=40, delay_ms=20)


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not wanted any more lingers for 0.1 s instead of 1 s."""
    monkeypatch.setattr("proxyless.channel.subchannel.LINGER", 0.1)


def _edit(net: Net, milliseconds: int, more: str = "") -> None:
    """Have endpoints connected in another way."""
    net.document(f"{{trafficPolicy: {{connection: {{connectTimeout: {milliseconds}ms}}}}{more}}}")


def _edited(net: Net, milliseconds: int) -> bool:
    """Whether that is what calls go by."""
    clusters = net.mesh.snapshot.clusters.values()
    return {round(cluster.connection.connect_timeout * 1000) for cluster in clusters} == {milliseconds}


def test_an_edit_leaves_no_earlier_connection(net: Net) -> None:
    """Twenty edits of `connection`, with calls after each: one connection to the endpoint is left."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)
        stub = net.stub()
        for milliseconds in range(1001, 1021):
            _edit(net, milliseconds)
            eventually(lambda milliseconds=milliseconds: _edited(net, milliseconds))
            stub.Unary(Request())
        assert relay.accepted == 20
        eventually(lambda: relay.open == 1)
        assert len(net.mesh._subchannels) == 1
        stub.Unary(Request())
        assert relay.accepted == 20


def test_an_edit_leaves_no_earlier_connection_on_a_loop(net: Net) -> None:
    """The same on asyncio."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)

        async def scene(stub: Any) -> None:
            for milliseconds in range(1001, 1021):
                _edit(net, milliseconds)
                await soon(lambda milliseconds=milliseconds: _edited(net, milliseconds))
                await stub.Unary(Request())
            assert relay.accepted == 20
            await soon(lambda: relay.open == 1)
            assert len(net.mesh._subchannels) == 1
            await stub.Unary(Request())
            assert relay.accepted == 20

        net.run("mesh", scene)


def test_a_stream_by_earlier_settings_is_finished(net: Net) -> None:
    """A stream that was begun before an edit is finished on its connection, which is closed then, whoever else calls
    that endpoint."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)
        stub = net.stub()
        stream = stub.ServerStream(_STREAM)
        next(stream)
        with Hammer(net) as hammer:
            _edit(net, 1001)
            eventually(lambda: _edited(net, 1001))
            time.sleep(0.4)
            assert len(list(stream)) == 39
            assert stream.code() is grpc.StatusCode.OK
            del stream
            eventually(lambda: _ways(net) == {1001})
        assert set(hammer.ends) == {"ok"}, hammer.ends


def _ways(net: Net) -> set[int]:
    """The connect timeouts, in milliseconds, of the channels that threads and loops have to endpoints."""
    return {round(connection.connect_timeout * 1000) for _, _, connection, _ in list(net.mesh._subchannels._channels)}


def test_a_stream_by_earlier_settings_is_finished_on_a_loop(net: Net) -> None:
    """The same on asyncio."""
    with Relay(net.server("a", named=False).address) as relay:
        net.endpoints(relay.address)

        async def scene(stub: Any) -> None:
            stream = stub.ServerStream(_STREAM)
            await stream.read()
            _edit(net, 1001)
            await soon(lambda: _edited(net, 1001))
            assert (await stub.Unary(Request())).served_by == "a"
            await asyncio.sleep(0.3)
            assert relay.open == 2
            assert (1 + await rest(stream), await stream.code()) == (40, grpc.StatusCode.OK)
            del stream  # C-core keeps a connection for as long as somebody holds a call that was made on it
            await soon(lambda: relay.open == 1)

        net.run("mesh", scene)


def test_edits_under_traffic_lose_no_call(net: Net) -> None:
    """Threads and a loop call without pause, in all styles, while `connection` is edited forty times: all succeed."""
    for name in ("a", "b", "c"):
        net.server(name)
    with Hammer(net) as hammer:
        for milliseconds in range(1001, 1041):
            _edit(net, milliseconds)
            eventually(lambda milliseconds=milliseconds: _edited(net, milliseconds))
            time.sleep(0.04)
    assert set(hammer.ends) == {"ok"}, hammer.ends
    eventually(lambda: len(_ways(net)) == 1)


def test_a_retry_by_earlier_settings_is_no_rule_for_others(net: Net) -> None:
    """A call that tries again after an edit does so by the settings that it began with. Later calls of the method go
    by the new ones all the same, and the earlier connection is closed."""
    server = net.server("a", named=False)
    server.echo.trailers = [("grpc-retry-pushback-ms", "1000")]
    again = ", routes: [{name: all, retry: {attempts: 1, on: [unavailable]}}]"
    with Relay(server.address) as relay:
        net.endpoints(relay.address)
        for attempt in range(1001, 1011):  # until the machine is quick enough to have an edit in effect within a second
            _edit(net, attempt, again)
            eventually(lambda attempt=attempt: _edited(net, attempt))
            stub = net.stub()
            stub.Unary(Request())
            failing = stub.Unary.future(Request(fail_code=14, fail_times=1, fail_key=f"{attempt}"))
            server.last()
            _edit(net, attempt + 1000, again)
            eventually(lambda attempt=attempt: _edited(net, attempt + 1000))
            late = not failing.done()
            assert failing.result(timeout=5.0).served_by == "a"
            before = relay.accepted
            stub.Unary(Request())
            if late:
                assert relay.accepted == before + 1
                eventually(lambda attempt=attempt: _ways(net) == {attempt + 1000})
                return
        raise AssertionError("no retry outlasted an edit")


def test_a_subset_that_goes_takes_its_settings_along(net: Net) -> None:
    """A subset with settings of its own is taken out, and its endpoint stays: one connection to it is left."""
    with Relay(net.server("a", named=False).address) as relay:
        canary = (
            "{subsets: {canary: {labels: {}, trafficPolicy: {connection: {connectTimeout: 3s}}}}, routes: ["
            "{name: canary, match: [{headers: {x-canary: {exact: 'yes'}}}], split: [{subset: canary}]}, {name: all}]}"
        )
        net.document(canary)
        net.endpoints(relay.address)
        stub = net.stub()
        stub.Unary(Request())
        stub.Unary(Request(), metadata=[("x-canary", "yes")])
        assert relay.open == 2
        net.document("{}")
        eventually(lambda: relay.open == 1)
        stub.Unary(Request())
        assert relay.accepted == 2


def test_endpoints_whose_labels_change_leave_nothing(net: Net) -> None:
    """Twenty times the endpoints are another subset's, under the same addresses: what was known of their earlier
    membership is let go of, and not kept by the methods that calls were made of."""
    servers = [net.server(name, named=False).address for name in ("a", "b")]
    net.document(
        "{subsets: {blue: {labels: {c: blue}}, green: {labels: {c: green}}}, routes: ["
        "{name: blue, match: [{headers: {x: {exact: blue}}}], split: [{subset: blue}]}, {name: rest, split: "
        "[{subset: green}]}]}"
    )
    stub = net.stub()
    for colour in ["blue", "green"] * 10:
        net.endpoints(*servers, c=colour)
        eventually(lambda colour=colour: _members(net, colour) == 2)
        for _ in range(4):
            stub.Unary(Request(), metadata=[("x", colour)])
        time.sleep(0.15)
    time.sleep(0.3)
    stub.Unary(Request())
    gc.collect()
    assert sum(isinstance(thing, Node) and thing.address in servers for thing in gc.get_objects()) <= 4


def _members(net: Net, colour: str) -> int:
    clusters = net.mesh.snapshot.clusters.items()
    return sum(len(cluster.nodes) for key, cluster in clusters if key.subset == colour)


def test_who_watches_the_state_watches_what_is_used(net: Net) -> None:
    """A subscriber to a channel's state goes on being told after an edit: also that the server has died since."""
    net.server("a")
    told: list[grpc.ChannelConnectivity] = []
    channel = net.channel()
    channel.subscribe(told.append, try_to_connect=True)
    eventually(lambda: grpc.ChannelConnectivity.READY in told)
    _edit(net, 1001)
    eventually(lambda: _edited(net, 1001))
    eventually(lambda: _ways(net) == {1001})
    eventually(lambda: told[-1] is grpc.ChannelConnectivity.READY)
    net.servers[0].stop()
    eventually(lambda: told[-1] is not grpc.ChannelConnectivity.READY)
