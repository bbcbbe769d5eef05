"""What is handed down to the wire: credentials, compression, channel options, large messages."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import grpc
import pytest

from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request
from tests.wire.relay import Relay
from tests.wire.ways import Net, any_way

_TOKEN = "a-token-of-the-tests"


def _call_credentials() -> grpc.CallCredentials:
    return grpc.access_token_call_credentials(_TOKEN)


@any_way
@pytest.mark.parametrize("given", ["with each call", "with the channel"])
def test_call_credentials(net: Net, way: str, given: str) -> None:
    """Per-call credentials travel as metadata over a channel that is secure, whatever the style."""
    server = net.server(credentials=grpc.local_server_credentials())
    credentials = grpc.local_channel_credentials()
    options: dict[str, Any] = {"credentials": _call_credentials()}
    if given == "with the channel":
        credentials, options = grpc.composite_channel_credentials(credentials, _call_credentials()), {}
    stub = net.stub(way, credentials=credentials)
    request = Request(message="m", count=1)
    assert stub.Unary(request, **options).message == "m"
    assert stub.Unary.future(request, **options).result(timeout=5.0).message == "m"
    assert len(list(stub.ServerStream(request, **options))) == 1

    async def scene(stub: Any) -> None:
        assert (await stub.Unary(request, **options)).message == "m"
        assert len([reply async for reply in stub.ServerStream(request, **options)]) == 1

    net.run(way, scene, credentials=credentials)
    assert len(server.seen) == 5
    for seen in server.seen:
        assert dict(seen.metadata)["authorization"] == f"Bearer {_TOKEN}"


@any_way
def test_call_credentials_never_over_an_insecure_channel(net: Net, way: str) -> None:
    """Per-call credentials over an insecure channel: the call fails, and the token never leaves."""
    server = net.server()
    with pytest.raises(grpc.RpcError) as raised:
        net.stub(way).Unary(Request(), credentials=_call_credentials())
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.seen == []


def test_channels_with_different_credentials_share_nothing(net: Net) -> None:
    """A channel without credentials does not use the connection of one with them, nor the other way round."""
    server = net.server()
    credentials = grpc.local_channel_credentials()
    for settings in ({"credentials": credentials}, {}, {"credentials": credentials}, {}):
        assert net.stub(**settings).Unary(Request(message="m")).message == "m"
    secure, insecure, *again = [seen.peer for seen in server.seen]
    assert secure != insecure
    assert again == [secure, insecure]


@any_way
@pytest.mark.parametrize("asked", ["for each call", "for the channel"])
def test_compression(net: Net, way: str, asked: str) -> None:
    """Compression asked for, per call or for the channel, makes a request of zeros small on the wire."""
    server = net.server(named=False)
    settings = {"compression": grpc.Compression.Gzip} if asked == "for the channel" else {}
    options = {"compression": grpc.Compression.Gzip} if asked == "for each call" else {}
    zeros = Request(payload=bytes(1_000_000))
    with Relay(server.address) as relay:
        net.endpoints(relay.address)
        stub = net.stub(way, **settings)
        stub.ClientStream(iter([zeros]), **options)
        sync_sent = relay.sent

        async def scene(stub: Any) -> None:
            await stub.ClientStream(iter([zeros]), **options)

        net.run(way, scene, **settings)
        assert sync_sent < 50_000
        assert relay.sent - sync_sent < 50_000
        net.stub(way).ClientStream(iter([zeros]))
        assert relay.sent > 1_000_000


@any_way
def test_message_size_limits(net: Net, way: str) -> None:
    """The user's channel options reach the wire: a larger answer needs a larger limit, on both APIs."""
    net.server()
    large = Request(payload=os.urandom(6_000_000))
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    assert net.stub(way, options=options).Unary(large, timeout=20.0).payload == large.payload
    with pytest.raises(grpc.RpcError) as raised:
        net.stub(way).Unary(large, timeout=20.0)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def fine(stub: Any) -> None:
        assert (await stub.Unary(large, timeout=20.0)).payload == large.payload

    async def too_large(stub: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Unary(large, timeout=20.0)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    net.run(way, fine, options=options)
    net.run(way, too_large)


def test_channels_share_connections(net: Net) -> None:
    """Channels with equal settings share one connection per endpoint; different options make another."""
    server = net.server(named=False)
    with Relay(server.address) as relay:
        net.endpoints(relay.address)
        for _ in range(5):
            net.stub().Unary(Request())
        assert relay.accepted == 1
        net.stub(options=[("grpc.max_receive_message_length", 1000)]).Unary(Request())
        assert relay.accepted == 2

        async def scene(_: Any) -> None:
            for _ in range(3):
                async with net.aio_channel() as channel:
                    await echo_pb2_grpc.EchoStub(channel).Unary(Request())

        asyncio.run(scene(None))
        assert relay.accepted <= 3
        net.mesh.close()


def test_connections_are_made_lazily(net: Net) -> None:
    """A channel connects when it is first called, and only to the endpoint that is called."""
    server = net.server(named=False)
    with Relay(server.address) as relay, Relay(server.address) as other:
        net.endpoints(relay.address, other.address)
        stub = net.stub()
        assert relay.accepted + other.accepted == 0
        stub.Unary(Request())
        assert relay.accepted + other.accepted == 1
        net.mesh.close()


_RETRIES = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.01s",
"maxBackoff": "0.02s", "backoffMultiplier": 1, "retryableStatusCodes": ["INTERNAL"]}}]}"""


def test_a_service_config_s_retries_are_the_mesh_s_to_make(net: Net) -> None:
    """docs/adopting.md: of the four tries that a client's own config asks for one is made, as the route says."""
    server = net.server()
    net.document("{routes: [{retry: {attempts: 0}}]}")
    options = [("grpc.service_config", _RETRIES)]
    with pytest.raises(grpc.RpcError):
        net.stub(options=options).Unary(Request(fail_code=13))
    assert len(server.seen) == 1

    async def scene(stub: Any) -> None:
        with pytest.raises(grpc.RpcError):
            await stub.Unary(Request(fail_code=13))

    net.run("mesh", scene, options=options)
    assert len(server.seen) == 2
