"""The two ways a wire test makes the same call: on bare grpcio, and through the mesh.

What a test expects is written down once and held against both, so that it is parity that is tested and not
our opinion of it. A test that concerns the mesh alone uses the `net` without naming a way.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.context import SCOPE, Scope
from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import EchoServer, eventually

WAYS = ["grpcio", "mesh"]
either_way = pytest.mark.parametrize("way", WAYS)

# The mesh as plain interceptors of a channel of grpcio's own: one that leads nowhere, for protobuf knows where the
# messages are; or, where protobuf knows nothing, one that leads to the server.
any_way = pytest.mark.parametrize("way", [*WAYS, "interceptors", "interceptors, no protobuf", "in a scope"])

# Blocking calls of a handler are made in another way than all others, and must not be told from them.
scoped_too = pytest.mark.parametrize("way", [*WAYS, "in a scope"])
OURS = ("mesh", "in a scope")
NOWHERE = "127.0.0.1:1"


class Net:
    """Echo servers, a mesh that knows them from a file, and channels to them either way. Closes what it opened."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "mesh.yaml"
        self._servers: list[EchoServer] = []
        self._addresses: list[str] = []
        self._labels: dict[str, str] = {}
        self._document = "{}"
        self._others: dict[str, list[dict[str, str]]] = {}
        self._mesh: proxyless.Mesh | None = None
        self._closing: list[Callable[[], Any]] = []

    def server(self, name: str = "a", *, named: bool = True, **settings: Any) -> EchoServer:
        """Start one more server; unless told otherwise it is among the service's endpoints."""
        server = EchoServer(name, **settings)
        self._servers.append(server)
        if named:
            self.endpoints(*self._addresses, server.address)
        return server

    @property
    def servers(self) -> Sequence[EchoServer]:
        return self._servers

    @property
    def source(self) -> str:
        """What `proxyless.connect` takes, for a test that wants a mesh of its own."""
        self._write()
        return f"file:{self._file}"

    @property
    def mesh(self) -> proxyless.Mesh:
        """The mesh, connected when first asked for."""
        if self._mesh is None:
            self._mesh = proxyless.connect(self.source, services=["echo"])
            assert self._mesh.ready("echo", timeout=5.0)
        return self._mesh

    def closing(self, close: Callable[[], Any]) -> None:
        """Have `close` called with the rest."""
        self._closing.append(close)

    # -- what the file says

    def endpoints(self, *addresses: str, **labels: str) -> None:
        """Have the file name these endpoints and no others; `labels` are those of every one of them."""
        self._addresses = list(addresses)
        self._labels = labels
        self._write()

    def beside(self, service: str, *addresses: str) -> None:
        """Have the file say where another service runs."""
        self._others[service] = [{"address": address} for address in addresses]
        self._write()

    def document(self, text: str) -> None:
        """Have the file say this of the service, in YAML that fits on one line."""
        self._document = text
        self._write()

    def _write(self) -> None:
        endpoints = [{"address": address, "labels": self._labels} for address in self._addresses]
        text = f"services: {{echo: {self._document}}}\nendpoints: {json.dumps({'echo': endpoints, **self._others})}\n"
        new = self._file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self._file)

    def settled(self, *addresses: str) -> bool:
        """Whether the mesh goes by these endpoints now."""
        known = self.mesh.status()["endpoints"]
        return {endpoint["address"] for endpoint in known} == set(addresses)

    @property
    def inflight(self) -> int:
        """Attempts under way, on nodes that the current snapshot names."""
        return sum(node.inflight for node in self.mesh._nodes.all())

    # -- channels

    def channel(self, way: str = "mesh", **settings: Any) -> grpc.Channel:
        """A channel for threads. In a scope, all calls of the test are made as a handler makes them."""
        if way == "in a scope":
            token = SCOPE.set(Scope())
            self._closing.append(lambda: SCOPE.reset(token))
        if way in OURS:
            channel = self.mesh.channel("echo", **settings)
        else:
            plain = self.mesh.interceptors("echo", **settings) if way != "grpcio" else []
            channel = grpc.intercept_channel(_bare(grpc, self._target(way), settings), *plain)
        self._closing.append(channel.close)
        return channel

    def stub(self, way: str = "mesh", **settings: Any) -> Any:
        """The generated stub over `channel`."""
        return echo_pb2_grpc.EchoStub(self.channel(way, **settings))

    def aio_channel(self, way: str = "mesh", **settings: Any) -> grpc.aio.Channel:
        """A channel for the running loop; who asks for it closes it."""
        if way in OURS:
            return self.mesh.aio_channel("echo", **settings)
        if way != "grpcio":
            settings["interceptors"] = self.mesh.aio_interceptors("echo", **settings)
        channel: grpc.aio.Channel = _bare(grpc.aio, self._target(way), settings)
        return channel

    def _target(self, way: str) -> str:
        """Where a channel of grpcio's own leads; without protobuf the interceptors find no message classes."""
        if way == "interceptors, no protobuf":
            patch = pytest.MonkeyPatch()
            patch.setattr("proxyless.channel.interceptors.messages_of", lambda _method, _arity: None)
            self._closing.append(patch.undo)
        return NOWHERE if way == "interceptors" else self._addresses[0]

    def run(self, way: str, scene: Callable[[Any], Coroutine[Any, Any, Any]], **settings: Any) -> Any:
        """Play an asyncio scene with a stub of its own; afterwards no task is left."""

        async def play() -> Any:
            async with self.aio_channel(way, **settings) as channel:
                result = await asyncio.wait_for(scene(echo_pb2_grpc.EchoStub(channel)), 20.0)
            for _ in range(500):
                left = asyncio.all_tasks() - {asyncio.current_task()}
                if not left:
                    return result
                await asyncio.sleep(0.002)
            raise AssertionError(f"the test left tasks behind: {left}")

        return asyncio.run(play())

    def close(self) -> None:
        """Close everything; nothing may be left under way on any endpoint."""
        for close in reversed(self._closing):
            close()
        if self._mesh is not None:
            eventually(lambda: self.inflight == 0)
            self._mesh.close()
        for server in self._servers:
            server.stop()


def _bare(module: Any, address: str, settings: dict[str, Any]) -> Any:
    credentials = settings.pop("credentials", None)
    if credentials is None:
        return module.insecure_channel(address, **settings)
    return module.secure_channel(address, credentials, **settings)


async def soon(true: Callable[[], Any], within: float = 5.0) -> None:
    """Wait, on the loop, for what must come true by itself."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"did not come true within {within:g} s"
        await asyncio.sleep(0.002)


async def rest(stream: Any) -> int:
    """Read an asyncio stream to its end; the number of messages that still came."""
    count = 0
    while (await stream.read()) is not grpc.aio.EOF:
        count += 1
    return count
