"""Real gRPC servers in a real Consul, and the documents about them: the world that the mesh tests play in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

import proxyless
from proxyless.protos import echo_pb2, echo_pb2_grpc
from tests.agent import ConsulAgent

Request = echo_pb2.EchoRequest
Reply = echo_pb2.EchoReply

SUBSETS = {"stable": {"labels": {"version": "v1"}}, "canary": {"labels": {"version": "v2"}}}


class Server(echo_pb2_grpc.EchoServicer):
    """A gRPC server that notes when each of its calls arrived."""

    def __init__(self, name: str, version: str, port: int = 0) -> None:
        self.name, self.version = name, version
        self.arrivals: list[float] = []
        self.metadata: dict[str, str | bytes] = {}
        """Of the last call."""
        self.hang_up = threading.Event()
        self._pool = futures.ThreadPoolExecutor(16, thread_name_prefix=f"server-{name}")
        self.grpc = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        echo_pb2_grpc.add_EchoServicer_to_server(self, self.grpc)
        self.port: int = self.grpc.add_insecure_port(f"127.0.0.1:{port}")
        self.id = f"{name}-{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Server:
        self.grpc.start()
        return self

    def stop(self, grace: float | None = None) -> None:
        """Stop, with `grace` seconds for the calls under way; at once without."""
        self.hang_up.set()
        self.grpc.stop(grace).wait()
        self._pool.shutdown()

    def until_called(self, within: float = 5.0) -> None:
        """Wait for the first call."""
        eventually(lambda: self.arrivals, within)

    def Unary(self, request: Request, context: grpc.ServicerContext) -> Reply:
        self.arrivals.append(time.monotonic())
        self.metadata = dict(context.invocation_metadata())
        if request.delay_ms:
            time.sleep(request.delay_ms / 1000)
        return Reply(message=request.message, served_by=self.name)

    def ServerStream(self, request: Request, context: grpc.ServicerContext) -> Iterator[Reply]:
        """One message at once and one every `delay_ms`; `count` in all, unless the server is stopped."""
        self.arrivals.append(time.monotonic())
        for sequence in range(request.count):
            if sequence and (self.hang_up.wait(request.delay_ms / 1000) or not context.is_active()):
                return
            yield Reply(served_by=self.name, sequence=sequence)


class Fleet:
    """Servers of one service, and their entries in Consul. Stops what it started."""

    def __init__(self, agent: ConsulAgent, service: str = "echo", prefix: str = "proxyless/v1") -> None:
        self.agent, self.service, self.prefix = agent, service, prefix
        self.servers: list[Server] = []
        self._documents: dict[str, str | bytes] = {}

    def add(self, name: str, version: str = "v1", *, port: int = 0, **registration: Any) -> Server:
        """A server that runs and is registered."""
        server = self.start(name, version, port)
        self.register(server, **registration)
        return server

    def start(self, name: str, version: str = "v1", port: int = 0) -> Server:
        """A server that runs, and that nobody knows of."""
        server = Server(name, version, port).start()
        self.servers.append(server)
        return server

    def register(self, server: Server, **registration: Any) -> None:
        registration.setdefault("meta", {"version": server.version})
        self.agent.register(self.service, server.port, id=server.id, **registration)

    def document(self, content: object, service: str = "") -> float:
        """Write the service's document: text as it is, else as JSON; the instant at which Consul had it."""
        key = f"{self.prefix}/services/{service or self.service}"
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        self._documents[key] = text
        return self.agent.put_kv(key, text)

    def split(self, stable: float, canary: float) -> float:
        """Share the calls out between the versions v1 and v2."""
        weights = [{"subset": "stable", "weight": stable}, {"subset": "canary", "weight": canary}]
        return self.document({"subsets": SUBSETS, "routes": [{"name": "rollout", "split": weights}]})

    def settled(self, mesh: proxyless.Mesh) -> float:
        """Wait until calls go by all that was written; from the instant that is returned on, every call does."""
        written = {key: str(self.agent.do("GET", f"kv/{key}").json()[0]["ModifyIndex"]) for key in self._documents}

        def in_effect() -> bool:
            status = mesh.status()
            there = {document["origin"].removeprefix("consul:"): document for document in status["documents"]}
            followed = all(key in there and there[key]["in_effect"] == index for key, index in written.items())
            return followed and not status["warming"]

        eventually(in_effect)
        return time.monotonic()

    def again(self, pause: float = 0.05) -> None:
        """Tell an agent that came up empty all that the last one was told, one by one, the newest first."""
        for server in reversed(self.servers):
            self.register(server)
            time.sleep(pause)
        for key, text in reversed(self._documents.items()):
            self.agent.put_kv(key, text)
            time.sleep(pause)

    def retire(self, server: Server) -> None:
        """Stop one server."""
        self.servers.remove(server)
        server.stop()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_error: object) -> None:
        for server in self.servers:
            server.stop()


def connected(agent: ConsulAgent, snapshot: object = "off", *, address: str = "") -> proxyless.Mesh:
    """A mesh over that agent, or what stands before it at `address`; off the disk without a `snapshot`."""
    return proxyless.connect(f"consul://{address or agent.address}?snapshot={snapshot}")


def stub(mesh: proxyless.Mesh, service: str = "echo") -> Any:
    """The generated stub over a sync channel of the mesh."""
    return echo_pb2_grpc.EchoStub(mesh.channel(service))


def called(stub: Any, timeout: float = 5.0) -> str:
    """The name of the server that one call went to."""
    name: str = stub.Unary(Request(), timeout=timeout).served_by
    return name


def clean(mesh: proxyless.Mesh) -> bool:
    """Whether the status has nothing to complain of."""
    status = mesh.status()
    documents_good = all(document["accepted"] for document in status["documents"])
    return documents_good and not (status["stale"] or status["suspicious"] or status["from_disk"])


def eventually(true: Callable[[], Any], within: float = 5.0) -> float:
    """Wait for what must come true by itself; the seconds that it took."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < within, f"did not come true within {within:g} s"
        time.sleep(0.002)
    return time.monotonic() - started
