"""The fixtures of the wire tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyless.channel import adopt
from tests.wire.chain import Build, Chain
from tests.wire.ways import Net


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """Servers, mesh and channels of one test, closed with it; an attempt left under way fails the test."""
    monkeypatch.setattr("proxyless.control.file.LOOK", 0.01)  # seconds between looks at the file
    net = Net(tmp_path)
    yield net
    net.close()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Makes a chain of three services, closed with the test; a handler left at work fails it."""
    chains = []

    def make(*kinds: str, reserve: float = 0.0) -> Chain:
        chains.append(Chain(tmp_path, *kinds, reserve=reserve))
        return chains[-1]

    yield make
    for chain in chains:
        chain.close()


@pytest.fixture(autouse=True)
def as_grpcio_left_it() -> Iterator[None]:
    """What one test decorates or installs is nobody else's: grpcio's names are given back."""
    yield
    adopt._used_by_decorators = False
    adopt.uninstall()
