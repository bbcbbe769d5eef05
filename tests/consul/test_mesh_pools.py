"""Pools of processes (`multiprocessing`) over a real Consul: however they are started, each child has one mesh."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.agent import CHECKOUT, ConsulAgent
from tests.consul.fleet import Fleet

PROGRAM = "import sys; from tests.consul import pooling; pooling.main(sys.argv[1], 400)"


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_every_child_of_a_pool_makes_its_calls(agent: ConsulAgent, fleet: Fleet, start: str) -> None:
    """Four children, eight threads each, 400 calls each: no failure, all servers called, and one watch for the
    documents and one for the service in each, although eight threads woke it up at once. A grandchild is served."""
    if start != "spawn" and not hasattr(os, "fork"):
        pytest.skip("this system has no fork()")
    for name in ("a", "b"):
        fleet.add(name)
    environ = {**os.environ, "PROXYLESS_SOURCE": f"consul://{agent.address}?snapshot=off"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, start]
    done = subprocess.run(command, cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    children = json.loads(done.stdout)
    assert len({child["pid"] for child in children}) == 4
    for child in children:
        assert child["failed"] == []
        assert child["served"] == ["a", "b"]
        assert child["watching"] == ["proxyless-watch-documents", "proxyless-watch-echo"]
        assert child["grandchild"] in (("a", "b") if start == "fork" else (None,))
