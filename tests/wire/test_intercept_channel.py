"""`grpc.intercept_channel` around a mesh channel, and what other libraries take for granted of a channel."""

from __future__ import annotations

import collections
import time
from typing import Any

import grpc
import pytest

from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request
from tests.wire.ways import Net, either_way, soon

_Details = collections.namedtuple(
    "_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")
)
_GONE = Request(fail_code=5, fail_details="gone")


class Adding(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds a word to the metadata of every call, as tracers and authenticators do."""

    def __init__(self, word: str) -> None:
        self._word = word

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), ("x-word", self._word))
        changed = _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return continuation(changed, request)

    intercept_unary_unary = _intercept
    intercept_unary_stream = _intercept
    intercept_stream_unary = _intercept
    intercept_stream_stream = _intercept


@either_way
def test_interceptors_around_every_arity(net: Net, way: str) -> None:
    """`grpc.intercept_channel`, which passes a fourth argument by position, works around all four arities."""
    server = net.server()
    stub = echo_pb2_grpc.EchoStub(grpc.intercept_channel(net.channel(way), Adding("one"), Adding("two")))
    request = Request(message="m", count=2)
    assert stub.Unary(request, timeout=9.0).message == "m"
    assert stub.Unary.with_call(request)[1].code() is grpc.StatusCode.OK
    assert stub.Unary.future(request).result(timeout=5.0).message == "m"
    assert stub.ClientStream(iter([request])).message == "m"
    assert stub.ClientStream.with_call(iter([request]))[0].message == "m"
    assert stub.ClientStream.future(iter([request])).result(timeout=5.0).message == "m"
    assert [reply.message for reply in stub.ServerStream(request)] == ["m", "m"]
    assert [reply.message for reply in stub.BidiStream(iter([request]))] == ["m"]
    for seen in server.seen:
        assert [value for key, value in seen.metadata if key == "x-word"] == ["one", "two"]


@either_way
def test_errors_through_interceptors(net: Net, way: str) -> None:
    """Errors come out of interceptors as errors of every arity and style."""
    net.server()
    stub = echo_pb2_grpc.EchoStub(grpc.intercept_channel(net.channel(way), Adding("one")))
    for call in (
        lambda: stub.Unary(_GONE),
        lambda: stub.Unary.with_call(_GONE),
        lambda: stub.Unary.future(_GONE).result(),
        lambda: stub.ClientStream(iter([_GONE])),
        lambda: list(stub.ServerStream(_GONE)),
        lambda: list(stub.BidiStream(iter([_GONE]))),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "gone")


@either_way
def test_an_interceptor_that_tries_again(net: Net, way: str) -> None:
    """An interceptor gets the error as a value, and may go on again."""
    server = net.server()

    class Retrying(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            outcome = continuation(details, request)
            assert isinstance(outcome, grpc.RpcError)
            assert outcome.code() is grpc.StatusCode.ABORTED
            return continuation(details, request)

    stub = echo_pb2_grpc.EchoStub(grpc.intercept_channel(net.channel(way), Retrying()))
    request = Request(message="m", fail_code=10, fail_times=1)
    assert stub.Unary(request).message == "m"
    assert len(server.seen) == 2


def test_a_refusal_through_interceptors(net: Net) -> None:
    """A refusal of ours is a value for interceptors, as a failure of grpcio's is, and raised to the caller."""
    net.endpoints()
    stub = echo_pb2_grpc.EchoStub(grpc.intercept_channel(net.channel(), Adding("one")))
    for call in (stub.Unary, stub.Unary.with_call, lambda request: stub.Unary.future(request).result()):
        with pytest.raises(grpc.RpcError) as raised:
            call(Request())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(raised.value.trailing_metadata())["proxyless-reason"] == "no_endpoints"


@either_way
def test_the_channel_closes_through_interceptors(net: Net, way: str) -> None:
    """An intercepted channel subscribes and closes the channel under it, and is a context manager."""
    net.server()
    channel = net.channel(way)
    stub = echo_pb2_grpc.EchoStub(channel)
    with grpc.intercept_channel(channel, Adding("one")) as intercepted:
        grpc.channel_ready_future(intercepted).result(timeout=5.0)
        time.sleep(0.25)  # see no_more_polling in test_connectivity.py
    with pytest.raises(ValueError, match=r"closed channel|Channel closed"):
        stub.Unary(Request())


def test_the_public_classes_are_kept(net: Net) -> None:
    """Channels, multicallables and calls are instances of grpcio's public classes: libraries ask for them."""
    net.server()
    channel = net.channel()
    stub = echo_pb2_grpc.EchoStub(channel)
    assert isinstance(channel, grpc.Channel)
    for method, kind in (
        (stub.Unary, grpc.UnaryUnaryMultiCallable),
        (stub.ServerStream, grpc.UnaryStreamMultiCallable),
        (stub.ClientStream, grpc.StreamUnaryMultiCallable),
        (stub.BidiStream, grpc.StreamStreamMultiCallable),
    ):
        assert isinstance(method, kind)
        method.__name__ = "renamed"  # google-api-core names what it wraps
        assert method.__name__ == "renamed"
    for call in (stub.Unary.future(Request()), stub.ServerStream(Request())):
        assert isinstance(call, grpc.Call)
        assert isinstance(call, grpc.Future)
    assert channel._get_registered_call_handle("/echo.Echo/Unary") == 0


def test_the_public_asyncio_classes_are_kept(net: Net) -> None:
    """The same for asyncio."""
    net.server()

    async def scene(stub: Any) -> None:
        assert isinstance(net.aio_channel(), grpc.aio.Channel)
        for method, kind, begin, call_kind in (
            (
                stub.Unary,
                grpc.aio.UnaryUnaryMultiCallable,
                lambda: stub.Unary(Request()),
                grpc.aio.UnaryUnaryCall,
            ),
            (
                stub.ServerStream,
                grpc.aio.UnaryStreamMultiCallable,
                lambda: stub.ServerStream(Request()),
                grpc.aio.UnaryStreamCall,
            ),
            (
                stub.ClientStream,
                grpc.aio.StreamUnaryMultiCallable,
                stub.ClientStream,
                grpc.aio.StreamUnaryCall,
            ),
            (
                stub.BidiStream,
                grpc.aio.StreamStreamMultiCallable,
                stub.BidiStream,
                grpc.aio.StreamStreamCall,
            ),
        ):
            assert isinstance(method, kind)
            method.__name__ = "renamed"
            assert method.__name__ == "renamed"
            call = begin()
            assert isinstance(call, call_kind)
            assert isinstance(call, grpc.aio.Call)
            assert call.cancel()

    net.run("mesh", scene)


def test_wrapped_by_google_api_core(net: Net) -> None:
    """google-api-core wraps every arity: its own errors, streams that are begun at once, and its asyncio twin."""
    helpers = pytest.importorskip("google.api_core.grpc_helpers", reason="google-api-core is not installed")
    aio_helpers = pytest.importorskip("google.api_core.grpc_helpers_async")
    exceptions = pytest.importorskip("google.api_core.exceptions")
    net.server()
    stub = net.stub()
    assert helpers.wrap_errors(stub.Unary)(Request(message="m")).message == "m"
    assert [r.message for r in helpers.wrap_errors(stub.ServerStream)(Request(message="m", count=2))] == [
        "m",
        "m",
    ]
    assert [r.message for r in helpers.wrap_errors(stub.BidiStream)(iter([Request(message="m")]))] == ["m"]
    for call in (
        lambda: helpers.wrap_errors(stub.Unary)(_GONE),
        lambda: list(helpers.wrap_errors(stub.ServerStream)(_GONE)),
    ):
        with pytest.raises(exceptions.NotFound):
            call()

    async def scene(stub: Any) -> None:
        assert (await aio_helpers.wrap_errors(stub.Unary)(Request(message="m"))).message == "m"
        call = await aio_helpers.wrap_errors(stub.ServerStream)(Request(message="m", count=2))
        assert [reply.message async for reply in call] == ["m", "m"]
        with pytest.raises(exceptions.NotFound):
            await aio_helpers.wrap_errors(stub.Unary)(_GONE)

    net.run("mesh", scene)


class AioAdding(grpc.aio.UnaryUnaryClientInterceptor):
    """Adds a word to the metadata."""

    def __init__(self, word: str) -> None:
        self._word = word

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("x-word", self._word)
        return await continuation(details, request)


class AioStreamAdding(grpc.aio.UnaryStreamClientInterceptor):
    """The same for streams."""

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        details.metadata.add("x-word", "stream")
        return await continuation(details, request)


@either_way
def test_asyncio_interceptors_come_at_any_time(net: Net, way: str) -> None:
    """Interceptors may be given to the channel, and appended to its lists after it and its stub were made."""
    server = net.server()

    async def scene(_: Any) -> None:
        async with net.aio_channel(way, interceptors=[AioAdding("first"), AioStreamAdding()]) as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            channel._unary_unary_interceptors.append(AioAdding("last"))
            channel._unary_unary_interceptors.insert(0, AioAdding("zeroth"))
            assert channel._stream_unary_interceptors == channel._stream_stream_interceptors == []
            assert len(channel._unary_stream_interceptors) == 1
            reply = await stub.Unary(Request(message="m", echo_metadata=["x-word"]), timeout=9.0)
            assert reply.metadata["x-word"] == "zeroth,first,last"
            replies = [r async for r in stub.ServerStream(Request(count=1, echo_metadata=["x-word"]))]
            assert replies[0].metadata["x-word"] == "stream"
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Unary(_GONE)
            assert raised.value.details() == "gone"

    net.run(way, scene)
    assert len(server.seen) == 3


@either_way
def test_what_is_no_asyncio_interceptor(net: Net, way: str) -> None:
    """An object that is no interceptor is refused when the channel is made."""
    net.server()

    async def scene(_: Any) -> None:
        with pytest.raises(ValueError, match="must be"):
            net.aio_channel(way, interceptors=[object()])

    net.run(way, scene)


def test_an_intercepted_call_that_is_cancelled(net: Net) -> None:
    """Cancelling a call under an interceptor cancels the RPC at the server, and frees its node."""
    server = net.server()

    async def scene(_: Any) -> None:
        async with net.aio_channel(interceptors=[AioAdding("one")]) as channel:
            call = echo_pb2_grpc.EchoStub(channel).Unary(Request(delay_ms=20_000))
            await soon(lambda: server.seen)
            assert call.cancel()
            await soon(server.last().over.is_set)
            await soon(lambda: net.inflight == 0)

    net.run("mesh", scene)
