"""Where the demo happens: a Consul agent of its own with servers that register, or a file where there is none."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from proxyless.demo.shop import SERVICE

DOCUMENT_KEY = f"proxyless/v1/services/{SERVICE}"


class Server:
    """A shop server in a process of its own."""

    def __init__(self, version: str, environment: dict[str, str] | None) -> None:
        command = [sys.executable, "-m", "proxyless.demo.shop", "--version", version]
        if environment is not None:
            command.append("--register")
        self.version = version
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)
        self.name = f"{version}-{self.process.pid}"
        if not self.port:
            raise RuntimeError(f"the demo's {version} server did not start")

    def kill(self) -> None:
        """As `kill -9` does: no farewell to anybody."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Let it leave in order, or make it."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()


class World:
    """What both kinds of world can do."""

    kind: str
    source: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []

    def add(self, version: str) -> Server:
        """Start a server and make it known."""
        raise NotImplementedError

    def put(self, document: dict[str, Any]) -> float:
        """Write the service's document; returns the instant at which it was written."""
        raise NotImplementedError

    def close(self) -> None:
        """End everything that was started here, and nothing else."""
        for server in self.servers:
            server.stop()


class ConsulWorld(World):
    """A real agent on ports of its own, in memory only."""

    kind = "a real Consul agent"

    def __init__(self, folder: Path, binary: str) -> None:
        super().__init__(folder)
        http, serf, wan, server = _free_ports(4)
        self.address = f"127.0.0.1:{http}"
        self.source = f"consul://{self.address}?snapshot={folder / 'cache'}"
        command = [binary, "agent", "-dev", "-node", "demo", "-bind", "127.0.0.1", "-client", "127.0.0.1"]
        ports = [("http", http), ("serf-lan", serf), ("serf-wan", wan), ("dns", -1), ("grpc", -1)]
        command += [f"-{name}-port={port}" for name, port in ports] + [f"-server-port={server}"]
        self.log = (folder / "consul.log").open("wb")
        self.agent = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(200):
            if self.agent.poll() is not None:
                raise RuntimeError(f"Consul ended at once; it said: {(folder / 'consul.log').read_text()[-400:]}")
            if self._ask("GET", "/v1/status/leader") not in (None, b'""') and self._write("_demo", b"1"):
                return
            time.sleep(0.05)
        raise RuntimeError("Consul did not become ready within 10 s")

    def add(self, version: str) -> Server:
        server = Server(version, {"CONSUL_HTTP_ADDR": self.address, "PROXYLESS_SOURCE": ""})
        self.servers.append(server)
        return server

    def put(self, document: dict[str, Any]) -> float:
        began = time.monotonic()
        if not self._write(DOCUMENT_KEY, json.dumps(document).encode()):
            raise RuntimeError("Consul did not take the document")
        return began

    def close(self) -> None:
        super().close()
        self.agent.terminate()
        try:
            self.agent.wait(5)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            self.agent.wait()
        self.log.close()

    def _write(self, key: str, value: bytes) -> bool:
        return self._ask("PUT", f"/v1/kv/{key}", value) == b"true"

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes | None:
        request = urllib.request.Request(f"http://{self.address}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return bytes(answer.read()).strip()
        except (OSError, urllib.error.URLError):
            return None


class FileWorld(World):
    """No Consul: the embedded source, a file that the demo edits."""

    kind = "a file (no `consul` was found on PATH or in $CONSUL_BIN)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "mesh.json"
        self.source = f"file:{self.path}"
        self._document: dict[str, Any] = {}

    def add(self, version: str) -> Server:
        server = Server(version, None)
        self.servers.append(server)
        self._save()
        return server

    def put(self, document: dict[str, Any]) -> float:
        self._document = document
        return self._save()

    def _save(self) -> float:
        endpoints = [
            {"address": f"127.0.0.1:{server.port}", "labels": {"version": server.version}} for server in self.servers
        ]
        text = json.dumps({"services": {SERVICE: self._document}, "endpoints": {SERVICE: endpoints}})
        began = time.monotonic()
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)
        return began


def make(folder: Path) -> World:
    """The best world that this machine allows."""
    binary = os.environ.get("CONSUL_BIN") or shutil.which("consul")
    return ConsulWorld(folder, binary) if binary else FileWorld(folder)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
