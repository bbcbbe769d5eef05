"""Servers that other people's clients call, in a real Consul, and the one story that each client has to live through.

The servers are real where there are any to be had; the others stand in with the service classes that come with
the client. Who answered is told by the servers, not by the mesh.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from tests.agent import ConsulAgent
from tests.consul.fleet import Fleet, connected, eventually

CALLS = 30
"""At most so many calls until each of three servers has answered one; all avoid one of them once in 190,000 times."""


def needs(*modules: str) -> None:
    """Skip this file where a client is not installed; with CI=true that is a failure: `make test` installs all."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as missing:
            reason = f"{missing}: the extra `clients` has it (pip install -e '.[clients]')"
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(reason, allow_module_level=True)


class StandIn(grpc.ServerInterceptor):
    """A server in this process that notes each of its calls under its name; `add` gives it its services."""

    def __init__(self, name: str, calls: list[str], add: Callable[[grpc.Server, str], Any]) -> None:
        self.name = name
        self._calls = calls
        self._pool = futures.ThreadPoolExecutor(8, thread_name_prefix=f"server-{name}")
        self._server = grpc.server(self._pool, interceptors=[self], options=[("grpc.so_reuseport", 0)])
        add(self._server, name)
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Note the call."""
        self._calls.append(self.name)
        return continuation(details)

    def kill(self) -> None:
        """Gone, with whatever is under way."""
        self._server.stop(None).wait()
        self._pool.shutdown()


class Process:
    """A server in a process of its own, to be killed as kernels kill; it prints its port when it listens."""

    def __init__(self, name: str, program: str, folder: Path) -> None:
        self.name = name
        self._log = (folder / f"{name}.log").open("wb")
        command = [sys.executable, "-c", program, str(folder / name), name]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)

    @property
    def port(self) -> int:
        """Waits until it listens."""
        if not hasattr(self, "_port"):
            assert self._process.stdout is not None
            self._port = int(self._process.stdout.readline())
        return self._port

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


class Town:
    """Three servers of one service, registered in Consul, and a mesh that knows them from there."""

    def __init__(self, agent: ConsulAgent, service: str = "town") -> None:
        self.service = service
        self.calls: list[str] = []
        self._fleet = Fleet(agent, service)
        self._servers: dict[str, Any] = {}
        self.mesh: proxyless.Mesh = connected(agent)

    def stand_ins(self, add: Callable[[grpc.Server, str], Any]) -> None:
        """Three servers in this process."""
        self.settle({name: StandIn(name, self.calls, add) for name in "abc"})

    def settle(self, servers: dict[str, Any]) -> None:
        """Register these, and wait until the mesh knows them."""
        self._servers = servers
        for name, server in servers.items():
            self._fleet.agent.register(self.service, server.port, id=name, meta={"name": name})
        assert self.mesh.ready(self.service, timeout=10.0)
        eventually(lambda: len(self.mesh.status()["endpoints"]) == len(servers), 10.0)

    def kill(self, name: str) -> None:
        """One server is gone; nobody tells Consul."""
        self._servers.pop(name).kill()

    def only(self, name: str) -> None:
        """Edit the service's document in KV: every call goes to this server from now on."""
        subset = {"labels": {"name": name}}
        self.document({"subsets": {"one": subset}, "routes": [{"name": "edit", "split": [{"subset": "one"}]}]})

    def document(self, content: dict[str, Any]) -> None:
        """Write the service's document, and wait until calls go by it."""
        self._fleet.document(content)
        self._fleet.settled(self.mesh)

    def address(self, name: str) -> str:
        """Where one of the servers listens."""
        return f"127.0.0.1:{self._servers[name].port}"

    def close(self) -> None:
        """End everything."""
        proxyless.uninstall()
        self.mesh.close()
        for server in self._servers.values():
            server.kill()

    # -- the story

    def lives(self, call: Callable[[], Any]) -> None:
        """Calls spread over three servers, survive the kill of one, and follow an edit; none of them fails.

        `call` makes one call and returns the name of who answered it, or None if the servers are to say.
        """
        answered = self._answers(call)
        self.kill("a")
        assert set(answered(CALLS)) == {"b", "c"}
        self.only("c")
        assert set(answered(5)) == {"c"}

    def _answers(self, call: Callable[[], Any]) -> Callable[[int], Counter[str]]:
        def answered(times: int) -> Counter[str]:
            return Counter(self._who(call()) for _ in range(times))

        assert set(answered(CALLS)) == {"a", "b", "c"}
        return answered

    def lives_on_a_loop(self, begin: Callable[[], Awaitable[Callable[[], Awaitable[Any]]]]) -> None:
        """The same for an asyncio client: `begin` makes it, on the loop, and returns what makes one call."""

        async def story() -> None:
            call = await begin()

            async def answered(times: int) -> set[str]:
                return {self._who(await asyncio.wait_for(call(), 10.0)) for _ in range(times)}

            assert await answered(CALLS) == {"a", "b", "c"}
            await asyncio.to_thread(self.kill, "a")
            assert await answered(CALLS) == {"b", "c"}
            await asyncio.to_thread(self.only, "c")
            assert await answered(5) == {"c"}

        asyncio.run(story())

    def _who(self, said: Any) -> str:
        return said if isinstance(said, str) else self.calls[-1]
