"""Attempts beside the first one: what hedges cost and mend, and that a mirror is nobody's affair but its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import quantiles

import pytest

from proxyless.policy.mirror import MOST
from proxyless.script import OK, Rpc
from tests.simulation.servers import Answered, Fleet, Internet
from tests.worlds import Known, document

Shows = Callable[..., None]
WELL, SLOW = 0.01, 0.5


def latencies(net: Internet) -> list[float]:
    assert all(call.outcome is OK for call in net.calls)
    return [call.ended_at - call.began_at for call in net.calls]


def p99(took: list[float]) -> float:
    return quantiles(took, n=100)[98]


def hedged(share: float, ratio: float | None) -> Fleet:
    """200 calls a second for 100 s to ten servers that are slow with this share of them."""
    policy = "" if ratio is None else f"trafficPolicy: {{retryBudget: {{ratio: {ratio}, minRetriesPerSecond: 0}}}}"
    hedge = "" if ratio is None else "hedge: {delay: 20ms, attempts: 1}"
    fleet = Fleet(71, 10, f"routes: [{{{hedge}}}]\n{policy}")
    dice = random.Random(71).random

    def sometimes_slow(_rpc: Rpc, answered: Answered) -> None:
        seconds = SLOW if dice() < share else WELL
        fleet.net.at(fleet.net.clock.now + seconds, lambda: answered(OK))

    fleet.net.servers = dict.fromkeys(fleet.addresses, sometimes_slow)
    fleet.calls(200, 0, 100)
    fleet.net.run()
    return fleet


@pytest.mark.parametrize(("share", "ratio", "mends"), [(0.015, 0.01, True), (0.05, 0.1, True), (0.05, 0.01, False)])
def test_hedges_mend_what_the_budget_pays_for(share: float, ratio: float, mends: bool, shows: Shows) -> None:
    """Scenario hedge-extra-load: attempts beside the first stay under the budget's share. Where that is as large as
    the share of slow calls beyond one in a hundred, p99 is at least halved; one in a hundred can't mend five."""
    without, fleet = hedged(share, None), hedged(share, ratio)
    calls = len(fleet.net.calls)
    extra = len(fleet.net.attempts) - calls
    before, after = p99(latencies(without.net)), p99(latencies(fleet.net))
    shows(
        "Some calls are slow (500 ms in place of 10), and are sent again elsewhere after 20 ms",
        slow_calls=f"{share:.1%}",
        budget=f"{ratio:.0%}",
        extra=f"{extra / calls:.2%}",
        p99_without=f"{before * 1000:.0f} ms",
        p99_with=f"{after * 1000:.0f} ms",
    )
    assert 0 < extra <= ratio * calls
    assert (after <= before / 2) is mends
    assert fleet.at_rest()


@pytest.mark.parametrize("shadow", ["silent", "gone", "well"])
def test_a_mirror_is_nobodys_affair_but_its_own(shadow: str, shows: Shows) -> None:
    """Scenario mirror-isolation: all calls are copied to a service that never answers, or is not there. Their own
    latencies are the same, none fails, and no more copies are under way than their cap, each for 15 s at most, and
    hardly any after those."""
    before, after = p99(latencies(mirrored(shadow, 0))), p99(latencies(net := mirrored(shadow, 100)))
    copies = net.sent(0, 14.9, "s:1")
    shows(
        "Every call is copied to a shadow, 500 a second for 20 s",
        shadow=shadow,
        copies_in_15_s=copies,
        copies=net.sent(0, 100, "s:1"),
        p99_without=f"{before * 1000:.2f} ms",
        p99_with=f"{after * 1000:.2f} ms",
    )
    assert after == pytest.approx(before, rel=0.05)
    assert copies == {"silent": MOST, "gone": 0, "well": 14.9 * 500}[shadow]
    # At 15 s the first copies end, and each makes room for one more; the fifth in a row ejects the shadow.
    assert net.sent(0, 100, "s:1") == {"silent": MOST + 4, "gone": 0, "well": 20 * 500}[shadow]


def mirrored(shadow: str, percent: int) -> Internet:
    """What came of 500 calls a second for 20 s, so many of them copied."""
    net, world, dice = Internet(72), Known(seed=72), random.Random(72).random
    world.services["web"] = document(f"routes: [{{mirror: [{{service: shadow, percent: {percent}}}]}}]")
    world.lives("web", "a:1", "b:1").lives("shadow", *([] if shadow == "gone" else ["s:1"]))
    net.snapshot = world.snapshot()

    def answers(_rpc: Rpc, answered: Answered) -> None:
        net.at(net.clock.now + 0.01 + 0.01 * dice(), lambda: answered(OK))

    def copied(_rpc: Rpc, answered: Answered) -> None:
        if shadow == "well":
            net.at(net.clock.now + 0.01, lambda: answered(OK))

    net.servers.update({"a:1": answers, "b:1": answers, "s:1": copied})
    net.steadily(500, 0, 20, lambda: net.begin(net.snapshot))
    net.run()
    return net
