"""Streams of requests that are tried again, over real servers: all of it, once and in order, while it is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request, dead_address, eventually
from tests.wire.ways import Net, soon

WORDS = ["a", "b", "c"]
FAILS = {"fail_code": 14, "fail_times": 2, "fail_key": "k"}
RETRY = "{routes: [{retry: {attempts: 3, on: [unavailable], backoff: {base: 1ms, max: 1ms}}}]}"


def requests(**last: Any) -> list[Request]:
    """Three of them; the last one does as it is told."""
    return [Request(message=word) for word in WORDS[:2]] + [Request(message=WORDS[2], **last)]


def retrying(net: Net, document: str = RETRY) -> Any:
    """A server whose calls are tried again."""
    server = net.server()
    net.document(document)
    return server


def words(server: Any) -> list[list[str]]:
    """What each attempt carried, as the server saw it."""
    return [seen.requests for seen in server.seen]


def previous(server: Any) -> list[str | None]:
    return [dict(seen.metadata).get("grpc-previous-rpc-attempts") for seen in server.seen]


# -- threads


@pytest.mark.parametrize("style", ["call", "with_call", "future"])
def test_a_client_stream_is_sent_again(net: Net, style: str) -> None:
    """Two attempts fail after the last message was read; the third gets all of them, and the end of the stream."""
    server = retrying(net)
    method = net.stub().ClientStream
    source = iter(requests(**FAILS))
    if style == "call":
        reply = method(source, timeout=9.0)
    elif style == "with_call":
        reply = method.with_call(source, timeout=9.0)[0]
    else:
        reply = method.future(source, timeout=9.0).result()
    assert reply.message == "a,b,c"
    assert words(server) == [WORDS] * 3
    assert previous(server) == [None, "1", "2"]


def test_a_stream_both_ways_is_sent_again_while_nothing_was_answered(net: Net) -> None:
    """The first request is what fails, while the caller's iterator waits for an answer to it: nobody waits for ever."""
    server = retrying(net)
    answered = threading.Event()

    def talk() -> Iterator[Request]:
        yield Request(message="a", **FAILS)
        assert answered.wait(9.0)
        yield Request(message="b")

    heard = []
    for reply in net.stub().BidiStream(talk(), timeout=9.0):
        heard.append(reply.message)
        answered.set()
    assert heard == ["a", "b"]
    assert words(server)[-1] == ["a", "b"]
    assert len(server.seen) == 3


def test_after_the_first_answer_a_stream_is_not_sent_again(net: Net) -> None:
    """ "When an RPC becomes committed …": the second request fails, and the caller hears of it."""
    server = retrying(net)
    call = net.stub().BidiStream(
        iter([Request(message="a"), Request(message="b", fail_code=14, fail_after=1)]), timeout=9.0
    )
    assert next(call).message == "a"
    with pytest.raises(grpc.RpcError) as failed:
        next(call)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(server.seen) == 1


def test_a_message_is_serialized_once(net: Net) -> None:
    """However many attempts send it."""
    retrying(net)
    serialized = []

    def serialize(request: Request) -> bytes:
        serialized.append(request.message)
        data: bytes = request.SerializeToString()
        return data

    name = net.stub().ClientStream._method
    method = net.channel().stream_unary(name, serialize)
    method(iter(requests(**FAILS)), timeout=9.0)
    assert serialized == WORDS


@pytest.mark.parametrize(("size", "tries"), [(200, 2), (2000, 1)])
def test_more_than_the_cap_is_not_kept(net: Net, size: int, tries: int) -> None:
    """`grpc.per_rpc_retry_buffer_size`, as C-core has it: beyond it the first failure is the call's."""
    server = retrying(net)
    stub = net.stub(options=[("grpc.per_rpc_retry_buffer_size", 1000)])
    source = [Request(message="a", payload=b"x" * size), Request(message="b", fail_code=14, fail_times=1, fail_key="k")]
    if tries == 2:
        assert stub.ClientStream(iter(source), timeout=9.0).message == "a,b"
    else:
        with pytest.raises(grpc.RpcError) as failed:
            stub.ClientStream(iter(source), timeout=9.0)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(server.seen) == tries


def test_by_default_a_quarter_of_a_megabyte_is_kept(net: Net) -> None:
    """256 KiB, C-core's default."""
    server = retrying(net)
    payload = b"x" * 60_000
    for count, tries in ((4, 2), (5, 3)):
        source = [Request(message=str(n), payload=payload) for n in range(count)]
        source.append(Request(message="end", fail_code=14, fail_times=1, fail_key=str(count)))
        ended = net.stub().ClientStream.future(iter(source), timeout=9.0)
        assert ended.code() is (grpc.StatusCode.OK if count == 4 else grpc.StatusCode.UNAVAILABLE)
        assert len(server.seen) == tries


def test_an_iterator_that_fails_is_no_reason_to_try_again(net: Net) -> None:
    """UNKNOWN, as with grpcio, and once."""
    server = retrying(net)

    def failing() -> Iterator[Request]:
        yield Request(message="a")
        raise ValueError("no more")

    with pytest.raises(grpc.RpcError) as failed:
        net.stub().ClientStream(failing(), timeout=9.0)
    assert failed.value.code() is grpc.StatusCode.UNKNOWN
    assert len(server.seen) <= 1


def test_initial_metadata_that_the_caller_has_read_commits_the_call(net: Net) -> None:
    """Another attempt's might be another (gRFC A6: Response-Headers)."""
    server = retrying(net)
    call = net.stub().ServerStream(
        Request(count=1, delay_ms=100, fail_code=14, fail_times=1, fail_key="k"),
        metadata=(("x-initial", "1"),),
        timeout=9.0,
    )
    assert [tuple(pair) for pair in call.initial_metadata()] == [("x-initial", "1")]
    with pytest.raises(grpc.RpcError):
        list(call)
    assert len(server.seen) == 1


@pytest.mark.parametrize("reading", [True, False])
def test_an_answer_that_had_begun_is_not_asked_for_again(net: Net, reading: bool) -> None:
    """Headers had come when it failed, whether the caller was waiting for a message then or not."""
    server = retrying(net)
    failing = Request(count=1, delay_ms=100, **FAILS)
    call = net.stub().ServerStream(failing, metadata=(("x-initial", "1"),), timeout=9.0)
    if not reading:
        eventually(call.done)
    with pytest.raises(grpc.RpcError):
        next(call)
    assert len(server.seen) == 1


def test_a_message_and_a_failure_at_once_are_a_message_and_a_failure(net: Net) -> None:
    """grpcio may report the failure first; a retry then would give the caller the message twice."""
    server = retrying(net)
    stub = net.stub()
    for _ in range(300):
        call = stub.ServerStream(Request(message="m", count=1, fail_code=14, fail_after=1), timeout=9.0)
        assert next(call).message == "m"
        with pytest.raises(grpc.RpcError):
            next(call)
    assert len(server.seen) == 300


def test_a_dead_endpoint_and_one_that_fails(net: Net) -> None:
    """What an attempt took that was never connected, and one that failed, reaches the third."""
    server = retrying(net, RETRY.replace("[unavailable]", "[unavailable, connect-failure]"))
    for turn in range(4):
        dead = dead_address()
        net.endpoints(dead, server.address)
        eventually(lambda dead=dead: net.settled(dead, server.address))
        failing = {**FAILS, "fail_times": 1, "fail_key": f"turn {turn}"}
        assert net.stub().ClientStream(iter(requests(**failing)), timeout=9.0).message == "a,b,c"


# -- asyncio


async def _later(source: list[Request]) -> AsyncIterator[Request]:
    for request in source:
        await asyncio.sleep(0)
        yield request


@pytest.mark.parametrize("kind", ["iterator", "async iterator", "list"])
def test_on_asyncio_too(net: Net, kind: str) -> None:
    """From iterators of every kind. A server that answers before all is written is heard by grpcio mostly: in one call
    of thirty, on a busy machine, its writing fails first, and it says INTERNAL instead ("Internal error from Core")."""
    server = retrying(net, RETRY.replace("[unavailable]", "[unavailable, reset]"))

    async def scene(stub: Any) -> None:
        source = requests(**FAILS)
        given: Any = {"iterator": iter(source), "async iterator": _later(source), "list": source}[kind]
        assert (await stub.ClientStream(given, timeout=9.0)).message == "a,b,c"
        given = _later([Request(message="a", fail_code=14, fail_times=1, fail_key="2"), Request(message="b")])
        assert [reply.message async for reply in stub.BidiStream(given, timeout=9.0)] == ["a", "b"]

    net.run("mesh", scene)
    assert words(server)[:3] == [WORDS] * 3
    assert previous(server) == [None, "1", "2", None, "1"]


def test_what_was_written_is_written_again(net: Net) -> None:
    """All of it, and the end: whoever wrote need not write anything more."""
    server = retrying(net)

    async def scene(stub: Any) -> None:
        call = stub.ClientStream(timeout=9.0)
        for request in requests(**FAILS):
            await call.write(request)
        await call.done_writing()
        assert (await call).message == "a,b,c"

    net.run("mesh", scene)
    assert words(server) == [WORDS] * 3


def test_writing_goes_on_where_the_attempt_before_had_come_to(net: Net) -> None:
    """The first message fails twice, and what is written afterwards goes to the third attempt."""
    server = retrying(net)

    async def scene(stub: Any) -> None:
        call = stub.BidiStream(timeout=9.0)
        await call.write(Request(message="a", **FAILS))
        assert (await call.read()).message == "a"
        for word in "bcdefg":
            await call.write(Request(message=word))
            assert (await call.read()).message == word
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(Request(message="too late"))

    net.run("mesh", scene)
    assert words(server)[-1] == list("abcdefg")
    assert len(server.seen) == 3


def test_a_call_that_ends_while_it_is_written_to_again(net: Net) -> None:
    """The second attempt's end reaches the writer, as grpcio's would, and leaves no task behind."""
    server = retrying(net, RETRY.replace("attempts: 3", "attempts: 1"))

    async def scene(stub: Any) -> None:
        call = stub.ClientStream(timeout=9.0)
        await call.write(Request(message="a", fail_code=14))
        await soon(lambda: len(server.seen) == 2 and call.done())
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(Request(message="b"))
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        held = stub.BidiStream(timeout=9.0)
        await held.write(Request(message="a", fail_code=14, fail_times=1, fail_key="k"))
        assert (await held.read()).message == "a"
        held.cancel()

    net.run("mesh", scene)


def test_after_the_first_answer_it_is_over_on_asyncio_too(net: Net) -> None:
    """Committed, by a message or by initial metadata that the caller has read."""
    server = retrying(net)

    async def scene(stub: Any) -> None:
        call = stub.BidiStream(_later([Request(message="a"), Request(fail_code=14, fail_after=1)]), timeout=9.0)
        assert await call.read() != grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        failing = Request(count=1, delay_ms=100, **FAILS)
        call = stub.ServerStream(failing, metadata=(("x-initial", "1"),), timeout=9.0)
        assert ("x-initial", "1") in list(await call.initial_metadata())
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        call = stub.ServerStream(failing, metadata=(("x-initial", "1"),), timeout=9.0)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()

    net.run("mesh", scene)
    assert len(server.seen) == 3


def test_a_stream_that_nobody_will_try_again_is_not_kept(net: Net) -> None:
    """Two thousand requests through a route without retries: none of them is held."""
    net.server()
    net.document("{routes: [{retry: {attempts: 0}}]}")
    channel = net.channel()
    call = echo_pb2_grpc.EchoStub(channel).BidiStream
    most = 0
    streams: list[Any] = []

    def many() -> Iterator[Request]:
        nonlocal most
        for _ in range(2000):
            yield Request(message="m")
            most = max([most, *(len(stream._progress.arguments[0].kept) for stream in streams)])

    stream = call(many(), timeout=9.0)
    streams.append(stream)
    assert sum(1 for _ in stream) == 2000
    assert most <= 4
    assert not stream._progress.arguments[0].whole
