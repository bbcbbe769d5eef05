"""A server that answers well but slowly: how many calls notice, by balancer."""

from __future__ import annotations

from collections.abc import Callable
from statistics import quantiles

import pytest

from proxyless.policy.balancers import BALANCERS
from proxyless.script import OK
from tests.fakes import START
from tests.simulation.servers import Fleet

Shows = Callable[..., None]
WELL, SLOW = 0.01, 0.1

# share: of the calls, how many go to the slow one; p99 in seconds. A tenth is an even share.
EXPECTED = {
    "round_robin": (0.1, SLOW),
    "random": (0.1, SLOW),
    "least_request": (0.05, SLOW),
    "peak_ewma": (0.02, SLOW),
}


@pytest.mark.parametrize("policy", [policy for policy in EXPECTED if policy in BALANCERS])
def test_one_of_ten_is_ten_times_slower(policy: str, shows: Shows) -> None:
    """1,000 calls a second. Who goes by requests under way gives it half of its share or less; who goes by latency
    next to nothing. Nobody ejects it: slow is not wrong."""
    fleet = Fleet(51, 10, f"trafficPolicy: {{loadBalancer: {{policy: {policy}}}}}", WELL)
    fleet.servers[0].seconds = SLOW
    fleet.calls(1000, 0, 20, timeout=1.0)
    fleet.net.run()
    took = [call.ended_at - call.began_at for call in fleet.net.begun(5, 20)]
    share = fleet.net.sent(5, 20, "n0:1") / fleet.net.sent(5, 20)
    cut = quantiles(took, n=1000)
    shows(
        "One of ten servers answers in 100 ms, the others in 10 ms",
        balancer=policy,
        calls_to_it=f"{share:.1%}",
        p50=f"{cut[499] * 1000:.0f} ms",
        p99=f"{cut[989] * 1000:.0f} ms",
        p999=f"{cut[998] * 1000:.0f} ms",
    )
    most, p99 = EXPECTED[policy]
    assert share <= most * 1.1
    assert cut[989] <= p99 * 1.01
    assert all(call.outcome is OK for call in fleet.net.calls)
    assert fleet.world.told == []


@pytest.mark.parametrize("policy", [policy for policy in EXPECTED if policy in BALANCERS])
def test_one_that_slows_down_and_recovers(policy: str, shows: Shows) -> None:
    """200 times slower for 4 s: 2 s where callers wait for one. What is not answered in time counts against it, so it
    is ejected, and the calls that notice are those of its detection; but for peak_ewma, which calls it too seldom for
    five in a row. When it is well again it is called again."""
    fleet = Fleet(52, 10, f"trafficPolicy: {{loadBalancer: {{policy: {policy}}}}}", WELL)

    def become(seconds: float) -> None:
        fleet.servers[0].seconds = seconds

    fleet.net.at(START + 5, lambda: become(2.0))
    fleet.net.at(START + 9, lambda: become(WELL))
    fleet.calls(1000, 0, 12, timeout=1.0)
    fleet.calls(100, 12, 138, timeout=1.0)
    fleet.net.run()
    failed = [call for call in fleet.net.calls if call.outcome is not OK]
    later = fleet.net.begun(6.5, 150)
    shows(
        "One of ten answers in 2 s for 4 s, and callers wait for 1 s",
        balancer=policy,
        failed=len(failed),
        the_last_after=f"{max(call.ended_at for call in failed) - START - 5:.2f} s",
        ejections=len(fleet.told("ejected")),
        readmitted=len(fleet.told("readmitted")),
    )
    # a second's share of 1,000 calls and the five in a row; where dice decide on the share, four sigma more
    assert len(failed) <= 105 + (40 if policy == "random" else 0)
    assert all(call.outcome is OK for call in later)
    assert len(fleet.told("ejected")) == len(fleet.told("readmitted")) == (policy != "peak_ewma")
    # To peak_ewma a failure costs 5 s, of which it forgets two thirds every 10 s: a minute until that is 10 ms again.
    assert fleet.net.sent(130, 150, "n0:1") > 0.05 * fleet.net.sent(130, 150)
