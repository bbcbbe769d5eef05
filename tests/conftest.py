"""What every test has: a real Consul for the asking, and a guard against threads that outlive their test."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator

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
    """One line for each reason to skip, however many tests share it."""
    skipped = terminalreporter.stats.get("skipped", [])
    for reason, count in Counter(str(report.longrepr[2]) for report in skipped).items():
        terminalreporter.write_line(f"{count} tests skipped: {reason.removeprefix('Skipped: ')}")
