"""The Consul source on an agent that dies, hangs and forgets, and behind a proxy that lies."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from proxyless.model.topology import Watched
from tests.agent import ConsulAgent
from tests.consul.lying_proxy import (
    Lie,
    LyingProxy,
    Reply,
    dripping,
    failing,
    honest,
    index_is,
    late,
    resetting,
    truncating,
    zipping,
)
from tests.consul.recorder import HOLD, WAIT, WEB, following, is_empty, mesh_is

# --- the agent dies, hangs, forgets


def test_an_agent_that_comes_up_empty_is_given_time_to_be_filled(agent: ConsulAgent) -> None:
    """kill -9 and restart on the same port: nothing known is dropped, and the next change is seen at once."""
    for number in range(20):
        agent.put_kv("proxyless/v1/mesh", f"old {number}")
    agent.register("web", 5001)
    with following(agent.address, WEB) as (source, sink):
        sink.until("documents", mesh_is("old 19"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        index = source.status()["watches"]["documents"]["index"]
        died = time.monotonic()
        agent.restart()
        agent.put_kv("proxyless/v1/mesh", "new")
        agent.register("web", 5002)
        sink.until("documents", mesh_is("new"), since=died)
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5002"], since=died)
        assert source.status()["watches"]["documents"]["index"] < index
        written = agent.put_kv("proxyless/v1/mesh", "newer")
        assert sink.until("documents", mesh_is("newer"), since=died) - written < 0.5
        assert not any(is_empty(what) for kind in ("documents", "endpoints") for what in sink.all(kind))
        assert len(sink.all("stale", "documents")) == 1
        assert len(sink.all("stale", "web")) == 1


def test_an_agent_that_stays_empty_is_believed_in_the_end(agent: ConsulAgent) -> None:
    """When the hold is over and a read that is not stale agrees."""
    for number in range(40):
        agent.put_kv(
            "elsewhere", str(number)
        )  # or the fresh agent's index may be the old one by chance, and say: unmoved
    agent.put_kv("proxyless/v1/mesh", "old")
    agent.register("web", 5001)
    with following(agent.address, WEB) as (_, sink):
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        agent.restart()
        up = time.monotonic()
        assert sink.until("documents", is_empty) - up >= HOLD - 0.2
        assert sink.until("endpoints", is_empty) - up >= HOLD - 0.2


def test_a_hung_agent_is_noticed_survived_and_closed_on(agent: ConsulAgent, impatient: float) -> None:
    """SIGSTOP: connections are accepted and never answered. Stale after a while, fresh after SIGCONT."""
    agent.put_kv("proxyless/v1/mesh", "old")
    with following(agent.address) as (_, sink):
        sink.until("documents", mesh_is("old"))
        agent.pause()
        hung = time.monotonic()
        with following(agent.address, WEB) as (cold, untold):
            time.sleep(0.3)
            closing = time.monotonic()
            cold.close()
            assert time.monotonic() - closing < 0.1
        noticed = sink.until("stale", lambda reason: "no answer within 3.1 s" in reason)
        assert noticed - hung < WAIT * 17 / 16 + impatient + 0.5
        agent.cont()
        sink.until("fresh", lambda _: True, since=hung)
        agent.put_kv("proxyless/v1/mesh", "new")
        sink.until("documents", mesh_is("new"))
        assert sink.all("documents") == [{"mesh": "old"}, {"mesh": "new"}]
        assert untold.told == []


def test_a_restored_snapshot_is_seen_though_its_index_is_lower(consul_bin: str, tmp_path: Path) -> None:
    """The watch in flight is told the old data and the old index: a naive one is blind for a wait."""
    with ConsulAgent(consul_bin, tmp_path, disk=True) as agent:
        agent.put_kv("proxyless/v1/mesh", "old")
        snapshot = agent.do("GET", "snapshot").body
        for number in range(5):
            agent.put_kv("proxyless/v1/mesh", f"new {number}")
        with following(agent.address, wait=20.0) as (_, sink):
            sink.until("documents", mesh_is("new 4"))
            started = time.monotonic()
            agent.do("PUT", "snapshot", snapshot)
            assert sink.until("documents", mesh_is("old"), since=started) - started < 2.0


# --- a proxy that lies


@pytest.mark.parametrize("lie", [failing, truncating, resetting], ids=lambda lie: lie.__name__)
def test_broken_answers_change_nothing(consul: ConsulAgent, proxy: LyingProxy, prefix: str, lie: Lie) -> None:
    """No partial apply, no index adopted, a few retries a second at most; and then it goes on as before."""
    for key in ("mesh", "services/a", "services/b"):
        consul.put_kv(f"{prefix}/{key}", "old")
    web = Watched(prefix.replace("/", "-"))
    consul.register(web.service, 5001)
    with following(proxy.address, web, query=f"?prefix={prefix}") as (_, sink):
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        proxy.lie = lie
        started = time.monotonic()
        consul.put_kv(f"{prefix}/mesh", "new")
        consul.register(web.service, 5002)
        sink.until("stale", lambda reason: "Error" not in reason and "Incomplete" not in reason, since=started)
        time.sleep(1.0)
        assert proxy.count(started, "recurse") <= 10
        assert [documents["mesh"] for documents in sink.all("documents")] == ["old"]
        assert len(sink.all("stale", "documents")) == 1
        proxy.lie = honest
        sink.until("documents", mesh_is("new"))
        sink.until("endpoints", lambda addresses: len(addresses) == 2)
        sink.until("fresh", lambda _: True, since=started)


def test_an_agent_that_fails_to_say_its_datacenter_is_asked_again(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str
) -> None:
    """Taken for another datacenter's, its services would be called at their WAN addresses for good."""
    web = Watched(prefix.replace("/", "-"), "dc1")
    wan = {"wan": {"Address": "192.0.2.7", "Port": 443}}
    body = {"Name": web.service, "Address": "127.0.0.1", "Port": 5001, "TaggedAddresses": wan}
    consul.do("PUT", "agent/service/register", body)
    proxy.lie = lambda path, headers, reply: failing(path, headers, reply) if "agent/self" in path else reply
    with following(proxy.address, web, query=f"?prefix={prefix}") as (_, sink):
        sink.until("stale", lambda reason: reason == "the agent won't say its datacenter: it answered 500")
        proxy.lie = honest
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        assert len(sink.all("endpoints")) == 1


@pytest.mark.parametrize("body", [b"<html>", b"null", b"[]", b"[" * 100_000], ids=lambda body: str(body[:6]))
@pytest.mark.parametrize("where", ["agent/self", "catalog/services"])
def test_answers_beside_a_watch_are_doubted_in_plain_words(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str, where: str, body: bytes
) -> None:
    """A page of somebody else's is an outage of that watch, and says so; nobody reads a TypeError at night."""
    nobody = Watched(prefix.replace("/", "-")[:50], "dc1")
    proxy.lie = lambda path, _, reply: Reply(200, reply.headers, body) if where in path else reply
    with following(proxy.address, nobody, query=f"?prefix={prefix}") as (_, sink):
        sink.until("stale", lambda reason: reason.startswith("what ") and reason.endswith("is that really Consul?"))
        proxy.lie = honest
        sink.until("fresh", lambda _: True, watch=str(nobody))


@pytest.mark.parametrize(
    "answer",
    [
        b"\x1b[2Jall is well\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: \x1b[2J\r\n" * 500 + b"\r\n",
    ],
    ids=["a terminal's words", "SSH", "a long header", "many headers"],
)
def test_what_is_no_http_is_told_in_our_own_words(answer: bytes) -> None:
    """The wrong port, or somebody who chooses what stands in our log: not a character of it is repeated."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the end of the test
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

        (thread := threading.Thread(target=serve, daemon=True)).start()
        with following(f"127.0.0.1:{server.getsockname()[1]}") as (_, sink):
            sink.until("stale", lambda reason: reason.startswith("what answers there does not speak HTTP"))
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5.0)


@pytest.mark.parametrize("index", [0, 3, 1 << 63, "many"])
def test_no_index_is_trusted_further_than_it_reaches(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str, index: object
) -> None:
    """Rewritten in every answer: few queries, no overflow, and a change is still seen within a wait."""
    consul.put_kv(f"{prefix}/mesh", "old")
    with following(proxy.address, query=f"?prefix={prefix}", wait=1.0) as (_, sink):
        sink.until("documents", mesh_is("old"))
        proxy.lie = index_is(index)
        started = time.monotonic()
        consul.put_kv(f"{prefix}/mesh", "new")
        if str(index).isdecimal():
            sink.until("documents", mesh_is("new"), within=3.0)
        time.sleep(max(0.0, started + 2.0 - time.monotonic()))
        assert proxy.count(started) <= 8
        assert sink.all("documents")[0] == {"mesh": "old"}


def test_an_answer_may_be_compressed_or_not(consul: ConsulAgent, proxy: LyingProxy, prefix: str) -> None:
    """Whoever stands in between may decide."""
    proxy.lie = zipping
    consul.put_kv(f"{prefix}/mesh", "x" * 100_000)
    with following(proxy.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("documents", mesh_is("x" * 100_000))


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_does_not_come_is_given_up(proxy: LyingProxy, prefix: str) -> None:
    """Ten seconds late is too late for a plain read, and says so; closing does not wait for it."""
    proxy.lie = late(10.0)
    with following(proxy.address, query=f"?prefix={prefix}") as (source, sink):
        sink.until("stale", lambda reason: reason == "no answer within 1.0 s")
        time.sleep(0.6)
        closing = time.monotonic()
        source.close()
        assert time.monotonic() - closing < 0.1


def test_a_body_that_drips_is_given_up(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, and all of them together do not."""
    monkeypatch.setattr("proxyless.control.consul_http.TRANSFER_WITHIN", 0.3)
    consul.put_kv(f"{prefix}/mesh", "x")
    proxy.lie = dripping
    with following(proxy.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("stale", lambda reason: reason == "the answer was not complete within 0.3 s")
        assert sink.all("documents") == []


def test_an_answer_without_end_is_cut_off(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing larger than the limit is taken in, compressed or not."""
    monkeypatch.setattr("proxyless.control.consul_http.LARGEST", 1 << 20)
    for number in range(4):
        consul.put_kv(f"{prefix}/services/s{number}", "x" * 400_000)
    with following(proxy.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("stale", lambda reason: reason == "answer larger than 1 MiB")
        assert sink.all("documents") == []
