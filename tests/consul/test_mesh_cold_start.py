"""A mesh that begins while Consul is down, hung or out of reach, from the disk or in patience."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from tests.agent import CHECKOUT, ConsulAgent
from tests.consul.callers import Callers
from tests.consul.fleet import Fleet, called, clean, connected, eventually, stub

FIRST_CALL = 2.5
"""Seconds in which a process must have made its first call from the disk."""


@pytest.fixture
def known(agent: ConsulAgent, fleet: Fleet, tmp_path: Path) -> Path:
    """What a process wrote to the disk that knew two servers, and that all calls go to the new one."""
    fleet.add("old")
    fleet.add("new", "v2")
    fleet.split(0, 1)
    folder = tmp_path / "snapshot"
    with connected(agent, folder) as mesh:
        assert called(stub(mesh)) == "new"
        eventually(lambda: len(files(folder)) == 2)
    return folder


def files(folder: Path) -> list[Path]:
    """Documents first, then the endpoints of the one service."""
    return sorted(folder.glob("*/*.jsonl"))


def saved_at(file: Path) -> float:
    return float(json.loads(file.read_text().partition("\n")[0])["saved_at"])


def refused(mesh: proxyless.Mesh, timeout: float = 0.15) -> proxyless.MeshRpcError:
    """How a call ends that can't be made, at its deadline."""
    started = time.monotonic()
    with pytest.raises(proxyless.MeshRpcError) as caught:
        called(stub(mesh), timeout=timeout)
    assert timeout <= time.monotonic() - started < timeout + 0.2
    return caught.value


# --- from the disk


@pytest.mark.parametrize("how", ["down", "hung"])
def test_a_process_that_starts_without_consul_serves_from_the_disk(agent: ConsulAgent, known: Path, how: str) -> None:
    """Documents and endpoints are those of the last process; the first call is answered within 2.5 s."""
    if how == "down":
        agent.kill9()
    else:
        agent.pause()
    command = [sys.executable, "-m", "tests.consul.newcomer", f"consul://{agent.address}?snapshot={known}"]
    process = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=True)
    said = json.loads(process.stdout)
    print(f"Consul {how}: connected in {said['connected']:.3f} s, answered after {said['answered']:.3f} s")
    assert said["served_by"] == "new"
    assert said["from_disk"] == ["documents", "echo"]
    assert said["connected"] < 2.0
    assert said["answered"] < FIRST_CALL
    assert said["closed"] < 0.1


def test_a_process_that_starts_while_a_document_is_invalid_goes_by_the_last_good_one(
    agent: ConsulAgent, fleet: Fleet, known: Path
) -> None:
    """Somebody wrote it to KV by hand; who lives on goes by what was good last, and so does who begins."""
    fleet.document({"routes": [{"split": [{"subset": "nobody"}]}]})
    with connected(agent, known) as mesh:
        assert called(stub(mesh)) == "new"
        (document,) = mesh.status()["documents"]
        assert not document["accepted"]
        assert document["in_effect"]
        assert mesh.status()["from_disk"] == []


def test_what_came_from_the_disk_gives_way_to_what_consul_says(agent: ConsulAgent, fleet: Fleet, known: Path) -> None:
    """Not written back before Consul has confirmed it: an old state must not look new."""
    agent.pause()
    before = [saved_at(file) for file in files(known)]
    with connected(agent, known) as mesh:
        assert called(stub(mesh)) == "new"
        assert mesh.status()["from_disk"] == ["documents", "echo"]
        time.sleep(1.5)  # longer than the pause before a write
        assert [saved_at(file) for file in files(known)] == before
        agent.cont()
        eventually(lambda: clean(mesh), within=15)
        eventually(lambda: all(saved_at(file) > earlier for file, earlier in zip(files(known), before, strict=True)))
        fleet.split(1, 0)
        eventually(lambda: called(stub(mesh)) == "old", within=2)


def test_what_came_from_the_disk_is_kept_when_consul_comes_up_empty(
    agent: ConsulAgent, fleet: Fleet, known: Path
) -> None:
    """Both were restarted: nothing is dropped until Consul is filled again, and that is seen at once."""
    agent.kill9()
    with connected(agent, known) as mesh, Callers(mesh) as callers:
        callers.until_served(20)
        agent.start()
        eventually(lambda: set(mesh.status()["suspicious"]) == {"documents", "echo"})
        empty = time.monotonic()
        callers.until_served(50, since=empty)
        assert set(callers.served()) == {"new"}
        fleet.again()
        eventually(lambda: clean(mesh))
        edited = fleet.split(1, 0)
        callers.until_served(20, since=edited, by="old", within=2.0)
    assert callers.lost == []


def test_a_state_that_does_not_change_does_not_grow_old(
    agent: ConsulAgent, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is believed for a day; a process that lives for weeks writes it again now and then."""
    monkeypatch.setattr("proxyless.control.cache.REFRESH", 0.2)
    with connected(agent, known) as mesh:
        assert mesh.ready("echo", timeout=5.0)
        eventually(lambda: len({saved_at(file) for file in files(known)}) == 2)
        first = [saved_at(file) for file in files(known)]
        eventually(lambda: all(saved_at(file) > one for file, one in zip(files(known), first, strict=True)))


def _head(file: Path, **changed: Any) -> None:
    head, _, rest = file.read_text().partition("\n")
    file.write_text(json.dumps(json.loads(head) | changed) + "\n" + rest)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "a line lost": lambda file: file.write_text(file.read_text().rpartition("\n")[0].rpartition("\n")[0] + "\n"),
    "empty": lambda file: file.write_text(""),
    "zeros": lambda file: file.write_bytes(bytes(4096)),
    "other JSON": lambda file: file.write_text("[]\n[]\n"),
    "of another time": lambda file: _head(file, saved_at=time.time() - 25 * 3600),
    "of the future": lambda file: _head(file, saved_at=time.time() + 25 * 3600),
    "of another version": lambda file: _head(file, format="proxyless-cache/2"),
    "a folder": lambda file: file.rename(file.with_name("kept")).parent.joinpath(file.name).mkdir(),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("which", ["documents", "endpoints"])
def test_a_snapshot_that_cannot_be_believed_is_not(agent: ConsulAgent, known: Path, which: str) -> None:
    """Broken or old in whatever way: calls wait, and end at their deadline as `not_ready`."""
    agent.kill9()
    documents, endpoints = files(known)
    file = documents if which == "documents" else endpoints
    whole = file.read_bytes()
    for damage, do in DAMAGES.items():
        do(file)
        with connected(agent, known) as mesh:
            error = refused(mesh)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert dict(error.trailing_metadata())["proxyless-reason"] == "not_ready", damage
        if file.is_dir():
            file.rmdir()
        file.write_bytes(whole)
    with connected(agent, known) as mesh:
        assert called(stub(mesh)) == "new"


def test_a_disk_that_cannot_be_written_is_told_once_and_costs_nothing_else(
    agent: ConsulAgent, fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, whatever changes afterwards; and when it can be, it is."""
    fleet.add("old")
    (occupied := tmp_path / "occupied").write_text("")
    with connected(agent, occupied) as mesh:
        assert called(stub(mesh)) == "old"
        eventually(lambda: "can't be written to disk" in caplog.text)
        fleet.split(1, 0)
        time.sleep(1.5)
        assert len([line for line in caplog.messages if "disk" in line]) == 1
        assert called(stub(mesh)) == "old"
        occupied.unlink()
        fleet.split(1, 1)
        eventually(lambda: len(files(occupied)) == 2)


# --- without it


def test_calls_wait_for_a_consul_that_is_not_up_yet(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No snapshot, no Consul: calls that have the time are answered once it is up, and asked."""
    monkeypatch.setattr("proxyless.control.watcher.CAP", 1.0)  # 15 s between two attempts in a long outage
    with ConsulAgent(consul_bin, tmp_path, disk=True) as agent, Fleet(agent) as fleet:
        fleet.add("old")
        eventually(lambda: agent.health("echo"))  # in the catalog, not only in the agent's memory
        agent.kill9()
        with connected(agent) as mesh, ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(called, stub(mesh), 20.0) for _ in range(8)]
            assert dict(refused(mesh).trailing_metadata())["proxyless-reason"] == "not_ready"
            assert not any(one.done() for one in waiting)
            agent.start()
            up = time.monotonic()
            assert [one.result(10.0) for one in waiting] == ["old"] * 8
            assert time.monotonic() - up < 2.0
            eventually(lambda: clean(mesh))


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A listener that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """A port at which no connection comes about and none is refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("consul_is", [refusing, silent, black_hole], ids=lambda place: place.__name__)
def test_neither_connecting_nor_closing_waits_for_a_consul_that_does_not_answer(
    consul_is: Callable[[], contextlib.AbstractContextManager[str]], tmp_path: Path
) -> None:
    """`connect` returns in less than 2 s, `close` in 0.1 s, and a call in between ends at its deadline."""
    with consul_is() as address:
        for pause in (0.0, 0.3):
            started = time.monotonic()
            mesh = proxyless.connect(f"consul://{address}?snapshot={tmp_path}", services=["echo", "other"])
            assert time.monotonic() - started < 2.0
            if pause:
                refused(mesh, timeout=pause)
            closing = time.monotonic()
            mesh.close()
            took = time.monotonic() - closing
            assert took < 0.1, f"closing took {took * 1000:.0f} ms"
    eventually(lambda: not ours(), within=3.0)


@pytest.mark.parametrize("how", ["well", "hung", "dead"])
def test_closing_is_prompt_while_consul_is(agent: ConsulAgent, fleet: Fleet, known: Path, how: str) -> None:
    """In the middle of its queries, with something to be written: within 0.1 s, and no thread is left."""
    mesh = connected(agent, known)
    assert called(stub(mesh)) == "new"
    fleet.split(1, 0)
    eventually(lambda: called(stub(mesh)) == "old")
    {"well": lambda: None, "hung": agent.pause, "dead": agent.kill9}[how]()
    closing = time.monotonic()
    mesh.close()
    took = time.monotonic() - closing
    assert took < 0.1, f"closing took {took * 1000:.0f} ms"
    eventually(lambda: not ours(), within=0.5)


def test_a_call_that_waits_ends_when_its_mesh_is_closed(tmp_path: Path) -> None:
    """It has no deadline, and what it waits for will never come."""
    with refusing() as address, ThreadPoolExecutor(1) as pool:
        mesh = proxyless.connect(f"consul://{address}?snapshot={tmp_path}")
        echo = stub(mesh)
        waiting = pool.submit(echo.Unary, proxyless.protos.echo_pb2.EchoRequest())
        time.sleep(0.2)
        mesh.close()
        with pytest.raises((grpc.RpcError, ValueError)):
            waiting.result(2.0)


def ours() -> list[str]:
    """The threads of the mesh."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("proxyless-")]


# --- fork


@pytest.mark.parametrize("how", ["mesh", "channel", "called"])
def test_a_forked_child_serves_and_follows_edits_on_its_own(
    agent: ConsulAgent, fleet: Fleet, tmp_path: Path, how: str
) -> None:
    """Forked after `connect`, after a channel was made or called: parent and child see the same edit."""
    fleet.add("old")
    fleet.add("new", "v2")
    fleet.split(1, 0)
    url = f"consul://{agent.address}?snapshot={tmp_path / 'snapshot'}"
    command = [sys.executable, "-m", "tests.consul.forking", url, how]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(line == "ready\n" for line in lines)
        fleet.split(0, 1)
        said = {one["who"]: one for one in (json.loads(line) for line in lines if line.startswith("{"))}
    assert process.returncode == 0
    for who in ("child", "parent"):
        assert said[who]["served"] == ["new", "old"]
        assert said[who]["closed"] < 0.1
