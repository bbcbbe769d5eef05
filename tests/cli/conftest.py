"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.invoking import SHOP, Program, Run, call, forget_the_machine, start


@pytest.fixture
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own settings."""
    forget_the_machine(monkeypatch, tmp_path / "cache")


@pytest.fixture
def run(quiet_environment: None) -> Run:
    """Call a command in this process."""
    return call


@pytest.fixture
def program(quiet_environment: None) -> Program:
    """Call a command in a process of its own."""
    return start


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """The URL of a file with a shop in it: five routes, two subsets, two services."""
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP)
    return f"file:{path}"
