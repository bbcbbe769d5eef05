"""The fixtures of the tests over a real Consul."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import ConsulAgent
from tests.consul.fleet import Fleet


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the machine has set steers these tests."""
    for name in ("PROXYLESS_SOURCE", "PROXYLESS_LOCALITY", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def agent(consul_bin: str, tmp_path: Path) -> Iterator[ConsulAgent]:
    """An agent of the test's own, to be filled, frozen and killed."""
    with ConsulAgent(consul_bin, tmp_path) as agent:
        yield agent


@pytest.fixture
def fleet(agent: ConsulAgent) -> Iterator[Fleet]:
    """No server yet; those that are added are of the service `echo`."""
    with Fleet(agent) as fleet:
        yield fleet
