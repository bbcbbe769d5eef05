"""`fork()` after the mesh was used (gunicorn --preload, Celery prefork, multiprocessing): the child starts afresh."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import proxyless
from proxyless import forks
from proxyless.model.topology import Endpoint
from proxyless.protos import echo_pb2_grpc
from tests.fakes import Watching
from tests.wire.echo import Request, eventually
from tests.wire.ways import Net

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()"),
    # Python 3.12 and later warn of what is tested here.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


def in_a_child(work: Callable[[], object], within: float = 3.0) -> str:
    """What `work` returns in a forked child, as text; it leaves without running what belongs to the parent."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = f"failed: {error!r}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], within)
        return os.read(reading, 65536).decode() if ready else f"nothing within {within:g} s"
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_child_makes_a_call(net: Net) -> None:
    """After a channel was used, a child makes its calls on it within 3 s, five times of five, and so does the
    parent."""
    server = net.server()
    stub = net.stub()
    stub.Unary(Request())
    for _ in range(5):
        assert in_a_child(lambda: stub.Unary(Request(message="m"), timeout=2.5).message) == "m"
        assert stub.Unary(Request(message="m"), timeout=2.5).message == "m"
    parent, *others = [seen.peer for seen in server.seen]
    assert set(others[1::2]) == {parent}
    assert len(set(others[::2])) == 5


def test_a_child_s_locks_are_made_when_it_is_used(net: Net) -> None:
    """After the fork gunicorn's gevent worker replaces what locks are made of; one made before hangs its greenlets."""
    net.server()
    stub = net.stub()
    stub.Unary(Request())

    def used() -> str:
        made: list[Any] = []

        def replace(kind: str) -> None:
            native = getattr(threading, kind)

            def lock(*args: Any) -> Any:
                made.append(native(*args))
                return made[-1]

            setattr(threading, kind, lock)

        replace("Lock")
        replace("Condition")
        stub.Unary(Request(), timeout=2.0)
        entrance, timers = net.mesh._entrance, net.mesh._timers
        return str([any(lock is one for one in made) for lock in (entrance._waking["lock"], timers._wake)])

    assert in_a_child(used) == "[True, True]"


def test_a_child_makes_calls_of_every_style(net: Net) -> None:
    """A child makes futures, streams and asyncio calls, too, on channels that the parent made and used."""
    net.server()
    stub = net.stub()
    aio = echo_pb2_grpc.EchoStub(net.aio_channel())

    def sync() -> str:
        words = [stub.Unary.future(Request(message="a")).result(timeout=2.0).message]
        words += [reply.message for reply in stub.ServerStream(Request(message="b", count=2), timeout=2.0)]
        words.append(stub.ClientStream(iter([Request(message="c")]), timeout=2.0).message)
        words += [reply.message for reply in stub.BidiStream(iter([Request(message="d")]), timeout=2.0)]
        return "".join(words)

    def on_a_loop() -> str:
        async def scene() -> str:
            reply = await aio.Unary(Request(message="e"), timeout=2.0)
            return "".join([reply.message, *[r.message async for r in aio.ServerStream(Request(message="f", count=1))]])

        return asyncio.run(scene())

    assert (sync(), on_a_loop()) == ("abbcd", "ef")
    for _ in range(2):
        assert in_a_child(sync) == "abbcd"
        assert in_a_child(on_a_loop) == "ef"
    assert (sync(), on_a_loop()) == ("abbcd", "ef")


class _Shy:
    """A source that tells the process that made it where a service runs, and children the documents alone."""

    name = "shy"

    def __init__(self, address: str) -> None:
        self._endpoint, self._pid = Endpoint(address), os.getpid()
        self._sink: Any = None

    def start(self, sink: Any) -> None:
        self._sink = sink
        sink.documents({})

    def watch(self, watched: Any) -> None:
        if os.getpid() == self._pid:
            self._sink.endpoints(watched, [self._endpoint])

    def unwatch(self, watched: Any) -> None:
        """It tells nothing more anyway."""

    def close(self) -> None:
        """Nothing to stop."""

    def status(self) -> dict[str, Any]:
        return {}


def test_a_child_goes_by_what_its_parent_knew_until_its_source_has_spoken(net: Net) -> None:
    """A child whose source tells the documents, and is slow to tell where services run, loses no call."""
    with proxyless.connect(_Shy(net.server().address), services=["echo"]) as mesh:
        stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
        stub.Unary(Request())
        assert in_a_child(lambda: [stub.Unary(Request(message="m"), timeout=2.0).message for _ in range(3)]) == str(
            ["m", "m", "m"]
        )


def test_children_draw_numbers_of_their_own(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which few of many endpoints a process connects to (`maxEndpoints`) goes by its number among its kind. Where the
    parent drew its number, each child draws another; one that was given stays."""
    for name in ("PROXYLESS_CLIENT_NUMBER", "NOMAD_ALLOC_INDEX"):
        monkeypatch.delenv(name, raising=False)
    net.server()
    stub = net.stub()

    def number() -> int:
        stub.Unary(Request(), timeout=2.0)
        return net.mesh._feed.here.client

    numbers = {str(number()), *(in_a_child(number) for _ in range(4))}
    assert len(numbers) == 5
    assert all(found.isdecimal() for found in numbers), numbers
    monkeypatch.setenv("PROXYLESS_CLIENT_NUMBER", "7")
    assert in_a_child(number) == "7"


def test_forking_inside_a_loop(net: Net) -> None:
    """Where the parent's loop goes on, grpcio can't run another in the child: that is said at once, and
    blocking
    calls work."""
    net.server()
    blocking = net.stub()

    async def scene(stub: Any) -> None:
        await stub.Unary(Request())
        call = stub.Unary(Request(message="m", delay_ms=200))

        async def again() -> str:
            return str((await stub.Unary(Request(), timeout=2.0)).message)

        started = time.monotonic()
        forks._before()
        assert time.monotonic() - started < 0.1  # the call can't end while its loop waits
        forks._in_parent()
        assert "UsageError" in in_a_child(lambda: asyncio.run(again()), within=2.0)
        assert in_a_child(lambda: blocking.Unary(Request(message="n"), timeout=2.5).message) == "n"
        assert (await call).message == "m"

    net.run("mesh", scene)


def test_a_child_lets_go_of_its_parents_calls(net: Net) -> None:
    """A child that drops a stream or a future of its parent's neither waits nor counts it, nor ends it."""
    net.server()
    stub = net.stub()
    mine = [
        stub.ServerStream(Request(message="m", count=30, delay_ms=10)),
        stub.Unary.future(Request(delay_ms=300)),
    ]
    next(mine[0])

    def drop() -> str:
        mine.clear()
        gc.collect()
        inflight = net.inflight
        stub.Unary(Request(), timeout=2.0)
        return f"{inflight} in flight"

    assert in_a_child(drop) == "0 in flight"
    stream, future = mine
    assert len(list(stream)) == 29
    assert future.result(timeout=5.0).message == ""


def test_a_mesh_that_was_only_connected(net: Net) -> None:
    """A child uses a mesh that its parent connected and never used: old channels, new ones, other services."""
    net.server()
    stub = net.stub()
    mesh = net.mesh

    def other() -> Any:
        channel = mesh.channel("other")
        try:
            channel.unary_unary("/echo.Echo/Unary")(b"", timeout=2.0)
        except grpc.RpcError as error:
            return error.code().name  # type: ignore[attr-defined]

    assert in_a_child(lambda: stub.Unary(Request(message="m"), timeout=2.5).message) == "m"

    def new() -> Any:
        return echo_pb2_grpc.EchoStub(mesh.channel("echo")).Unary(Request(message="n"), timeout=2.5).message

    assert in_a_child(new) == "n"
    assert in_a_child(other) == "UNAVAILABLE"
    assert in_a_child(lambda: mesh.explain("echo", "/echo.Echo/Unary").route) == "default"
    assert in_a_child(lambda: grpc.channel_ready_future(mesh.channel("echo")).result(timeout=2.0)) == "None"


def test_a_child_follows_the_source(net: Net) -> None:
    """A child watches its source by itself: an endpoint that is named after the fork is called."""
    net.server("a")
    other = net.server("b", named=False)
    stub = net.stub()
    assert stub.Unary(Request()).served_by == "a"

    def follow() -> str:
        assert stub.Unary(Request(), timeout=2.0).served_by == "a"
        net.endpoints(other.address)
        eventually(lambda: stub.Unary(Request(), timeout=2.0).served_by == "b", 2.0)
        return "b"

    assert in_a_child(follow) == "b"
    eventually(lambda: stub.Unary(Request()).served_by == "b")


def test_forking_with_calls_under_way(net: Net) -> None:
    """A fork in the middle of calls of all kinds harms neither them nor the child."""
    net.server()
    stub = net.stub()
    stop = threading.Event()
    failures: list[BaseException] = []

    def hammer(style: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                style()
            except BaseException as failure:
                failures.append(failure)

    styles: list[Callable[[], object]] = [
        lambda: stub.Unary(Request()),
        lambda: stub.Unary.future(Request()).result(timeout=10.0),
        lambda: list(stub.ServerStream(Request(count=3))),
    ]
    threads = [threading.Thread(target=hammer, args=(style,)) for style in styles]
    stream = stub.ServerStream(Request(message="m", count=100, delay_ms=10))
    next(stream)
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert in_a_child(lambda: stub.Unary(Request(message="m"), timeout=2.5).message) == "m"
    finally:
        stop.set()
        for thread in threads:
            thread.join(10.0)
    assert failures == []
    assert len(list(stream)) == 99


def held(net: Net, call: Callable[[], object]) -> threading.Thread:
    """A thread in which a call waits for a fork to be over: it has not begun."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(0.1)
    assert (thread.is_alive(), net.inflight) == (True, 0)
    return thread


def test_a_call_that_begins_during_a_fork_waits_for_it(net: Net) -> None:
    """Nobody enters gRPC while the process forks, and nobody notices more than a pause, blocking or on asyncio."""
    net.server()
    stub, aio = net.stub(), echo_pb2_grpc.EchoStub(net.aio_channel())
    stub.Unary(Request())
    ended: list[float] = []

    async def on_a_loop() -> None:
        await aio.Unary(Request())
        ended.append(time.monotonic())

    def blocking() -> None:
        stub.Unary(Request())
        ended.append(time.monotonic())

    for call in (blocking, lambda: asyncio.run(on_a_loop())):
        forks._before()
        thread = held(net, call)
        released = time.monotonic()
        forks._in_parent()
        thread.join(5.0)
        assert ended.pop() >= released


def test_threads_that_fork_at_once_open_the_gate_once(net: Net) -> None:
    """Whoever is through first must not let calls into gRPC while another still forks."""
    net.server()
    stub = net.stub()
    stub.Unary(Request())
    forks._before()

    def fork() -> None:
        forks._before()
        forks._in_parent()

    other = threading.Thread(target=fork)
    other.start()
    other.join()
    call = held(net, lambda: stub.Unary(Request()))
    forks._in_parent()
    call.join(5.0)
    assert not call.is_alive()


def test_who_begins_to_watch_during_a_fork_opens_no_gate(net: Net) -> None:
    """Telemetry that is set up in that moment, or a tap, lets no call into gRPC; it is seen when the fork is over."""
    net.server()
    stub, watching = net.stub(), Watching()
    stub.Unary(Request())
    forks._before()
    net.mesh.watch(watching)
    call = held(net, lambda: stub.Unary(Request()))
    forks._in_parent()
    call.join(5.0)
    assert [line.split()[0] for line in watching.lines] == ["begin", "attempt", "attempted", "ended"]


def test_a_fork_waits_for_calls_under_way_but_not_for_long_ones(net: Net) -> None:
    """A call of 30 ms has left gRPC when the process forks; one of 2 s keeps a fork for a quarter of a second."""
    net.server()
    stub = net.stub()
    stub.Unary(Request())
    took = {}
    for delay in (30, 2000):
        thread = threading.Thread(target=lambda ms=delay: stub.Unary(Request(delay_ms=ms)))
        thread.start()
        eventually(lambda: net.inflight == 1)
        assert forks._calling()
        started = time.monotonic()
        forks._before()
        took[delay] = (time.monotonic() - started, net.inflight)
        forks._in_parent()
        thread.join(5.0)
    assert took[30][1] == 0
    assert took[30][0] < forks.PATIENCE
    assert took[2000][1] == 1
    assert forks.PATIENCE <= took[2000][0] < forks.PATIENCE + 0.2


def test_a_process_that_calls_nobody_forks_at_once(net: Net) -> None:
    """Without another thread there is nobody to wait for."""
    net.server()
    script = (
        "import sys, time, proxyless; from proxyless import forks; mesh = proxyless.connect(sys.argv[1]); "
        "t = time.monotonic(); forks._before(); print(time.monotonic() - t < 0.005); forks._in_parent()"
    )
    said = subprocess.run([sys.executable, "-c", script, net.source], capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"


def test_a_child_closes_its_mesh(net: Net) -> None:
    """A child closes its mesh promptly, and the parent's goes on."""
    net.server()
    stub = net.stub()
    stub.Unary(Request())

    def close() -> str:
        stub.Unary(Request(), timeout=2.0)
        started = time.monotonic()
        net.mesh.close()
        return "prompt" if time.monotonic() - started < 0.2 else "slow"

    assert in_a_child(close) == "prompt"
    assert stub.Unary(Request(message="m")).message == "m"


def test_who_watches_calls_goes_on_in_a_child(net: Net) -> None:
    """The child's first call wakes its mesh, and is seen like any other."""
    net.server()
    watching = Watching()
    net.mesh.watch(watching)
    stub = net.stub()

    def work() -> str:
        stub.Unary(Request(), timeout=2.5)
        return " ".join(line.split()[0] for line in watching.lines)

    assert in_a_child(work) == "begin attempt attempted ended"


_LEFT_BEHIND = """
import asyncio, os, sys
import grpc, proxyless
from proxyless.protos import echo_pb2_grpc
from proxyless.protos.echo_pb2 import EchoRequest as Request
from tests.wire.test_fork import in_a_child

mesh = proxyless.connect(sys.argv[1], services=["echo"])
ours = echo_pb2_grpc.EchoStub(mesh.aio_channel("echo"))
kept = []

async def leave():
    theirs = echo_pb2_grpc.EchoStub(grpc.aio.insecure_channel(sys.argv[2]))
    stub = ours if sys.argv[3] == "ours" else theirs
    await stub.Unary(Request())
    kept.append(stub.Unary(Request(delay_ms=60000)))
    await asyncio.sleep(0.05)

async def use():
    return (await ours.Unary(Request(message="m"), timeout=2)).message

def on_a_loop():
    return asyncio.run(use())

loop = asyncio.new_event_loop()
loop.run_until_complete(leave())
loop.close()
print(in_a_child(on_a_loop))
mesh.close()
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_loop_that_was_closed_under_its_calls(net: Net, whose: str) -> None:
    """grpcio's asyncio API is never done with them, and would hang in a child of that process: a call there is refused
    at once, and says why. (gRPC's own handlers are off: in one such child of three they end with SIGSEGV.)"""
    address = net.server().address
    command = [sys.executable, "-c", _LEFT_BEHIND, net.source, address, whose]
    handlers = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "false"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=60.0, check=False, env=handlers)
    assert run.stdout.startswith("failed: UsageError("), run.stderr
    assert "forked while grpcio's asyncio API was in use" in run.stdout
