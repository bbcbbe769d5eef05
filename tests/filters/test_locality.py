"""Localities where calls are sent: near first, over what it can't hold, and back; all of it by real documents."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from proxyless.model.codes import Code
from proxyless.model.snapshot import Cluster
from proxyless.model.topology import Endpoint, Locality
from proxyless.policy.locality import Ladder
from proxyless.script import OK, Outcome, Send
from proxyless.stack import ENTRY
from proxyless.state import Node
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Asks, Behaviour, play
from tests.worlds import WEB, Known, document, rpc

HERE = Locality("us-east-1", "us-east-1a")
FAR = ("us-east-1/us-east-1b", "us-west-2/us-west-2a")


def placed(**zones: int | tuple[str, int]) -> list[Endpoint]:
    """`a=("us-east-1/us-east-1a", 3)` -> a0:1, a1:1, a2:1 there."""
    found = []
    for name, (place, number) in zones.items():  # type: ignore[misc]
        found += [Endpoint(f"{name}{index}:1", locality=Locality.parse(place)) for index in range(number)]
    return found


class World:
    """Zone a (ours), b in our region, c elsewhere."""

    def __init__(self, policy: str = "locality: {}", route: str = "retry: {attempts: 0}", **sizes: int) -> None:
        self.known = Known(locality=HERE)
        self.sizes = sizes or {"a": 5, "b": 5, "c": 5}
        places = dict(zip("abc", (str(HERE), *FAR), strict=True))
        self.endpoints = placed(**{name: (places[name], size) for name, size in self.sizes.items()})
        self.known.lives("web", *self.endpoints)
        self.write(policy, route)

    def write(self, policy: str, route: str = "retry: {attempts: 0}") -> None:
        self.known.services["web"] = document(f"routes: [{{{route}}}]\ntrafficPolicy: {{{policy}}}")
        self.snapshot = self.known.snapshot()

    @property
    def cluster(self) -> Cluster:
        return self.snapshot.clusters[WEB]

    def node(self, name: str) -> Node:
        return next(node for node in self.known.nodes.all() if node.address == f"{name}:1")

    def fail(self, *names: str, at: float = 0.0) -> None:
        """So many results in a row that outlier detection ejects."""
        for name in names:
            for _ in range(5):
                self.cluster.state.begin(self.node(name))
                self.cluster.state.ended(self.node(name), Code.UNAVAILABLE, False, START + at)

    def shares(self, calls: int = 4000, at: float = 0.0) -> dict[str, float]:
        """Percent of the calls by zone, from the pickers alone."""
        rng = random.Random(5).random
        picked = Counter(self.cluster.picker.pick(Asks(rng, START + at)).address[0] for _ in range(calls))  # type: ignore[union-attr]
        return {zone: 100 * count / calls for zone, count in sorted(picked.items())}

    def call(self, at: float = 0.0, seed: int = 1, **answers: Behaviour) -> tuple[list[str], Outcome]:
        effects, outcome = play(ENTRY, rpc(self.snapshot, now=START + at, rng=random.Random(seed).random), **answers)
        return [effect.removeprefix("send ") for effect in effects], outcome


OPEN_END = "outlierDetection: {maxEjectionPercent: 100}, locality: {}"


def test_calls_stay_in_the_zone_while_it_holds() -> None:
    """Nobody leaves it, though most endpoints are elsewhere."""
    assert World(a=2, b=20, c=50).shares() == {"a": 100.0}


def test_without_a_policy_everybody_is_alike_and_nothing_is_built() -> None:
    """No ladder where no document asks for one, nor where this process's place is unknown."""
    assert not isinstance(World("limits: {}").cluster.picker, Ladder)
    world = World()
    assert isinstance(world.cluster.picker, Ladder)
    world.known = Known().lives("web", *world.endpoints)
    world.write("locality: {}")
    assert not isinstance(world.cluster.picker, Ladder)
    assert set(world.shares()) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "policy",
    ["locality: {enabled: false}", "locality: {}, outlierDetection: {maxEjectionPercent: 0}"],
    ids=["switched off", "no outlier detection"],
)
def test_what_switches_it_off(policy: str) -> None:
    """Istio's rule too: without outlier detection nobody would ever move."""
    assert not isinstance(World(policy).cluster.picker, Ladder)


def test_endpoints_in_one_place_need_no_ladder() -> None:
    """All of them are equally near."""
    assert not isinstance(World(a=9).cluster.picker, Ladder)


@pytest.mark.parametrize(("lost", "stays"), [(1, 100), (2, 84), (3, 56), (4, 28), (5, 0)])
def test_what_the_zone_cannot_hold_goes_to_the_next(lost: int, stays: int) -> None:
    """1.4 x the share that is well: the rest goes to the next zone, and nothing farther."""
    world = World(OPEN_END)
    world.fail(*(f"a{index}" for index in range(lost)))
    found = world.shares()
    assert found.get("a", 0) == pytest.approx(stays, abs=2.5)
    assert found.get("b", 0) == pytest.approx(100 - stays, abs=2.5)
    assert "c" not in found


def test_instances_that_consul_calls_critical_are_capacity_that_is_missing() -> None:
    """They are no targets, but the zone they are in holds less without them."""
    world = World(a=5, b=5)
    sick = [Endpoint(e.address, locality=e.locality, status="critical") for e in world.endpoints[:3]]
    world.known.lives("web", *sick, *world.endpoints[3:])
    world.snapshot = world.known.snapshot()
    assert world.shares()["a"] == pytest.approx(56, abs=2.5)
    world.known.lives("web", *world.endpoints[3:])
    world.snapshot = world.known.snapshot()
    assert world.shares() == {"a": 100.0}, "who is deregistered is missed by nobody"


def test_who_can_not_be_connected_is_missing_at_once() -> None:
    """Not only after five failures; and it is back as soon as it was reached."""
    world = World("locality: {}", a=1, b=1)
    where, outcome = world.call(a0=UNREACHABLE)
    assert (where, outcome.code) == (["a0"], Code.UNAVAILABLE)
    assert world.shares() == {"b": 100.0}
    assert world.call(at=60.0, a0=OK)[0] == ["a0"], "one call finds out"
    assert world.shares(at=60.0) == {"a": 100.0}


def test_the_ejected_of_a_zone_that_gets_no_calls_are_found_out_when_they_are_back() -> None:
    """All calls go elsewhere, and yet one is sent as a probe when its time is over; it succeeds, and all return."""
    world = World(OPEN_END, a=1, b=1)
    world.fail("a0")
    assert [world.call(at=10.0)[0] for _ in range(20)] == [["b0"]] * 20
    assert world.call(at=30.0, a0=UNAVAILABLE)[0] == ["a0"], "a probe, and it fails"
    assert [world.call(at=31.0)[0] for _ in range(20)] == [["b0"]] * 20
    assert world.call(at=91.0)[0] == ["a0"]
    assert world.shares(at=91.1) == {"a": 100.0}


def test_one_probe_at_a_time() -> None:
    """While one is under way, others go where they are served."""
    world = World(OPEN_END, a=1, b=1)
    world.fail("a0")
    script = ENTRY(rpc(world.snapshot, now=START + 30.0))
    first = next(script)
    assert isinstance(first, Send)
    assert first.node.address == "a0:1"
    assert [world.call(at=30.5)[0] for _ in range(20)] == [["b0"]] * 20
    script.close()
    assert world.call(at=31.0)[0] == ["a0"], "it ended, and nobody knows more than before"


def test_distribute_sends_shares_and_nothing_elsewhere() -> None:
    """80/20, whatever the number of endpoints; a zone that isn't named has no members at all."""
    world = World(
        "locality: {distribute: [{from: us-east-1/*, to: {us-east-1/us-east-1a: 80, us-west-2/*: 20}}]}", a=2, b=9, c=9
    )
    assert world.shares() == {"a": pytest.approx(80, abs=2), "c": pytest.approx(20, abs=2)}
    assert {node.address[0] for node in world.cluster.nodes} == {"a", "c"}
    why = {endpoint.address: reason for endpoint, reason in world.cluster.left_out()}
    assert why["b0:1"] == "locality.distribute sends nothing to us-east-1/us-east-1b"


def test_a_share_that_loses_endpoints_keeps_what_it_can_hold() -> None:
    """One of four ejected: 1.4 x 75 % is more than all of it, and none of its calls go elsewhere."""
    world = World("locality: {distribute: [{from: '*', to: {us-east-1/us-east-1a: 50, us-west-2/*: 50}}]}", a=4, c=4)
    world.fail("a0")
    assert world.shares()["a"] == pytest.approx(50, abs=2)
    world.fail("a1")
    # 50 x min(100, 140 x 2/4 = 70) against 50 x 100
    assert world.shares()["a"] == pytest.approx(100 * 70 / 170, abs=2)


def test_where_distribute_names_no_place_that_there_is_nobody_is_called() -> None:
    """As in Istio: endpoints elsewhere are removed."""
    world = World("locality: {distribute: [{from: '*', to: {eu-west-1/*: 100}}]}")
    assert world.call()[1].refused == "no_endpoints"


def test_failover_names_the_next_region() -> None:
    """eu-west-1 is asked before us-west-2, for the document says so."""
    world = World(
        "locality: {failover: [{from: us-east-1, to: eu-west-1}]}, outlierDetection: {maxEjectionPercent: 100}",
        a=1,
        c=2,
    )
    e = Endpoint("e0:1", locality=Locality("eu-west-1"))
    world.known.lives("web", *world.endpoints, e)
    world.snapshot = world.known.snapshot()
    world.fail("a0")
    assert world.shares() == {"e": 100.0}


def test_labels_make_a_ladder_without_any_place() -> None:
    """failoverPriority compares this process's labels with the endpoints'."""
    known = Known(labels={"cell": "7"})
    known.lives("web", Endpoint("a0:1", labels={"cell": "7"}), Endpoint("b0:1", labels={"cell": "8"}))
    known.services["web"] = document("trafficPolicy: {locality: {failoverPriority: [cell]}}")
    picker = known.snapshot().clusters[WEB].picker
    assert {picker.pick(Asks(random.Random(1).random)).address for _ in range(50)} == {"a0:1"}  # type: ignore[union-attr]


# --- panic


def test_ten_endpoints_of_which_six_are_ejected_are_all_called() -> None:
    """panic (scenario): traffic is not pushed onto four; the status says so; threshold 0 disables it."""
    wide = "outlierDetection: {maxEjectionPercent: 100}, loadBalancer: {policy: round_robin}"
    world = World(wide, a=10)
    world.fail(*(f"a{index}" for index in range(6)))
    assert {world.call(seed=n)[0][0] for n in range(40)} == {f"a{index}" for index in range(10)}
    assert world.cluster.state.status(START)["panic"] is True
    world.write(wide + ", locality: {panicThreshold: 0}")
    assert {world.call(seed=n)[0][0] for n in range(40)} == {f"a{index}" for index in range(6, 10)}
    assert world.cluster.state.status(START)["panic"] is False


def test_without_panic_nobody_ejected_is_called() -> None:
    """All are out and the threshold is 0: UNAVAILABLE, in our own words; with the default all are called."""
    world = World("outlierDetection: {maxEjectionPercent: 100}, locality: {panicThreshold: 0}", a=2)
    world.fail("a0", "a1")
    effects, outcome = world.call()
    assert (effects, outcome.code, outcome.refused) == ([], Code.UNAVAILABLE, "no_endpoints")
    assert "all 2 endpoints of web are ejected" in outcome.details
    world.write("outlierDetection: {maxEjectionPercent: 100}")
    assert len(world.call()[0]) == 1


def test_a_call_that_waits_for_ready_waits_for_the_end_of_an_ejection() -> None:
    """No newer snapshot tells of that: it looks again by itself."""
    world = World("outlierDetection: {maxEjectionPercent: 100}, locality: {panicThreshold: 0}", a=1)
    world.fail("a0")
    effects, outcome = play(ENTRY, rpc(world.snapshot, now=START + 27.5, wait_for_ready=True, timeout=10.0))
    assert outcome.ok
    assert effects == ["wait", "wait", "wait", "send a0"]


def test_the_ladder_panics_by_priority() -> None:
    """Both zones lost most of theirs: all ten are called, by how many there are."""
    world = World(OPEN_END, a=5, b=5)
    world.fail(*(f"{zone}{index}" for zone in "ab" for index in range(4)))
    assert world.shares() == {"a": pytest.approx(50, abs=2.5), "b": pytest.approx(50, abs=2.5)}
    assert {world.call(seed=n)[0][0] for n in range(150)} == {f"{zone}{index}" for zone in "ab" for index in range(5)}
    assert world.cluster.state.status(START)["panic"] is True


def test_no_panic_in_the_ladder_either() -> None:
    """Threshold 0 with priorities: what is well gets all, and where nothing is, calls are refused."""
    world = World("outlierDetection: {maxEjectionPercent: 100}, locality: {panicThreshold: 0}", a=2, b=2)
    world.fail("a0", "a1", "b0")
    assert {world.call(seed=n)[0][0] for n in range(30)} == {"b1"}
    world.fail("b1")
    assert world.call()[1].refused == "no_endpoints"


def test_a_spill_is_told_once_and_so_is_its_end() -> None:
    """Not with every endpoint that is ejected; the words are of the moment it began."""
    world = World(OPEN_END, a=5, b=5)
    world.fail("a0")
    assert [told for told in world.known.told if told[0] == "spill"] == []
    world.fail("a1", "a2")
    spills = [told for told in world.known.told if told[0] == "spill"]
    assert spills == [("spill", "", "us-east-1/us-east-1a 84 %, us-east-1/us-east-1b 16 %")]
    for name in ("a0", "a1", "a2"):
        state, node = world.cluster.state, world.node(name)
        ticket = state.probe(node, START + 40)
        state.probed(node, ticket or 0, 0, START + 40)
    assert [told for told in world.known.told if told[0] == "spill"][1:] == [("spill", "", "")]


def test_a_spill_by_failed_checks_is_told_too() -> None:
    """No call has failed; it is the new snapshot that brings it."""
    world = World(a=5, b=5)
    sick = [Endpoint(e.address, locality=e.locality, status="critical") for e in world.endpoints[:3]]
    world.known.lives("web", *sick, *world.endpoints[3:])
    world.snapshot = world.known.snapshot()
    assert world.known.told == [("spill", "", "us-east-1/us-east-1a 56 %, us-east-1/us-east-1b 44 %")]


def test_where_those_in_rotation_fail_too_the_ejected_are_called_again() -> None:
    """The panic of the quota holds on the ladder as well: no zone stands idle while the other can't keep up."""
    world = World("outlierDetection: {maxEjectionPercent: 50}, locality: {}", a=4, b=4)
    world.fail("a0", "a1", "a2", "a3")
    assert world.shares() == {"b": 100.0}
    world.fail("b0", "b1", "b2")
    assert world.cluster.state.status(START)["panic"] is True
    assert world.shares() == {"a": 100.0}
    assert {world.call(seed=n)[0][0] for n in range(40)} == {"a0", "a1", "a2", "a3"}


# --- retries


REMOTE = "retry: {attempts: 2, remoteLocalities: true, backoff: {base: 1ms, max: 1ms}}"


def test_a_retry_may_prefer_another_locality() -> None:
    """Not tried yet before nearer: a, then b, then c. Without the word it stays in the zone."""

    def tried(world: World) -> list[str]:
        answers: Any = {node.address[:2]: UNAVAILABLE for node in world.cluster.nodes}
        return [effect[0] for effect in world.call(**answers)[0] if not effect.startswith("sleep")]

    assert tried(World("locality: {}", REMOTE)) == ["a", "b", "c"]
    assert tried(World("locality: {}", REMOTE.replace("true", "false"))) == ["a", "a", "a"]
    assert tried(World("locality: {}", REMOTE, a=3, b=1)) == ["a", "b", "a"], "where all were tried, as ever"


# --- swaps


def test_health_survives_a_swap_and_old_snapshots_hear_of_it_too() -> None:
    """A call that holds an earlier snapshot goes by today's health."""
    world = World(OPEN_END, a=2, b=2)
    old = world.cluster.picker
    world.fail("a0")
    world.known.lives("web", *world.endpoints, Endpoint("c9:1", locality=Locality("us-west-2")))
    world.snapshot = world.known.snapshot()
    assert world.cluster.picker is not old
    assert world.shares()["a"] == pytest.approx(70, abs=2.5)
    world.fail("a1")
    rng = random.Random(1).random
    assert world.shares() == {"b": 100.0}
    assert {old.pick(Asks(rng)).address[0] for _ in range(50)} == {"b"}  # type: ignore[union-attr]


def test_every_balancer_works_on_a_rung() -> None:
    """The ladder composes with whatever is configured below it."""
    for policy in ("round_robin", "random", "least_request"):
        world = World(f"locality: {{}}, loadBalancer: {{policy: {policy}}}", a=3, b=3)
        assert {world.call(seed=n)[0][0] for n in range(60)} == {"a0", "a1", "a2"}
