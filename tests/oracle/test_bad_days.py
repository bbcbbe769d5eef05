"""The stories of the simulations over real servers: what a bad day costs, and how soon it is over."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.model.codes import Code
from tests.oracle.conftest import StartFleet, StartMesh
from tests.oracle.fleet import FAILS, METHOD, SILENT, WELL, Does, calling, code_of

Shows = Callable[..., None]
RESERVE = 10 * 10
"""`minRetriesPerSecond: 10` over ten seconds."""
QUICK = {"base": "1ms", "max": "2ms"}


class Ended:
    """How calls ended: when each began, how long it took, with which code."""

    def __init__(self) -> None:
        self.all: list[tuple[float, float, int]] = []

    def note(self, began: float, code: int) -> None:
        self.all.append((began, time.monotonic() - began, code))

    @property
    def codes(self) -> Counter[int]:
        return Counter(code for _, _, code in self.all)


def on_threads(mesh: proxyless.Mesh, calls: int, threads: int = 8, method: str = METHOD) -> Ended:
    """So many calls, some at a time."""
    ended, left = Ended(), iter(range(calls))
    lock = threading.Lock()
    with mesh.channel("web") as channel:

        def work() -> None:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                began = time.monotonic()
                ended.note(began, code_of(channel, timeout=20.0, method=method))

        with futures.ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
    return ended


def on_asyncio(mesh: proxyless.Mesh, calls: int, at_once: int = 32) -> Ended:
    """The same on a loop."""
    ended, left = Ended(), iter(range(calls))

    async def story() -> None:
        async with mesh.aio_channel("web") as channel:
            call: Any = channel.unary_unary(METHOD)

            async def work() -> None:
                for _ in left:
                    began = time.monotonic()
                    try:
                        await call(b"", timeout=20.0)
                        ended.note(began, 0)
                    except grpc.aio.AioRpcError as error:
                        ended.note(began, error.code().value[0])

            await asyncio.gather(*(work() for _ in range(at_once)))

    asyncio.run(story())
    return ended


each_way = pytest.mark.parametrize("make", [on_threads, on_asyncio], ids=["threads", "asyncio"])


@each_way
def test_with_every_server_failing_attempts_stay_within_the_budget(
    start_fleet: StartFleet, start_mesh: StartMesh, shows: Shows, make: Callable[..., Ended]
) -> None:
    """1,000 good calls, then 1,000 to servers that all fail: <= 1.2 attempts a call, and the reserve."""
    fleet = start_fleet(3)
    mesh = start_mesh(fleet.addresses, {"routes": [{"retry": {"attempts": 3, "backoff": QUICK}}]})
    assert make(mesh, 1000).codes == {0: 1000}
    good = sum(fleet.calls)
    assert good == 1000
    fleet.all_do(FAILS)
    assert make(mesh, 1000).codes == {int(Code.UNAVAILABLE): 1000}
    attempts = sum(fleet.calls) - good
    shows(
        "Real servers that all fail: attempts for 1,000 calls",
        way="threads" if make is on_threads else "asyncio",
        calls=1000,
        attempts=attempts,
        limit=1200 + RESERVE,
    )
    assert 1000 < attempts <= 1.2 * 1000 + RESERVE


# -- a chain


class Middle:
    """B: a server that calls C through a mesh of its own, and passes on what it hears."""

    def __init__(self, mesh: proxyless.Mesh) -> None:
        self.channel = mesh.channel("web")
        self.calls = 0
        self._call = calling(self.channel)
        self._pool = futures.ThreadPoolExecutor(16)
        self.server = grpc.server(self._pool, interceptors=[proxyless.server_interceptor()])
        handler: Any = grpc.unary_unary_rpc_method_handler(self.pass_on)
        service, _, method = METHOD[1:].partition("/")
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def pass_on(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        try:
            answer: bytes = self._call(request)
            return answer
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")

    def stop(self) -> None:
        self.server.stop(None).wait()
        self._pool.shutdown()
        self.channel.close()


@pytest.mark.parametrize("budget", ["default", "none"])
def test_retries_of_a_chain_do_not_multiply(
    start_fleet: StartFleet, start_mesh: StartMesh, shows: Shows, budget: str
) -> None:
    """A -> B -> C over real servers, three retries each, and C is dead: <= 1.44 attempts a call and the reserves;
    without a budget 16."""
    policy: dict[str, Any] = {"outlierDetection": {"maxEjectionPercent": 0}}
    if budget == "none":
        policy["retryBudget"] = {"ratio": 1000, "minRetriesPerSecond": 100_000}
    document = {"routes": [{"retry": {"attempts": 3, "backoff": QUICK}}], "trafficPolicy": policy}
    good, dead = (500, 500) if budget == "default" else (20, 50)
    fleet = start_fleet(1)
    middle = Middle(start_mesh(fleet.addresses, document))
    try:
        first = start_mesh([middle.address], document)
        assert on_threads(first, good).codes == {0: good}
        assert (middle.calls, fleet[0].calls) == (good, good)
        fleet.all_do(FAILS)
        assert on_threads(first, dead).codes == {int(Code.UNAVAILABLE): dead}
    finally:
        middle.stop()
    at_b, at_c = middle.calls - good, fleet[0].calls - good
    shows(
        "A chain of real servers, three retries each, and C is dead: attempts a call of A",
        budget=budget,
        calls=dead,
        at_B=f"{at_b / dead:.2f}",
        at_C=f"{at_c / dead:.2f}",
        at_C_without_the_reserves=f"{(at_c - 2.2 * RESERVE) / dead:.2f}" if budget == "default" else "",
    )
    if budget == "none":
        assert (at_b, at_c) == (4 * dead, 16 * dead)
    else:
        assert at_b <= 1.2 * dead + RESERVE
        assert at_c <= 1.44 * dead + 1.2 * RESERVE + RESERVE


# -- recovery


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL], ids=lambda code: code.name)
def test_when_the_fault_ends_it_is_over_within_one_ejection_time(
    start_fleet: StartFleet, start_mesh: StartMesh, shows: Shows, code: Code
) -> None:
    """Four servers fail for 1.5 s, and ejections last 1 s: a second after the fault > 99 % of calls succeed."""
    fleet = start_fleet(4)
    detection = {"baseEjectionTime": "1s", "maxEjectionTime": "1s", "interval": "500ms"}
    mesh = start_mesh(fleet.addresses, {"trafficPolicy": {"outlierDetection": detection}})
    ended, over = Ended(), threading.Event()
    with mesh.channel("web") as channel:

        def work() -> None:
            while not over.is_set():
                began = time.monotonic()
                ended.note(began, code_of(channel))
                time.sleep(0.002)

        with futures.ThreadPoolExecutor(4) as pool:
            done = [pool.submit(work) for _ in range(4)]
            time.sleep(0.3)
            fleet.all_do(Does(int(code)))
            time.sleep(1.5)
            fleet.all_do(WELL)
            well = time.monotonic()
            time.sleep(2.0)
            over.set()
            for one in done:
                one.result()
    during = [result for began, _, result in ended.all if well - 1.2 < began < well - 0.1]
    after = [result for began, _, result in ended.all if began > well + 1.0]
    last = max((began - well for began, _, result in ended.all if result), default=0.0)
    shows(
        "Four real servers fail for 1.5 s, ejections last 1 s",
        answer=code.name,
        success_during=f"{during.count(0) / len(during):.1%}",
        success_1_s_after=f"{after.count(0) / len(after):.2%}",
        last_failure_after=f"{max(0.0, last) * 1000:.0f} ms",
    )
    assert during.count(0) < 0.05 * len(during)
    assert len(after) > 50
    assert after.count(0) > 0.99 * len(after)


# -- a server that dies


class Process:
    """A server in a process of its own, which can be killed."""

    METHOD = "/bench.Echo/Call"

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.bench.servers"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = f"127.0.0.1:{self._process.stdout.readline().strip()}"
        self.killed_at = float("inf")

    def kill(self) -> None:
        self.killed_at = time.monotonic()
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("attempts", [0, 2], ids=["no retries", "default retries"])
def test_a_server_that_dies_costs_the_calls_that_are_under_way_there(
    start_mesh: StartMesh, shows: Shows, attempts: int
) -> None:
    """One of three is killed under calls, eight at a time. Without retries only what was under way there fails, and
    what was on its way when the connection broke; with the default ones nothing does."""
    servers = [Process() for _ in range(3)]
    try:
        addresses = [server.address for server in servers]
        mesh = start_mesh(addresses, {"routes": [{"retry": {"attempts": attempts}}]})
        killer = threading.Timer(0.5, servers[1].kill)
        killer.start()
        ended = on_threads(mesh, 4000, method=Process.METHOD)
        killer.join()
    finally:
        for server in servers:
            server.close()
    failed = 4000 - ended.codes[0]
    after = [began for began, _, _ in ended.all if began > servers[1].killed_at]
    shows(
        "One of three real servers is killed under 4,000 calls, eight at a time",
        retries=str(attempts),
        calls_after_that=len(after),
        failed=failed,
    )
    assert len(after) > 100
    assert failed <= (0 if attempts else 2 * 8)
    assert set(ended.codes) <= {0, int(Code.UNAVAILABLE)}


# -- black holes


@contextmanager
def black_hole() -> Iterator[tuple[str, list[socket.socket]]]:
    """An address that takes connections and never says a word; and the connections it took."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        took: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    took.append(listening.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, name="black-hole")
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", took
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5.0)
            for one in took:
                one.close()


def sent_to(mesh: proxyless.Mesh, address: str) -> int:
    """Attempts that the mesh made there."""
    (node,) = [node for node in mesh._nodes.all() if node.address == address]
    return node.calls


class Watch:
    """Notes how many attempts went to an address by each moment, and by when somebody knew better."""

    def __init__(self, mesh: proxyless.Mesh, address: str) -> None:
        self.detected: float | None = None
        self.by_then = 0
        self._mesh, self._address = mesh, address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            (state,) = [one["state"] for one in self._mesh.status()["endpoints"] if one["address"] == self._address]
            if state != "healthy":
                self.detected, self.by_then = time.monotonic(), sent_to(self._mesh, self._address)
                return

    def ended(self) -> None:
        self._over.set()
        self._thread.join(5.0)


def told(shows: Shows, what: str, make: Callable[..., Ended], ended: Ended, watch: Watch, later: int) -> None:
    assert watch.detected is not None
    shows(
        "One of ten real servers is a black hole: 20,000 calls with default retries",
        black_hole=what,
        way="threads" if make is on_threads else "asyncio",
        errors=len(ended.all) - ended.codes[0],
        detected_after=f"{watch.detected - ended.all[0][0]:.1f} s",
        calls_that_waited=watch.by_then,
        and_later=later,
        seconds=f"{ended.all[-1][0] - ended.all[0][0]:.0f}",
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
@each_way
def test_a_black_hole_that_takes_connections(
    start_fleet: StartFleet, start_mesh: StartMesh, shows: Shows, make: Callable[..., Ended]
) -> None:
    """It listens and is silent, so no connection comes about: nobody's call fails, only the first ones wait, for the
    connect timeout; afterwards one look at a time finds out, and the call that looks is tried again elsewhere."""
    fleet = start_fleet(9)
    with black_hole() as (address, _):
        mesh = start_mesh([*fleet.addresses, address], {"trafficPolicy": {"connection": {"connectTimeout": "500ms"}}})
        watch = Watch(mesh, address)
        ended = make(mesh, 20_000)
        watch.ended()
        later = sent_to(mesh, address) - watch.by_then
        told(shows, "no HTTP/2", make, ended, watch, later)
        assert ended.codes == {0: 20_000}
        # looks: 0.2, 0.4 … 5 s apart, less the jitter; then it is ejected as well
        assert later <= 5 + (ended.all[-1][0] - ended.all[0][0]) / 4


@pytest.mark.slow
@pytest.mark.timeout(240)
@each_way
def test_a_black_hole_that_takes_calls(
    start_fleet: StartFleet, start_mesh: StartMesh, shows: Shows, make: Callable[..., Ended]
) -> None:
    """It takes calls and never answers one. With the default retries, which do not try a timeout again, the calls of
    its detection fail: all that are under way there when the fifth in a row has, so 12 are at once; <= 0.1 % of 20,000.
    Then it is ejected, and nobody waits on it but a probe each half minute."""
    fleet = start_fleet(10)
    hole = fleet[4]
    hole.does = SILENT
    mesh = start_mesh(fleet.addresses, {"routes": [{"timeout": "5s", "retry": {"perTryTimeout": "1s"}}]})
    watch = Watch(mesh, hole.address)
    ended = make(mesh, 20_000, 12)
    watch.ended()
    later = hole.calls - watch.by_then
    told(shows, "no answers", make, ended, watch, later)
    assert ended.codes[0] >= 20_000 - 20
    assert later <= (ended.all[-1][0] - ended.all[0][0]) / 30
