"""However a program with a registration ends, its entry in Consul ends first: real programs, real signals."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.agent import CHECKOUT, ConsulAgent


@pytest.fixture
def agent(consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> ConsulAgent:
    """The module's agent, as the programs' environment names it; nothing else there steers them."""
    for name in ("PROXYLESS_SOURCE", "PROXYLESS_LOCALITY", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul.address)
    return consul


SYNC = """
import grpc, proxyless
from concurrent.futures import ThreadPoolExecutor
server = grpc.server(ThreadPoolExecutor(2))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
"""

AIO = """
import asyncio, grpc, proxyless, sys
async def main(wait):
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    async with proxyless.register(server, "ending", port=port, drain=0.1) as registration:
        await server.start()
        print(await asyncio.to_thread(registration.ready, 5), flush=True)
        await wait(server)
        print("stopped", flush=True)
"""

ENDS = {
    "a with block": (
        SYNC
        + """
with proxyless.register(server, "ending", port=port, drain=0.1) as registration:
    print(registration.ready(5), flush=True)
    server.wait_for_termination()
    print("stopped", flush=True)
print("not reached: the signal ends it, as it would without us", flush=True)
""",
        -signal.SIGTERM,
        "True stopped",
    ),
    "two registrations and a main thread that sleeps": (
        SYNC
        + """
import time
both = [proxyless.register(server, name, port=port, drain=0.1) for name in ("ending", "ending-too")]
print(all(registration.ready(5) for registration in both), flush=True)
time.sleep(60)
""",
        -signal.SIGTERM,
        "True",
    ),
    "a handler that was there before": (
        SYNC
        + """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("mine", flush=True), sys.exit(7)))
registration = proxyless.register(server, "ending", port=port, drain=0.1)
print(registration.ready(5), flush=True)
time.sleep(60)
""",
        7,
        "True mine",
    ),
    "asyncio": (
        AIO + "asyncio.run(main(lambda server: server.wait_for_termination()))",
        -signal.SIGTERM,
        "True stopped",
    ),
    "asyncio in a plain with block": (
        AIO.replace("async with", "with") + "asyncio.run(main(lambda server: server.wait_for_termination()))",
        -signal.SIGTERM,
        "True stopped",
    ),
    "asyncio that does something else": (
        AIO + "asyncio.run(main(lambda server: asyncio.sleep(60)))",
        -signal.SIGTERM,
        "True",
    ),
    "a handler of the loop's that was there before": (
        """
import asyncio, grpc, proxyless, signal
async def main():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    async with proxyless.register(server, "ending", port=port, drain=0.1) as registration:
        await server.start()
        print(await asyncio.to_thread(registration.ready, 5), flush=True)
        await told.wait()
    print("stopped", flush=True)
asyncio.run(main())
""",
        0,
        "True stopped",
    ),
    "a handler of the loop's that came later": (
        AIO
        + """
    print("ended", flush=True)
async def told(server):
    import signal
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    await event.wait()
asyncio.run(main(told))
""",
        0,
        "True stopped ended",
    ),
    "uvloop": (
        AIO + "import uvloop; uvloop.run(main(lambda server: server.wait_for_termination()))",
        -signal.SIGTERM,
        "True stopped",
    ),
}


@contextlib.contextmanager
def running(program: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program whose first line of output says that it is registered."""
    with subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("program", "code", "says"), ENDS.values(), ids=ENDS)
def test_sigterm_ends_a_program_after_it_has_left(agent: ConsulAgent, program: str, code: int, says: str) -> None:
    """The entry is gone first; then the process ends as it would have without us."""
    if "uvloop" in program:
        pytest.importorskip("uvloop")
    with running(program) as process:
        assert len(agent.health("ending")) == 1
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=10)[0]
    assert process.returncode == code
    assert ["True", *rest.split()] == says.split()
    assert agent.health("ending", passing=False) == []
    assert agent.health("ending-too", passing=False) == []


@pytest.mark.parametrize(
    ("start", "end"),
    [(SYNC, ""), (SYNC, "raise SystemExit(0)"), (AIO, "")],
    ids=["its last line", "an exit", "a loop that ends"],
)
def test_the_end_of_the_program_is_the_end_of_its_entry(agent: ConsulAgent, start: str, end: str) -> None:
    """A program that just ends, and never closed its registration, has left all the same."""
    if start is SYNC:
        program = start + "r = proxyless.register(server, 'ended', port=port)\nprint(r.ready(5), flush=True)\n" + end
    else:
        program = """
import asyncio, grpc, proxyless
async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    registration = proxyless.register(server, "ended", port=port)
    print(await asyncio.to_thread(registration.ready, 5), flush=True)
asyncio.run(main())
"""
    with running(program) as process:
        assert process.wait(timeout=10) == 0
    assert agent.health("ended", passing=False) == []


def test_a_forked_child_leaves_nothing_that_is_its_parents(agent: ConsulAgent) -> None:
    """Neither its end, nor its close, nor a SIGTERM to it deregisters the parent."""
    program = (
        SYNC
        + """
import os, signal, sys, time
registration = proxyless.register(server, "parent", port=port, drain=0.1)
ready = registration.ready(30)
def child(do):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    do()
    sys.exit(3)
codes = [
    child(lambda: None),
    child(registration.close),
    child(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5))),
]
print(ready, flush=True)
print(*codes, flush=True)
sys.stdin.readline()
"""
    )
    with running(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["3", "3", str(-signal.SIGTERM)]
        assert len(agent.health("parent")) == 1
