"""The fixtures of the telemetry tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.otel.world import Telling
from tests.wire.ways import Net


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """Real servers and a mesh that knows them, closed with the test."""
    monkeypatch.setattr("proxyless.control.file.LOOK", 0.01)  # seconds between looks at the file
    net = Net(tmp_path)
    yield net
    net.close()


@pytest.fixture
def told() -> Iterator[Telling]:
    """Providers of the test's own: the process's can be set only once."""
    telling = Telling()
    yield telling
    telling.close()
