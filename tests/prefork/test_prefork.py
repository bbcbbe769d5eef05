"""Servers that load the program once and fork their workers: gunicorn --preload, Celery's prefork pool.

As real processes, over a real Consul and three real gRPC servers. Each worker makes `FORKED_CALLS` calls
(300; the whole measure is 10,000) in each of `FORKED_ROUNDS` rounds (1; 5), with a fresh server each round:

    FORKED_CALLS=10000 FORKED_ROUNDS=5 pytest tests/prefork
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from proxyless.admin import asking
from tests.agent import CHECKOUT, ConsulAgent
from tests.bench.servers import running

CALLS = int(os.environ.get("FORKED_CALLS", "300"))
ROUNDS = int(os.environ.get("FORKED_ROUNDS", "1"))
WORKERS = 4
AT_ONCE = 50
"""Calls of one request, or one task."""

PATIENCE = 30.0 + CALLS / 50
"""Seconds for a round."""

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()"),
    pytest.mark.timeout(2 * PATIENCE),
]


@pytest.fixture
def environment(consul: ConsulAgent, tmp_path: Path) -> Iterator[dict[str, str]]:
    """That of a server: three echo servers are registered in the Consul that it names."""
    with running() as addresses:
        for address in addresses:
            consul.register("echo", int(address.rpartition(":")[2]))
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("CONSUL_", "PROXYLESS_", "GRPC_"))}
        yield {
            **environ,
            "PROXYLESS_SOURCE": f"consul://{consul.address}?snapshot=off",
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONFAULTHANDLER": "1",
            "PROXYLESS_RUNTIME_DIR": str(tmp_path / "run"),
        }
        for entry in consul.health("echo"):
            consul.deregister(entry["Service"]["ID"])


@contextlib.contextmanager
def process(command: list[str], environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server, ended with SIGTERM; its log is shown where that fails or the block does."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", *command], env=environ, cwd=CHECKOUT, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield started
        started.send_signal(signal.SIGTERM)
        assert started.wait(20.0) == 0, "it did not end as it should"
        # gRPC's core: "Other threads are currently calling into gRPC, skipping fork() handlers". Every other fork
        # does so where it does not wait for calls; one in a hundred where it does, and calls take long.
        assert log.read_bytes().count(b"skipping fork() handlers") <= 1, "it forked while calls were in gRPC's core"
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace")[-6000:])
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # a session of its own: nobody else is in it
        started.wait()


class Tally:
    """Calls by worker, until each of them has made its share."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.failed: list[str] = []
        self._lock = threading.Lock()

    def add(self, pid: int, calls: int, failed: list[str]) -> None:
        with self._lock:
            self.calls[pid] += calls
            self.failed += failed

    @property
    def complete(self) -> bool:
        with self._lock:
            return len(self.calls) >= WORKERS and min(self.calls.values()) >= CALLS

    def check(self, environ: dict[str, str], parent: int) -> None:
        """Each has made its calls, no call failed, and `proxyless ps` sees every worker and their parent."""
        assert self.failed == [], f"{len(self.failed)} of {self.calls.total()} calls failed: {self.failed[:5]}"
        assert self.complete, f"not in time: {self.calls}"
        assert len(self.calls) == WORKERS, f"workers were replaced: {self.calls}"
        processes, trouble = asking.processes(environ)
        assert trouble == []
        assert {process.pid for process in processes} == {parent, *self.calls}
        assert all(mesh["services"] == ["echo"] for process in processes for mesh in process.about["meshes"])


def ask(port: int, tally: Tally, until: float) -> None:
    """Request after request, each on a connection of its own so that every worker gets its share."""
    while not tally.complete and time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", f"/?{AT_ONCE}", headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.client.OK:
                tally.add(0, 0, [f"the worker answered {answer.status}: {body[:200]!r}"])
                return
            said: dict[str, Any] = json.loads(body)
            tally.add(said["pid"], AT_ONCE, said["failed"])
        except OSError as error:
            tally.add(0, 0, [f"no answer of the worker: {error!r}"])
            return
        finally:
            connection.close()


def rounds(play: Callable[[int], None]) -> None:
    for number in range(ROUNDS):
        play(number)


@pytest.mark.parametrize("hammer", ["", "1"], ids=["quiet", "mid-traffic"])
@pytest.mark.parametrize("worker", ["gthread", "uvicorn_worker.UvicornWorker"])
def test_gunicorn_preloads_and_forks(worker: str, hammer: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Four workers of a preloaded gunicorn make their calls with no failure, blocking and on asyncio, also where
    the parent was calling while it forked."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn_worker")

    def play(number: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        application = "tests.prefork.preloaded:" + ("wsgi" if worker == "gthread" else "asgi")
        command = ["gunicorn", "--preload", "-w", str(WORKERS), "-k", worker, "-b", f"127.0.0.1:{port}"]
        command += ["--threads", "4"] if worker == "gthread" else []
        command += ["--timeout", "60", "--no-control-socket", application]
        tally = Tally()
        with process(command, {**environment, "HAMMER": hammer}, tmp_path / f"log-{number}") as server:
            until = time.monotonic() + PATIENCE
            while not _listens(port):
                assert server.poll() is None, "it ended before it listened"
                assert time.monotonic() < until, "it does not listen"
                time.sleep(0.02)
            with ThreadPoolExecutor(2 * WORKERS) as pool:
                list(pool.map(lambda _: ask(port, tally, until), range(2 * WORKERS)))
            tally.check(environment, server.pid)

    rounds(play)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("hammer", ["", "1"], ids=["quiet", "mid-traffic"])
def test_celery_forks_its_pool(
    hammer: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes of Celery's prefork pool make their calls with no failure."""
    pytest.importorskip("celery")

    def play(number: int) -> None:
        folder = tmp_path / f"round-{number}"
        broker, results = folder / "broker", folder / "results"
        (broker / "control").mkdir(parents=True)
        environ = {**environment, "HAMMER": hammer, "BROKER": str(broker), "RESULTS": str(results)}
        command = ["celery", "-A", "tests.prefork.tasks", "worker", "-P", "prefork", "-c", str(WORKERS), "-O", "fair"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
        with process(command, environ, tmp_path / f"log-{number}") as worker:
            until = time.monotonic() + PATIENCE
            sent, tally = 0, Tally()
            while not tally.complete and time.monotonic() < until:
                assert worker.poll() is None, "it ended before its time"
                tally = _results(results)
                waiting = sent - tally.calls.total() // AT_ONCE
                if waiting < 2 * WORKERS:
                    _send(folder / "written", broker, 8 * WORKERS)
                    sent += 8 * WORKERS
                time.sleep(0.05)
            tally.check(environment, worker.pid)

    rounds(play)


def _results(path: Path) -> Tally:
    tally = Tally()
    for line in path.read_text().splitlines() if path.exists() else ():
        said = json.loads(line)
        tally.add(said["pid"], said["calls"], said["failed"])
    return tally


def _send(written: Path, broker: Path, number: int) -> None:
    """Tasks, from a producer of its own: nothing of Celery is loaded into the process of the tests.

    They are moved to the broker's folder when they are written: its consumer would read half of one."""
    (written / "control").mkdir(parents=True, exist_ok=True)
    options = {name: str(written) for name in ("data_folder_in", "data_folder_out")}
    options["control_folder"] = str(written / "control")
    program = (
        "from celery import Celery; app = Celery('tasks', broker='filesystem://'); "
        f"app.conf.broker_transport_options = {options!r}; "
        f"[app.send_task('tests.prefork.tasks.call', [{AT_ONCE}], ignore_result=True) for _ in range({number})]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=CHECKOUT)
    for message in written.glob("*.msg"):
        message.rename(broker / message.name)
