"""Whatever becomes of Consul or stands in KV: no call is lost, the status says so, and it passes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import proxyless
from proxyless.control.consul import ConsulSource
from tests.agent import ACL_HCL, ROOT_TOKEN, ConsulAgent
from tests.consul.callers import Callers
from tests.consul.fleet import SUBSETS, Fleet, clean, connected, eventually
from tests.consul.lying_proxy import failing, honest, lying_proxy

pytestmark = pytest.mark.usefixtures("impatient", "short_waits")

RECOVERED = 2.0
"""Seconds in which an edit must be in effect once Consul is back."""


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long Consul may hold a query, and the longest pauses after failures: cut to what a test can wait for."""
    defaults = ConsulSource.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "wait", 1.0)
    monkeypatch.setitem(proxyless.control.watcher.FLOORS, 403, 0.5)
    monkeypatch.setattr(proxyless.control.watcher, "CAP", 1.0)


@contextmanager
def traffic(agent: ConsulAgent, fleet: Fleet, address: str = "") -> Iterator[tuple[proxyless.Mesh, Callers]]:
    """Two servers, all calls to the old one, and callers through whatever the block does.

    Afterwards an edit is in effect at once, the status is clean, and not one call was lost.
    """
    fleet.add("old")
    fleet.add("new", "v2")
    fleet.split(1, 0)
    with connected(agent, address=address) as mesh:
        assert mesh.ready("echo", timeout=5.0)
        with Callers(mesh) as callers:
            callers.until_served(50)
            yield mesh, callers
            edited = fleet.split(0, 1)
            callers.until_served(1, since=edited, by="new", within=RECOVERED)
            eventually(lambda: clean(mesh))
            settled = time.monotonic()
            callers.until_served(50, since=settled)
            assert set(callers.served(settled)) == {"new"}
        print(f"{len(callers.sync)} sync, {len(callers.aio)} asyncio calls, slowest {callers.slowest:.3f} s")
        assert callers.lost == []
        assert min(len(callers.sync), len(callers.aio)) > 50


def complaints(mesh: proxyless.Mesh, kind: str) -> dict[str, Any]:
    """What the status says to be stale, or suspicious, by watch."""
    found: dict[str, Any] = mesh.status()[kind]
    return found


def served_on(callers: Callers, calls: int = 50) -> None:
    """So many calls more, all of them to where the last good state sends them."""
    since = time.monotonic()
    callers.until_served(calls, since=since)
    assert set(callers.served(since)) == {"old"}


# --- Consul


def test_consul_killed_and_restarted_empty(agent: ConsulAgent, fleet: Fleet) -> None:
    """kill -9, up again at its port with nothing and lower indexes, filled again: served on throughout."""
    for number in range(100):
        agent.put_kv("unrelated", str(number))
    with traffic(agent, fleet) as (mesh, callers):
        before = mesh.status()["source"]["watches"]["documents"]["index"]
        agent.kill9()
        eventually(lambda: set(complaints(mesh, "stale")) == {"documents", "echo"})
        assert {entry["reason"] for entry in complaints(mesh, "stale").values()} <= {
            "connection refused",
            "connection reset by peer",
            "RemoteDisconnected: Remote end closed connection without response",
        }
        served_on(callers, 300)
        agent.start()
        eventually(lambda: set(complaints(mesh, "suspicious")) == {"documents", "echo"})
        served_on(callers)
        fleet.again()
        eventually(lambda: clean(mesh))
        assert mesh.status()["source"]["watches"]["documents"]["index"] < before
        served_on(callers)


def test_consul_hung(agent: ConsulAgent, fleet: Fleet) -> None:
    """SIGSTOP: every read hangs, in the kernel; SIGCONT: it goes on where it was."""
    with traffic(agent, fleet) as (mesh, callers):
        agent.pause()
        eventually(lambda: set(complaints(mesh, "stale")) == {"documents", "echo"})
        assert "no answer within" in complaints(mesh, "stale")["echo"]["reason"]
        served_on(callers, 300)
        agent.cont()
        eventually(lambda: clean(mesh))


def test_consul_answering_500(agent: ConsulAgent, fleet: Fleet) -> None:
    """A proxy in front of it breaks everything but the connection."""
    with lying_proxy(agent.http_port) as proxy, traffic(agent, fleet, proxy.address) as (mesh, callers):
        proxy.lie = failing
        eventually(lambda: set(complaints(mesh, "stale")) == {"documents", "echo"})
        assert "Consul answered 500" in complaints(mesh, "stale")["echo"]["reason"]
        served_on(callers, 300)
        proxy.lie = honest
        eventually(lambda: clean(mesh))


def test_a_token_revoked_and_restored(consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted in Consul it is refused, which is an outage; there again, it is used again."""
    rules = 'key_prefix "proxyless/" { policy = "read" } '
    rules += 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
    secret = str(uuid.UUID(int=7 << 64))
    with ConsulAgent(consul_bin, tmp_path, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent, Fleet(agent) as fleet:
        agent.do("PUT", "acl/policy", {"Name": "reader", "Rules": rules})

        def grant() -> None:
            agent.do("PUT", "acl/token", {"SecretID": secret, "Policies": [{"Name": "reader"}]})

        grant()
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", secret)
        with traffic(agent, fleet) as (mesh, callers):
            agent.delete_token(secret)
            eventually(lambda: set(complaints(mesh, "stale")) == {"documents", "echo"})
            assert "403" in complaints(mesh, "stale")["echo"]["reason"]
            served_on(callers, 300)
            grant()
            eventually(lambda: clean(mesh))


# --- what stands in KV


def routes(*routes: object) -> str:
    return json.dumps({"subsets": SUBSETS, "routes": routes})


GARBAGE: dict[str, str | bytes] = {
    "half a document": '{"routes": [',
    "another encoding": "routes: [ü]".encode("utf-16"),
    "nothing": "",
    "null": "null",
    "a number": "17",
    "a list": "[1, 2]",
    "a page": "<!DOCTYPE html><html><body>404</body></html>",
    "another language": '{"apiVersion": "proxyless/v9"}',
    "another service's document": '{"service": "other"}',
    "an unknown key": '{"rutes": []}',
    "a key twice": '{"routes": [], "routes": []}',
    "a duration without a unit": routes({"timeout": 5}),
    "a weight below zero": routes({"split": [{"subset": "stable", "weight": -1}]}),
    "no weight at all": routes({"split": [{"subset": "stable", "weight": 0}]}),
    "a weight that is no number": routes({"split": [{"subset": "stable", "weight": float("nan")}]}),
    "an unknown subset": routes({"split": [{"subset": "canery"}]}),
    "a pattern that is none": routes({"match": [{"path": {"regex": "(a"}}]}),
    "retries without end": routes({"retry": {"attempts": 1_000_000_000}}),
    "ten thousand levels": "[" * 10_000 + "]" * 10_000,
    "a bomb": "\n".join(["a: &a0 x", *(f"b{n}: &a{n + 1} [{f'*a{n},' * 9}]" for n in range(9))]),
    "half a megabyte": "routes: [" + "{}," * 170_000 + "]",
}


def has(look: Callable[[], dict[str, Any]], parts: dict[str, Any]) -> bool:
    return parts.items() <= look().items()


def test_garbage_in_kv(agent: ConsulAgent, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Each kind is told in the status and in one log line, and changes nothing else; a good one then does."""
    key = "proxyless/v1/services/echo"

    def written() -> str:
        return str(agent.do("GET", f"kv/{key}").json()[0]["ModifyIndex"])

    def said(mesh: proxyless.Mesh) -> dict[str, Any]:
        (document,) = mesh.status()["documents"]
        return dict(document)

    with traffic(agent, fleet) as (mesh, callers):
        good = written()
        for kind, text in GARBAGE.items():
            agent.put_kv(key, text)
            rejected = {"version": written(), "accepted": False, "in_effect": good}
            eventually(partial(has, partial(said, mesh), rejected))
            assert said(mesh)["errors"], kind
            served_on(callers, 10)
        time.sleep(1.5)  # more than a query's wait: what is told again is not logged again
        lines = [record.getMessage() for record in caplog.records if "is invalid" in record.getMessage()]
        assert len(lines) == len(GARBAGE), "\n".join(lines)
        assert all(line.startswith(f"consul:{key} is invalid, the last good version stays") for line in lines)
        assert all(len(line) < 10_000 and line.isprintable() for line in lines)


def test_a_document_deleted(agent: ConsulAgent, fleet: Fleet) -> None:
    """Its service goes on with the defaults: every instance is called."""
    with traffic(agent, fleet) as (mesh, callers):
        agent.delete_kv("proxyless/v1/services/echo")
        eventually(lambda: mesh.status()["documents"] == [])
        since = time.monotonic()
        callers.until_served(20, since=since, by="new")
        callers.until_served(20, since=since, by="old")
        assert clean(mesh)


def test_all_documents_deleted_with_one_command(agent: ConsulAgent, fleet: Fleet) -> None:
    """`consul kv delete -recurse`: it was meant, for Consul's own history says so; the defaults serve."""
    with traffic(agent, fleet) as (mesh, callers):
        agent.put_kv("proxyless/v1/mesh", '{"defaults": {"timeout": "3s"}}')
        eventually(lambda: len(mesh.status()["documents"]) == 2)
        agent.delete_kv("proxyless/", recurse=True)
        eventually(lambda: mesh.status()["documents"] == [])
        since = time.monotonic()
        callers.until_served(20, since=since, by="new")
        callers.until_served(20, since=since, by="old")
        assert clean(mesh)


def test_documents_that_need_each_other_written_in_the_wrong_order(agent: ConsulAgent, fleet: Fleet) -> None:
    """A route to a subset that is not there yet is set aside, and in effect once the subset is written."""
    with Fleet(agent, "other") as others, traffic(agent, fleet) as (mesh, callers):
        others.add("other", "v2")
        fleet.document(routes({"split": [{"service": "other", "subset": "canary"}]}))
        eventually(lambda: not clean(mesh))
        served_on(callers)
        written = others.split(1, 1)
        callers.until_served(20, since=written, by="other")
        eventually(lambda: clean(mesh))


def test_a_document_deleted_that_another_needs(
    agent: ConsulAgent, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays in effect, and that is said; it goes when nobody needs it any more."""
    with Fleet(agent, "other") as others, traffic(agent, fleet) as (mesh, callers):
        others.add("other", "v2")
        others.split(1, 1)
        written = fleet.document(routes({"split": [{"service": "other", "subset": "canary"}]}))
        callers.until_served(20, since=written, by="other")
        agent.delete_kv("proxyless/v1/services/other")

        def other() -> Any:
            return next((d for d in mesh.status()["documents"] if d["document"] == "services/other"), None)

        eventually(lambda: not other()["accepted"])
        assert other()["in_effect"] is not None
        assert "was deleted" in other()["errors"][0]
        assert "services/echo" in other()["errors"][0]
        deleted = time.monotonic()
        callers.until_served(20, since=deleted)
        assert set(callers.served(deleted)) == {"other"}
        fleet.split(1, 0)
        eventually(lambda: other() is None)
        assert len([line for line in caplog.messages if "was deleted" in line]) == 1
