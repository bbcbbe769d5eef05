"""What every test has: a real Consul for the asking, and a guard against threads that outlive their test."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.agent import ConsulAgent, find_consul

# The same examples every time, and no limit on how long one may take: a busy machine is no failure. To hunt for new
# ones: pytest --hypothesis-seed=random --hypothesis-profile=default.
settings.register_profile("proxyless", deadline=None, derandomize=True, database=None)
settings.load_profile("proxyless")


@pytest.fixture(scope="session")
def consul_bin() -> str:
    """The path of a Consul binary. Without one the test is skipped, but with CI=true it fails."""
    binary = find_consul()
    if binary is None:
        reason = "no Consul in $CONSUL_BIN, on PATH or in .cache/: `make consul` fetches one"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return binary


@pytest.fixture(scope="module")
def consul(consul_bin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A running dev agent, shared by the tests of one module.

    A test that kills, freezes or floods an agent starts its own: `ConsulAgent(consul_bin, tmp_path)`."""
    with ConsulAgent(consul_bin, tmp_path_factory.mktemp("consul")) as agent:
        yield agent


Row = Callable[..., None]
_TABLES = pytest.StashKey[dict[str, list[dict[str, object]]]]()


@pytest.fixture
def shows(request: pytest.FixtureRequest) -> Row:
    """`shows("A retry storm", calls=2000, attempts=2420)`: one row of a table for people, printed after the tests.

    Rows of one title make one table, whichever tests they come from; what they are held to is the tests' own."""
    tables = request.config.stash.setdefault(_TABLES, {})
    return lambda title, **row: tables.setdefault(title, []).append(row)


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """A thread that a test started ends with it, if it keeps the process from exiting or is one of ours."""
    before = set(threading.enumerate())
    yield
    # Threads of a closed executor or server need a moment; those of a forgotten one end when it is collected.
    deadline = time.monotonic() + 2.0
    while leaked := _leaks(before):
        if time.monotonic() > deadline:
            pytest.fail(f"the test left threads behind: {', '.join(leaked)}", pytrace=False)
        gc.collect()
        time.sleep(0.01)


def _leaks(before: set[threading.Thread]) -> list[str]:
    started = [thread for thread in threading.enumerate() if thread not in before]
    return sorted(t.name for t in started if not t.daemon or t.name.startswith("proxyless-"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables that tests have to show, and one line for each reason to skip, however many tests share it."""
    for title, rows in terminalreporter.config.stash.get(_TABLES, {}).items():
        terminalreporter.write_line(f"\n{title}")
        for line in _lines(rows):
            terminalreporter.write_line(f"  {line}")
    skipped = terminalreporter.stats.get("skipped", [])
    for reason, count in Counter(str(report.longrepr[2]) for report in skipped).items():
        terminalreporter.write_line(f"{count} tests skipped: {reason.removeprefix('Skipped: ')}")


def _lines(rows: list[dict[str, object]]) -> list[str]:
    """Aligned: words to the left, numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[name.replace("_", " ") for name in names], *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = [all(isinstance(row.get(name, ""), str) for row in rows) and name == names[0] for name in names]
    return [
        "  ".join(
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        ).rstrip()
        for line in cells
    ]
