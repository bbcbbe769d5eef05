"""The matrix: four arities × (blocking, future, asyncio) × how a call can go, on bare grpcio and through the
mesh.

Each expectation is one literal, held against both: what differs fails.
"""

from __future__ import annotations

import asyncio
import gc
import time

import grpc
import pytest
from grpc_status import rpc_status

from tests.wire.echo import Request, eventually, rich_status
from tests.wire.talks import HANDLES, each_call, each_handle, each_stream, talk
from tests.wire.ways import Net, any_way

_HANG = Request(message="m", delay_ms=20_000, count=1)
_ENDLESS = Request(message="m", count=100_000, delay_ms=2)


def _expected(method: str) -> list[str]:
    return {"Unary": ["m"], "ServerStream": ["m"] * 3, "ClientStream": ["m,m"], "BidiStream": ["m", "m"]}[method]


@any_way
@each_call
def test_a_call_succeeds(net: Net, way: str, style: str, method: str) -> None:
    """A call that succeeds gives its messages, OK and no details."""
    net.server()
    request = Request(message="m", count=3)
    ending = talk(net, way, style, method, request, request).end()
    assert ending == (_expected(method), grpc.StatusCode.OK, "", [], [], None)


@any_way
@each_call
def test_an_error_keeps_its_rich_details(net: Net, way: str, style: str, method: str) -> None:
    """An error comes with its code, its details and a google.rpc.Status that rpc_status reads."""
    net.server()
    request = Request(message="m", count=3, fail_code=9, fail_details="not before noon", fail_rich=True)
    ending = talk(net, way, style, method, request).end()
    assert (ending.messages, ending.code) == ([], grpc.StatusCode.FAILED_PRECONDITION)
    assert ending.details == "not before noon"
    assert isinstance(ending.error, grpc.RpcError)
    assert [key for key, _ in ending.trailing] == ["grpc-status-details-bin"]
    assert rpc_status.from_call(ending.error) == rich_status(9, "not before noon")


@any_way
@each_stream
def test_an_error_after_messages(net: Net, way: str, style: str, method: str) -> None:
    """A stream that fails in its middle gives the messages before, then its error."""
    net.server()
    request = Request(message="m", count=9, fail_code=15, fail_details="half of it", fail_after=2)
    ending = talk(net, way, style, method, request, request, request).end()
    assert ending.messages == ["m", "m"]
    assert (ending.code, ending.details) == (grpc.StatusCode.DATA_LOSS, "half of it")
    assert isinstance(ending.error, grpc.RpcError)


@any_way
@each_handle
def test_a_call_is_cancelled(net: Net, way: str, style: str, method: str) -> None:
    """A cancelled call ends at once with CANCELLED, at the server too, and can't be cancelled twice."""
    server = net.server()
    conversation = talk(net, way, style, method, _HANG)
    if style == "aio":  # its loop runs only while something is asked for
        conversation._do(asyncio.sleep(0.05))
    seen = server.last()
    assert conversation.cancel()
    assert not conversation.cancel()
    ending = conversation.end()
    assert ending[:3] == ([], grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
    assert ending.trailing == []
    assert isinstance(
        ending.error, asyncio.CancelledError if style == "aio" else (grpc.FutureCancelledError, grpc.RpcError)
    )
    assert seen.over.wait(2.0)
    assert seen.cancelled


@any_way
@each_stream
def test_a_stream_is_cancelled_in_its_middle(net: Net, way: str, style: str, method: str) -> None:
    """A stream that is cancelled after its first message ends with CANCELLED, at the server too."""
    server = net.server()
    conversation = talk(net, way, style, method, _ENDLESS, _HANG)
    assert conversation.first() == "m"
    assert conversation.cancel()
    ending = conversation.end()
    assert ending.code is grpc.StatusCode.CANCELLED
    assert isinstance(ending.error, asyncio.CancelledError if style == "aio" else grpc.RpcError)
    assert server.last().over.wait(2.0)
    assert server.last().cancelled


@any_way
@each_call
def test_a_deadline_passes(net: Net, way: str, style: str, method: str) -> None:
    """A call that takes longer than its timeout ends with DEADLINE_EXCEEDED at that instant, at the server too."""
    server = net.server()
    talk(net, way, style, method, Request(message="warm")).end()
    started = time.monotonic()
    ending = talk(net, way, style, method, _HANG, timeout=0.15).end()
    assert 0.12 < time.monotonic() - started < 1.5
    assert (ending.messages, ending.code) == ([], grpc.StatusCode.DEADLINE_EXCEEDED)
    assert ending.details == "Deadline Exceeded"
    assert isinstance(ending.error, grpc.RpcError)
    assert server.last().over.wait(2.0)


@any_way
@each_stream
def test_a_deadline_passes_in_the_middle(net: Net, way: str, style: str, method: str) -> None:
    """A stream's timeout bounds all of it: messages that came stay, then DEADLINE_EXCEEDED."""
    net.server()
    ending = talk(net, way, style, method, _ENDLESS, _HANG, timeout=0.2).end()
    assert ending.messages
    assert ending.code is grpc.StatusCode.DEADLINE_EXCEEDED


@any_way
@pytest.mark.parametrize(("style", "method"), [call for call in HANDLES if call[0] != "aio"])
def test_an_abandoned_call(net: Net, way: str, style: str, method: str) -> None:
    """A call that its caller lets go of is cancelled at the server, without a garbage collection."""
    _abandon(net, way, style, method)


@pytest.mark.parametrize("method", ["ServerStream", "BidiStream"])
def test_an_abandoned_asyncio_stream(net: Net, method: str) -> None:
    """The same on asyncio, where bare grpcio goes on for as long as the server does."""
    _abandon(net, "mesh", "aio", method)


@any_way
@pytest.mark.parametrize("method", ["Unary", "ClientStream"])
def test_an_asyncio_call_that_nobody_awaits_is_made(net: Net, way: str, method: str) -> None:
    """On asyncio a call with one response is made all the same when nobody holds it: grpcio's is a task."""
    server = net.server()
    conversation = talk(net, way, "aio", method, Request(message="m", delay_ms=100))
    conversation.drop()
    conversation._do(asyncio.sleep(0.3))  # type: ignore[union-attr]
    assert server.last().over.wait(2.0)
    assert not server.last().cancelled


def _abandon(net: Net, way: str, style: str, method: str) -> None:
    server = net.server()
    gc.collect()
    gc.disable()
    try:
        streams = method in ("ServerStream", "BidiStream")
        conversation = talk(net, way, style, method, *([_ENDLESS, _HANG] if streams else [_HANG]))
        if streams:
            conversation.first()
        seen = server.last()
        conversation.drop()
        assert seen.over.wait(2.0)
        assert seen.cancelled
        if way == "mesh":
            eventually(lambda: net.inflight == 0, 1.0)
    finally:
        gc.enable()


@any_way
@each_call
def test_metadata_both_ways(net: Net, way: str, style: str, method: str) -> None:
    """Metadata arrives as it was sent, both ways: in order, duplicates kept, bytes under -bin keys."""
    server = net.server()
    there = [("x-initial-a", "1"), ("x-initial-a", "2"), ("x-initial-b-bin", b"\x00\xff\n")]
    back = [("x-trailing-a", "3"), ("x-trailing-b-bin", b"\x80"), ("x-trailing-a", "4"), ("x-trailing-c", "")]
    request = Request(message="m", count=3)
    ending = talk(net, way, style, method, request, request, metadata=(*there, *back, ("x-user", " a b "))).end()
    assert ending.code is grpc.StatusCode.OK
    assert sorted(ending.initial) == sorted(there)
    assert sorted(ending.trailing) == sorted(back)
    seen = server.last().metadata
    assert [pair for pair in seen if pair[0] == "x-initial-a"] == there[:2]
    assert ("x-user", " a b ") in seen or ("x-user", "a b") in seen


@any_way
@each_call
def test_metadata_of_an_error(net: Net, way: str, style: str, method: str) -> None:
    """A failed call has its metadata too, on the error as on the call."""
    net.server()
    there, back = ("x-initial-a", "1"), ("x-trailing-b-bin", b"\x80")
    # grpcio's asyncio streams may lose initial metadata that comes together with the failure: a message between them.
    after = {"count": 1, "fail_after": 1} if method == "ServerStream" else {}
    request = Request(fail_code=5, fail_details="gone", **after)
    ending = talk(net, way, style, method, request, metadata=(there, back)).end()
    assert (ending.initial, ending.trailing) == ([there], [back])
    assert isinstance(ending.error, grpc.RpcError)
    assert tuple(back) in [tuple(pair) for pair in ending.error.trailing_metadata()]  # type: ignore[attr-defined]
