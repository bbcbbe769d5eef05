"""Looking into a process with a mesh: what it answers, what a tap shows of real calls, and that nobody pays for it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import proxyless
from proxyless.admin import asking, places
from proxyless.admin.listener import LISTENER, MOST_ASKING
from proxyless.stack import ENTRY
from tests.agent import CHECKOUT
from tests.test_timers import refusing
from tests.wire.echo import Request, eventually
from tests.wire.test_fork import in_a_child
from tests.wire.ways import Net


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of each test its own."""
    monkeypatch.setenv("PROXYLESS_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("PROXYLESS_ADMIN", raising=False)
    return tmp_path / "run"


def found() -> list[asking.Process]:
    processes, trouble = asking.processes(os.environ)
    assert trouble == []
    return processes


def ask(question: object) -> dict[str, Any]:
    (process,) = found()
    return asking.ask(process.path, question)  # type: ignore[arg-type]


class Tapped:
    """A tap on this process: `lines` are those of calls, and `lost` counts the others."""

    def __init__(self, **asked: Any) -> None:
        (process,) = found()
        self.lines: list[dict[str, Any]] = []
        self.lost = 0
        self._asking, lines = asking.stream(process.path, {"ask": "tap", **asked})
        self._thread = threading.Thread(target=self._read, args=(lines,))
        self._thread.start()

    def _read(self, lines: Iterator[dict[str, Any]]) -> None:
        for line in lines:
            if "lost" in line:
                self.lost += line["lost"]
            else:
                self.lines.append(line)

    def __enter__(self) -> Tapped:
        return self

    def __exit__(self, *_error: object) -> None:
        self._asking.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)
        self._asking.close()


def test_a_process_is_found_while_it_has_a_mesh(net: Net, folder: Path) -> None:
    """Who it is, and of each mesh what it follows; with the last one the socket goes, and the thread."""
    net.server()
    assert found() == []
    mesh = net.mesh
    (process,) = found()
    assert (process.pid, process.silent) == (os.getpid(), "")
    assert process.about["python"] == sys.version.split()[0]
    (about,) = process.about["meshes"]
    assert about == {
        "source": mesh.source.name,
        "version": mesh.snapshot.version,
        "services": ["echo"],
        "endpoints": 1,
        "rejected": [],
        "stale": 0.0,
        "from_disk": False,
        "since": pytest.approx(time.time(), abs=5.0),
    }
    with proxyless.connect(net.source, services=["other"]):
        assert [one["services"] for one in found()[0].about["meshes"]] == [["echo"], ["other"]]
    assert len(found()[0].about["meshes"]) == 1
    mesh.close()
    assert os.listdir(folder) == []


def test_the_status_is_the_meshs_own(net: Net) -> None:
    """What `Mesh.status()` says in the process is what is told outside of it."""
    net.server()
    net.stub().Unary(Request())
    (told,) = ask({"ask": "status"})["meshes"]
    del told["since"]
    assert told == json.loads(json.dumps(net.mesh.status()))
    assert told["endpoints"][0]["calls"] == 1


def test_live_calls_are_shown_blocking_and_on_asyncio(net: Net) -> None:
    """Each with route, endpoint, attempts and outcome; when the reader goes, nobody watches any more."""
    server = net.server()
    net.document("{routes: [{name: all, retry: {attempts: 1, on: [unavailable]}}]}")
    stub = net.stub()
    stub.Unary(Request())

    async def scene(aio: Any) -> None:
        await aio.Unary(Request(message="m"))
        assert [r.message async for r in aio.ServerStream(Request(message="m", count=2))] == ["m", "m"]

    with Tapped() as tapped:
        stub.Unary(Request(), metadata=[("x-secret", "s3cr3t")])
        list(stub.ServerStream(Request(count=2)))
        net.run("mesh", scene)
        eventually(lambda: len(tapped.lines) == 4)
    for line in tapped.lines:
        assert (line["route"], line["status"], line["endpoint"]) == ("all", "OK", server.address)
        assert [attempt["status"] for attempt in line["attempts"]] == ["OK"]
        assert abs(line["at"] - time.time()) < 10.0
        assert "s3cr3t" not in json.dumps(line)
    assert [line["method"].rpartition("/")[2] for line in tapped.lines] == ["Unary", "ServerStream"] * 2
    eventually(lambda: net.mesh._links.entry is ENTRY)


def test_a_tap_shows_what_is_wanted(net: Net) -> None:
    """By service, method and status, and what a tap does not want to see is not even kept."""
    net.server()
    stub = net.stub()
    gone = net.mesh.channel("gone").unary_unary("/x.Y/Z")
    with Tapped(status=["error"]) as errors, Tapped(method="Unary", service="ec*") as unary:
        stub.Unary(Request())
        list(stub.ServerStream(Request(count=1)))
        with pytest.raises(proxyless.MeshRpcError):
            gone(b"", timeout=2.0)
        eventually(lambda: errors.lines and unary.lines)
    assert [line["refused"] for line in errors.lines] == ["no_endpoints"]
    assert [line["method"] for line in unary.lines] == ["/echo.Echo/Unary"]


def test_who_reads_slowly_slows_no_call(net: Net) -> None:
    """A tap that never reads: 3,000 calls take no longer than a fifth more, and what is kept is bounded."""
    net.server()
    stub = net.stub()
    (process,) = found()

    def calls() -> float:
        started = time.perf_counter()
        for _ in range(300):
            stub.Unary(Request())
        return time.perf_counter() - started

    calls()
    with places.connect(process.path, 5.0) as silent:
        silent.sendall(b'{"ask": "tap", "rate": 1000}\n')
        ratios = []
        for _ in range(5):
            eventually(lambda: net.mesh._links.entry is not ENTRY)
            tapped = calls()
            net.mesh._entrance._enter_by(ENTRY)
            ratios.append(tapped / calls())
            net.mesh._entrance._enter_by(net.mesh._entrance._head())
    assert min(ratios) < 1.2, ratios


def test_more_than_the_rate_is_counted(net: Net) -> None:
    """Of 50 calls at once on a tap of 10 a second about ten are shown; all others are in the count."""
    net.server()
    stub = net.stub()
    with Tapped(rate=10) as tapped:
        for _ in range(50):
            stub.Unary(Request())
        eventually(lambda: len(tapped.lines) + tapped.lost == 50)
    assert 10 <= len(tapped.lines) < 40


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"\n", "one line of JSON"),
        (b"hello\n", "one line of JSON"),
        (b"[1]\n", "one line of JSON"),
        (b"[" * 4000 + b"\n", "one line of JSON"),
        (b"x" * 5000, "one line of JSON"),
        (b'{"ask": "money"}\n', "ask one of about, status, tap"),
        (b'{"ask": ["about"]}\n', "ask one of about, status, tap"),
        (b'{"ask": "tap", "rate": 1e9}\n', "rate must be"),
        (b'{"ask": "tap", "status": ["x"]}\n', "is no status"),
    ],
)
def test_a_question_that_is_none(net: Net, sent: bytes, says: str) -> None:
    """It is answered in words, and the next one is answered as ever."""
    net.server()
    _ = net.mesh
    (process,) = found()
    with places.connect(process.path, 2.0) as wrong:
        wrong.sendall(sent)
        assert says in json.loads(wrong.makefile("rb").readline())["error"]
    assert ask({"ask": "about"})["pid"] == os.getpid()


def test_many_who_ask_at_once_and_say_nothing(net: Net) -> None:
    """So many are let in and no more; when they go, the next one is answered."""
    net.server()
    _ = net.mesh
    (process,) = found()
    mute = [places.connect(process.path, 2.0) for _ in range(MOST_ASKING)]
    eventually(lambda: len(LISTENER._asking) == MOST_ASKING)
    with places.connect(process.path, 2.0) as late:
        assert late.recv(1) == b""
    for one in mute:
        one.close()
    eventually(lambda: not LISTENER._asking)
    assert ask({"ask": "about"})["pid"] == os.getpid()


def test_closing_the_mesh_ends_a_tap(net: Net) -> None:
    """Promptly, although nobody has called."""
    net.server()
    _ = net.mesh
    (process,) = found()
    connection, lines = asking.stream(process.path, {"ask": "tap"})
    started = time.monotonic()
    net.mesh.close()
    assert time.monotonic() - started < 0.1
    assert list(lines) == []
    connection.close()


def test_a_child_listens_for_itself(net: Net, folder: Path) -> None:
    """A child has no socket until it uses the mesh, then one of its own; it takes none of its parent's with it."""
    net.server()
    stub = net.stub()
    stub.Unary(Request())
    with Tapped() as tapped:

        def child() -> str:
            before = len(found())
            stub.Unary(Request(), timeout=2.0)
            after = [process.pid for process in found() if process.about]
            net.mesh.close()
            return f"{before} {after == sorted([os.getpid(), os.getppid()])} {len(os.listdir(folder))}"

        assert in_a_child(child) == "1 True 1"
        stub.Unary(Request())
        eventually(lambda: tapped.lines)
    assert len(tapped.lines) == 1
    assert [process.pid for process in found()] == [os.getpid()]


def test_a_killed_process_leaves_nothing_for_long(net: Net, folder: Path) -> None:
    """Its socket is removed by whoever finds that nobody answers."""
    net.server()
    program = "import sys, time, proxyless; mesh = proxyless.connect(sys.argv[1]); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, net.source]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        (process,) = found()
        assert (process.pid, process.about["program"]) == (killed.pid, "-c")
        killed.kill()
    assert os.listdir(folder) == [f"{killed.pid}.sock"]
    assert found() == []
    assert os.listdir(folder) == []


def test_a_process_that_ends_takes_its_socket_with_it(net: Net, folder: Path) -> None:
    """Also where nobody closes the mesh."""
    net.server()
    program = "import sys, proxyless; mesh = proxyless.connect(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, net.source], check=True, cwd=CHECKOUT)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("word", ["off", "0", "No", " false "])
def test_it_can_be_switched_off(net: Net, folder: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """Then there is no folder, no socket and no thread."""
    monkeypatch.setenv("PROXYLESS_ADMIN", word)
    net.server()
    net.stub().Unary(Request())
    assert not folder.exists()
    assert not any(thread.name.startswith("proxyless-admin") for thread in threading.enumerate())


def test_where_no_socket_can_be_had_the_log_says_so_once(
    net: Net, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for the process's mesh, and calls are made as ever."""
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    net.server()
    with caplog.at_level(logging.WARNING, logger="proxyless"):
        assert net.stub().Unary(Request(message="m")).message == "m"
    (record,) = [record for record in caplog.records if "proxyless ps" in record.getMessage()]
    assert f"{folder} is open to others (mode 0755); chmod 700 it" in record.getMessage()


def test_a_process_that_can_start_no_thread_has_a_mesh_all_the_same(
    net: Net, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong here is a line in the log, and leaves no socket behind."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "proxyless-admin":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    net.server()
    with caplog.at_level(logging.WARNING, logger="proxyless"):
        assert net.stub().Unary(Request(message="m")).message == "m"
    assert "can't see this process: RuntimeError(\"can't start new thread\")" in caplog.text
    assert os.listdir(folder) == []


def test_a_process_that_is_short_of_threads_is_asked_again_later(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks meanwhile is sent away at once, and the next one answered when there are threads again."""
    net.server()
    _ = net.mesh
    (process,) = found()
    relent = refusing(monkeypatch, "proxyless-asked")
    with places.connect(process.path, 2.0) as early:
        assert early.recv(1) == b""
    relent()
    assert LISTENER._asking == set()
    assert ask({"ask": "about"})["pid"] == os.getpid()


def test_importing_the_package_neither_listens_nor_loads_what_does() -> None:
    """The listener comes with the first mesh."""
    program = "import sys, proxyless; print([name for name in sys.modules if name.startswith('proxyless.admin')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == "[]"


def test_looking_with_the_command_line_is_not_seen(net: Net, folder: Path) -> None:
    """A mesh that is connected without `admin` does not listen: a command shows programs, not itself."""
    net.server()
    with proxyless.connect(net.source, admin=False):
        assert not folder.exists()


def test_many_taps_come_and_go_while_calls_are_made(net: Net) -> None:
    """No call fails, none is left watched."""
    net.server()
    stub = net.stub()
    stop = threading.Event()
    failures: list[BaseException] = []

    def call() -> None:
        while not stop.is_set():
            try:
                stub.Unary(Request())
            except BaseException as failure:
                failures.append(failure)

    async def on_a_loop(aio: Any) -> None:
        while not stop.is_set():
            await aio.Unary(Request())
            await asyncio.sleep(0)

    threads = [threading.Thread(target=call), threading.Thread(target=net.run, args=("mesh", on_a_loop))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with Tapped(rate=1000) as tapped:
                eventually(lambda: tapped.lines)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10.0)
    assert failures == []
    eventually(lambda: net.mesh._links.entry is ENTRY)
