"""grpcio's own health, reflection and channelz stubs: by decorator, rule, and plain interceptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.clients.conftest import Adopt
from tests.clients.town import Town, needs

needs("grpc_health.v1.health", "grpc_reflection.v1alpha.reflection", "grpc_channelz.v1.channelz")

from grpc_channelz.v1 import channelz, channelz_pb2, channelz_pb2_grpc  # noqa: E402
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc  # noqa: E402

TARGET = "servers.test:50051"


def _services(server: grpc.Server, _name: str) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
    channelz.add_channelz_servicer(server)


def _check(channel: Any) -> Callable[[], Any]:
    stub = health_pb2_grpc.HealthStub(channel)
    return lambda: stub.Check(health_pb2.HealthCheckRequest())


def _list(channel: Any) -> Callable[[], Any]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    def names() -> Any:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        return stub.ServerReflectionInfo(iter([request]))

    return names


def _servers(channel: Any) -> Callable[[], Any]:
    stub = channelz_pb2_grpc.ChannelzStub(channel)
    return lambda: stub.GetServers(channelz_pb2.GetServersRequest(start_server_id=0))


each_stub = pytest.mark.parametrize("stub", [_check, _list, _servers], ids=["health", "reflection", "channelz"])


def _done(call: Callable[[], Any]) -> Callable[[], None]:
    """Makes a call and sees it through, one answer or a stream of them."""

    def make() -> None:
        answer = call()
        if hasattr(answer, "__next__"):
            assert len(list(answer)) == 1
        else:
            assert answer is not None

    return make


def _done_on_a_loop(call: Callable[[], Any]) -> Callable[[], Any]:
    async def make() -> None:
        answer = call()
        if hasattr(answer, "__aiter__"):
            assert len([message async for message in answer]) == 1
        else:
            assert await answer is not None

    return make


@each_stub
def test_sync(town: Town, brought: Adopt, stub: Any) -> None:
    """The stubs call all servers, survive a kill and follow an edit."""
    town.stand_ins(_services)
    with brought(lambda: grpc.insecure_channel(TARGET), TARGET) as channel:
        town.lives(_done(stub(channel)))


@each_stub
def test_asyncio(town: Town, brought: Adopt, stub: Any) -> None:
    """The same stubs over an asyncio channel."""
    town.stand_ins(_services)

    async def begin() -> Any:
        return _done_on_a_loop(stub(brought(lambda: grpc.aio.insecure_channel(TARGET), TARGET)))

    town.lives_on_a_loop(begin)


@each_stub
def test_sync_interceptors(town: Town, stub: Any) -> None:
    """Plain interceptors on a channel whose own target does not exist do the same for a generated stub."""
    town.stand_ins(_services)
    with grpc.insecure_channel(TARGET) as nowhere:
        town.lives(_done(stub(grpc.intercept_channel(nowhere, *town.mesh.interceptors(town.service)))))


@each_stub
def test_asyncio_interceptors(town: Town, stub: Any) -> None:
    """And on an asyncio channel."""
    town.stand_ins(_services)

    async def begin() -> Any:
        plain = town.mesh.aio_interceptors(town.service)
        return _done_on_a_loop(stub(grpc.aio.insecure_channel(TARGET, interceptors=plain)))

    town.lives_on_a_loop(begin)
