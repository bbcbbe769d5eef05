"""Agents, proxies and servers for the tests over a real Consul."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import ACL_HCL, ROOT_TOKEN, ConsulAgent
from tests.cli.invoking import forget_the_machine
from tests.consul.fleet import Fleet
from tests.consul.lying_proxy import LyingProxy, lying_proxy


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix of its own for each test on the shared agent."""
    return "test/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")[:60]


@pytest.fixture
def agent(consul_bin: str, tmp_path: Path) -> Iterator[ConsulAgent]:
    """An agent of the test's own, to be killed and frozen."""
    with ConsulAgent(consul_bin, tmp_path) as agent:
        yield agent


@pytest.fixture
def proxy(consul: ConsulAgent) -> Iterator[LyingProxy]:
    """A proxy in front of the shared agent."""
    with lying_proxy(consul.http_port) as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """The seconds that an answer is given, cut to one, so that no test has to wait so long."""
    monkeypatch.setattr("proxyless.control.watcher.SLACK", 1.0)
    monkeypatch.setattr("proxyless.control.watcher.PLAIN", 1.0)
    return 1.0


@pytest.fixture
def guarded(consul_bin: str, tmp_path: Path) -> Iterator[ConsulAgent]:
    """An agent that denies what no token allows, with one document and one instance."""
    with ConsulAgent(consul_bin, tmp_path, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent:
        agent.put_kv("proxyless/v1/mesh", "old")
        agent.register("web", 5001)
        yield agent


@pytest.fixture
def fleet(agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fleet]:
    """The servers of the service `echo` on the test's own agent; none yet."""
    forget_the_machine(monkeypatch, tmp_path / "cache")
    with Fleet(agent) as fleet:
        yield fleet
