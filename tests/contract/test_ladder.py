"""Every balancer below the ladder, through churn: whoever is in the registry is held to it."""

from __future__ import annotations

import random

import pytest

from proxyless.model.codes import Code
from proxyless.model.topology import Endpoint, Locality
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.locality import Ladder
from proxyless.state import Node
from tests.fakes import START, Asks
from tests.worlds import WEB, Known, document

PLACES = [Locality("eu", "a"), Locality("eu", "b"), Locality("us", "a")]


class Churn:
    """Endpoints that come, go, fail, are probed, can't be connected and can again; a new snapshot now and then."""

    def __init__(self, policy: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.known = Known(locality=PLACES[0], seed=seed)
        self.known.services["web"] = document(
            f"trafficPolicy: {{loadBalancer: {{policy: {policy}, tableSize: 251, minimumRingSize: 64}}, "
            "locality: {panicThreshold: 30}, outlierDetection: {maxEjectionPercent: 100, baseEjectionTime: 5s}}"
        )
        self.now = START
        self.members = {self._endpoint(number) for number in range(12)}
        self.publish()

    def _endpoint(self, number: int) -> Endpoint:
        return Endpoint(f"n{number}:1", self.dice.randrange(1, 4), locality=PLACES[number % 3])

    def publish(self) -> None:
        self.known.now = self.now
        self.known.lives("web", *sorted(self.members, key=lambda endpoint: endpoint.address))
        snapshot = self.known.snapshot()
        self.cluster = snapshot.clusters[WEB]
        self.known.nodes.adopt(snapshot)

    def step(self) -> None:
        """One thing happens."""
        self.now += self.dice.random()
        nodes = self.known.nodes.all()
        node = self.dice.choice(nodes)
        match self.dice.randrange(6):
            case 0:
                self.members.add(self._endpoint(self.dice.randrange(12, 30)))
                self.publish()
            case 1 if len(self.members) > 4:
                self.members.discard(self.dice.choice(sorted(self.members, key=lambda e: e.address)))
                self.publish()
            case 2:
                node.unreachable(self.now, 0.5)
            case 3:
                node.reached(self.now)
            case _:
                self._fail_or_probe(node)

    def _fail_or_probe(self, node: Node) -> None:
        state = self.cluster.state
        if not node.outlier.out:
            for _ in range(5):
                state.begin(node)
                state.ended(node, Code.UNAVAILABLE, False, self.now)
        elif ticket := state.probe(node, self.now):
            state.probed(node, ticket, self.dice.choice([0, 14, None]), self.now)


@pytest.mark.parametrize("policy", BALANCERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_ladder_through_churn(policy: str, seed: int) -> None:
    """Its counts are the truth after every change, its shares are all of the calls, and no pick goes to who is ill
    where somebody is well, but for the one that finds out."""
    churn = Churn(policy, seed)
    rng = random.Random(seed).random
    for _ in range(200):
        churn.step()
        ladder = churn.cluster.picker
        if not isinstance(ladder, Ladder):
            continue  # all are in one place, for now
        view = ladder.view()
        for rung, seen in zip(ladder.rungs, view, strict=True):
            assert seen["healthy"] == sum(not node.sick for node in rung.nodes)  # type: ignore[attr-defined]
        assert sum(ladder.percent) == pytest.approx(100)
        served = {rung.name: (share, seen["panic"]) for rung, share, seen in zip(ladder.rungs, ladder.percent, view)}  # noqa: B905
        for _ in range(10):
            node = ladder.pick(Asks(rng, churn.now))
            assert node is not None
            assert node.address in {endpoint.address for endpoint in churn.members}
            share, panic = served[str(node.endpoint.locality)]
            due = node.outlier.out or node.reachable_at  # offered, to find out whether it is back
            assert share or due
            if due and not panic:
                assert max(node.outlier.ejected_until * node.outlier.out, node.reachable_at) <= churn.now


@pytest.mark.parametrize("policy", BALANCERS)
def test_a_key_keeps_its_place_while_its_place_holds(policy: str) -> None:
    """For balancers that go by a key: the same node every time, in our zone; others stay in the zone too."""
    churn = Churn(policy, 4)
    rng = random.Random(4).random
    for key in (1, 2**40, 2**63 + 7):
        picked = {churn.cluster.picker.pick(Asks(rng, churn.now, key)) for _ in range(20)}
        assert {node.endpoint.locality for node in picked if node is not None} == {PLACES[0]}
        if policy in ("ring_hash", "maglev"):
            assert len(picked) == 1
