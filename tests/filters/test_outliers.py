"""Outlier detection where calls are sent: who is counted, who is kept away from, how it comes back."""

from __future__ import annotations

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, OPEN, Outcome
from proxyless.stack import ENTRY
from proxyless.state import Node
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Behaviour, Reply, Simulation, play
from tests.worlds import WEB, Known, document, rpc

BROKEN = Outcome(Code.INTERNAL, "boom")
ONCE = "routes: [{retry: {attempts: 0}}]\n"
ROUND = "loadBalancer: {policy: round_robin}"


class World:
    """Endpoints a, b, … called in turn, one call after the other, without retries."""

    def __init__(self, names: str = "ab", outliers: str = "") -> None:
        self.known = Known().lives("web", *(f"{name}:1" for name in names))
        detection = f"outlierDetection: {{{outliers}}}, " if outliers else ""
        self.known.services["web"] = document(f"{ONCE}trafficPolicy: {{{detection}{ROUND}}}")
        self.snapshot = self.known.snapshot()

    def call(self, at: float = 0.0, **answers: Behaviour) -> str:
        """One call; returns where it went."""
        return play(ENTRY, rpc(self.snapshot, now=START + at), **answers)[0][0].removeprefix("send ")

    def calls(self, number: int, at: float = 0.0, **answers: Behaviour) -> list[str]:
        return [self.call(at, **answers) for _ in range(number)]

    def node(self, name: str) -> Node:
        return next(node for node in self.known.nodes.all() if node.address == f"{name}:1")

    def ejected(self) -> World:
        """With a out."""
        self.calls(2 * 5, a=BROKEN)
        assert self.node("a").outlier.out
        return self


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (BROKEN, "INTERNAL"),
        (UNAVAILABLE, "UNAVAILABLE"),
        (Reply(OPEN, end=BROKEN, lasts=1.0), "INTERNAL"),
        (Outcome(Code.UNIMPLEMENTED), "UNIMPLEMENTED"),
    ],
    ids=["internal", "unavailable", "a stream that breaks", "unimplemented"],
)
def test_so_many_failures_in_a_row_eject_and_calls_keep_away(answer: Behaviour, code: str) -> None:
    """Five, by default; an error in the trailers of a stream counts as much as any (Envoy: not at all)."""
    world = World()
    assert world.calls(8, a=answer).count("a") == 4
    assert world.known.told == []
    world.calls(2, a=answer)
    assert world.known.told == [("ejected", "a:1", f"consecutive_5xx, the last with {code}; for 30 s")]
    assert world.calls(50, at=29.9) == ["b"] * 50


def test_a_success_between_them_ends_the_run() -> None:
    """It is about failures in a row; eight of ten is for the rates to judge."""
    world = World("a")
    world.calls(10, a=[BROKEN, BROKEN, BROKEN, BROKEN, OK, BROKEN, BROKEN, BROKEN, BROKEN, OK])
    for _ in range(20):
        world.calls(5, a=[BROKEN, BROKEN, BROKEN, BROKEN, OK])
    assert world.known.told == []


def test_no_answer_in_time_counts_as_a_failure() -> None:
    """A black hole says nothing, and that is its failure."""
    world = World()
    for _ in range(10):
        play(ENTRY, rpc(world.snapshot, timeout=0.25), a=Reply(OK, after=9.0))
    why = "consecutive_5xx, the last with DEADLINE_EXCEEDED; for 30 s"  # that callers wait too short a time shows
    assert world.known.told == [("ejected", "a:1", why)]


@pytest.mark.parametrize("refusal", ["limit", "deadline"])
def test_refusals_of_ours_never_count(refusal: str) -> None:
    """Nobody was asked."""
    world = World("a")
    if refusal == "limit":
        world.known.services["web"] = document(f"{ONCE}trafficPolicy: {{limits: {{maxRequests: 0}}}}")
        world.snapshot = world.known.snapshot()
    for _ in range(50):
        outcome = play(ENTRY, rpc(world.snapshot, timeout=0.0 if refusal == "deadline" else 1.0))[1]
        assert outcome.refused == refusal
    assert (world.known.told, world.node("a").calls) == ([], 0)


def test_callers_who_walk_away_never_count() -> None:
    """Neither from an answer nor from a stream."""
    world = World("a")
    for _ in range(50):
        for replies in ((None,), (None, OPEN)):
            script = ENTRY(rpc(world.snapshot))
            for reply in replies:
                script.send(reply)
            script.close()
    assert world.known.told == []
    assert (world.node("a").calls, world.node("a").failures) == (100, 0)


def test_on_probation_one_live_call_at_a_time_finds_out() -> None:
    """The others keep away until it has answered; then the endpoint takes part again."""
    world = World().ejected()
    simulation = Simulation(world.snapshot)
    simulation.behaviours.update(a=Reply(OK, after=1.0), b=Reply(OK, after=1.0))
    calls = [simulation.call(ENTRY, rpc(world.snapshot, now=START + 30)) for _ in range(20)]
    simulation.run()
    assert [call.effects for call in calls].count(["send a"]) == 1
    assert world.known.told[1:] == [("readmitted", "a:1", "its probes succeeded")]
    assert world.calls(10, at=32).count("a") == 5


def test_a_failed_probe_ejects_for_twice_as_long() -> None:
    """30 s, then 60 s."""
    world = World().ejected()
    assert world.calls(4, at=30, a=BROKEN).count("a") == 1
    assert world.known.told[1:] == [("ejected", "a:1", "a probe failed with INTERNAL; for 60 s")]
    assert world.calls(20, at=89.9) == ["b"] * 20
    assert "a" in world.calls(2, at=90)


def test_as_many_probes_as_probation_asks_for() -> None:
    """`probation: {requests: 3}`."""
    world = World(outliers="probation: {requests: 3}").ejected()
    for _ in range(2):
        world.calls(2, at=30)
        assert world.node("a").outlier.out
    world.calls(2, at=30)
    assert not world.node("a").outlier.out


def test_a_probe_whose_caller_walks_away_frees_the_probe() -> None:
    """Or nobody would ever find out. It says nothing of the endpoint."""
    world = World("a").ejected()
    script = ENTRY(rpc(world.snapshot, now=START + 30))
    next(script)
    assert world.node("a").outlier.ticket
    script.close()
    assert (world.node("a").outlier.ticket, world.node("a").outlier.out) == (0, True)
    world.call(at=30)
    assert not world.node("a").outlier.out


def test_a_stream_that_begins_is_a_probe_that_succeeded() -> None:
    """A stream that lives for hours must not keep its node on probation, whatever becomes of it later."""
    world = World("a").ejected()
    script = ENTRY(rpc(world.snapshot, now=START + 30))
    next(script)
    script.send(OPEN)
    assert not world.node("a").outlier.out
    script.close()
    assert (world.node("a").outlier.ticket, world.node("a").outlier.out) == (0, False)


def test_a_probe_that_is_interrupted_frees_the_probe() -> None:
    """An interrupt in a blocking call."""
    world = World("a").ejected()
    script = ENTRY(rpc(world.snapshot, now=START + 30))
    next(script)
    with pytest.raises(KeyboardInterrupt):
        script.throw(KeyboardInterrupt())
    assert (world.node("a").outlier.ticket, world.node("a").inflight) == (0, 0)


def test_an_expired_call_is_no_probe() -> None:
    """It is never sent, so it must not hold the place of the one that finds out."""
    world = World("a").ejected()
    assert play(ENTRY, rpc(world.snapshot, timeout=0.0, now=START + 30))[1].refused == "deadline"
    assert world.node("a").outlier.ticket == 0
    world.call(at=30)
    assert not world.node("a").outlier.out


@pytest.mark.parametrize(("percent", "out"), [(0, 0), (10, 1), (50, 2), (100, 4)])
def test_only_so_many_may_be_out(percent: int, out: int) -> None:
    """One always may, unless `maxEjectionPercent` is 0."""
    world = World("abcd", outliers=f"maxEjectionPercent: {percent}")
    world.calls(4 * 20, a=BROKEN, b=BROKEN, c=BROKEN, d=BROKEN)
    assert sum(node.outlier.out for node in world.known.nodes.all()) == out
    assert world.snapshot.clusters[WEB].state.status(START)["ejected"] == out


def test_where_everybody_is_out_anybody_is_better_than_nobody() -> None:
    """The only endpoint there is, ejected: it is called all the same, and one of the calls is its probe."""
    world = World("a").ejected()
    assert world.calls(3, at=1) == ["a"] * 3
    assert world.node("a").outlier.out
    world.call(at=30)
    assert not world.node("a").outlier.out


def test_what_began_before_an_ejection_says_nothing_new_after_it() -> None:
    """Failures that were under way already do not lengthen it."""
    world = World("a")
    simulation = Simulation(world.snapshot)
    simulation.behaviours["a"] = Reply(BROKEN, after=1.0)
    for _ in range(12):
        simulation.call(ENTRY, rpc(world.snapshot))
    simulation.run()
    why = "consecutive_5xx, the last with INTERNAL; for 30 s"
    assert [told for told in world.known.told if told[0] != "panic"] == [("ejected", "a:1", why)]
    assert (world.node("a").outlier.times, world.node("a").outlier.ejected_until) == (1, START + 1 + 30)


def test_rates_are_compared_once_an_interval_by_the_call_that_finds_it_over() -> None:
    """No thread of ours: the calls themselves keep the time."""
    rate = "consecutive5xx: 0, failurePercentage: {threshold: 50, minimumHosts: 2, requestVolume: 10}"
    world = World("abc", outliers=rate)
    world.calls(60, at=9.9, a=BROKEN)
    assert world.known.told == []
    world.calls(1, at=10)
    assert world.known.told == [("ejected", "a:1", "failure_percentage; for 30 s")]


def test_where_most_of_the_rest_fail_too_everybody_is_called() -> None:
    """Half are out, and the other half should be: it is an outage, and sparing some overloads the rest."""
    world = World("abcd")
    world.calls(4 * 5, a=BROKEN, b=BROKEN, c=BROKEN, d=BROKEN)
    assert world.snapshot.clusters[WEB].state.status(START)["panic"]
    assert sorted(world.calls(4, at=1)) == ["a", "b", "c", "d"]


def test_panic_lasts_while_the_ejected_are_of_use_and_ends_with_their_probes() -> None:
    """An interval later nobody fails; yet without them the rest might again."""
    world = World("abcd")
    world.calls(4 * 5, a=BROKEN, b=BROKEN, c=BROKEN, d=BROKEN)
    world.calls(8, at=10)
    assert sorted(world.calls(4, at=20)) == ["a", "b", "c", "d"]
    world.calls(8, at=30)
    assert [address for what, address, _ in world.known.told if what == "readmitted"] == ["a:1", "b:1"]
    world.calls(8, at=40)
    assert not world.snapshot.clusters[WEB].state.status(START + 41)["panic"]


def test_panic_ends_when_the_rest_do_better_by_themselves() -> None:
    """Of two that were broken one has recovered: an interval later the other is left alone again."""
    world = World()
    world.calls(2 * 5, a=BROKEN, b=BROKEN)
    assert sorted(world.calls(2, at=1, a=BROKEN)) == ["a", "b"]
    world.calls(2, at=10, a=BROKEN)
    world.calls(2, at=20, a=BROKEN)
    assert world.calls(20, at=21, a=BROKEN) == ["b"] * 20


def test_one_broken_endpoint_of_two_is_no_reason_to_panic() -> None:
    """Half are out, and the other half is well."""
    world = World().ejected()
    world.calls(20, a=BROKEN)
    assert not world.snapshot.clusters[WEB].state.status(START)["panic"]


def panics(world: World) -> list[str]:
    """What was told of panics, in order; "" is the end of one."""
    return [why for what, _, why in world.known.told if what == "panic"]


def test_a_panic_is_told_once_when_it_begins_and_once_when_it_is_over() -> None:
    """However many calls fail in it."""
    world = World("abcd")
    world.calls(4 * 5, a=BROKEN, b=BROKEN, c=BROKEN, d=BROKEN)
    world.calls(40, at=5, a=BROKEN, b=BROKEN, c=BROKEN, d=BROKEN)
    assert panics(world) == ["most of the endpoints that maxEjectionPercent keeps in fail too"]
    for at in (10, 20, 30, 40, 50):
        world.calls(8, at=at)
    assert panics(world)[1:] == [""]


def test_a_panic_by_the_threshold_is_told_as_well() -> None:
    """Three of four are out, where all may be: fewer than half are well; one is readmitted, and it is over."""
    world = World("abcd", outliers="maxEjectionPercent: 100")
    world.calls(4 * 5, a=BROKEN, b=BROKEN, c=BROKEN)
    assert panics(world) == ["fewer than 50 % of its endpoints, or of a priority's, are well"]
    world.calls(8, at=31, b=BROKEN, c=BROKEN)
    assert panics(world)[1:] == [""]


def test_endpoints_that_cannot_be_connected_are_not_well_either() -> None:
    """Two of three are: that is told by the call that finds the second, and by the one that reaches it again."""
    world = World("abc")
    world.calls(3, a=UNREACHABLE, b=UNREACHABLE)
    assert len(panics(world)) == 1
    world.calls(6, at=10, a=UNREACHABLE)
    assert panics(world)[1:] == [""]
