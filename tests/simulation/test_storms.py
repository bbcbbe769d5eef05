"""Total failure: how many attempts it may cost, and how soon it is over when it is over."""

from __future__ import annotations

import pytest

from proxyless.model.snapshot import Snapshot
from proxyless.script import OK, Outcome, Rpc
from tests.fakes import START
from tests.simulation.servers import FAILS, Answered, Fleet, Internet
from tests.worlds import Known, document

RESERVE = 10 * 10
"""`minRetriesPerSecond: 10` over ten seconds."""
WITHOUT_BUDGET = "trafficPolicy: {retryBudget: {ratio: 1000, minRetriesPerSecond: 100000}}"


@pytest.mark.parametrize("size", [1, 2, 3, 10, 20])
def test_with_every_server_failing_attempts_stay_within_the_budget(size: int) -> None:
    """200 calls a second for 10 s, in the middle of good times: attempts <= 1.2 x calls + the reserve."""
    fleet = Fleet(seed=11, size=size)
    fleet.calls(200, 0, 70)
    fleet.during(10, 20, FAILS)
    fleet.net.run()
    calls = len(fleet.net.begun(10, 20))
    assert calls == 2000
    assert fleet.net.sent(10, 20) <= 1.2 * calls + RESERVE
    assert not any(call.outcome is OK for call in fleet.net.begun(10, 19.9))
    # A window further on, nothing of the good times is left to spend: 10 a second are.
    assert fleet.at_rest()
    for since in range(20, 50):
        calls_then = fleet.net.begun(since, since + 1)
        assert sum(call.outcome is OK for call in calls_then) > 0.99 * len(calls_then), since


def test_the_longer_an_outage_lasts_the_less_it_is_fed() -> None:
    """A minute of it: after the first window the reserve alone pays, 1.05 attempts a call at 200 a second
    (scenario amp-total-outage-budget20: <= 1.25, and never more than 3 in any second)."""
    fleet = Fleet(seed=12, size=20)
    fleet.calls(200, 0, 70)
    fleet.during(10, 70, FAILS)
    fleet.net.run()
    assert max(fleet.net.sent(second, second + 1) for second in range(70)) <= 3 * 200
    for since in (20, 30, 40, 50):
        assert fleet.net.sent(since, since + 10) <= 1.25 * 2000
        assert fleet.net.sent(since, since + 10) <= 2000 + RESERVE + 10


def test_without_a_reserve_a_share_is_a_share() -> None:
    """Ratio 0.1 and no reserve: <= 1.11 attempts a call (scenario amp-total-outage-budget10)."""
    fleet = Fleet(12, 20, "trafficPolicy: {retryBudget: {ratio: 0.1, minRetriesPerSecond: 0}}")
    fleet.calls(200, 0, 70)
    fleet.during(10, 70, FAILS)
    fleet.net.run()
    assert fleet.net.sent(10, 70) <= 1.11 * 12_000
    assert fleet.net.sent(20.5, 70) == len(fleet.net.begun(20.5, 70)) == 200 * 49.5


class Chain:
    """A calls B calls C: a mesh of its own in each process, three retries for each of A's and B's calls."""

    def __init__(self, policy: str) -> None:
        self.net = Internet(seed=13)
        route = "routes: [{retry: {attempts: 3, previousHosts: allow}}]\n"
        self.snapshots: dict[str, Snapshot] = {}
        self.worlds = []
        for caller, callee in (("a", "b"), ("b", "c")):
            world = Known(seed=13).lives(callee, f"{callee}:1")
            world.services[callee] = document(route + policy)
            self.snapshots[caller] = world.snapshot(callee)
            self.worlds.append(world)
        self.net.servers.update({"b:1": self.b, "c:1": self.c})
        self.c_answers = OK

    def b(self, rpc: Rpc, answered: Answered) -> None:
        self.net.nested(self.snapshots["b"], "c", rpc.deadline, answered)

    def c(self, _rpc: Rpc, answered: Answered) -> None:
        outcome: Outcome = self.c_answers
        self.net.at(self.net.clock.now + 0.001, lambda: answered(outcome))

    def run(self, good: float, dead: float) -> tuple[int, int, int]:
        """Calls of A, attempts at B and at C, while C is dead."""

        def dies() -> None:
            self.c_answers = FAILS

        self.net.steadily(200, 0, good + dead, lambda: self.net.begin(self.snapshots["a"], "b"))
        self.net.at(START + good, dies)
        self.net.run()
        assert all(node.inflight == 0 for world in self.worlds for node in world.nodes.all())
        end = good + dead + 10
        return round(200 * dead), self.net.sent(good, end, "b:1"), self.net.sent(good, end, "c:1")


def test_retries_of_a_chain_do_not_multiply() -> None:
    """A -> B -> C, three retries each, a dead C: 1.44 attempts a call + reserves; without a budget 16."""
    calls, at_b, at_c = Chain("").run(good=10, dead=10)
    # Each layer pays its own reserve, and B's attempts are what C's budget is a share of.
    assert at_b <= 1.2 * calls + RESERVE
    assert at_c <= 1.44 * calls + 1.2 * RESERVE + RESERVE
    naive = Chain(WITHOUT_BUDGET).run(good=1, dead=2)
    assert naive == (400, 4 * 400, 16 * 400)


@pytest.mark.parametrize("size", [2, 10])
def test_ejections_of_an_outage_end_with_it(size: int) -> None:
    """Half may be out when it ends: nobody notices, and after one ejection time and a probe nobody is."""
    fleet = Fleet(seed=14, size=size)
    fleet.calls(200, 0, 60)
    fleet.during(5, 15, FAILS)
    fleet.net.run(until=START + 14)
    assert sum(node.outlier.out for node in fleet.world.nodes.all()) == size // 2
    fleet.net.run()
    assert sum(node.outlier.out for node in fleet.world.nodes.all()) == 0
    assert len(fleet.told("readmitted")) == size // 2
