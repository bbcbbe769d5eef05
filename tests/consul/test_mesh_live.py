"""The mesh over a real Consul and real servers: every change in effect while calls go on, and none of them lost."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

import proxyless
from proxyless.server.registration import Registration
from tests.agent import ConsulAgent
from tests.consul.callers import Callers
from tests.consul.fleet import Fleet, Request, Server, called, clean, connected, eventually, stub

SETTLED = 0.05
"""Seconds after Consul's answer in which a change must be in effect; the bound of the issue, for windows here."""


def best_of_three(measure: Callable[[], float], bound: float) -> float:
    """The best of up to three whole measurements: another process may have had the machine. Of timing alone."""
    best = math.inf
    for _ in range(3):
        best = min(best, measure())
        if best <= bound:
            break
    return best


# --- how quickly


def test_two_hundred_edits_are_in_effect_within_25_ms_each(agent: ConsulAgent, fleet: Fleet) -> None:
    """From the beginning of the PUT to the first call that was routed by it, p99 of 200 edits (the best of three runs)."""
    fleet.add("old")
    fleet.add("new", "v2")
    fleet.split(1, 0)

    def measure() -> float:
        lags = []
        with connected(agent) as mesh:
            echo = stub(mesh)
            for number in range(-2, 200):  # the first two make the connections
                wanted = "new" if number % 2 == 0 else "old"
                started = time.perf_counter()
                fleet.split(*((0, 1) if wanted == "new" else (1, 0)))
                while called(echo) != wanted:
                    pass
                if number >= 0:
                    lags.append(time.perf_counter() - started)
        lags.sort()
        print(
            f"an edit in effect: p50 {lags[99] * 1000:.1f} ms, p99 {lags[197] * 1000:.1f} ms of {len(lags)}"
        )
        return lags[197]

    assert best_of_three(measure, 0.025) <= 0.025


def test_an_instance_comes_and_goes_within_50_ms_of_consuls_answer(agent: ConsulAgent, fleet: Fleet) -> None:
    """A new one gets calls, a deregistered one no more, in each of ten rounds (the best of three runs)."""
    fleet.add("a")
    fleet.add("b")
    names = count()

    def measure() -> float:
        came, went = [], []
        for _ in range(10):
            server = fleet.add(f"new-{next(names)}")
            answered = time.monotonic()
            eventually(lambda server=server: server.arrivals)
            came.append(server.arrivals[0] - answered)
            gone = agent.deregister(server.id)
            time.sleep(3 * SETTLED)
            went.append(max(server.arrivals[-1] - gone, 0.0))
            fleet.retire(server)
        print(
            f"an instance: first call after {max(came) * 1000:.1f} ms, last after {max(went) * 1000:.1f} ms, of 10"
        )
        return max(*came, *went)

    with connected(agent) as mesh, Callers(mesh) as callers:
        assert best_of_three(measure, SETTLED) <= SETTLED
    assert callers.lost == []


# --- a rolling restart


@pytest.mark.timeout(120)
def test_a_rolling_restart_of_all_servers_loses_none_of_twenty_thousand_calls(
    agent: ConsulAgent, fleet: Fleet
) -> None:
    """With `register`, under full load: each server is replaced by one at a new port, then restarted at its own."""
    with ExitStack() as ended, connected(agent) as mesh:

        def begin(name: str, port: int = 0) -> tuple[Server, Registration]:
            server = fleet.start(name, port=port)
            registration = proxyless.register(
                server.grpc, "echo", port=server.port, address="127.0.0.1", mesh=mesh, drain=0.3, grace=5.0
            )
            ended.callback(registration.close)
            assert registration.ready(10.0)
            return server, registration

        running = [begin(f"first-{n}") for n in range(3)]
        with Callers(mesh, threads=3, tasks=6, pause=0) as callers:
            for n, (server, registration) in enumerate(running):
                replacement = begin(f"second-{n}")
                registration.close()
                fleet.retire(server)
                running[n] = replacement
            for n, (server, registration) in enumerate(running):
                registration.close()
                fleet.retire(server)
                running[n] = begin(f"third-{n}", port=server.port)
            restarted = time.monotonic() + SETTLED
            eventually(lambda: callers.count >= 20_000 or callers.lost, within=90)
            served = callers.served()
            assert set(callers.served(since=restarted)) == {"third-0", "third-1", "third-2"}
    print(
        f"{callers.count} calls ({len(callers.aio)} of them asyncio), {len(callers.lost)} lost: {dict(served)}"
    )
    assert callers.lost == []
    assert callers.count >= 20_000
    assert set(served) == {f"{life}-{n}" for life in ("first", "second", "third") for n in range(3)}
    assert min(len(callers.sync), len(callers.aio)) > 1000


# --- documents, edited while calls go on


def test_a_split_is_shifted_from_90_10_to_50_50_to_0_100_under_calls(
    agent: ConsulAgent, fleet: Fleet
) -> None:
    """Each share is within 5σ of what was asked for, a version without a share gets nothing, and no call is lost."""
    fleet.add("old-1")
    fleet.add("old-2")
    fleet.add("new", "v2")
    fleet.split(90, 10)
    with connected(agent) as mesh:
        mesh.ready("echo", timeout=5.0)
        with Callers(mesh, pause=0.001) as callers:
            for canary in (10, 50, 100, 0):
                since = fleet.split(100 - canary, canary) + SETTLED
                eventually(lambda since=since: callers.served(since).total() >= 800, within=20)
                served = callers.served(since, time.monotonic())
                total, share = served.total(), canary / 100
                # 5 sigma: the dice are real, and one failure in a million runs is rare enough.
                assert abs(served["new"] - total * share) <= 5 * math.sqrt(total * share * (1 - share)), (
                    served
                )
        assert callers.lost == []
        assert clean(mesh)


def test_a_route_to_another_service_follows_that_services_own_instances(
    agent: ConsulAgent, fleet: Fleet
) -> None:
    """`split: [{service}]` written while calls go on: the other service is watched from then on, and forgotten again."""
    fleet.add("a")
    with Fleet(agent, "other") as others, connected(agent) as mesh:
        others.add("b")
        with Callers(mesh) as callers:
            since = fleet.document({"routes": [{"split": [{"service": "other"}]}]}) + SETTLED
            eventually(lambda: callers.served(since)["b"] > 20)
            added = others.add("c")
            eventually(lambda: callers.served(since)["c"] > 20)
            since = agent.deregister(added.id) + SETTLED
            eventually(lambda: callers.served(since)["b"] > 20)
            assert set(callers.served(since)) == {"b"}
            assert set(mesh.status()["source"]["watches"]) == {"documents", "other"}
            since = fleet.document({}) + SETTLED
            eventually(lambda: callers.served(since)["a"] > 20)
            assert set(mesh.status()["source"]["watches"]) == {"documents", "echo"}
        assert callers.lost == []
        assert clean(mesh)


# --- health, in Consul's terms


def test_warning_instances_count_by_their_warning_weight_where_they_are_wanted(
    agent: ConsulAgent, fleet: Fleet
) -> None:
    """`onlyPassing: false`: 1 call in 11 for a weight of 1 beside 10, none for 0, and none by default."""
    fleet.add("well", weights=(10, 1), status="passing")
    ill = fleet.add("ill", weights=(10, 1), status="passing")
    policy = {"loadBalancer": {"policy": "round_robin"}}
    fleet.document({"discovery": {"onlyPassing": False}, "trafficPolicy": policy})
    with connected(agent) as mesh:
        echo = stub(mesh)

        def shares(calls: int = 110) -> dict[str, int]:
            return dict(Counter(called(echo) for _ in range(calls)))

        assert mesh.ready("echo", timeout=5.0)
        assert shares() == {"well": 55, "ill": 55}
        agent.set_status(ill.id, "warning")
        eventually(lambda: {e["weight"] for e in mesh.status()["endpoints"]} == {10, 1})
        assert shares() == {"well": 100, "ill": 10}
        agent.register("echo", ill.port, id=ill.id, weights=(10, 0), status="warning")
        eventually(lambda: len(mesh.status()["endpoints"]) == 1)
        assert shares() == {"well": 110}
        agent.register("echo", ill.port, id=ill.id, weights=(10, 1), status="warning")
        eventually(lambda: len(mesh.status()["endpoints"]) == 2)
        fleet.document({"trafficPolicy": policy})
        eventually(lambda: len(mesh.status()["endpoints"]) == 1)
        assert shares() == {"well": 110}


@pytest.mark.parametrize("how", ["service maintenance", "node maintenance", "check"])
def test_an_instance_that_is_not_to_be_called_is_drained_and_comes_back(
    agent: ConsulAgent, fleet: Fleet, how: str
) -> None:
    """Maintenance or a critical check: no call arrives 50 ms later, none is lost, and those under way are finished."""
    other = ConsulAgent(agent.binary, agent.folder)
    fleet.add("well", status="passing")
    with other:
        server = fleet.start("ill")
        # On a node of its own, so that the node's maintenance is not everybody's.
        node = {"Node": "elsewhere", "Address": "127.0.0.1"}
        entry = {"ID": server.id, "Service": "echo", "Address": "127.0.0.1", "Port": server.port}

        def turn(ill: bool) -> float:
            if how == "check":
                agent.set_status(server.id, "critical" if ill else "passing")
            elif how == "service maintenance":
                agent.do(
                    "PUT", f"agent/service/maintenance/{server.id}?enable={str(ill).lower()}&reason=test"
                )
            else:
                check = {
                    "CheckID": "_node_maintenance",
                    "Name": "Node Maintenance Mode",
                    "Status": "critical",
                }
                if ill:
                    agent.do("PUT", "catalog/register", {**node, "Check": check})
                else:
                    agent.do(
                        "PUT", "catalog/deregister", {"Node": "elsewhere", "CheckID": "_node_maintenance"}
                    )
            return time.monotonic()

        if how == "node maintenance":
            agent.do("PUT", "catalog/register", {**node, "Service": entry})
        else:
            fleet.register(server, status="passing")
        with connected(agent) as mesh, Callers(mesh) as callers:
            eventually(lambda: server.arrivals)
            long = stub(mesh).Unary.future(Request(message="long", delay_ms=500))
            ill_since = turn(True) + SETTLED
            eventually(lambda: callers.served(ill_since)["well"] > 100)
            assert set(callers.served(ill_since)) == {"well"}
            assert long.result(timeout=5.0).message == "long"
            well_since = turn(False)
            eventually(lambda: callers.served(well_since)["ill"] > 20)
        assert callers.lost == []


# --- connections


TABLES = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]


def connections(port: int) -> int:
    """Established TCP connections from this machine to `port` on it."""
    rows = [line.split() for table in TABLES for line in table.read_text().splitlines()[1:]]
    established = "01"  # include/net/tcp_states.h
    return sum(row[2].endswith(f":{port:04X}") and row[3] == established for row in rows)


@pytest.mark.skipif(not TABLES[1].exists(), reason="connections are counted in /proc/net/tcp")
def test_the_connections_of_an_endpoint_that_left_are_closed_when_its_last_call_ended(
    agent: ConsulAgent, fleet: Fleet
) -> None:
    """Sync and asyncio alike; a stream that is under way goes on, though other destinations shared its connection."""
    fleet.add("stays")
    leaving = fleet.add("leaves")
    everybody = {"subsets": SUBSETS_BOTH, "routes": [STREAMS_APART, {"name": "rest"}]}
    fleet.document(everybody)
    with connected(agent) as mesh, Callers(mesh) as callers:
        eventually(lambda: connections(leaving.port) > 0)
        streams = []
        while len(leaving.arrivals) == 0 or not streams:
            stream = stub(mesh).ServerStream(Request(count=40, delay_ms=50))
            if next(stream).served_by == "leaves":
                streams.append(stream)
            else:
                stream.cancel()
        agent.deregister(leaving.id)
        received = [reply.sequence for reply in streams[0]]
        assert received == list(range(1, 40))
        eventually(lambda: connections(leaving.port) == 0, within=3.0)
        assert connections(fleet.servers[0].port) > 0
    assert callers.lost == []


SUBSETS_BOTH = {"all": {"labels": {"version": "v1"}}}
STREAMS_APART = {
    "name": "streams",
    "match": [{"path": {"suffix": "/ServerStream"}}],
    "split": [{"subset": "all"}],
}
