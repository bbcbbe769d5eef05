"""`ps`, `status --pid` and `tap` on a process that makes calls: this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.agent import CHECKOUT
from tests.cli.invoking import call, forget_the_machine
from tests.wire.echo import Request, eventually
from tests.wire.ways import Net

PID = str(os.getpid())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of each test its own, and nothing of this machine's settings."""
    forget_the_machine(monkeypatch, tmp_path / "cache")
    monkeypatch.setenv("PROXYLESS_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def calling(net: Net) -> Iterator[str]:
    """A thread that makes a call, and one that fails, every 10 ms; the server's address."""
    server = net.server()
    net.document("{routes: [{name: all}]}")
    stub, gone = net.stub(), net.mesh.channel("gone").unary_unary("/x.Y/Z")
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.01):
            stub.Unary(Request())
            gone.future(b"").exception()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: server.seen)
        yield server.address
    finally:
        stop.set()
        thread.join(5.0)


def test_ps_without_a_process() -> None:
    """It says where it looked, and that a service may have its own folder; that is no finding."""
    result = call("ps")
    assert result.exit_code == 0
    assert "no process of this user has a mesh" in result.stdout
    assert f"looked in {os.environ['PROXYLESS_RUNTIME_DIR']}" in result.stdout


def test_ps(net: Net) -> None:
    """A line for each mesh: program, services, source, version, state, since; exit code 1 when one is not well."""
    net.server()
    assert net.mesh.ready("echo", timeout=5.0)
    result = call("ps")
    assert result.exit_code == 0, result.output
    head, row = result.stdout.splitlines()
    assert head.split() == ["PID", "PROGRAM", "SERVICES", "SOURCE", "VERSION", "STATE", "SINCE"]
    assert row.split()[0] == PID
    assert row.split()[2] == "echo"
    assert "   in sync   " in row
    assert row.endswith(" s ago")
    net.document("{routes: 7}")
    eventually(lambda: net.mesh.summary()["rejected"])
    broken = call("ps")
    assert (broken.exit_code, "INVALID: services/echo" in broken.stdout) == (1, True)
    (told,) = json.loads(call("ps", "-o", "json").stdout)
    assert (told["pid"], told["meshes"][0]["rejected"], told["silent"]) == (os.getpid(), ["services/echo"], None)


def test_ps_tells_of_a_folder_that_it_does_not_trust(folder: Path) -> None:
    """Not silently nothing."""
    folder.mkdir()
    folder.chmod(0o755)
    result = call("ps")
    assert "is open to others (mode 0755); chmod 700 it" in result.stderr


def test_a_process_that_hangs_is_listed(net: Net) -> None:
    """A stopped process accepts connections and says nothing: that is said, and the others are shown."""
    net.server()
    assert net.mesh.ready(timeout=5.0)
    program = "import sys, time, proxyless; mesh = proxyless.connect(sys.argv[1]); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, net.source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT) as stopped:
        assert stopped.stdout is not None
        stopped.stdout.readline()
        stopped.send_signal(signal.SIGSTOP)
        try:
            result = call("ps")
            asked = call("status", "--pid", str(stopped.pid))
        finally:
            stopped.kill()
    assert result.exit_code == 1
    assert {row.split()[0] for row in result.stdout.splitlines()[1:]} == {PID, str(stopped.pid)}
    assert "NO ANSWER: it accepts connections and does not answer within 2 s" in result.stdout
    assert (asked.exit_code, "gives no answer" in asked.stderr) == (3, True)


def test_status_of_a_process(net: Net, calling: str) -> None:
    """What that process holds, with its own counts, which no new client could know."""
    result = call("status", "--pid", PID)
    assert result.exit_code == 1  # `gone` has no endpoint
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"Process    {PID}, ")
    assert "in sync" in lines[1]
    assert any(line.split() == ["echo", "-", "1", "1", "healthy"] for line in lines)
    assert any("NO ENDPOINT: calls fail with UNAVAILABLE" in line for line in lines)
    (mesh,) = json.loads(call("status", "--pid", PID, "-o", "json").stdout)["meshes"]
    (endpoint,) = mesh["endpoints"]
    assert (endpoint["address"], endpoint["calls"] > 0) == (calling, True)


def test_status_of_a_process_in_trouble(net: Net) -> None:
    """Which endpoint is out and for how long, that the breaker is open and there is a panic: findings, not a JSON."""
    first, second = net.server("a"), net.server("b")
    net.document(
        "{trafficPolicy: {circuitBreaker: {failureRate: 50, minimumRequests: 20, openFor: 60s}}, "
        "routes: [{name: all, retry: {attempts: 0}}]}"
    )
    stub = net.stub()
    for _ in range(30):
        with pytest.raises(grpc.RpcError):
            stub.Unary(Request(fail_code=14))
    result = call("status", "--pid", PID)
    assert result.exit_code == 1
    (state,) = [line for line in result.stdout.splitlines() if line.startswith("echo   ") and "BREAKER" in line]
    assert "1 ejected, 1 healthy; PANIC: all are called; BREAKER OPEN: calls are refused, tried again in " in state
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("127.0.0.1:")]
    assert sorted(row[0] for row in rows) == sorted([first.address, second.address])
    assert rows[0][3:5] == ["ejected", "for"]  # who is not well comes first
    assert 0 < int(rows[0][5]) <= 30
    (mesh,) = json.loads(call("status", "--pid", PID, "-o", "json").stdout)["meshes"]
    out = {entry["address"]: entry.get("ejected_for") for entry in mesh["endpoints"]}
    assert 0 < out[rows[0][0]] <= 30
    assert out[rows[1][0]] is None
    assert 0 < mesh["destinations"]["echo"]["breaker_retry_in"] <= 60


def test_which_process(net: Net) -> None:
    """One that is not there is named, with those that are; a source beside it is misuse."""
    net.server()
    assert net.mesh.ready(timeout=5.0)
    for command in (("status",), ("tap",)):
        nobody = call(*command, "--pid", "1")
        assert nobody.exit_code == 1
        assert "no process of this user with the number 1 has a mesh" in nobody.stderr
        assert f"there are: {PID}" in nobody.stderr
    assert call("status", "--pid", PID, "--source", "file:x").exit_code == 2


def test_tap(calling: str) -> None:
    """A line a call; so many, then it ends."""
    result = call("tap", "-n", "6")
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["TIME", "PID", "CALL", "ROUTE", "DESTINATION", "ENDPOINT", "TOOK", "OUTCOME"]
    assert len(lines) == 6
    good = next(line for line in lines if line.endswith("OK"))
    assert good.split()[1:7] == [PID, "echo", "/echo.Echo/Unary", "all", "echo", calling]
    bad = next(line for line in lines if "gone" in line)
    assert bad.endswith("UNAVAILABLE refused: no_endpoints")


def test_tap_of_some_calls_for_programs(calling: str) -> None:
    """Filtered by status and service, a line of JSON each."""
    result = call("tap", "-n", "2", "--status", "error", "--service", "gone", "-o", "json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["pid"], one["service"], one["refused"]) for one in told] == [(os.getpid(), "gone", "no_endpoints")] * 2


def test_tap_ends_after_some_seconds_and_says_what_it_left_out(calling: str) -> None:
    """More calls than the rate are counted."""
    started = time.monotonic()
    result = call("tap", "--seconds", "1", "--rate", "10")
    assert 1.0 <= time.monotonic() - started < 3.0
    assert f"more calls of {PID} ended that are not shown: more than 10 a second" in result.stderr


@pytest.mark.parametrize(
    "wrong", [("--status", "BROKEN"), ("--rate", "0"), ("--rate", "100000"), ("--service", "x" * 201)]
)
def test_tap_misused(net: Net, wrong: tuple[str, str]) -> None:
    """What can't be meant is said before any process is asked."""
    assert call("tap", *wrong).exit_code == 2


def test_tap_ends_with_the_process(net: Net) -> None:
    """It is said, and the tap ends: there is nobody left to listen to."""
    net.server()
    assert net.mesh.ready(timeout=5.0)
    threading.Timer(0.5, net.mesh.close).start()
    result = call("tap")
    assert (result.exit_code, f"process {PID} has ended" in result.stderr) == (0, True)


def test_ctrl_c_ends_a_tap(net: Net) -> None:
    """Exit code 0: that is how one ends it."""
    net.server()
    assert net.mesh.ready(timeout=5.0)
    command = [sys.executable, "-m", "proxyless", "tap"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tap:
        assert tap.stdout is not None
        assert tap.stdout.readline().startswith("TIME")
        tap.send_signal(signal.SIGINT)
        _, said = tap.communicate(timeout=10.0)
    assert (tap.returncode, "Traceback" in said) == (0, False), said
