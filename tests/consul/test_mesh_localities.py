"""Zones and datacenters over a real Consul and real servers: calls stay near, go where they must, and come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from tests.agent import ConsulAgent
from tests.cli.invoking import forget_the_machine
from tests.consul.fleet import Fleet, Server, called, eventually, stub

RETRIED = {"routes": [{"retry": {"attempts": 3, "on": ["unavailable", "connect-failure"]}}]}
NEAR: dict[str, Any] = {"locality": {}, "outlierDetection": {"baseEjectionTime": "1s", "maxEjectionPercent": 100}}


def connected(agent: ConsulAgent, locality: str | None = "eu/a") -> proxyless.Mesh:
    return proxyless.connect(f"consul://{agent.address}?snapshot=off", locality=locality)


def zone(fleet: Fleet, name: str, place: str, number: int) -> list[Server]:
    """Servers a0, a1, … at a place."""
    region, _, inner = place.partition("/")
    meta = {"region": region, "zone": inner, "version": "v1"}
    return [fleet.add(f"{name}{index}", meta=meta, status="passing") for index in range(number)]


def spread(calls: Any, number: int) -> Counter[str]:
    """How many of so many calls each zone served."""
    return Counter(called(calls)[0] for _ in range(number))


def test_a_zone_that_fails_its_checks_is_left_and_returned_to(fleet: Fleet) -> None:
    """Half of it critical: 70 % stay, the rest goes to the next zone of the region; then back; no call is lost."""
    near, _, _ = zone(fleet, "a", "eu/a", 4), zone(fleet, "b", "eu/b", 2), zone(fleet, "c", "us/a", 2)
    fleet.document({**RETRIED, "trafficPolicy": NEAR})
    with connected(fleet.agent) as mesh:
        calls = stub(mesh)
        assert mesh.ready("echo", timeout=10)
        assert spread(calls, 100) == {"a": 100}
        for server in near[:2]:
            fleet.agent.set_status(server.id, "critical")
        eventually(lambda: mesh.status()["destinations"]["echo"]["ladder"][0]["healthy"] == 2)
        seen = spread(calls, 1000)
        assert 650 <= seen["a"] <= 750, "70 % within 3.4 standard deviations"
        assert seen["c"] == 0
        for server in near[2:]:
            fleet.agent.set_status(server.id, "critical")
        eventually(lambda: mesh.status()["destinations"]["echo"]["ladder"][0]["healthy"] == 0)
        assert spread(calls, 100) == {"b": 100}
        for server in near:
            fleet.agent.set_status(server.id, "passing")
        eventually(lambda: mesh.status()["destinations"]["echo"]["ladder"][0]["healthy"] == 4)
        assert spread(calls, 100) == {"a": 100}


def test_a_zone_that_dies_without_a_word_loses_no_call(fleet: Fleet) -> None:
    """Consul still believes in it: the calls find out, go to the next zone, and find out when it is back."""
    near, _ = zone(fleet, "a", "eu/a", 2), zone(fleet, "b", "eu/b", 2)
    fleet.document({**RETRIED, "trafficPolicy": NEAR})
    with connected(fleet.agent) as mesh:
        calls = stub(mesh)
        assert mesh.ready("echo", timeout=10)
        assert spread(calls, 50) == {"a": 50}
        ports = [server.port for server in near]
        for server in near:
            fleet.retire(server)
        assert spread(calls, 300) == {"b": 300}
        for index, port in enumerate(ports):
            fleet.start(f"a{index}", "v1", port)
        eventually(lambda: called(calls)[0] == "a", within=15)
        eventually(lambda: mesh.status()["destinations"]["echo"]["ladder"][0]["healthy"] == 2 or not called(calls), 15)
        assert spread(calls, 100) == {"a": 100}


@pytest.fixture
def placed(consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """An agent whose node has a place."""
    forget_the_machine(monkeypatch, tmp_path / "cache")
    meta = 'node_meta { region = "eu", zone = "b" }'
    with ConsulAgent(consul_bin, tmp_path, hcl=[meta]) as agent, Fleet(agent) as fleet:
        yield fleet


def test_the_agent_says_where_this_process_runs(placed: Fleet) -> None:
    """Nobody was told a locality; the node's meta has it. It is asked only once a document wants to know."""
    zone(placed, "a", "eu/a", 2)
    zone(placed, "b", "eu/b", 1)
    with connected(placed.agent, None) as mesh:
        calls = stub(mesh)
        assert mesh.ready("echo", timeout=10)
        assert set(spread(calls, 60)) == {"a", "b"}
        assert mesh.status()["locality"] == ""
        placed.document({"trafficPolicy": NEAR})
        eventually(lambda: mesh.status()["locality"] == "eu/b")
        assert spread(calls, 60) == {"b": 60}
        assert mesh.status()["source"]["place"] == "eu/b"


def test_a_token_that_may_not_ask_leaves_the_place_unknown(guarded: ConsulAgent) -> None:
    """Calls go everywhere alike, and the status says what to do about it."""
    rules = "\n".join(
        f'{what} {{ policy = "read" }}' for what in ('key_prefix ""', 'service_prefix ""', 'node_prefix ""')
    )
    token = guarded.create_token(rules)
    guarded.put_kv("proxyless/v1/mesh", "{}")
    guarded.put_kv("proxyless/v1/services/web", '{"trafficPolicy": {"locality": {}}}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSUL_HTTP_TOKEN", token)
        with connected(guarded, None) as mesh:
            assert mesh.ready("web", timeout=10)
            eventually(lambda: "agent:read" in mesh.status()["source"].get("place", ""))
            assert mesh.status()["locality"] == ""


@pytest.fixture
def two(consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Fleet, Fleet]]:
    """Two datacenters that know each other, with the same service in both."""
    forget_the_machine(monkeypatch, tmp_path / "cache")
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    with (
        ConsulAgent(consul_bin, tmp_path / "1") as first,
        ConsulAgent(consul_bin, tmp_path / "2", hcl=['datacenter = "dc2"']) as second,
        Fleet(first) as here,
        Fleet(second) as there,
    ):
        first.do("PUT", f"agent/join/127.0.0.1:{second.wan_port}?wan=1")
        eventually(lambda: first.ask("GET", "health/service/consul?dc=dc2").ok, within=15)
        yield here, there


def test_another_datacenter_stands_in_while_it_is_needed(two: tuple[Fleet, Fleet]) -> None:
    """Nobody follows dc2 while dc1 holds; when dc1 is gone calls go there, and back, and it is followed no more."""
    here, there = two
    own = [here.add("a0", status="passing"), here.add("a1", status="passing")]
    there.add("b0")
    here.document({**RETRIED, "discovery": {"failover": ["dc2"]}})
    with connected(here.agent, None) as mesh:
        calls = stub(mesh)
        assert mesh.ready("echo", timeout=10)
        assert spread(calls, 50) == {"a": 50}
        assert "echo@dc2" not in mesh.status()["source"]["watches"]
        for server in own:
            here.agent.set_status(server.id, "critical")
        eventually(lambda: _served(calls) == "b", within=10)
        assert spread(calls, 50) == {"b": 50}
        for server in own:
            here.agent.set_status(server.id, "passing")
        eventually(lambda: "echo@dc2" not in mesh.status()["source"]["watches"], within=10)
        assert spread(calls, 50) == {"a": 50}


def test_servers_that_die_here_bring_the_other_datacenter_in(two: tuple[Fleet, Fleet]) -> None:
    """No check has failed: it is the calls that could not be connected which say that it is needed."""
    here, there = two
    own = [here.add("a0"), here.add("a1")]
    there.add("b0")
    here.document({**RETRIED, "discovery": {"failover": ["dc2"]}})
    with connected(here.agent, None) as mesh:
        calls = stub(mesh)
        assert mesh.ready("echo", timeout=10)
        assert spread(calls, 20) == {"a": 20}
        for server in own:
            here.retire(server)
        eventually(lambda: _served(calls) == "b", within=10)
        assert spread(calls, 50) == {"b": 50}


def _served(calls: Any) -> str:
    """Which zone, or "" where nobody answered yet."""
    try:
        return called(calls)[0]
    except grpc.RpcError:
        return ""
