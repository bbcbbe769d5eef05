"""A real Consul agent for the tests: started, asked, frozen, killed, and brought back at the same address.

The command lines and the readiness probe were measured on Consul 1.8.7. Every agent has its own node name and
ports, and its log and data in the folder it is given.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]

# Loopback is asked directly, whatever proxy the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# An agent that denies what no token allows; `token=ROOT_TOKEN` may do everything.
ROOT_TOKEN = "c0ffee00-0000-4000-8000-000000000001"
ACL_HCL = f'acl {{ enabled = true, default_policy = "deny", tokens {{ master = "{ROOT_TOKEN}" }} }}'


def find_consul() -> str | None:
    """The Consul to test with: $CONSUL_BIN, else the one on PATH, else what scripts/fetch-consul unpacked."""
    named = os.environ.get("CONSUL_BIN")
    if named:
        return shutil.which(named)
    return shutil.which("consul") or shutil.which(CHECKOUT / ".cache/consul/usr/bin/consul")


class AgentError(RuntimeError):
    """An agent did not start, or did not do as it was told; the message ends with its log's last lines."""


@dataclass(frozen=True)
class Answer:
    """What came of one request: an HTTP answer, or the name of the exception that came instead."""

    status: int  # 0 when there was no answer
    error: str  # the exception's name, "" when there was an answer
    headers: Mapping[str, str]  # keys in lower case
    body: bytes
    took: float
    at: float  # the time.monotonic() at which it was there

    @property
    def ok(self) -> bool:
        return self.status == http.HTTPStatus.OK

    @property
    def index(self) -> int:
        """X-Consul-Index; 0 where there is none. Error answers carry a 1 that means nothing."""
        return int(self.headers.get("x-consul-index", 0))

    def json(self) -> Any:
        return json.loads(self.body)


class ConsulAgent:
    """One agent, a dev agent unless it has a disk.

    A dev agent is ready in 0.1 s and comes up empty when it is restarted. With `disk=True` it is a single
    server, ready in 1-2 s, whose state and index survive `kill9`. `hcl` adds configuration; `token` is sent
    with every request that names none.
    """

    def __init__(
        self, binary: str, folder: Path, *, disk: bool = False, hcl: Sequence[str] = (), token: str = ""
    ) -> None:
        self.binary, self.folder, self.disk, self.hcl, self.token = binary, folder, disk, tuple(hcl), token
        self.node = f"node-{uuid.uuid4().hex[:12]}"
        self.log = folder / f"{self.node}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._take_ports()

    # --- life

    def start(self, *, within: float = 20.0) -> ConsulAgent:
        """Start, and wait until it has a leader and takes writes.

        A port that somebody took meanwhile is replaced, but only on the first start: a restart has to come
        back where it was."""
        first = not self.log.exists()
        for _ in range(4 if first else 1):
            try:
                return self._start_once(time.monotonic() + within)
            except AgentError as e:
                self.kill9()
                if not first or "address already in use" not in str(e):
                    raise
                self._take_ports()
        raise AgentError(f"{self.node}: no free ports to be had in four attempts")

    def kill9(self) -> None:
        """As if the machine lost power."""
        self._end(signal.SIGKILL)

    def stop(self) -> float:
        """SIGTERM; the seconds it took to end. Watches in flight are answered 200 with the old index."""
        started = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - started

    def pause(self) -> None:
        """SIGSTOP: connections, new ones too, are accepted by the kernel and never answered.

        Returns when the last of its threads has stopped, for until then one may answer."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def cont(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def restart(self) -> ConsulAgent:
        """kill -9, and up again on the same ports. Without a disk it knows nothing of before."""
        self.kill9()
        return self.start()

    def __enter__(self) -> ConsulAgent:
        return self if self.process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.kill9()

    # --- requests

    @property
    def wan_port(self) -> int:
        """Where an agent of another datacenter joins a dev agent."""
        return self._wan

    @property
    def address(self) -> str:
        """host:port, as CONSUL_HTTP_ADDR takes it."""
        return f"127.0.0.1:{self.http_port}"

    def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = None, timeout: float = 10.0
    ) -> Answer:
        """One request, whatever comes of it: this never raises. `path` is what follows /v1/; a `body` of text
        or bytes is sent as it is, any other as JSON."""
        data = body.encode() if isinstance(body, str) else body
        if data is not None and not isinstance(data, bytes):
            data = json.dumps(data).encode()
        request = urllib.request.Request(f"http://{self.address}/v1/{path}", data=data, method=method)
        if token is None:
            token = self.token
        if token:
            request.add_header("X-Consul-Token", token)
        status, error, headers, content = 0, "", {}, b""
        started = time.monotonic()
        try:
            with _OPENER.open(request, timeout=timeout) as response:
                status, headers, content = response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as e:
            with e:
                status, headers, content = e.code, dict(e.headers), e.read()
        except urllib.error.URLError as e:
            error = type(e.reason).__name__
        except (OSError, http.client.HTTPException) as e:
            error = type(e).__name__
        now = time.monotonic()
        return Answer(status, error, {k.lower(): v for k, v in headers.items()}, content, now - started, now)

    def ask_later(self, method: str, path: str, body: object = None, **options: Any) -> Future[Answer]:
        """The same on a thread of its own: `Answer.at` says when a watch woke."""
        answer: Future[Answer] = Future()

        def ask() -> None:
            answer.set_result(self.ask(method, path, body, **options))

        threading.Thread(target=ask, daemon=True, name=f"ask-{path}").start()
        return answer

    def do(self, method: str, path: str, body: object = None, **options: Any) -> Answer:
        """A request that has to succeed."""
        answer = self.ask(method, path, body, **options)
        if not answer.ok:
            came = f"{answer.status or answer.error} {answer.body!r}"
            raise AgentError(f"{method} /v1/{path} on {self.node}: {came}\n{self._tail()}")
        return answer

    def put_kv(self, key: str, value: str | bytes) -> float:
        """Write a key; the monotonic instant at which Consul had it."""
        answer = self.do("PUT", f"kv/{urllib.parse.quote(key)}", value)
        if answer.body.strip() != b"true":
            raise AgentError(f"{self.node} refused the write of {key}: {answer.body!r}")
        return answer.at

    def get_kv(self, key: str) -> bytes | None:
        """The key's bytes; None where there is no such key."""
        path = f"kv/{urllib.parse.quote(key)}?raw"
        if self.ask("GET", path).status == http.HTTPStatus.NOT_FOUND:
            return None
        return self.do("GET", path).body

    def delete_kv(self, key: str, *, recurse: bool = False) -> None:
        self.do("DELETE", f"kv/{urllib.parse.quote(key)}{'?recurse' if recurse else ''}")

    def register(
        self,
        service: str,
        port: int,
        *,
        id: str | None = None,
        address: str = "127.0.0.1",
        meta: Mapping[str, str] | None = None,
        tags: Sequence[str] = (),
        weights: tuple[int, int] | None = None,  # passing, warning
        status: str | None = None,
    ) -> str:
        """Register an instance and return its id.

        With a `status` it has a check that stays at that until `set_status`; without, it passes while its
        node does."""
        id = id or f"{service}-{port}"
        body: dict[str, Any] = {"ID": id, "Name": service, "Address": address, "Port": port}
        body |= {"Meta": dict(meta or {}), "Tags": list(tags)}
        if weights is not None:
            body["Weights"] = {"Passing": weights[0], "Warning": weights[1]}
        if status is not None:
            body["Check"] = {"CheckID": f"service:{id}", "TTL": "24h", "Status": status}
        self.do("PUT", "agent/service/register", body)
        return id

    def set_status(self, id: str, status: str) -> None:
        """passing, warning or critical, for an instance that was registered with a status."""
        self.do("PUT", f"agent/check/update/service:{urllib.parse.quote(id)}", {"Status": status})

    def deregister(self, id: str) -> float:
        """Deregister an instance; the monotonic instant at which Consul had it."""
        return self.do("PUT", f"agent/service/deregister/{urllib.parse.quote(id)}").at

    def health(self, service: str, *, passing: bool = True) -> list[dict[str, Any]]:
        """Consul's own view of the instances."""
        path = f"health/service/{urllib.parse.quote(service)}{'?passing' if passing else ''}"
        entries: list[dict[str, Any]] = self.do("GET", path).json()
        return entries

    def create_token(self, rules: str) -> str:
        """A token that may do what the ACL rules say (an agent with ACL_HCL)."""
        name = f"policy-{uuid.uuid4().hex[:8]}"
        self.do("PUT", "acl/policy", {"Name": name, "Rules": rules})
        secret: str = self.do("PUT", "acl/token", {"Policies": [{"Name": name}]}).json()["SecretID"]
        return secret

    def delete_token(self, secret: str) -> None:
        accessor = self.do("GET", "acl/token/self", token=secret).json()["AccessorID"]
        self.do("DELETE", f"acl/token/{accessor}")

    # --- inside

    def _take_ports(self) -> None:
        self.http_port, self._grpc, self._lan, self._wan, self._server = _free_ports(5)

    def _command(self) -> list[str]:
        options: dict[str, object] = {"node": self.node, "bind": "127.0.0.1", "client": "127.0.0.1"}
        options |= {"http-port": self.http_port, "server-port": self._server, "serf-lan-port": self._lan}
        options |= {"dns-port": -1}
        hcl = ["disable_update_check = true", *self.hcl]
        if self.disk:
            options |= {"server": "true", "bootstrap-expect": 1, "grpc-port": -1, "serf-wan-port": -1}
            options |= {"data-dir": self.folder / f"{self.node}.data"}
            hcl.append("performance { raft_multiplier = 1 }")  # with the default of 5 it is ready in 7 s
        else:
            # A dev agent opens these too; unless they are named, on the ports of every other dev agent.
            options |= {"dev": "true", "grpc-port": self._grpc, "serf-wan-port": self._wan}
        flags = [f"-{name}={value}" for name, value in options.items()]
        return [self.binary, "agent", *flags, *(f"-hcl={text}" for text in hcl)]

    def _start_once(self, deadline: float) -> ConsulAgent:
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal ends the tests, which then end the agent.
            self.process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        while not self._ready():
            if self.process.poll() is not None:
                code = self.process.returncode
                raise AgentError(f"{self.node} ended with {code} while starting\n{self._tail()}")
            if time.monotonic() > deadline:
                raise AgentError(f"{self.node} was not ready in time at {self.address}\n{self._tail()}")
            time.sleep(0.02)
        return self

    def _ready(self) -> bool:
        """A leader (which alone can be stale), a write, and our own name: of two agents on one port the
        second ends and the first answers."""
        leader = self.ask("GET", "status/leader", timeout=1.0)
        if not leader.ok or not leader.json():
            return False
        if self.ask("PUT", "kv/_probe", "ready", timeout=1.0).body.strip() != b"true":
            return False
        own = self.ask("GET", "agent/self", timeout=1.0)
        return own.ok and own.json()["Config"]["NodeName"] == self.node

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise AgentError(f"{self.node} is not running")
        return self.process

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a stopped process does not notice SIGTERM
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else "(no log)"


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, for TCP and UDP.

    They are below the range from which the kernel picks ports for outgoing connections (32768 on), so nobody
    takes them by chance while an agent is down between two lives."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            port = random.randrange(15000, 32000)
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    held.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    return ports
