"""Any policies, any answers, callers who walk away and endpoints that come and go: nothing is left held afterwards.

A place that is taken and never given back is the kind of mistake that no single story shows: a destination then
refuses calls for ever, days later. Here the dice write the document and the day, and the books must be even at night.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest

from proxyless.model.codes import Code
from proxyless.model.topology import Endpoint, Locality
from proxyless.script import OK, OPEN, Outcome, Rpc
from proxyless.stack import ENTRY
from tests.fakes import START, UNREACHABLE, Call, Reply, Simulation, Stream
from tests.worlds import Known, document, rpc

HASHED = ("ring_hash", "maglev")
BALANCERS = ("round_robin", "random", "least_request", "peak_ewma", "weighted_round_robin", *HASHED)


class Day:
    """One day by its seed."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.endpoints = [
            Endpoint(f"{name}:1", dice.choice((0, 1, 1, 1, 5, 65535)), locality=Locality("r", dice.choice(("y", "z"))))
            for name in "abcdefg"[: dice.choice((0, 1, 2, 3, 7))]
        ]
        self.world = Known(locality=Locality("r", "y"), seed=seed).lives("web", *self.endpoints)
        self.world.services["web"] = document(self.document())
        self.simulation = Simulation(self.world.snapshot(), seed=seed)
        self.simulation.behaviours.update({one.address.removesuffix(":1"): self.answer for one in self.endpoints})

    def maybe(self, chance: float, text: str) -> list[str]:
        return [text] if self.dice.random() < chance else []

    def document(self) -> str:
        """Every filter and every policy there is, some of the time."""
        one = self.dice.choice
        balancer = one(BALANCERS)
        bound = ", hashBalanceFactor: 120" if balancer in HASHED else one(("", ", slowStart: {window: 5s}"))
        policies = [
            f"loadBalancer: {{policy: {balancer}{bound}}}",
            *self.maybe(0.6, f"locality: {{panicThreshold: {one((0, 50, 100))}}}"),
            *self.maybe(
                0.7,
                f"outlierDetection: {{consecutive5xx: {one((1, 2, 5))}, baseEjectionTime: {one(('0s', '1s'))}, "
                f"maxEjectionPercent: {one((0, 10, 50, 100))}, interval: 500ms, probation: {{requests: {one((1, 3))}}},"
                f" splitExternalLocalOriginErrors: {one(('true', 'false'))}, "
                "successRate: {minimumHosts: 2, requestVolume: 3}, "
                "failurePercentage: {threshold: 50, minimumHosts: 1, requestVolume: 2}}",
            ),
            *self.maybe(
                0.5,
                f"circuitBreaker: {{failureRate: {one((0, 50, 100))}, minimumRequests: {one((1, 5))}, window: 1s, "
                f"openFor: 300ms, halfOpenRequests: {one((1, 3))}}}",
            ),
            *self.maybe(
                0.5,
                f"limits: {{maxRequests: {one((1, 3, 50))}, maxPendingRequests: {one((0, 2))}, "
                f"maxRetries: {one((0, 1, 5))}}}",
            ),
            *self.maybe(
                0.5, f"retryBudget: {{ratio: {one((0, 0.2, 10))}, minRetriesPerSecond: {one((0, 1, 100))}, ttl: 1s}}"
            ),
        ]
        retry = (
            f"retry: {{attempts: {one((0, 1, 3, 10))}, on: [5xx, reset, connect-failure], "
            f"perTryTimeout: {one(('0s', '50ms', '2s'))}, backoff: {{base: {one(('0s', '10ms'))}}}, "
            f"remoteLocalities: {one(('true', 'false'))}, previousHosts: {one(('avoid', 'allow'))}}}"
        )
        hedge = (
            f"hedge: {{delay: {one(('0s', '20ms'))}, attempts: {one((1, 3, 5))}, nonFatal: [unavailable, internal]}}"
        )
        route = [
            "hash: [{header: x-user}]",
            *one(([retry], [retry], [hedge], [])),
            *self.maybe(0.3, "mirror: [{percent: 50, subset: all}]"),
            *self.maybe(0.3, "fault: {delay: {percent: 30, fixed: 30ms}, abort: {percent: 10, status: ABORTED}}"),
            *self.maybe(0.5, "timeout: 300ms"),
        ]
        return (
            f"subsets: {{all: {{labels: {{}}}}}}\nroutes: [{{{', '.join(route)}}}]\n"
            f"trafficPolicy: {{{', '.join(policies)}}}"
        )

    def answer(self, _attempt: Rpc) -> Reply:
        """What a server does with an attempt."""
        one, after = self.dice.choice, self.dice.choice((0.0, 0.001, 0.02, 0.2, 5.0))
        pushback = one(((), (), (("grpc-retry-pushback-ms", "50"),), (("grpc-retry-pushback-ms", "-1"),)))
        failed = Outcome(one((1, 2, 4, 5, 8, 13, 14, 14)), "x", trailers=pushback)
        broken = Outcome(Code.UNAVAILABLE, "broke", committed=True)
        return one(
            (
                Reply(OK),
                Reply(OK, after),
                Reply(failed, after),
                Reply(UNREACHABLE, after),
                Reply(Outcome(Code.UNAVAILABLE, "GOAWAY", unseen=True), after),
                Reply(OPEN, after, end=one((OK, broken)), lasts=one((0.0, 1.0))),
            )
        )

    def live(self) -> list[Call]:
        """Sixty calls, of which some are given up; three times other endpoints."""
        one, simulation, now, calls = self.dice.choice, self.simulation, START, []
        for _ in range(60):
            now += one((0.0, 0.0, 0.001, 0.05, 0.3))
            made = rpc(
                simulation.snapshot,
                timeout=one((None, 0.0, 0.05, 1.0)),
                wait_for_ready=one((None, None, True)),
                metadata=(("x-user", str(self.dice.randrange(9))),),
                replay=one((None, None, Stream(whole=True), Stream(whole=False))),
                now=now,
                rng=simulation.rng,
            )
            calls.append(simulation.call(ENTRY, made))
            if self.dice.random() < 0.2:
                simulation.at(now + one((0.0, 0.01, 0.1, 1.0)), partial(simulation.abandon, calls[-1]))
        for _ in range(3):
            simulation.at(START + self.dice.random() * 4, self.edit)
        simulation.run(until=now + 60)
        for call in (*calls, *simulation.shadows):
            simulation.abandon(call)  # whoever waits for ever for somebody to be there
        return calls

    def edit(self) -> None:
        """Some endpoints go, some come back."""
        self.world.now = self.simulation.clock.now
        self.world.lives("web", *(one for one in self.endpoints if self.dice.random() < 0.7))
        self.simulation.publish(self.world.snapshot())


@pytest.mark.parametrize("seed", range(120))
def test_whatever_happened_nothing_is_held_afterwards(seed: int) -> None:
    """No call under way, none waiting, no retry, no probe, no half-open place; the sick are who is known for it."""
    day = Day(seed)
    assert all(call.outcome is not None for call in day.live())
    for node in day.world.nodes.all():
        assert (node.inflight, node.outlier.ticket) == (0, 0)
    for cluster in day.simulation.snapshot.clusters.values():
        state: Any = cluster.state
        status = state.status(day.simulation.clock.now)
        assert (status["requests"], status["pending"]) == (0, 0)
        assert state._limits.retries.used == 0
        assert state._breaker is None or state._breaker._under_way == 0
        assert status["ejected"] == sum(node.outlier.out for node in cluster.nodes)
        assert state.sick() == {node.address for node in cluster.nodes if node.outlier.out or node.reachable_at}
        shares = getattr(cluster.picker, "percent", (100.0,))
        assert sum(shares) in (0, pytest.approx(100))
