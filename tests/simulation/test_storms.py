"""Total failure: how many attempts it may cost, and how soon it is over when it is over."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from proxyless.model.snapshot import Snapshot
from proxyless.script import OK, Outcome, Rpc
from tests.fakes import START
from tests.simulation.servers import FAILS, Answered, Fleet, Internet, Server
from tests.worlds import Known, document

RESERVE = 10 * 10
"""`minRetriesPerSecond: 10` over ten seconds."""
Shows = Callable[..., None]
STORM = "Every server fails for 10 s at 200 calls a second; what does it cost?"
CHAIN = "Services that call each other, three retries each, and the last one is dead: attempts a call of the first"
WITHOUT_BUDGET = "trafficPolicy: {retryBudget: {ratio: 1000, minRetriesPerSecond: 100000}}"


@pytest.mark.parametrize("size", [1, 2, 3, 10, 20])
def test_with_every_server_failing_attempts_stay_within_the_budget(size: int, shows: Shows) -> None:
    """200 calls a second for 10 s, in the middle of good times: attempts <= 1.2 x calls + the reserve."""
    fleet = Fleet(seed=11, size=size)
    fleet.calls(200, 0, 70)
    fleet.during(10, 20, FAILS)
    fleet.net.run()
    calls = len(fleet.net.begun(10, 20))
    assert calls == 2000
    attempts = fleet.net.sent(10, 20)
    shows(STORM, policy="defaults", servers=size, calls=calls, attempts=attempts, limit=round(1.2 * calls + RESERVE))
    assert attempts <= 1.2 * calls + RESERVE
    assert not any(call.outcome is OK for call in fleet.net.begun(10, 19.9))
    # A window further on, nothing of the good times is left to spend: 10 a second are.
    assert fleet.at_rest()
    for since in range(20, 50):
        calls_then = fleet.net.begun(since, since + 1)
        assert sum(call.outcome is OK for call in calls_then) > 0.99 * len(calls_then), since


def test_without_a_budget_every_call_is_made_as_often_as_it_may(shows: Shows) -> None:
    """What the budget is there for: two retries by default, three attempts a call."""
    fleet = Fleet(11, 10, WITHOUT_BUDGET)
    fleet.calls(200, 0, 20)
    fleet.during(10, 30, FAILS)
    fleet.net.run()
    attempts = fleet.net.sent(10, 30)
    shows(STORM, policy="no budget", servers=10, calls=2000, attempts=attempts, limit="")
    assert attempts == 3 * 2000


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
    """A calls B calls C …: a mesh of its own in each process, so many retries for each call of each."""

    def __init__(self, services: str, retries: int, policy: str = "") -> None:
        self.net = Internet(seed=13)
        self.services = services
        self.snapshots: dict[str, Snapshot] = {}
        self.worlds = []
        for callee in services[1:]:
            world = Known(seed=13).lives(callee, f"{callee}:1")
            world.services[callee] = document(
                f"routes: [{{retry: {{attempts: {retries}, previousHosts: allow}}}}]\n{policy}"
            )
            self.snapshots[callee] = world.snapshot(callee)
            self.worlds.append(world)
        for own, callee in pairwise(services[1:]):
            self.net.servers[f"{own}:1"] = self.calling(callee)
        self.net.servers[f"{services[-1]}:1"] = self.last
        self.last_answers = OK

    def calling(self, callee: str) -> Server:
        """A server that calls the next one, within the deadline it was given, and passes on what it hears."""
        return lambda rpc, answered: self.net.nested(self.snapshots[callee], callee, rpc.deadline, answered)

    def last(self, _rpc: Rpc, answered: Answered) -> None:
        outcome: Outcome = self.last_answers
        self.net.at(self.net.clock.now + 0.001, lambda: answered(outcome))

    def run(self, good: float, dead: float) -> list[int]:
        """Calls of the first, and attempts at each of the others, while the last is dead."""

        def dies() -> None:
            self.last_answers = FAILS

        first = self.services[1]
        self.net.steadily(200, 0, good + dead, lambda: self.net.begin(self.snapshots[first], first))
        self.net.at(START + good, dies)
        self.net.run()
        assert all(node.inflight == 0 for world in self.worlds for node in world.nodes.all())
        end = good + dead + 10
        return [round(200 * dead), *(self.net.sent(good, end, f"{name}:1") for name in self.services[1:])]


def told(shows: Shows, budget: str, found: list[int]) -> None:
    calls, *attempts = found
    factors = {f"at_{name}": f"{sent / calls:.2f}" for name, sent in zip("BCD", attempts, strict=False)}
    shows(CHAIN, budget=budget, services="ABCD"[: len(found)], calls=calls, **factors)


def test_retries_of_a_chain_do_not_multiply(shows: Shows) -> None:
    """A -> B -> C, three retries each, a dead C: 1.44 attempts a call + reserves; without a budget 16."""
    found = Chain("abc", 3).run(good=10, dead=10)
    told(shows, "default", found)
    calls, at_b, at_c = found
    # Each layer pays its own reserve, and B's attempts are what C's budget is a share of.
    assert at_b <= 1.2 * calls + RESERVE
    assert at_c <= 1.44 * calls + 1.2 * RESERVE + RESERVE
    naive = Chain("abc", 3, WITHOUT_BUDGET).run(good=1, dead=2)
    told(shows, "none", naive)
    assert naive == [400, 4 * 400, 16 * 400]


def test_nor_do_those_of_three_layers(shows: Shows) -> None:
    """Scenario amp-three-layers: three attempts each, a dead D: <= 1.2 ** 3 = 1.73, and never 27."""
    policy = "trafficPolicy: {retryBudget: {minRetriesPerSecond: 0}}"
    found = Chain("abcd", 2, policy).run(good=10, dead=10)
    told(shows, "no reserve", found)
    calls, *attempts = found
    assert all(sent <= 1.2**layer * calls for layer, sent in enumerate(attempts, start=1))
    naive = Chain("abcd", 2, WITHOUT_BUDGET).run(good=1, dead=2)
    told(shows, "none", naive)
    assert naive == [400, 3 * 400, 9 * 400, 27 * 400]


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
