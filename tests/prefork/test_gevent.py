"""Programs on gevent, whose threads are greenlets: all in one thread, and all of them go on in a forked child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import CHECKOUT, ConsulAgent
from tests.bench.servers import running

pytest.importorskip("gevent")

PATCHED = "from gevent import monkey; monkey.patch_all()\nimport grpc.experimental.gevent as g; g.init_gevent()\n"

AT_ONCE = """
import gevent, grpc

def client(number):
    call = grpc.insecure_channel("echo:50051").unary_unary("/bench.Echo/Call")
    return [call(b"%d" % number, timeout=20.0) for _ in range(10)] == [b"%d" % number] * 10

clients = [gevent.spawn(client, number) for number in range(8)]
print([client.get() for client in clients])
"""

FORKS = """
import os, sys, time
import gevent, proxyless

mesh = proxyless.connect()
call = mesh.channel("echo").unary_unary("/bench.Echo/Call")
call(b"", timeout=10.0)
gevent.sleep(0.3)  # the watches wait for Consul's answer

def follows(route):
    until = time.monotonic() + 10.0
    while mesh.explain("echo", "/bench.Echo/Call").route != route:
        if time.monotonic() > until:
            return False
        gevent.sleep(0.01)
    return call(b"m", timeout=5.0) == b"m"

children = []
for _ in range(3):
    child = os.fork()
    if not child:
        calls = call(b"m", timeout=5.0) == b"m"
        os._exit(0 if calls and follows("edit-7") else 1)
    children.append(child)

for line in sys.stdin:
    print(follows(line.strip()), flush=True)
print([os.waitpid(child, 0)[1] for child in children], flush=True)
"""


@pytest.fixture
def addresses() -> Iterator[list[str]]:
    """Three echo servers."""
    with running() as addresses:
        yield addresses


def _environment(source: str, folder: Path) -> dict[str, str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("CONSUL_", "PROXYLESS_", "GRPC_"))}
    own = {"PROXYLESS_SOURCE": source, "PROXYLESS_RUNTIME_DIR": str(folder / "run"), "PYTHONPATH": str(CHECKOUT)}
    return {**environ, **own}


def test_greenlets_open_their_first_channels_at_the_same_time(addresses: list[str], tmp_path: Path) -> None:
    """Under `proxyless run` the program's first line replaces what locks are made of, when all of us is imported."""
    (tmp_path / "mesh.yaml").write_text(json.dumps({"endpoints": {"echo": [{"address": a} for a in addresses]}}))
    (tmp_path / "app.py").write_text(PATCHED + AT_ONCE)
    done = subprocess.run(
        [sys.executable, "-m", "proxyless", "run", str(tmp_path / "app.py")],
        env=_environment(f"file:{tmp_path / 'mesh.yaml'}", tmp_path),
        capture_output=True,
        check=False,
        text=True,
        timeout=40,
    )
    assert (done.stdout.strip(), done.returncode) == (str([True] * 8), 0), done.stderr


def test_a_fork_takes_nothing_from_the_parent(addresses: list[str], consul: ConsulAgent, tmp_path: Path) -> None:
    """Its watches go on in each child, too; what Consul answers is for the parent alone."""
    for address in addresses:
        consul.register("echo", int(address.rpartition(":")[2]))
    program = subprocess.Popen(
        [sys.executable, "-c", PATCHED + FORKS],
        env=_environment(f"consul://{consul.address}?snapshot=off", tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdin is not None
        assert program.stdout is not None
        for number in range(8):
            route = f"edit-{number}"
            consul.put_kv("proxyless/v1/services/echo", json.dumps({"routes": [{"name": route, "split": [{}]}]}))
            program.stdin.write(f"{route}\n")
            program.stdin.flush()
            assert program.stdout.readline() == "True\n", f"{route} was not followed"
        said, errors = program.communicate(timeout=30)
        assert said == "[0, 0, 0]\n", errors
    finally:
        program.kill()
        program.communicate()
        for entry in consul.health("echo"):
            consul.deregister(entry["Service"]["ID"])
        consul.delete_kv("proxyless/v1/services/echo")
