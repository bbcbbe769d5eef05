"""Copies of requests: when they go out, what they carry, and that the call never knows of them."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless.model.documents import ServiceDocument, Subset
from proxyless.model.quantities import Duration
from proxyless.model.routes import Hedge, Mirror, RetryPolicy, Route, Split
from proxyless.model.snapshot import ClusterKey, Snapshot
from proxyless.model.topology import Endpoint
from proxyless.model.traffic import Limits, OutlierDetection, TrafficPolicy
from proxyless.policy.mirror import LONGEST, MOST
from proxyless.script import OK, OPEN, Rpc
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Call, Reply, Simulation
from tests.worlds import WEB, Known, rpc

NEVER = Reply(OK, after=3600.0)
SHADOW = ClusterKey("web", "shadow", True)


def mirroring(*mirrors: Mirror, disabled: tuple[str, ...] = (), seed: int = 1, **route: Any) -> Known:
    """a is called, s is the shadow."""
    world = Known(disabled=disabled, seed=seed)
    world.lives("web", Endpoint("a:1", labels={"v": "1"}), Endpoint("s:1", labels={"v": "2"}))
    rule = Route(split=(Split(subset="main"),), mirror=mirrors or (Mirror(subset="shadow"),), **route)
    subsets = {"main": Subset(labels={"v": "1"}), "shadow": Subset(labels={"v": "2"})}
    world.services["web"] = ServiceDocument(routes=(rule,), subsets=subsets)
    return world


def simulated(world: Known, **answers: Any) -> Simulation:
    simulation = Simulation(world.snapshot())
    simulation.behaviours.update(answers)
    return simulation


def called(simulation: Simulation, **fields: Any) -> Call:
    call = simulation.call(ENTRY, rpc(simulation.snapshot, now=simulation.clock.now, **fields))
    simulation.run(simulation.clock.now + 100)
    return call


def at_rest(world: Known, snapshot: Snapshot) -> bool:
    requests = [cluster.state.status(world.now)["requests"] for cluster in snapshot.clusters.values()]
    return not any(node.inflight for node in world.nodes.all()) and not any(requests)


def test_a_copy_goes_to_the_shadow_and_the_answer_is_the_call_s() -> None:
    """Whatever the shadow answers."""
    world = mirroring()
    simulation = simulated(world, s=UNAVAILABLE)
    call = called(simulation)
    assert call.effects == ["shadow", "send a"]
    assert call.outcome is OK
    (shadow,) = simulation.shadows
    assert (shadow.effects, shadow.outcome) == (["send s"], UNAVAILABLE)
    assert at_rest(world, simulation.snapshot)


def test_a_copy_has_the_shadow_s_name_and_no_credentials() -> None:
    """And what the route does to the metadata."""
    metadata = (("authorization", "Bearer x"), ("cookie", "y"), ("x-user", "1"))
    simulation = simulated(mirroring(Mirror(subset="shadow", allow_headers=("cookie",))))
    called(simulation, metadata=metadata)
    (shadow,) = simulation.shadows
    assert shadow.rpc.authority == "web-shadow"
    assert shadow.rpc.metadata == (("cookie", "y"), ("x-user", "1"))


def test_a_silent_shadow_costs_the_call_nothing() -> None:
    """It is under way when the call is over, and ends at its own deadline."""
    world = mirroring()
    simulation = simulated(world, s=NEVER)
    call = called(simulation)
    assert (call.outcome, call.ended_at) == (OK, START)
    (shadow,) = simulation.shadows
    assert shadow.ended_at == START + LONGEST
    assert at_rest(world, simulation.snapshot)


def test_a_copy_has_the_time_that_the_call_has_left() -> None:
    """With the caller's deadline, and the route's."""
    simulation = simulated(mirroring(timeout=Duration(2)), s=NEVER)
    called(simulation)
    assert simulation.shadows[0].rpc.deadline == START + 2
    called(simulation, timeout=1.0)
    assert simulation.shadows[1].rpc.deadline == simulation.shadows[1].began_at + 1


def test_one_shadow_a_call_and_not_one_an_attempt() -> None:
    """Retries are the call's own affair."""
    simulation = simulated(mirroring(retry=RetryPolicy(attempts=3)), a=[UNAVAILABLE, UNAVAILABLE, OK])
    call = called(simulation)
    assert call.outcome is OK
    assert len(simulation.shadows) == 1
    assert [key for key, _ in simulation.shadows[0].rpc.metadata or ()] == []


def test_a_hedged_call_casts_one_shadow() -> None:
    """However many attempts are under way at once."""
    world = mirroring(hedge=Hedge(Duration(0), 2))
    simulation = simulated(world, a=Reply(OK, after=0.1))
    call = called(simulation)
    assert call.effects[0] == "shadow"
    assert call.effects.count("shadow") == 1
    assert at_rest(world, simulation.snapshot)


def test_a_call_that_is_not_sent_casts_no_shadow() -> None:
    """Its destination is empty, or its own limit refuses it."""
    world = mirroring()
    world.lives("web", Endpoint("s:1", labels={"v": "2"}))
    simulation = simulated(world)
    assert called(simulation).outcome.refused == "no_endpoints"  # type: ignore[union-attr]
    assert simulation.shadows == []


def test_a_shadow_with_no_endpoints_is_not_there() -> None:
    """Nobody waits for it, and the call takes no other way because of it."""
    world = mirroring()
    world.lives("web", Endpoint("a:1", labels={"v": "1"}))
    simulation = simulated(world)
    assert called(simulation).effects == ["send a"]


def test_percent_is_drawn_for_each_mirror_by_itself() -> None:
    """20 % and 50 % of 20,000, within three standard deviations; both fall on a tenth."""
    world = mirroring(Mirror(subset="shadow", percent=20), Mirror(subset="main", percent=50))
    simulation = simulated(world)
    for number in range(20_000):
        simulation.call(ENTRY, rpc(simulation.snapshot, rng=simulation.rng, now=START + number / 1000))
    simulation.run()
    to = [shadow.rpc.cluster.key.subset for shadow in simulation.shadows]
    assert abs(to.count("shadow") - 4000) <= 3 * (20_000 * 0.2 * 0.8) ** 0.5
    assert abs(to.count("main") - 10_000) <= 3 * (20_000 * 0.5 * 0.5) ** 0.5
    both = sum(call.effects.count("shadow") == 2 for call in simulation.calls)
    assert abs(both - 2000) <= 3 * (20_000 * 0.1 * 0.9) ** 0.5


def test_what_a_shadow_does_is_held_against_the_shadow_alone() -> None:
    """Mirrored onto the very endpoint that is called: its failures eject nobody, count nowhere, pay nothing."""
    world = mirroring(Mirror(subset="main"))
    policy = TrafficPolicy(
        outlier_detection=OutlierDetection(consecutive5xx=2, max_ejection_percent=100),
        limits=Limits(max_requests=1000),
    )
    document = world.services["web"]
    world.services["web"] = ServiceDocument(routes=document.routes, subsets=document.subsets, traffic_policy=policy)
    simulation = simulated(world)
    budget = simulation.snapshot.clusters[ClusterKey("web", "main")].state.status(world.now)["retries_left"]

    def answer(attempt: Rpc) -> Any:
        return UNAVAILABLE if attempt.authority.endswith("-shadow") else OK

    simulation.behaviours["a"] = answer
    for _ in range(20):
        assert called(simulation).outcome is OK
    own = simulation.snapshot.clusters[ClusterKey("web", "main")]
    shadow = simulation.snapshot.clusters[ClusterKey("web", "main", True)]
    assert (own.nodes[0].calls, own.nodes[0].failures, own.nodes[0].outlier.out) == (20, 0, False)
    assert shadow.nodes[0].failures >= 2
    assert own.state.status(simulation.clock.now)["retries_left"] >= budget
    assert shadow.state.status(simulation.clock.now)["retries"] == 0


def test_shadows_have_a_cap_of_their_own() -> None:
    """What is over it is dropped; the calls go on, and so do copies when there is room again."""
    world = mirroring()
    simulation = simulated(world, s=NEVER)
    calls = [simulation.call(ENTRY, rpc(simulation.snapshot)) for _ in range(3 * MOST)]
    simulation.run(START + 1)
    assert all(call.outcome is OK for call in calls)
    state = simulation.snapshot.clusters[SHADOW].state
    assert (state.status(world.now)["requests"], state.status(world.now)["refused"]) == (MOST, 2 * MOST)
    simulation.run(START + LONGEST)
    assert at_rest(world, simulation.snapshot)


def test_a_shadow_that_can_not_be_reached_is_left_alone_for_a_while() -> None:
    """Its own endpoints' state, as with any destination; the call's are as they were."""
    world = mirroring(retry=RetryPolicy(attempts=0))
    simulation = simulated(world, s=UNREACHABLE)
    assert called(simulation).outcome is OK
    main, shadow = (simulation.snapshot.clusters[key].nodes[0] for key in (ClusterKey("web", "main"), SHADOW))
    assert (main.reachable_at, shadow.reachable_at > 0) == (0, True)


@pytest.mark.parametrize(("answer", "most"), [(UNREACHABLE, 30), (UNAVAILABLE, 60)])
def test_a_dead_shadow_is_tried_now_and_then(answer: Any, most: int) -> None:
    """10,000 calls in 100 s to a shadow that can't be reached, or that fails until it is ejected."""
    world = mirroring()
    simulation = simulated(world, s=answer)
    for number in range(10_000):
        simulation.call(ENTRY, rpc(simulation.snapshot, now=START + number / 100))
    simulation.run()
    assert all(call.outcome is OK for call in simulation.calls)
    assert 2 <= len(simulation.shadows) <= most


def test_a_stream_has_its_shadow_and_is_read_on_by_its_caller_alone() -> None:
    """A shadow's stream is drained beside it."""
    world = mirroring()
    simulation = simulated(world, a=Reply(OPEN, end=OK, lasts=5), s=Reply(OPEN, end=UNAVAILABLE, lasts=1))
    call = called(simulation)
    assert call.effects == ["shadow", "send a", "drain"]
    assert (call.outcome, call.ended_at) == (OK, START + 5)
    assert at_rest(world, simulation.snapshot)


@pytest.mark.parametrize("gone", [0.0, 1.0])
def test_a_caller_who_walks_away_leaves_the_shadow_to_itself(gone: float) -> None:
    """It is forgotten, not leaked: it ends by itself."""
    world = mirroring()
    simulation = simulated(world, a=NEVER, s=NEVER)
    call = simulation.call(ENTRY, rpc(simulation.snapshot))
    simulation.at(START + gone, lambda: simulation.abandon(call))
    simulation.run(START + 100)
    assert at_rest(world, simulation.snapshot)


def test_mirroring_can_be_switched_off_in_a_process() -> None:
    """`PROXYLESS_DISABLE=mirror`: the route has no mirrors, and the shadow is not even followed."""
    world = mirroring(disabled=("mirror",))
    simulation = simulated(world)
    assert called(simulation).effects == ["send a"]
    assert SHADOW not in simulation.snapshot.clusters


def test_a_mirror_that_names_nothing_mirrors_to_the_service_itself() -> None:
    """All of it, as with a split."""
    world = mirroring(Mirror())
    assert ClusterKey("web", "", True) in world.snapshot().clusters
    assert WEB not in world.snapshot().clusters
