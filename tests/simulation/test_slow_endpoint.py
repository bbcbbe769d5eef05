"""One server is slow: who notices, by balancer. And how evenly load lies where none is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import pytest

from proxyless.script import OK, Rpc
from tests.fakes import START
from tests.simulation.servers import FAILS, Answered, Fleet, Internet, Queue

Shows = Callable[..., None]
NOBODY_OUT = "outlierDetection: {consecutive5xx: 0, consecutiveLocalOriginFailures: 0}"
"""It would eject a server that is slow enough to time out, and hide what the balancer does by itself."""

TEN_TIMES = "Ten servers, one of them ten times slower (lognormal, medians 10 and 100 ms), 500 calls a second for 30 s"
STALLED = "Ten servers of 10 ms at 1000 calls a second, timeout 1 s; one takes 2 s for 4 s: of the calls begun then"


class Varied:
    """Answers after a lognormal time; its median can be changed."""

    def __init__(self, net: Internet, median: float, sigma: float, seed: int) -> None:
        self.net, self.median, self.sigma = net, median, sigma
        self._dice = random.Random(seed)

    def __call__(self, _rpc: Rpc, answered: Answered) -> None:
        seconds = self.median * self._dice.lognormvariate(0.0, self.sigma)
        self.net.at(self.net.clock.now + seconds, lambda: answered(OK))


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def policy_text(policy: str) -> str:
    return f"trafficPolicy: {{loadBalancer: {{policy: {policy}}}, {NOBODY_OUT}}}"


@cache
def one_ten_times_slower(policy: str) -> tuple[float, float, float]:
    """p50, p99 in seconds, and the share of the slow one."""
    fleet = Fleet(seed=51, size=10, text=policy_text(policy))
    for number, address in enumerate(fleet.addresses):
        fleet.net.servers[address] = Varied(fleet.net, 0.1 if number == 0 else 0.01, 0.5, seed=number)
    fleet.calls(500, 0, 30)
    fleet.net.run()
    assert fleet.at_rest()
    times = [call.ended_at - call.began_at for call in fleet.net.calls]
    return percentile(times, 0.5), percentile(times, 0.99), fleet.net.sent(0, 60, "n0:1") / len(times)


def test_peak_ewma_hides_a_slow_server(shows: Shows) -> None:
    """Its p99 is at most 0.35 of round robin's."""
    for policy in ("round_robin", "least_request", "peak_ewma"):
        p50, p99, share = one_ten_times_slower(policy)
        shows(TEN_TIMES, policy=policy, p50_ms=f"{p50 * 1e3:.0f}", p99_ms=f"{p99 * 1e3:.0f}", to_it=f"{share:.2%}")
    assert one_ten_times_slower("peak_ewma")[1] <= 0.35 * one_ten_times_slower("round_robin")[1]
    assert one_ten_times_slower("peak_ewma")[1] <= one_ten_times_slower("least_request")[1]
    assert one_ten_times_slower("round_robin")[2] == pytest.approx(0.1, abs=0.001), "the control"


@pytest.mark.parametrize(("policy", "times"), [("peak_ewma", 5), ("least_request", 20), ("round_robin", None)])
def test_slow_one_of_n(policy: str, times: int | None, shows: Shows) -> None:
    """The scenario slow-one-of-n: p99 in multiples of what it is without; round robin shows a tenth of all slow."""
    fleet = Fleet(seed=52, size=10, text=policy_text(policy))
    slow = fleet.servers[0]
    fleet.net.at(START + 3, lambda: setattr(slow, "seconds", 2.0))
    fleet.net.at(START + 7, lambda: setattr(slow, "seconds", 0.01))
    fleet.calls(1000, 0, 9, timeout=1.0)
    fleet.net.run()
    then = [call.ended_at - call.began_at for call in fleet.net.begun(3, 7)]
    p99, late = percentile(then, 0.99), sum(seconds > 0.9 for seconds in then)
    shows(STALLED, policy=policy, p99_ms=f"{p99 * 1e3:.0f}", timed_out=f"{late} of {len(then)}")
    if times is None:
        assert late == pytest.approx(400, abs=2)
    else:
        assert p99 <= times * 0.010
    after = [call.ended_at - call.began_at for call in fleet.net.begun(8.5, 9)]
    assert max(after) < 0.011, "whoever has recovered is no burden"


def test_a_server_that_recovers_gets_its_share_back() -> None:
    """Slow for ten seconds, well for a minute: by then as many calls as everybody else."""
    fleet = Fleet(seed=53, size=5, text=policy_text("peak_ewma"))
    fleet.servers[0].seconds = 0.5
    fleet.net.at(START + 10, lambda: setattr(fleet.servers[0], "seconds", 0.01))
    fleet.calls(100, 0, 90)
    fleet.net.run()
    assert fleet.net.sent(1, 10, "n0:1") < 0.02 * 900
    assert fleet.net.sent(75, 90, "n0:1") > 0.1 * 1500


def test_one_that_fails_at_once_draws_no_traffic() -> None:
    """Ejection is off here; an error counts as five slow seconds. Least request sends it a tenth of the calls and
    more, for its calls are over the soonest."""
    sent = {}
    for policy in ("peak_ewma", "least_request"):
        text = f"routes: [{{retry: {{attempts: 0}}}}]\n{policy_text(policy)}"
        fleet = Fleet(seed=54, size=10, text=text)
        fleet.servers[0].seconds = 0.0005
        fleet.during(0, 100, FAILS, 0)
        fleet.calls(500, 0, 20)
        fleet.net.run()
        sent[policy] = fleet.net.sent(0, 60, "n0:1") / len(fleet.net.calls)
    assert sent["least_request"] > 0.1
    assert sent["peak_ewma"] < 0.002


def test_least_request_keeps_load_even(shows: Shows) -> None:
    """A hundred queues at 80 % of what they can do, calls coming as they like: nobody has more than twice the mean,
    neither of calls nor, over time, of what is under way."""
    fleet = Fleet(seed=55, size=100, text=policy_text("least_request"))
    for address in fleet.addresses:
        fleet.net.servers[address] = Queue(fleet.net, rate=20, drops=False)

    def begin() -> None:
        fleet.net.begin(fleet.net.snapshot)

    dice, at = random.Random(55), 0.0
    while at < 30:
        at += dice.expovariate(0.8 * 100 * 20)
        fleet.net.at(START + at, begin)
    under_way: Counter[str] = Counter()

    def look() -> None:
        for member in fleet.world.nodes.all():
            under_way[member.address] += member.inflight

    for tick in range(50, 300):
        fleet.net.at(START + tick / 10, look)
    fleet.net.run()
    calls = Counter(address for _, address in fleet.net.attempts)
    mean, mean_under_way = sum(calls.values()) / 100, sum(under_way.values()) / 100
    shows(
        "Least request, 100 servers at 80 % load: the most loaded against the mean",
        calls=f"{max(calls.values()) / mean:.2f}",
        under_way=f"{max(under_way.values()) / mean_under_way:.2f}",
    )
    assert max(calls.values()) <= 2 * mean
    assert max(under_way.values()) <= 2 * mean_under_way
