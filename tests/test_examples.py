"""The examples run as they stand: servers that register, clients that find them, against a real Consul."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.agent import CHECKOUT, ConsulAgent

EXAMPLES = CHECKOUT / "examples"


@pytest.fixture
def environment(consul: ConsulAgent, tmp_path: Path) -> dict[str, str]:
    """What a shell has set in which the agent was started, and no more."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROXYLESS_", "CONSUL_"))}
    return kept | {
        "CONSUL_HTTP_ADDR": consul.address,
        "PYTHONPATH": str(CHECKOUT),
        "XDG_CACHE_HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }


@contextmanager
def server(version: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """One running examples/shop_server.py; ended by SIGTERM."""
    command = [sys.executable, str(EXAMPLES / "shop_server.py"), "--version", version]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("sync_client.py", ["--header", "x-user-tier=premium"]),
        ("aio_client.py", ["--at-once", "4"]),
        ("meshed_client.py", []),
    ],
)
def test_a_client_finds_the_servers_that_registered(
    consul: ConsulAgent, environment: dict[str, str], client: str, options: list[str]
) -> None:
    """Two versions are started, the client calls both, and they leave Consul when they are told to end."""
    with ExitStack() as running:
        servers = [running.enter_context(server(version, environment)) for version in ("v1", "v2")]
        deadline = time.monotonic() + 20
        while len(consul.health("product-service")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        command = [sys.executable, str(EXAMPLES / client), "--calls", "40", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert done.stderr == ""
        assert done.returncode == 0
    assert consul.health("product-service", passing=False) == []
    assert [process.returncode for process in servers] == [-signal.SIGTERM] * 2
    listed, *counts = done.stdout.splitlines()
    assert listed == "listed: Teapot 0, Teapot 1"
    served = {version: int(count.split()[0]) for version, count in (line.split(": ") for line in counts)}
    assert served.keys() == {"v1", "v2"}
    assert sum(served.values()) == 40
