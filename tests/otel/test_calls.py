"""What is measured of a call, in virtual time: paths are told apart as far as is bounded, and nothing fails a call."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest

from proxyless.otel import calls
from proxyless.otel.calls import Measured, Paths
from proxyless.otel.store import Store
from proxyless.script import OK, Rpc
from proxyless.stack import ENTRY, watched
from tests.fakes import START, UNAVAILABLE, Reply, Simulation, play
from tests.otel.world import Telling
from tests.worlds import Known, document, rpc


class Watched:
    """The stack, measured."""

    def __init__(self, told: Telling) -> None:
        self.told = told
        self.store = Store(told.meters.get_meter("t"))
        self.soon = 0
        self.paths = Paths(self.store, self._drain_soon)
        self.entry = watched(ENTRY, [partial(Measured, self.paths)])

    def _drain_soon(self) -> None:
        self.soon += 1

    def points(self, name: str) -> list[Any]:
        """After handing over."""
        self.store.drain()
        return self.told.points(name)


def known(route: str = "{}") -> Known:
    """A service on a and b."""
    world = Known().lives("web", "a:1", "b:1")
    world.services["web"] = document(f"routes: [{route}]")
    return world


def test_durations_are_of_the_mesh_s_clock(told: Telling) -> None:
    """The call has the pause between its attempts, the attempts have not."""
    seen = Watched(told)
    world = known("{name: r, retry: {attempts: 1, backoff: {base: 2s, max: 2s}, on: [unavailable]}}")
    world.lives("web", "a:1")
    play(seen.entry, rpc(world.snapshot(), rng=lambda: 0.5), a=[Reply(UNAVAILABLE, after=0.25), Reply(OK, after=0.5)])
    (call,) = seen.points("rpc.client.call.duration")
    attempts = {p.attributes["grpc.status"]: p.sum for p in seen.points("grpc.client.attempt.duration")}
    assert (call.sum, attempts) == (1.75, {"UNAVAILABLE": 0.25, "OK": 0.5})
    (retries,) = seen.points("grpc.client.call.retries")
    assert (retries.count, retries.sum) == (1, 1)


def test_who_walks_away_is_measured_up_to_then(told: Telling) -> None:
    """As CANCELLED, which is what the server sees, too."""
    seen = Watched(told)
    snapshot = known().snapshot()
    simulation = Simulation(snapshot)
    simulation.behaviours["a"] = Reply(OK, after=60.0)
    call = simulation.call(seen.entry, rpc(snapshot))
    simulation.at(START + 1.5, lambda: simulation.abandon(call))
    simulation.run()
    (point,) = seen.points("rpc.client.call.duration")
    assert (point.sum, point.attributes["rpc.response.status_code"]) == (1.5, "CANCELLED")


def test_hedged_attempts_are_attempts_and_no_retries(told: Telling) -> None:
    """Each has a record of its own, and they overlap."""
    seen = Watched(told)
    snapshot = known("{name: r}").snapshot()
    call = rpc(snapshot)
    call.route = snapshot.services["web"].routes[0]
    call.cluster = call.route.clusters[0]
    measured = Measured(seen.paths, call)
    twins: list[Rpc] = [copy.copy(call), copy.copy(call)]
    for twin, node in zip(twins, call.cluster.nodes, strict=True):
        twin.node = node
        measured.attempt(twin)
    for twin, took in zip(reversed(twins), (1.0, 3.0), strict=True):
        twin.now = START + took
        measured.attempted(twin, START, OK)
    measured.ended(call, OK)
    assert sum(point.value for point in seen.points("grpc.client.attempt.started")) == 2
    assert sum(point.sum for point in seen.points("grpc.client.attempt.duration")) == 4.0
    assert seen.points("grpc.client.call.retries") == []


def test_methods_beyond_the_bound_are_one(told: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes method names from its callers must not fill the memory."""
    monkeypatch.setattr(calls, "METHODS", 3)
    seen = Watched(told)
    snapshot = known().snapshot()
    for number in range(6):
        play(seen.entry, rpc(snapshot, method=f"/m/{number}"))
    counts = {point.attributes["rpc.method"]: point.count for point in seen.points("rpc.client.call.duration")}
    assert counts == {"m/0": 1, "m/1": 1, "m/2": 1, "other": 3}


def test_series_beyond_the_bound_are_one(told: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted together, by the name that the field has for it."""
    monkeypatch.setattr("proxyless.otel.store.MOST", 2)
    seen = Watched(told)
    snapshot = known().snapshot()
    for number in range(5):
        play(seen.entry, rpc(snapshot, method=f"/m/{number}"))
    points = seen.points("rpc.client.call.duration")
    assert sorted(point.count for point in points) == [1, 1, 3]
    assert {"otel.metric.overflow": True} in [dict(point.attributes) for point in points]


def test_a_long_series_asks_to_be_emptied(told: Telling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on the call's own path, where an SDK's locks may be held."""
    monkeypatch.setattr(calls, "BATCH", 3)
    seen = Watched(told)
    snapshot = known().snapshot()
    for _ in range(3):
        play(seen.entry, rpc(snapshot))
    assert seen.soon == 1


def test_telemetry_that_fails_fails_no_call(
    told: Telling, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, once."""
    seen = Watched(told)
    monkeypatch.setattr(Paths, "find", lambda *_: 1 / 0)
    monkeypatch.setattr(Paths, "call", lambda *_: 1 / 0)
    snapshot = known().snapshot()
    for _ in range(3):
        assert play(seen.entry, rpc(snapshot))[1] is OK
    assert [record.levelname for record in caplog.records] == ["ERROR"]
