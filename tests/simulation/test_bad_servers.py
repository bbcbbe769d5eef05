"""Some servers are bad: how many calls notice, and who is kept away from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import quantiles

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, Outcome
from tests.fakes import START
from tests.simulation.servers import FAILS, Fleet

Shows = Callable[..., None]
ONE_BAD = "Ten servers, one of which is bad for 100 s at 200 calls a second: who notices?"
SILENT = None
BOOM = Outcome(Code.INTERNAL, "in the trailers")
PER_TRY = "routes: [{timeout: 1s, retry: {attempts: 2, perTryTimeout: 250ms}}]\n"


def told(shows: Shows, bad: str, fleet: Fleet) -> None:
    shows(
        ONE_BAD,
        the_bad_one=bad,
        calls=len(fleet.net.calls),
        failed=sum(call.outcome is not OK for call in fleet.net.calls),
        attempts_there=fleet.net.sent(0, 200, "n0:1"),
        ejections=len(fleet.told("ejected")),
        slowest=f"{max(call.ended_at - call.began_at for call in fleet.net.calls) * 1000:.0f} ms",
    )


def test_a_black_hole_costs_its_detection_and_its_probes(shows: Shows) -> None:
    """One of ten listens and silent: <= 0.1 % of 20,000 calls fail, none waits on it while it is out."""
    fleet = Fleet(seed=21, size=10, text=PER_TRY)
    fleet.calls(200, 0, 100)
    fleet.during(0, 200, SILENT, 0)
    fleet.net.run()
    told(shows, "listens and is silent (250 ms a try)", fleet)
    assert len(fleet.net.calls) == 20_000
    failed = [call for call in fleet.net.calls if call.outcome is not OK]
    assert len(failed) <= 20
    # Five in a row eject, and no more than what was under way by then; two ejections end within the story.
    detected = START + 3
    touched = [when for when, address in fleet.net.attempts if address == "n0:1"]
    assert len([when for when in touched if when < detected]) <= 10
    probes = [when for when in touched if when >= detected]
    assert len(probes) == len(fleet.told("ejected")) - 1 == 2
    assert all(call.ended_at - call.began_at < 0.1 for call in fleet.net.begun(3, 30))


def test_a_black_hole_with_nothing_but_a_timeout(shows: Shows) -> None:
    """Scenario blackhole-one-of-n: 100 calls a second that wait for 1 s, no limit per try. At most ten calls notice
    before it is avoided, < 0.1 % of those after 3 s go there, and after 5 s p99 is what it was."""
    fleet = Fleet(20, 10, "routes: [{timeout: 1s}]\ntrafficPolicy: {outlierDetection: {interval: 1s}}")
    fleet.calls(100, 0, 60)
    fleet.during(5, 90, SILENT, 0)
    fleet.net.run()
    noticed = [call for call in fleet.net.calls if call.outcome is not OK or call.ended_at - call.began_at > 1]
    before, after = (
        quantiles([call.ended_at - call.began_at for call in fleet.net.begun(*when)], n=100)[98]
        for when in ((0, 5), (10, 60))
    )
    shows(
        "One of ten is a black hole, and calls wait for 1 s",
        calls=len(fleet.net.calls),
        noticed=len(noticed),
        there_after_3_s=fleet.net.sent(8, 60, "n0:1"),
        p99_before=f"{before * 1000:.0f} ms",
        p99_after=f"{after * 1000:.0f} ms",
    )
    assert len([call for call in noticed if call.began_at < START + 8]) <= 10
    assert fleet.net.sent(8, 60, "n0:1") < 0.001 * len(fleet.net.begun(8, 60))
    assert after <= 1.2 * before


def test_one_that_answers_with_errors_is_ejected(shows: Shows) -> None:
    """In the trailers of an answer, where Envoy does not look: five calls notice, and each probe's."""
    fleet = Fleet(seed=22, size=10)
    fleet.calls(200, 0, 100)
    fleet.during(0, 200, BOOM, 0)
    fleet.net.run()
    told(shows, "INTERNAL in the trailers", fleet)
    failed = [call.began_at - START for call in fleet.net.calls if call.outcome is not OK]
    assert len([when for when in failed if when < 10]) == 5
    assert len(failed) == 7
    assert [address for address, _ in fleet.told("ejected")] == ["n0:1"] * 3


def test_what_can_be_tried_again_is_noticed_by_nobody(shows: Shows) -> None:
    """UNAVAILABLE is mended by the default retries, elsewhere."""
    fleet = Fleet(seed=22, size=10)
    fleet.calls(200, 0, 100)
    fleet.during(0, 200, FAILS, 0)
    fleet.net.run()
    told(shows, "UNAVAILABLE", fleet)
    assert all(call.outcome is OK for call in fleet.net.calls)
    assert fleet.net.sent(0, 200) <= 20_000 + 7


def test_one_that_fails_whenever_it_is_back_is_out_for_longer_each_time(shows: Shows) -> None:
    """Scenario flapping-endpoint: 10, 20, 30 ... s, and by the fifth ejection < 0.5 % of calls go there."""
    fleet = Fleet(23, 5, "trafficPolicy: {outlierDetection: {baseEjectionTime: 10s}}")
    fleet.calls(100, 0, 160)
    fleet.during(0, 400, BOOM, 0)
    fleet.net.run()
    sent = [when - START for when, address in fleet.net.attempts if address == "n0:1"]
    first = max(when for when in sent if when < 5)
    probes = [first, *(when for when in sent if when > 5)]
    for number, (earlier, later) in enumerate(pairwise(probes), start=1):
        shows(
            "One of five fails whenever it is called; base ejection time 10 s",
            ejection=number,
            out_for=f"{later - earlier:.1f} s",
            calls_there_meanwhile=len([when for when in sent if earlier < when < later]),
        )
    assert [round(later - earlier) for earlier, later in pairwise(probes)] == [10, 20, 30, 40, 50]
    assert fleet.net.sent(100, 160, "n0:1") < 0.005 * 6000
    assert fleet.told("readmitted") == []


def test_one_that_comes_and_goes_serves_when_it_can() -> None:
    """Bad for 5 s of every 40: out for 30 s, then for 60 s (it was not healthy for a whole interval), so that
    the third bad time is not noticed at all; and readmitted by a live call each time, not by a guess."""
    fleet = Fleet(seed=24, size=5)
    fleet.calls(100, 0, 160)
    for since in (0, 40, 80, 120):
        fleet.during(since, since + 5, BOOM, 0)
    fleet.net.run()
    assert len(fleet.told("ejected")) == 3
    assert len(fleet.told("readmitted")) == 2
    assert fleet.net.sent(80, 85, "n0:1") == 0
    assert fleet.net.sent(101, 119, "n0:1") == pytest.approx(1800 / 5, rel=0.2)
    assert sum(call.outcome is not OK for call in fleet.net.calls) == 3 * 5


@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("percent", [1, 10, 100])
def test_one_endpoint_may_always_be_ejected(size: int, percent: int) -> None:
    """However small the share: but never more than the share beyond that one."""
    fleet = Fleet(25, size, f"trafficPolicy: {{outlierDetection: {{maxEjectionPercent: {percent}}}}}")
    fleet.calls(100, 0, 10)
    fleet.during(0, 20, BOOM)
    fleet.net.run()
    assert sum(node.outlier.out for node in fleet.world.nodes.all()) == max(1, size * percent // 100)


def test_no_more_than_the_share_is_ejected() -> None:
    """Scenario max-ejection: 8 of 10 fail, `maxEjectionPercent: 30`: three at most are out, none good."""
    fleet = Fleet(26, 10, "trafficPolicy: {outlierDetection: {maxEjectionPercent: 30}}")
    fleet.calls(200, 0, 100)
    fleet.during(0, 200, BOOM, *range(8))
    out = []
    for second in range(1, 100):
        fleet.net.run(until=START + second)
        out.append({node.address for node in fleet.world.nodes.all() if node.outlier.out})
    assert max(map(len, out)) == 3
    assert not set().union(*out) & {"n8:1", "n9:1"}


def test_servers_replaced_one_by_one_fail_no_call(shows: Shows) -> None:
    """Scenario graceful-drain: deregistered, drained for 1 s, gone; its successor comes a second later."""
    fleet = Fleet(27, 3, seconds=0.2)
    net, world = fleet.net, fleet.world
    fleet.calls(100, 0, 20)
    living = list(fleet.addresses)

    def publish() -> None:
        net.publish(world.lives("web", *living).snapshot())
        world.nodes.adopt(net.snapshot)

    def leaves(address: str) -> None:
        living.remove(address)
        publish()

    def comes(address: str, number: int) -> None:
        net.servers[address] = fleet.servers[number]
        living.append(address)
        publish()

    def dies(number: int) -> None:
        net.servers[fleet.addresses[number]] = lambda _rpc, answered: net.at(
            net.clock.now, lambda: answered(Outcome(Code.UNAVAILABLE, "failed to connect", unsent=True))
        )

    for number, address in enumerate(fleet.addresses):
        begins = START + 3 + 5 * number
        net.at(begins, lambda gone=address: leaves(gone))  # type: ignore[misc]
        net.at(begins + 1, lambda gone=number: dies(gone))  # type: ignore[misc]
        net.at(begins + 2, lambda new=number: comes(f"m{new}:1", new))  # type: ignore[misc]
    net.run()
    for number, gone in enumerate(fleet.addresses):
        left = 3 + 5 * number
        shows(
            "Servers replaced one by one at 100 calls a second: deregistered, drained for 1 s, gone, replaced",
            server=gone,
            deregistered_at=f"{left} s",
            attempts_before=net.sent(0, left, gone),
            attempts_after=net.sent(left, 20, gone),
            failed=sum(call.outcome is not OK for call in net.begun(left, left + 5)),
        )
    assert living == ["m0:1", "m1:1", "m2:1"]
    assert all(call.outcome is OK for call in net.calls)
    assert len(net.attempts) == len(net.calls) == 2000
    assert fleet.at_rest()
    assert all(net.sent(3 + 5 * number, 20, gone) == 0 for number, gone in enumerate(fleet.addresses))


@pytest.mark.parametrize("answers_first", [True, False], ids=["answers first", "deadlines first"])
def test_a_process_that_stands_still_ejects_nobody(answers_first: bool) -> None:
    """200 ms of a held GIL, once a second: what was due comes all at once. Even if every attempt that was
    under way has missed its 50 ms by then, that is no run of failures of any endpoint."""
    fleet = Fleet(28, 10, seconds=0.02)
    fleet.calls(500, 0, 20, timeout=0.05)
    for second in range(1, 20):
        fleet.net.stall(second + 0.0005, 0.2, answers_first)
    fleet.net.run()
    assert len(fleet.net.calls) == 10_000
    late = sum(call.outcome is not OK for call in fleet.net.calls)
    assert late == 0 if answers_first else late >= 19 * 5
    assert fleet.world.told == []
    assert fleet.at_rest()
