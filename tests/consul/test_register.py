"""`register()` against a real Consul: in, looked after, and out again before the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import proxyless
from tests.agent import ACL_HCL, ROOT_TOKEN, ConsulAgent

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that the machine has set steers these tests, and nobody's SIGTERM is handled for longer."""
    for name in ("PROXYLESS_SOURCE", "PROXYLESS_LOCALITY", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def agent(consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> ConsulAgent:
    """The module's agent, as the environment names it."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul.address)
    return consul


@contextlib.contextmanager
def serving(*, started: bool = True, port: int = 0) -> Iterator[tuple[grpc.Server, int]]:
    """A gRPC server on loopback, and its port."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 1)])
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        if started:
            server.start()
        try:
            yield server, port
        finally:
            server.stop(None)


def until(true: Callable[[], Any], within: float = 10.0) -> Any:
    """What `true` says as soon as it is something."""
    deadline = time.monotonic() + within
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.01)
    return found


def status(port: int, service: str = "") -> Any:
    """What the server's health service says, or the code of the call's failure."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            question = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(channel).Check(question, timeout=5).status
        except grpc.RpcError as e:
            return e.code()


def test_a_server_is_passing_at_once_with_all_that_was_said_of_it(agent: ConsulAgent) -> None:
    """As soon as the server is started its entry counts, with meta, tags, weights and locality, and a gRPC
    check."""
    with serving(started=False) as (server, port):
        said: dict[str, Any] = {
            "meta": {"version": "v2"},
            "tags": ["blue"],
            "weight": 10,
            "locality": "eu/eu-a",
        }
        with proxyless.register(server, "full", port=port, drain=0.0, **said) as registration:
            assert agent.health("full", passing=False) == []  # nobody could call it yet
            server.start()
            assert registration.ready(timeout=5)
            (entry,) = agent.health("full")
    service = entry["Service"]
    assert (service["ID"], service["Address"], service["Port"]) == (
        f"full-127.0.0.1-{port}",
        "127.0.0.1",
        port,
    )
    assert service["Meta"] == {"version": "v2", "proxyless_locality": "eu/eu-a"}
    assert service["Tags"] == ["blue"]
    assert service["Weights"] == {"Passing": 10, "Warning": 10}
    assert [check["Type"] for check in entry["Checks"] if check["ServiceID"]] == ["grpc"]


def test_consuls_own_check_asks_the_server(agent: ConsulAgent) -> None:
    """The entry is critical when the server's health says so, and passing again when it does."""
    with serving(started=False) as (server, port):
        own = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(own, server)
        server.start()
        with proxyless.register(server, "asked", port=port, health=own, interval=1.0, drain=0.0) as registration:
            assert registration.ready(timeout=5)
            own.set("asked", NOT_SERVING)
            until(lambda: not agent.health("asked"))
            own.set("asked", SERVING)
            until(lambda: agent.health("asked"))


def test_it_leaves_before_it_stops(agent: ConsulAgent) -> None:
    """At the end health says no, then the entry goes, and calls are still answered until everybody knows."""
    with serving(started=False) as (server, port):
        registration = proxyless.register(server, "leaving", port=port, drain=1.0)
        server.start()
        assert registration.ready(timeout=5)
        assert (status(port), status(port, "leaving")) == (SERVING, SERVING)
        closing = threading.Thread(target=registration.close)
        closing.start()
        until(lambda: not agent.health("leaving", passing=False), within=0.5)
        assert (status(port), status(port, "leaving")) == (NOT_SERVING, NOT_SERVING)
        closing.join()
        assert status(port) is grpc.StatusCode.UNAVAILABLE
        registration.close()  # once more does nothing


def test_a_server_of_two_services_stops_with_the_last(agent: ConsulAgent) -> None:
    """Each has an entry and a health of its own; the server ends when both have left."""
    with serving() as (server, port):
        with proxyless.register(server, "first", port=port, drain=0.0) as first:
            with proxyless.register(server, "second", port=port, drain=0.0) as second:
                assert first.ready(timeout=5)
                assert second.ready(timeout=5)
            assert agent.health("second", passing=False) == []
            assert len(agent.health("first")) == 1
            assert (status(port), status(port, "first"), status(port, "second")) == (
                SERVING,
                SERVING,
                NOT_SERVING,
            )
        assert status(port) is grpc.StatusCode.UNAVAILABLE


def test_what_a_crash_left_behind_is_replaced(agent: ConsulAgent) -> None:
    """A predecessor's critical entry at the same address does not make its successor wait for a check."""
    with serving() as (server, port):
        old = agent.register("crashed", port, id=f"crashed-127.0.0.1-{port}", status="critical")
        with proxyless.register(server, "crashed", port=port, interval=60.0, drain=0.0) as registration:
            assert registration.ready(timeout=5)
            (entry,) = agent.health("crashed")
            assert entry["Service"]["ID"] == old


def test_who_shares_a_port_leaves_the_entry_to_the_others(agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor starts, its predecessor ends: the entry must not be gone until the successor looks for it, 10 s
    later. The last to leave takes it out."""
    monkeypatch.setattr("proxyless.server.probe.CONNECTIONS", 64)  # the kernel chooses whom each of them reaches
    monkeypatch.setattr("proxyless.server.probe.HASTE", 20.0)
    with serving() as (old, port), proxyless.register(old, "shared", port=port, drain=0.0) as before:
        assert before.ready(timeout=5)
        with serving(port=port) as (new, _), proxyless.register(new, "shared", port=port, drain=0.0) as after:
            assert after.ready(timeout=5)
            before.close()
            assert len(agent.health("shared")) == 1
        assert agent.health("shared", passing=False) == []


def test_a_health_service_that_does_not_know_it_is_named(
    agent: ConsulAgent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has a health service of its own, and was registered without it, is not called healthy."""
    monkeypatch.setattr("proxyless.server.probe.PATIENCE", 0.1)
    with serving(started=False) as (server, port):
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        server.start()
        with proxyless.register(server, "unknown", port=port, drain=0.0) as registration:
            (entry,) = until(lambda: agent.health("unknown", passing=False))
            assert not registration.ready(timeout=0)
            assert "critical" in [check["Status"] for check in entry["Checks"]]
            until(lambda: "give it to register(health=…)" in caplog.text)


def test_an_agent_that_forgot_it_is_told_again(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that comes back empty has the entry again within one look."""
    with ConsulAgent(consul_bin, tmp_path) as agent, serving() as (server, port):
        monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
        with proxyless.register(server, "again", port=port, interval=0.2, drain=0.0) as registration:
            assert registration.ready(timeout=5)
            agent.restart()
            until(lambda: agent.health("again"))
        assert agent.health("again", passing=False) == []


def test_a_consul_that_is_down_is_waited_for(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server serves meanwhile; one line says what is missing, and the entry comes when Consul does."""
    agent = ConsulAgent(consul_bin, tmp_path)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
    with serving() as (server, port), agent:
        agent.kill9()
        with proxyless.register(server, "patient", port=port, drain=0.0) as registration:
            assert not registration.ready(timeout=0.7)
            assert status(port, "patient") == SERVING
            agent.start()
            assert registration.ready(timeout=5)
            assert len(agent.health("patient")) == 1
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warning.startswith("patient is not registered yet, trying on: consul://127.0.0.1:")
    assert "connection refused" in warning


def test_a_consul_that_hangs_does_not_keep_the_server_from_ending(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The deregistration is given up after seconds, with a line that says what happens to the entry."""
    monkeypatch.setattr("proxyless.control.registry.ANSWER_WITHIN", 0.5)
    with ConsulAgent(consul_bin, tmp_path) as agent, serving() as (server, port):
        monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
        registration = proxyless.register(server, "hanging", port=port, drain=0.0)
        assert registration.ready(timeout=5)
        agent.pause()
        started = time.monotonic()
        registration.close()
        assert time.monotonic() - started < 3.0
    assert "could not be deregistered; its health check will end it" in caplog.text


def test_a_token_needs_no_more_than_service_write(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With that right alone it is registered and deregistered; without it the refusal is logged, without the
    token."""
    with (
        ConsulAgent(consul_bin, tmp_path, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent,
        serving() as (server, port),
    ):
        monkeypatch.setenv("CONSUL_HTTP_ADDR", agent.address)
        enough = agent.create_token('service "allowed" { policy = "write" }')
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", enough)
        options: dict[str, Any] = {"port": port, "address": "127.0.0.1", "interval": 0.2, "drain": 0.0}
        with proxyless.register(server, "forbidden", **options) as refused:
            with proxyless.register(server, "allowed", **options) as registration:
                assert registration.ready(timeout=5)
                assert len(agent.health("allowed")) == 1
            assert agent.health("allowed", passing=False) == []
            assert not refused.ready(timeout=0)
        assert "forbidden is not registered yet" in caplog.text
        assert "needs service:write" in caplog.text
        assert enough not in caplog.text
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", "00000000-0000-4000-8000-00000000dead")
        with proxyless.register(server, "unknown", **options):
            until(lambda: "its token is unknown or has expired" in caplog.text)


async def test_a_server_on_asyncio_lives_the_same_life(agent: ConsulAgent) -> None:
    """`async with`: passing once it is started, gone from Consul before it stops, and the loop never
    waits."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    late = 0.0

    async def tick() -> None:
        nonlocal late
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    async with proxyless.register(server, "aio", port=port, meta={"version": "v2"}, drain=0.5) as registration:
        await server.start()
        assert await asyncio.to_thread(registration.ready, 5)
        (entry,) = await asyncio.to_thread(agent.health, "aio")
        assert entry["Service"]["Meta"] == {"version": "v2"}
        closing = asyncio.create_task(registration.aclose())
        await asyncio.to_thread(until, lambda: not agent.health("aio", passing=False), 0.4)
        assert await asyncio.to_thread(status, port, "aio") == NOT_SERVING
        await closing
        assert await asyncio.to_thread(status, port) is grpc.StatusCode.UNAVAILABLE
    ticking.cancel()
    assert late < 0.3


async def test_a_sync_server_in_an_asyncio_program_is_left_without_blocking_the_loop(
    agent: ConsulAgent,
) -> None:
    """`async with` takes both kinds of server."""
    with serving() as (server, port):
        async with proxyless.register(server, "mixed", port=port, drain=0.2) as registration:
            assert await asyncio.to_thread(registration.ready, 5)
        assert agent.health("mixed", passing=False) == []


async def test_a_registration_outside_of_the_loop_and_the_main_thread(
    agent: ConsulAgent, caplog: pytest.LogCaptureFixture
) -> None:
    """It finds its loop at the block's begin; SIGTERM is beyond its reach, and it says so."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    async with await asyncio.to_thread(proxyless.register, server, "outside", port=port, drain=0.0) as registration:
        await server.start()
        assert await asyncio.to_thread(registration.ready, 5)
    assert await asyncio.to_thread(status, port) is grpc.StatusCode.UNAVAILABLE
    assert "can't handle SIGTERM: this is not the main thread" in caplog.text
