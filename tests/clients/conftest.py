"""A town for each test, and two ways to bring a client into the mesh without touching it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proxyless
from proxyless.channel import adopt
from tests.agent import ConsulAgent
from tests.cli.invoking import forget_the_machine
from tests.clients.town import Town

Adopt = Callable[[Callable[[], Any], str], Any]
"""`adopt(make, target)`: the client that `make` makes, which believes that it calls `target`."""


@pytest.fixture
def town(consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    """Three servers to be, in a Consul of their own."""
    forget_the_machine(monkeypatch, tmp_path / "cache")
    with ConsulAgent(consul_bin, tmp_path) as agent:
        town = Town(agent)
        yield town
        town.close()
    adopt._used_by_decorators = False
    proxyless.uninstall()


@pytest.fixture(params=["decorator", "rule"])
def brought(request: pytest.FixtureRequest, town: Town) -> Adopt:
    """One decorator on what makes the client, or one rule for the process."""

    def decorated(make: Callable[[], Any], _target: str) -> Any:
        @proxyless.meshed(town.service, mesh=town.mesh)
        def client() -> Any:  # of our own: decorating the library's class would change it for every other test
            return make()

        return client()

    def ruled(make: Callable[[], Any], target: str) -> Any:
        proxyless.install({target: town.service}, mesh=town.mesh)
        return make()

    return decorated if request.param == "decorator" else ruled
