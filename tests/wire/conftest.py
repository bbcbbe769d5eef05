"""The fixture of the wire tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.ways import Net


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """Servers, mesh and channels of one test, closed with it; an attempt left under way fails the test."""
    monkeypatch.setattr("proxyless.control.file.LOOK", 0.01)  # seconds between looks at the file
    net = Net(tmp_path)
    yield net
    net.close()
