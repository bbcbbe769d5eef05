"""`Mesh.interceptors` and `Mesh.aio_interceptors`: the mesh below channels that grpcio made.

That each style of call is the same through them as on bare grpcio is said in `test_matrix.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.channel.continuations import is_blocking
from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request, eventually
from tests.wire.talks import each_call, talk
from tests.wire.test_intercept_channel import Adding
from tests.wire.ways import NOWHERE, Net

PLAIN = ["interceptors", "interceptors, no protobuf"]
either_kind = pytest.mark.parametrize("way", PLAIN)


def _by(net: Net, style: str, method: str, way: str = "interceptors", **options: Any) -> str:
    """Which server answered one call."""
    request = Request(message="m", count=1)
    conversation = talk(net, way, style, method, request, **options)
    ending = conversation.end()
    assert ending.code is grpc.StatusCode.OK, ending
    return next(server.name for server in net.servers if server.seen and server.seen.pop())


@each_call
def test_calls_go_to_the_endpoints_wherever_the_channel_leads(net: Net, style: str, method: str) -> None:
    """The wrapped channel's own target does not exist; calls spread, survive a kill and follow an edit."""
    for name in "abc":
        net.server(name)
    net.document("{trafficPolicy: {loadBalancer: {policy: round_robin}}}")
    assert net.mesh.ready("echo", timeout=5.0)
    eventually(lambda: net.settled(*(server.address for server in net.servers)))
    assert Counter(_by(net, style, method) for _ in range(6)) == {"a": 2, "b": 2, "c": 2}
    net.servers[0].stop()
    assert {_by(net, style, method) for _ in range(6)} == {"b", "c"}
    net.endpoints(net.servers[1].address)
    eventually(lambda: net.settled(net.servers[1].address))
    assert {_by(net, style, method) for _ in range(4)} == {"b"}


@either_kind
@each_call
def test_policies_apply(net: Net, way: str, style: str, method: str) -> None:
    """Routes, faults and direct responses hold through interceptors, also where the channel stays the caller's."""
    server = net.server()
    net.document("{routes: [{name: only, fault: {abort: {percent: 100, status: ABORTED}}, split: [{service: echo}]}]}")
    assert net.mesh.ready("echo", timeout=5.0)
    ending = talk(net, way, style, method, Request(message="m")).end()
    assert (ending.code, ending.trailing) == (grpc.StatusCode.ABORTED, [("proxyless-reason", "fault")])
    assert isinstance(ending.error, proxyless.MeshRpcError)
    net.document('{routes: [{name: only, directResponse: {status: NOT_FOUND, message: "nothing here"}}]}')
    eventually(lambda: net.mesh.explain("echo", "/echo.Echo/Unary").refusal == "direct_response")
    assert talk(net, way, style, method, Request(message="m")).end().code is grpc.StatusCode.NOT_FOUND
    assert not server.seen


@either_kind
@pytest.mark.parametrize("style", ["blocking", "future", "aio"])
def test_retries_apply(net: Net, way: str, style: str) -> None:
    """A failure that the policy retries is retried, on the channel itself where there is nothing to choose."""
    server = net.server()
    net.document("{routes: [{name: only, retry: {attempts: 2, on: [unavailable], backoff: {base: 1ms, max: 2ms}}}]}")
    assert net.mesh.ready("echo", timeout=5.0)
    ending = talk(net, way, style, "Unary", Request(message="m", fail_code=14, fail_times=2)).end()
    assert (ending.code, ending.messages) == (grpc.StatusCode.OK, ["m"])
    assert len(server.seen) == 3


@either_kind
@each_call
def test_the_route_s_timeout_applies(net: Net, way: str, style: str, method: str) -> None:
    """A route's timeout ends the call, though its caller named none."""
    net.server()
    net.document("{routes: [{name: only, timeout: 100ms}]}")
    assert net.mesh.ready("echo", timeout=5.0)
    ending = talk(net, way, style, method, Request(message="m", count=1, delay_ms=20_000)).end()
    assert ending.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_protobuf_one_warning_says_so(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    """A method that the pool doesn't know stays on the wrapped channel, with one warning for all of its calls."""
    net.server()
    channel = grpc.intercept_channel(grpc.insecure_channel(net.servers[0].address), *net.mesh.interceptors("echo"))
    net.closing(channel.close)
    unknown = channel.unary_unary("/echo.Echo/Unheard")
    with caplog.at_level(logging.WARNING, "proxyless"):
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as raised:
                unknown(b"")
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED  # the server itself said so
    (warning,) = (record.getMessage() for record in caplog.records if "/echo.Echo/Unheard" in record.getMessage())
    assert "stay on the channel" in warning
    assert "protobuf's descriptor pool has no such method" in warning


def test_messages_of_another_make_stay_on_the_channel(net: Net) -> None:
    """A stub that writes bytes itself can't be given protobuf's messages: its calls stay where they are."""
    net.server()
    channel = grpc.intercept_channel(grpc.insecure_channel(net.servers[0].address), *net.mesh.interceptors("echo"))
    net.closing(channel.close)
    raw = channel.unary_unary("/echo.Echo/Unary")(Request(message="m").SerializeToString())
    assert isinstance(raw, bytes)


def test_the_channel_that_was_given_can_not_be_ejected(net: Net) -> None:
    """There is nobody else to go to: failures of the wrapped channel, and its absence, keep no call from it."""
    server = net.server()
    net.document("{trafficPolicy: {outlierDetection: {consecutive5xx: 2}}, routes: [{retry: {attempts: 0}}]}")
    assert net.mesh.ready("echo", timeout=5.0)
    stub = net.stub("interceptors, no protobuf")
    for _ in range(5):
        with pytest.raises(grpc.RpcError):
            stub.Unary(Request(message="m", fail_code=14))
    assert len(server.seen) == 5
    assert stub.Unary(Request(message="m")).message == "m"
    (known,) = net.mesh.status()["endpoints"]
    assert (known["calls"], known["failures"]) == (0, 0)  # nothing was charged to the endpoint of that name
    assert net.inflight == 0


def test_other_interceptors_stay_around(net: Net) -> None:
    """Interceptors above ours see the call as they always did, and what they add arrives."""
    server = net.server()
    channel = grpc.intercept_channel(
        grpc.insecure_channel(NOWHERE), Adding("one"), Adding("two"), *net.mesh.interceptors("echo")
    )
    net.closing(channel.close)
    stub = echo_pb2_grpc.EchoStub(channel)
    request = Request(message="m", count=1)
    stub.Unary(request)
    stub.Unary.future(request).result(timeout=5.0)
    stub.ClientStream(iter([request]))
    list(stub.ServerStream(request))
    list(stub.BidiStream(iter([request])))
    assert len(server.seen) == 5
    for seen in server.seen:
        assert [value for key, value in seen.metadata if key == "x-word"] == ["one", "two"]


def test_four_objects_one_for_each_arity(net: Net) -> None:
    """grpcio's asyncio stack sorts an object into one list; each of ours is in its own."""
    net.server()
    kinds = (
        grpc.aio.UnaryUnaryClientInterceptor,
        grpc.aio.UnaryStreamClientInterceptor,
        grpc.aio.StreamUnaryClientInterceptor,
        grpc.aio.StreamStreamClientInterceptor,
    )
    made = net.mesh.aio_interceptors("echo")
    assert [[isinstance(one, kind) for kind in kinds].index(True) for one in made] == [0, 1, 2, 3]
    assert [sum(isinstance(one, kind) for kind in kinds) for one in made] == [1, 1, 1, 1]


def test_a_writer_is_not_waited_for(net: Net) -> None:
    """Who writes requests one by one gets an answer to the first before the second: nobody awaits the end."""
    net.server()

    async def scene(stub: Any) -> list[str]:
        heard = []
        call = stub.BidiStream()
        for message in ("one", "two"):
            await call.write(Request(message=message))
            heard.append((await asyncio.wait_for(call.read(), 5.0)).message)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        upload = stub.ClientStream()
        for message in ("one", "two"):
            await upload.write(Request(message=message))
        await upload.done_writing()
        answer = (await upload).message
        with pytest.raises(asyncio.InvalidStateError):  # before it has ended, grpcio's own may or may not
            await upload.write(Request(message="late"))
        return [*heard, answer]

    for way in PLAIN:
        assert net.run(way, scene) == ["one", "two", "one,two"]


def test_compression_and_credentials_of_a_call_arrive(net: Net) -> None:
    """What grpcio's asyncio stack hides in metadata, the compression of one call, is still understood."""
    server = net.server()

    async def scene(stub: Any) -> Any:
        reply = await stub.Unary(
            Request(message="m" * 4000), compression=grpc.Compression.Gzip, metadata=(("x-a", "1"),)
        )
        return reply.message[0]

    for way in PLAIN:
        assert net.run(way, scene) == "m"
        assert ("x-a", "1") in server.seen[-1].metadata


def test_a_mesh_that_is_closed_ends_the_calls(net: Net) -> None:
    """After `Mesh.close` an intercepted channel says what a closed channel says."""
    net.server()
    stub = net.stub("interceptors")
    stub.Unary(Request(message="m"))
    net.mesh.close()
    with pytest.raises(ValueError, match="closed"):
        stub.Unary(Request(message="m"))


def test_grpcio_still_names_its_continuations_so() -> None:
    """The one private thing that interceptors rely on: how grpcio names what it has a blocking call go on with."""
    seen = []

    class Asking(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            seen.append(is_blocking(continuation))
            return continuation(details, request)

        intercept_stream_unary = intercept_unary_unary

    with grpc.insecure_channel(NOWHERE) as bare:
        stub = echo_pb2_grpc.EchoStub(grpc.intercept_channel(bare, Asking()))
        for call in (
            lambda: stub.Unary(Request()),
            lambda: stub.Unary.with_call(Request()),
            lambda: stub.Unary.future(Request()).result(),
            lambda: stub.ClientStream(iter([Request()])),
            lambda: stub.ClientStream.future(iter([Request()])).result(),
        ):
            with pytest.raises(grpc.RpcError):
                call()
    assert seen == [True, True, False, True, False]


def test_blocking_calls_work_without_that_knowledge(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where grpcio names them otherwise, every call is made as a future: slower, and just as right."""
    monkeypatch.setattr("proxyless.channel.interceptors.is_blocking", lambda _continuation: False)
    net.server()
    for way in PLAIN:
        stub = net.stub(way)
        assert stub.Unary(Request(message="m")).message == "m"
        assert stub.Unary.with_call(Request(message="m"))[1].code() is grpc.StatusCode.OK
        with pytest.raises(grpc.RpcError) as raised:
            stub.Unary(Request(fail_code=5))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_who_comes_after_is_given_metadata_to_ask_and_to_change(net: Net) -> None:
    """On asyncio, where a call stays on its channel: an interceptor after ours has grpcio's own mapping, one for each
    attempt."""
    net.document("{routes: [{retry: {attempts: 1, on: [aborted], backoff: {base: 1ms, max: 1ms}}}]}")
    server = net.server()
    seen: list[Any] = []

    class After(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            metadata = client_call_details.metadata
            seen.append((metadata.get_all("x-own"), "x-after" in metadata, len(metadata)))
            metadata.add("x-after", "1")
            return await continuation(client_call_details, request)

    async def scene() -> None:
        mine = [*net.mesh.aio_interceptors("echo"), After()]
        async with grpc.aio.insecure_channel(server.address, interceptors=mine) as channel:
            call = channel.unary_unary("/echo.Echo/Unary")  # of bytes, which protobuf's pool does not know
            request = Request(message="m", fail_code=10, fail_times=1)
            await call(request.SerializeToString(), metadata=(("x-own", "1"), ("x-own", "2")), timeout=9.0)
            await call(Request().SerializeToString(), timeout=9.0)

    asyncio.run(scene())
    assert seen == [(["1", "2"], False, 2), (["1", "2"], False, 3), ([], False, 0)]
    assert [[v for k, v in each.metadata if k == "x-after"] for each in server.seen] == [["1"]] * 3


def test_who_comes_after_may_raise(net: Net) -> None:
    """For threads: what an interceptor after ours raises is what the policy judges and the caller is raised."""
    net.document("{routes: [{retry: {attempts: 1, on: [aborted], backoff: {base: 1ms, max: 1ms}}}]}")
    server = net.server()
    mistake = KeyError("its own mistake")

    class Looking(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            call = continuation(client_call_details, request)
            call.result()
            return call

        def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            raise mistake

    channel = grpc.intercept_channel(grpc.insecure_channel(server.address), *net.mesh.interceptors("echo"), Looking())
    net.closing(channel.close)
    unary = channel.unary_unary("/echo.Echo/Unary")  # of bytes, which protobuf's pool does not know
    for style, call in (("blocking", unary), ("future", lambda request: unary.future(request).result(timeout=5.0))):
        once = Request(message="m", fail_code=10, fail_times=1, fail_key=style)
        assert isinstance(call(once.SerializeToString()), bytes)
        with pytest.raises(grpc.RpcError) as raised:
            call(Request(message="m", fail_code=5, fail_details="gone").SerializeToString())
        assert (raised.value.code(), raised.value.details()) == (  # type: ignore[attr-defined]
            grpc.StatusCode.NOT_FOUND,
            "gone",
        )
    with pytest.raises(KeyError) as own:
        list(channel.unary_stream("/echo.Echo/ServerStream")(Request(count=1).SerializeToString()))
    assert own.value is mistake
    assert net.inflight == 0
