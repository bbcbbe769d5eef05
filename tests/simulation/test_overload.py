"""More to do than the servers can: how much of it gets done, with limits and without, and how it ends.

Queues as in `test_metastability.py`: five of 20 calls a second, first come first served, and what they begin they
end, wanted or not, unless they drop what has expired. Callers wait for a second.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import quantiles

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, Outcome
from tests.fakes import START
from tests.simulation.servers import Fleet, Internet, Queue, seconds_of
from tests.worlds import Known, document

Shows = Callable[..., None]
SIZE, RATE = 5, 20.0
CAPACITY = SIZE * RATE

LIMITS = "trafficPolicy: {limits: {maxRequests: 50}}"
"""Half a second's work for the pool, so that whoever is let in is done in time: half of what a caller waits."""
BREAKER = "trafficPolicy: {circuitBreaker: {failureRate: 50, minimumRequests: 20, window: 2s, openFor: 1s}}"


class Pool:
    """The queues, a caller's mesh, and what came of a story."""

    def __init__(self, policy: str, drops: bool) -> None:
        self.net, self.world = Internet(seed=41), Known(seed=41)
        self.world.services["web"] = document(f"routes: [{{timeout: 1s}}]\n{policy}")
        addresses = [f"n{number}:1" for number in range(SIZE)]
        self.net.snapshot = self.world.lives("web", *addresses).snapshot()
        self.queues = [Queue(self.net, RATE, drops) for _ in addresses]
        self.net.servers.update(zip(addresses, self.queues, strict=True))

    def calls(self, load: float, start: float, seconds: float) -> None:
        """Steady traffic, as a share of what the pool can do."""
        self.net.steadily(CAPACITY * load, start, seconds, lambda: self.net.begin(self.net.snapshot))

    def capacity(self, part: float, since: float, until: float) -> None:
        """A brownout: so much of it is left for a while."""

        def become(share: float) -> None:
            for queue in self.queues:
                queue.rate = RATE * share

        self.net.at(START + since, lambda: become(part))
        self.net.at(START + until, lambda: become(1.0))

    def goodput(self, since: float, until: float) -> float:
        """Calls that succeed in a second, of those begun then; as a share of the pool's whole capacity."""
        good = sum(call.outcome is OK for call in self.net.begun(since, until))
        return good / (until - since) / CAPACITY

    def attempts(self) -> float:
        return len(self.net.attempts) / len(self.net.calls)

    def latency(self, since: float, until: float) -> float:
        """Seconds that 99 % of the calls that succeeded took at most."""
        took = [call.ended_at - call.began_at for call in self.net.begun(since, until) if call.outcome is OK]
        return quantiles(took, n=100)[98] if len(took) > 1 else 0.0


@pytest.mark.parametrize("drops", [False, True], ids=["servers begin all", "servers drop expired"])
def test_twice_as_much_as_they_can(drops: bool, shows: Shows) -> None:
    """For half a minute. With a limit >= 90 % of the capacity is of use all the time, and what is let in is done in
    time; what is not is refused at once, at no server's cost. Without one, servers that begin all do nothing that
    anybody still waits for."""
    found = {}
    for policy, text in (("defaults", ""), ("limits", LIMITS)):
        pool = Pool(text, drops)
        pool.calls(2.0, 0, 30)
        pool.net.run()
        found[policy] = pool.goodput(5, 30)
        refused = [call for call in pool.net.calls if call.outcome is not None and call.outcome.refused == "limit"]
        shows(
            "Twice as many calls as the servers can do",
            policy=policy,
            servers="drop expired" if drops else "begin all",
            goodput=f"{found[policy]:.1%} of capacity",
            p99=f"{pool.latency(5, 30):.2f} s",
            refused=f"{len(refused) / len(pool.net.calls):.0%}",
            attempts=f"{pool.attempts():.2f} a call",
        )
        if policy == "limits":
            assert pool.latency(5, 30) <= 0.75
            assert all(call.ended_at == call.began_at for call in refused)
            assert min(pool.goodput(second, second + 1) for second in range(5, 30)) >= 0.85
    assert found["limits"] >= 0.9
    assert found["limits"] > found["defaults"]
    if not drops:
        assert found["defaults"] < 0.1


@pytest.mark.parametrize("policy", ["defaults", "limits", "breaker"])
@pytest.mark.parametrize("drops", [False, True], ids=["servers begin all", "servers drop expired"])
def test_a_brownout(policy: str, drops: bool, shows: Shows) -> None:
    """Half of the capacity is gone for 20 s at 70 % load. Limits keep the half that is left of use; a breaker gives
    the queues the pause that they need to get rid of what nobody waits for. When it is over it is over: within one
    ejection time (30 s) at the latest, and at once with either."""
    pool = Pool({"defaults": "", "limits": LIMITS.replace("50", "25"), "breaker": BREAKER}[policy], drops)
    pool.calls(0.7, 0, 80)
    pool.capacity(0.5, 10, 30)
    pool.net.run()
    rows = list(seconds_of(pool.net.calls, 0, 80))
    good = [succeeded >= 0.99 * begun for begun, succeeded in rows]
    recovered = next(at for at in range(30, 75) if all(good[at : at + 5])) - 30
    during = pool.goodput(12, 30)
    shows(
        "A brownout: half of the capacity is gone for 20 s, at 70 % load",
        policy=policy,
        servers="drop expired" if drops else "begin all",
        goodput_of_what_is_left=f"{during / 0.5:.0%}",
        recovered=f"{recovered} s",
        attempts=f"{pool.attempts():.2f} a call",
    )
    assert all(good[:10])
    assert recovered <= 30
    assert pool.attempts() <= 1.2
    if policy == "limits":
        assert during >= 0.9 * 0.5
        assert recovered <= 1
    if policy == "breaker":
        assert recovered <= 5


@pytest.mark.parametrize(("bad", "size"), [(1, 1), (1, 5), (2, 5), (5, 5), (1, 20), (10, 20), (20, 20)])
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL])
def test_when_the_fault_ends_it_is_over_within_one_ejection_time(bad: int, size: int, code: Code, shows: Shows) -> None:
    """Servers fail for 15 s, long enough to be ejected, and then are well: success is above 99 % within 30 s."""
    fleet = Fleet(seed=42, size=size)
    fleet.calls(100, 0, 60)
    fleet.during(5, 20, Outcome(code, "said so"), *range(bad))
    fleet.net.run()
    rows = list(seconds_of(fleet.net.calls, 0, 60))
    good = [succeeded > 0.99 * begun for begun, succeeded in rows]
    recovered = next(at for at in range(5, 60) if all(good[at:])) - 20
    shows(
        "Servers fail for 15 s; how long after that until more than 99 % succeed, for good?",
        failing=f"{bad} of {size}",
        their_answer=code.name,
        bad_seconds=good.count(False),
        failed_calls=sum(call.outcome is not OK for call in fleet.net.calls),
        well_again=f"{max(0, recovered)} s",
    )
    assert recovered <= 30
    assert fleet.at_rest()
