"""Instances that somebody registered to do harm, beside good ones: left out, counted, and no call is lost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.agent import ConsulAgent
from tests.consul.callers import Callers
from tests.consul.fleet import Fleet, clean, connected, eventually

HOSTILE: dict[str, dict[str, Any]] = {
    "cloud-metadata": {"Address": "169.254.169.254", "Port": 80},
    "cloud-metadata-mapped": {"Address": "::ffff:169.254.169.254", "Port": 80},
    "this-machine": {"Address": "localhost", "Port": 22},
    "multicast": {"Address": "224.0.0.1", "Port": 80},
    "unix": {"Address": "unix:///var/run/docker.sock", "Port": 80},
    "dns": {"Address": "dns:///example.com", "Port": 80},
    "two-lines": {"Address": "web\nweb", "Port": 80},
    "escape": {"Address": "\x1b[2Jweb", "Port": 80},
    "long-name": {"Address": "a" * 5000, "Port": 80},
    "port-70000": {"Address": "127.0.0.1", "Port": 70_000},
    "port-below-0": {"Address": "127.0.0.1", "Port": -1},
    "port-0": {"Address": "127.0.0.1", "Port": 0},
    "tag-of-1-mb": {"Address": "127.0.0.1", "Port": 80, "Tags": ["x" * (1 << 20)]},
    "outside": {"Address": "127.0.0.1", "Port": 80, "Meta": {"proxyless_locality": "../../etc"}},
}

REFUSED_BY_CONSUL: dict[str, dict[str, Any]] = {
    "any-address": {"Address": "0.0.0.0", "Port": 80},
    "weight-below-0": {"Address": "127.0.0.1", "Port": 80, "Weights": {"Passing": -1, "Warning": 1}},
    "weight-of-a-billion": {"Address": "127.0.0.1", "Port": 80, "Weights": {"Passing": 10**9, "Warning": 1}},
}
"""By 1.8.7, at least; the reader's own tests have them."""


def registered(agent: ConsulAgent, instances: dict[str, dict[str, Any]]) -> set[str]:
    """Register all of `instances`; those that Consul took."""
    bodies = {id: {"ID": id, "Name": "echo", **entry} for id, entry in instances.items()}
    return {id for id, body in bodies.items() if agent.ask("PUT", "agent/service/register", body).ok}


def test_hostile_instances_are_left_out_and_counted(
    agent: ConsulAgent, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with its reason in the status; calls go to the good ones as before, and the log stays plain."""
    good = {fleet.add("a").address, fleet.add("b").address}
    with connected(agent) as mesh, Callers(mesh) as callers:
        callers.until_served(20)
        assert registered(agent, REFUSED_BY_CONSUL) == set()
        assert registered(agent, HOSTILE) == set(HOSTILE)
        eventually(lambda: len(mesh.status()["dropped"].get("echo", ())) == len(HOSTILE))
        there = time.monotonic()
        callers.until_served(100, since=there)
        status = mesh.status()
        assert {reason.split("'")[1] for reason in status["dropped"]["echo"]} == set(HOSTILE)
        assert {endpoint["address"] for endpoint in status["endpoints"]} == good
        assert json.dumps(status).isprintable()
        assert clean(mesh)
        for id in HOSTILE:
            agent.deregister(id)
        eventually(lambda: mesh.status()["dropped"] == {})
    assert callers.lost == []
    assert set(callers.served()) == {"a", "b"}
    lines = [line for line in caplog.messages if "left out" in line]
    assert len(lines) <= len(HOSTILE)
    assert all(line.isprintable() and len(line) < 5000 for line in lines)


def test_a_service_of_nothing_but_hostile_instances_has_none(agent: ConsulAgent, fleet: Fleet) -> None:
    """Calls are refused and say where to look; a good instance registered beside them serves at once."""
    registered(agent, HOSTILE)
    with connected(agent) as mesh:
        assert mesh.ready("echo", timeout=5.0)
        known = mesh.explain("echo", "/proxyless.Echo/Unary")
        assert known.refusal == "no_endpoints"
        with Callers(mesh, threads=1, tasks=1) as callers:
            eventually(lambda: len(callers.lost) > 5)
            good = fleet.add("good")
            good.until_called()
            since = time.monotonic()
            refused = len(callers.lost)
            callers.until_served(20, since=since)
            assert len(callers.lost) == refused
        assert all("no_endpoints" in lost for lost in callers.lost)


def test_an_instance_that_is_heavy_and_dead_takes_no_call_with_it(agent: ConsulAgent, fleet: Fleet) -> None:
    """The largest weight that Consul takes, where nobody listens: found out, and kept away from."""
    fleet.add("a")
    fleet.add("b")
    with connected(agent) as mesh, Callers(mesh) as callers:
        callers.until_served(20)
        agent.register("echo", 1, id="heavy", weights=(65_535, 1))
        eventually(lambda: len(mesh.status()["endpoints"]) == 3)
        there = time.monotonic()
        callers.until_served(500, since=there)
        assert callers.slowest < 1.0
    assert callers.lost == []


def test_somebody_who_claims_a_good_instances_address_changes_nothing(agent: ConsulAgent, fleet: Fleet) -> None:
    """Registered a second time under another id, failing its check: the one that passes counts."""
    good = fleet.add("good", status="passing")
    with connected(agent) as mesh, Callers(mesh) as callers:
        callers.until_served(20)
        agent.register("echo", good.port, id="thief", meta={"version": "v9"}, status="critical")
        time.sleep(0.1)
        there = time.monotonic()
        callers.until_served(100, since=there)
        assert [endpoint["state"] for endpoint in mesh.status()["endpoints"]] == ["healthy"]
    assert callers.lost == []
