"""Hedged calls over real servers: blocking, `.future()` and asyncio, whichever way their answer comes."""

from __future__ import annotations

import asyncio
import gc
import time

import grpc
import pytest

from tests.wire.echo import Request, eventually
from tests.wire.talks import talk
from tests.wire.ways import Net

HEDGED = [
    ("blocking", "Unary"),
    ("future", "Unary"),
    ("aio", "Unary"),
    ("blocking", "ServerStream"),
    ("aio", "ServerStream"),
]
each_hedged = pytest.mark.parametrize(("style", "method"), HEDGED)
each_held = pytest.mark.parametrize(("style", "method"), HEDGED[1:])

TURNS = "trafficPolicy: {loadBalancer: {policy: round_robin}}"


def hedging(net: Net, hedge: str = "delay: 30ms, attempts: 1, nonFatal: [unavailable]", more: str = TURNS) -> None:
    net.document(f"{{routes: [{{hedge: {{{hedge}}}}}], {more}}}")


def messages(method: str) -> list[str]:
    return ["m"] if method == "Unary" else ["m"] * 3


@each_hedged
def test_the_fast_server_answers_for_the_slow_one_which_is_told(net: Net, style: str, method: str) -> None:
    """Of two servers one takes 10 s: every call has its answer at once, and the slow server sees its call cancelled."""
    fast, slow = net.server("fast"), net.server("slow", delay=10.0)
    hedging(net)
    began = time.monotonic()
    for _ in range(4):
        ending = talk(net, "mesh", style, method, Request(message="m", count=3)).end()
        assert (ending.messages, ending.code, ending.error) == (messages(method), grpc.StatusCode.OK, None)
    assert time.monotonic() - began < 5
    assert len(fast.seen) == 4
    assert slow.seen
    eventually(lambda: all(seen.over.is_set() and seen.cancelled for seen in slow.seen))
    assert not any(seen.cancelled for seen in fast.seen)
    eventually(lambda: net.inflight == 0)


@each_hedged
def test_a_failure_that_is_not_fatal_sends_the_next_at_once(net: Net, style: str, method: str) -> None:
    """Long before the delay; the second attempt says how many went before it."""
    net.server("a")
    net.server("b")
    hedging(net, "delay: 60s, attempts: 2, nonFatal: [unavailable]")
    request = Request(message="m", count=3, fail_code=14, fail_times=1, fail_key=f"{style} {method}")
    net.servers[0].echo._failed["x"] = 0
    ending = talk(net, "mesh", style, method, request).end()
    seen = [one for server in net.servers for one in server.seen]
    assert ending.messages == messages(method)
    assert len(seen) in (2, 3)  # each server fails its first
    attempts = sorted(value for one in seen for key, value in one.metadata if key == "grpc-previous-rpc-attempts")
    assert attempts == [str(number + 1) for number in range(len(seen) - 1)]


@each_hedged
def test_a_fatal_failure_is_the_call_s(net: Net, style: str, method: str) -> None:
    """With its code, its details and its trailing metadata, as if there had been one attempt."""
    net.server("a")
    net.server("b")
    hedging(net, "delay: 60s, attempts: 2, nonFatal: [unavailable]")
    request = Request(message="m", count=3, fail_code=9, fail_details="not before noon", fail_rich=True)
    ending = talk(net, "mesh", style, method, request).end()
    assert (ending.messages, ending.code) == ([], grpc.StatusCode.FAILED_PRECONDITION)
    assert ending.details == "not before noon"
    assert [key for key, _ in ending.trailing] == ["grpc-status-details-bin"]
    assert sum(len(server.seen) for server in net.servers) == 1


@each_hedged
def test_where_all_fail_the_call_fails(net: Net, style: str, method: str) -> None:
    """As the last attempt did."""
    net.server("a")
    net.server("b")
    hedging(net, "delay: 10ms, attempts: 2, nonFatal: [unavailable]")
    request = Request(message="m", fail_code=14, fail_details="closed")
    ending = talk(net, "mesh", style, method, request).end()
    assert (ending.messages, ending.code, ending.details) == ([], grpc.StatusCode.UNAVAILABLE, "closed")
    assert sum(len(server.seen) for server in net.servers) == 3


@each_hedged
def test_the_deadline_holds_for_all_attempts(net: Net, style: str, method: str) -> None:
    """Nobody answers; at the deadline the call is over, at the servers too."""
    net.server("a", delay=10.0)
    net.server("b", delay=10.0)
    hedging(net)
    began = time.monotonic()
    ending = talk(net, "mesh", style, method, Request(message="m", count=1), timeout=1.5).end()  # connecting included
    assert ending.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 1.45 < time.monotonic() - began < 4.2
    seen = [one for server in net.servers for one in server.seen]
    assert len(seen) == 2
    eventually(lambda: all(one.over.is_set() for one in seen))


@each_held
def test_a_cancelled_call_cancels_every_attempt(net: Net, style: str, method: str) -> None:
    """Two are under way when the caller gives up."""
    net.server("a", delay=10.0)
    net.server("b", delay=10.0)
    hedging(net)
    conversation = talk(net, "mesh", style, method, Request(message="m", count=1))
    if style == "aio":  # its loop runs only while something is asked for
        conversation._do(asyncio.sleep(0.3))
    eventually(lambda: all(server.seen for server in net.servers))
    assert conversation.cancel()
    assert not conversation.cancel()
    ending = conversation.end()
    assert ending[:2] == ([], grpc.StatusCode.CANCELLED)
    eventually(lambda: all(one.cancelled for server in net.servers for one in server.seen))
    eventually(lambda: net.inflight == 0)
    status = net.mesh.status()["destinations"]["echo"]
    assert (status["requests"], status["hedges"]) == (0, 1)


@pytest.mark.parametrize("style", ["blocking", "aio"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_nobody_holds_is_cancelled_with_all_its_attempts(net: Net, style: str, begun: bool) -> None:
    """Whether it has begun or not."""
    delay = 0.0 if begun else 10.0
    net.server("a", delay=delay)
    net.server("b", delay=delay)
    hedging(net)
    conversation = talk(net, "mesh", style, "ServerStream", Request(message="m", count=100_000, delay_ms=2))
    if begun:
        assert conversation.first() == "m"
    elif style == "aio":
        conversation._do(asyncio.sleep(0.1))
    else:
        eventually(lambda: sum(len(server.seen) for server in net.servers) == 2)
    conversation.drop()
    gc.collect()
    if style == "aio":
        conversation._do(asyncio.sleep(0.1))
    eventually(lambda: net.inflight == 0)
    seen = [one for server in net.servers for one in server.seen]
    eventually(lambda: all(one.cancelled for one in seen))


def test_a_future_that_nobody_holds_is_cancelled(net: Net) -> None:
    """As grpcio's own are."""
    net.server("a", delay=10.0)
    net.server("b", delay=10.0)
    hedging(net)
    conversation = talk(net, "mesh", "future", "Unary", Request(message="m"))
    eventually(lambda: sum(len(server.seen) for server in net.servers) == 2)
    conversation.drop()
    gc.collect()
    eventually(lambda: net.inflight == 0)
    eventually(lambda: all(one.cancelled for server in net.servers for one in server.seen))


def test_a_future_with_callbacks_is_made_though_nobody_holds_it(net: Net) -> None:
    """Who is to be called back is called back."""
    net.server("fast")
    net.server("slow", delay=10.0)
    hedging(net)
    results: list[str] = []
    for _ in range(2):
        future = net.stub().Unary.future(Request(message="m"))
        future.add_done_callback(lambda done: results.append(done.result().served_by))
        del future
    gc.collect()
    eventually(lambda: results == ["fast", "fast"])


def test_an_asyncio_call_that_nobody_awaits_is_made(net: Net) -> None:
    """As grpcio's own are, hedged or not."""
    fast, _ = net.server("fast"), net.server("slow", delay=10.0)
    hedging(net)

    async def scene(stub: object) -> None:
        for _ in range(2):
            stub.Unary(Request(message="m"))  # type: ignore[attr-defined]
        for _ in range(500):
            if len(fast.seen) == 2:
                break
            await asyncio.sleep(0.01)
        assert len(fast.seen) == 2
        await asyncio.sleep(0.05)

    net.run("mesh", scene)


def test_an_asyncio_stream_tells_its_initial_metadata_before_it_is_read(net: Net) -> None:
    """Whoever asks for it first waits for the attempt that answers."""
    net.server("fast")
    net.server("slow", delay=10.0)
    hedging(net)

    async def scene(stub: object) -> None:
        for _ in range(2):
            call = stub.ServerStream(  # type: ignore[attr-defined]
                Request(message="m", count=2), metadata=(("x-initial-a", "1"),)
            )
            assert ("x-initial-a", "1") in tuple(await call.initial_metadata())
            assert (await call.read()).message == "m"
            assert [answer async for answer in _rest(call)] == ["m"]
            assert await call.code() is grpc.StatusCode.OK

    async def _rest(call: object):  # type: ignore[no-untyped-def]
        while (answer := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            yield answer.message

    net.run("mesh", scene)


def test_an_attempt_that_was_never_connected_is_followed_at_once(net: Net) -> None:
    """A dead endpoint costs no delay, whatever `nonFatal` says."""
    from tests.wire.echo import dead_address

    server = net.server("a")
    net.endpoints(dead_address(), server.address)
    hedging(net, "delay: 60s, attempts: 1")
    for _ in range(3):
        assert net.stub().Unary(Request(message="m"), timeout=10).served_by == "a"
