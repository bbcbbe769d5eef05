"""Hostile metadata: one bad call fails alone, and good calls on the same connection do not notice."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.wire.echo import Request, Seen
from tests.wire.ways import Net, either_way

_ILLEGAL = {
    "an upper-case key": ("X-User", "a"),
    "a pseudo-header": (":path", "/echo.Echo/Other"),
    "an empty key": ("", "a"),
    "a key with a space": ("x user", "a"),
    "CR LF in a value": ("x-user", "a\r\nx-admin: yes"),
    "LF in a value": ("x-user", "a\nb"),
    "NUL in a value": ("x-user", "a\0b"),
    "DEL in a value": ("x-user", "a\x7f"),
    "a letter beyond ASCII": ("x-user", "é"),
    "bytes beyond ASCII": ("x-user", b"\xff"),
}
_OURS = {key: (key, "trailers") for key in ("te", "connection", "host", "transfer-encoding", "content-length")}
"""Refused by us alone: grpcio's own server doesn't mind, others end the connection (RFC 9113, 8.2.2)."""


def _peers(seen: list[Seen]) -> set[str]:
    return {one.peer for one in seen}


@either_way
@pytest.mark.parametrize("pair", _ILLEGAL.values(), ids=_ILLEGAL)
def test_what_is_illegal_fails_alone(net: Net, way: str, pair: tuple[str, Any]) -> None:
    """Metadata that HTTP/2 can't carry fails its call with INTERNAL, unsent, and calls around it go on."""
    server = net.server()
    stub = net.stub(way)
    stub.Unary(Request())
    good = [stub.Unary.future(Request(message="good", delay_ms=50)) for _ in range(4)]
    stream = stub.ServerStream(Request(message="good", count=5, delay_ms=10))
    for call in (
        lambda: stub.Unary(Request(message="bad"), metadata=(pair,)),
        lambda: stub.Unary.future(Request(message="bad"), metadata=(pair,)).result(),
        lambda: list(stub.ServerStream(Request(message="bad", count=1), metadata=[pair])),
        lambda: stub.ClientStream(iter([Request(message="bad")]), metadata=(pair,)),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert [future.result(timeout=5.0).message for future in good] == ["good"] * 4
    assert [reply.message for reply in stream] == ["good"] * 5
    assert "bad" not in [word for seen in server.seen for word in seen.requests]
    assert len(_peers(server.seen)) == 1


@pytest.mark.parametrize("pair", [*_ILLEGAL.values(), *_OURS.values()], ids=[*_ILLEGAL, *_OURS])
def test_what_is_illegal_fails_alone_on_asyncio(net: Net, pair: tuple[str, Any]) -> None:
    """The same on asyncio, where grpcio's errors are private ones; and what belongs to HTTP/2 alone."""
    server = net.server()

    async def scene(stub: Any) -> None:
        await stub.Unary(Request())
        good = [stub.Unary(Request(message="good", delay_ms=50)) for _ in range(4)]
        stream = stub.ServerStream(Request(message="good", count=5, delay_ms=10))
        for begin in (
            lambda metadata: stub.Unary(Request(message="bad"), metadata=metadata),
            lambda metadata: stub.ServerStream(Request(message="bad", count=1), metadata=metadata),
            lambda metadata: stub.BidiStream(metadata=metadata),
        ):
            for metadata in ((pair,), grpc.aio.Metadata(pair)):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    begin(metadata)
                assert raised.value.code() is grpc.StatusCode.INTERNAL
                assert isinstance(raised.value, ValueError)
        assert [(await call).message for call in good] == ["good"] * 4
        assert [reply.message async for reply in stream] == ["good"] * 5

    net.run("mesh", scene)
    assert "bad" not in [word for seen in server.seen for word in seen.requests]
    assert len(_peers(server.seen)) == 1


@pytest.mark.parametrize("pair", _OURS.values(), ids=_OURS)
def test_what_belongs_to_http2_is_refused(net: Net, pair: tuple[str, str]) -> None:
    """Keys that are HTTP/2's own never leave: some servers end the connection over them."""
    server = net.server()
    stub = net.stub()
    with pytest.raises(ValueError, match=f"{pair[0]}.*belongs to HTTP/2") as raised:
        stub.Unary(Request(), metadata=(pair,))
    assert isinstance(raised.value, grpc.RpcError)
    assert raised.value.code() is grpc.StatusCode.INTERNAL  # type: ignore[attr-defined]
    assert server.seen == []
    assert pair[1] not in str(raised.value).replace(pair[0], "")


@either_way
@pytest.mark.parametrize(
    "pair", [("x-user", 5), (5, "a"), ("x-user-bin", "text"), ("x-user-bin", 10**9), ("x-user-bin", None)]
)
def test_what_is_neither_text_nor_bytes(net: Net, way: str, pair: Any) -> None:
    """A value or key of another type is a TypeError, as text is under a -bin key."""
    server = net.server()
    stub = net.stub(way)
    for call in (stub.Unary, stub.Unary.future, stub.ServerStream):
        with pytest.raises(TypeError):
            call(Request(), metadata=(pair,))

    async def scene(stub: Any) -> None:
        with pytest.raises(TypeError):
            await stub.Unary(Request(), metadata=(pair,))

    net.run(way, scene)
    assert server.seen == []


@either_way
@pytest.mark.parametrize(
    ("pair", "arrives"),
    [
        (("x-user", "y" * 7_000), "y" * 7_000),
        (("x-user", "".join(map(chr, range(33, 127)))), "".join(map(chr, range(33, 127)))),
        (("x-user", b"bytes"), "bytes"),
        ((b"x-user", "text"), "text"),
        (("x-user", ""), ""),
        (("x-user", None), ""),
        (("x-user-bin", bytes(range(256))), bytes(range(256))),
        (("x-user-bin", b""), b""),
    ],
    ids=["7 KB", "every character", "bytes", "a key in bytes", "nothing", "None", "every byte", "no byte"],
)
def test_what_is_unusual_but_legal(net: Net, way: str, pair: Any, arrives: str | bytes) -> None:
    """Metadata that is legal arrives as it was sent, however unusual."""
    server = net.server()
    net.stub(way).Unary(Request(), metadata=(pair,))

    async def scene(stub: Any) -> None:
        await stub.Unary(Request(), metadata=[pair])

    net.run(way, scene)
    key = "x-user-bin" if isinstance(arrives, bytes) else "x-user"
    for seen in server.seen:
        assert dict(seen.metadata)[key] == arrives


@either_way
def test_metadata_near_the_servers_limit(net: Net, way: str) -> None:
    """A value of 9 KB, between gRPC's soft limit (8 KB, refused by chance) and its hard one (16 KB), harms nobody."""
    server = net.server()
    stub = net.stub(way)
    stub.Unary(Request())
    large = (("x-user", "y" * 9_000),)
    codes = [stub.Unary.future(Request(), metadata=large).code() for _ in range(20)]
    good = [stub.Unary.future(Request(message="good", delay_ms=20)) for _ in range(4)]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.OK in codes
    assert [future.result(timeout=5.0).message for future in good] == ["good"] * 4
    assert len(_peers(server.seen)) == 1


@either_way
def test_metadata_beyond_the_servers_limit(net: Net, way: str) -> None:
    """More metadata than the server takes fails its call with RESOURCE_EXHAUSTED, and its neighbours go on."""
    server = net.server()
    stub = net.stub(way)
    stub.Unary(Request())
    good = [stub.Unary.future(Request(message="good", delay_ms=100)) for _ in range(4)]
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as raised:
            stub.Unary(Request(), metadata=(("x-user", "y" * 40_000),))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [future.result(timeout=5.0).message for future in good] == ["good"] * 4
    assert len(_peers(server.seen)) == 1


def test_a_flood_of_bad_calls(net: Net) -> None:
    """Two hundred bad calls between two hundred good ones cost no good one anything."""
    server = net.server()
    bad = [*_ILLEGAL.values(), *_OURS.values()]

    async def scene(stub: Any) -> None:
        async def one(number: int) -> str:
            if number % 2:
                return str((await stub.Unary(Request(message="good"))).message)
            try:
                await stub.Unary(Request(message="bad"), metadata=(bad[number % len(bad)],))
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "sent"

        ends = await asyncio.gather(*(one(number) for number in range(400)))
        assert ends[1::2] == ["good"] * 200
        assert ends[::2] == ["INTERNAL"] * 200

    net.run("mesh", scene)
    assert len(server.seen) == 200
    assert len(_peers(server.seen)) == 1
