"""After an ejection: how long it lasts, how an endpoint comes back, and what edits do to it."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless.model.codes import Code
from proxyless.model.traffic import OutlierDetection, Probation
from proxyless.policy.outlier import EJECTED, HEALTHY, PROBING
from tests.policy.pools import AS_WRITTEN, NOTHING, ONLY_CONSECUTIVE, ONLY_RATES, Pool, edited

# --- for how long ---


def test_each_ejection_lasts_longer_and_a_healthy_interval_takes_one_step_back() -> None:
    """30, 60, 90 s …; then one step a tick, from a whole interval after its return on (Envoy)."""
    pool, now, lengths = Pool(2), 0.0, []
    for _ in range(3):
        pool.eject(0, now=now)
        lengths.append(pool.hosts[0].ejected_until - now)
        now = pool.hosts[0].ejected_until
        assert pool.probe(0, Code.OK, now) == HEALTHY
    assert lengths == [30, 60, 90]
    steps = []
    for at in (5, 15, 25, 35, 45):
        pool.tick(now + at)
        steps.append(pool.hosts[0].times)
    assert steps == [3, 2, 1, 0, 0]


def test_an_ejection_by_the_tick_is_not_shortened_by_it() -> None:
    """Who was healthy until now, and is ejected now, keeps the count of this ejection."""
    pool = Pool(5, ONLY_RATES)
    pool.serve([(0, 100), *[(100, 0)] * 4])
    pool.tick(10.0)
    assert pool.hosts[0].times == 1


def test_a_whole_interval_is_whole_in_floats_too() -> None:
    """Readmitted at 0.2 s, ticked at 0.3 s: an interval of 100 ms, though 0.3 - 0.2 is a little less."""
    pool = Pool(2, base_ejection_time=0.2, interval=0.1)
    pool.eject(0)
    pool.probe(0, Code.OK, 0.2)
    pool.tick(0.3)
    assert pool.hosts[0].times == 0


def test_ticks_that_nobody_made_are_made_up_for() -> None:
    """A destination without calls is not ticked; when calls come back, its endpoints have been healthy."""
    pool = Pool(2)
    for _ in range(3):
        pool.eject(0)
        pool.probe(0, Code.OK, 300.0)
    pool.tick(300.0)
    assert pool.hosts[0].times == 3
    pool.tick(320.0)
    assert pool.hosts[0].times == 1


@pytest.mark.parametrize(
    ("base", "longest", "lengths"),
    [
        (10, 35, [10, 20, 30, 35, 35, 35]),
        (10, 3, [3, 3, 3]),  # Envoy refuses this pair; ours may come from two documents, and the cap holds
        (0, 300, [0, 0, 0]),
    ],
)
def test_no_ejection_is_longer_than_the_longest(base: float, longest: float, lengths: list[float]) -> None:
    """`min(base * times, max)`, and `times` grows no further than the cap needs."""
    pool, seen = Pool(2, base_ejection_time=base, max_ejection_time=longest), []
    now = 0.0
    for _ in lengths:
        pool.eject(0, now=now)
        seen.append(pool.hosts[0].ejected_until - now)
        now = pool.hosts[0].ejected_until
        pool.probe(0, Code.OK, now)
    assert seen == lengths
    assert pool.hosts[0].times == len(set(lengths))


# --- probation ---


def test_the_time_ends_at_its_exact_instant() -> None:
    """Nobody has to tick for it: the first who asks after 30 s is let in (Envoy: at the next interval)."""
    pool = Pool(2)
    pool.eject(0)
    host = pool.hosts[0]
    assert [host.state(now) for now in (0.0, 29.999, 30.0)] == [EJECTED, EJECTED, PROBING]
    assert host.admit(29.999) is None
    assert host.admit(30.0)


def test_on_probation_requests_go_one_at_a_time() -> None:
    """While the probe is under way, nobody else is let in; when it is over, the next one is."""
    pool = Pool(2, probation=Probation(requests=2))
    pool.eject(0)
    host = pool.hosts[0]
    ticket = host.admit(30.0)
    assert ticket
    assert [host.admit(30.0), host.admit(1e6)] == [None, None]
    assert pool.detector.probed(host, ticket, Code.OK, 31.0) == PROBING
    assert host.admit(31.0)


def test_full_traffic_returns_when_enough_requests_have_succeeded() -> None:
    """Three were asked for; after the third everybody is let in without a ticket, and counts anew."""
    pool = Pool(2, probation=Probation(requests=3))
    pool.eject(0)
    states = [pool.probe(0, Code.OK, now) for now in (30.0, 31.0, 32.0)]
    assert states == [PROBING, PROBING, HEALTHY]
    assert (pool.hosts[0].admit(32.0), pool.hosts[0].admit(32.0)) == (0, 0)
    assert (pool.detector.out, pool.hosts[0].run) == (0, 0)


def test_a_failure_on_probation_ejects_again_and_for_longer() -> None:
    """30 s, then 60: and the successes before it are worth nothing."""
    pool = Pool(2, probation=Probation(requests=2))
    pool.eject(0)
    pool.probe(0, Code.OK, 30.0)
    assert pool.probe(0, Code.UNAVAILABLE, 31.0) == EJECTED
    assert pool.hosts[0].ejected_until == 91.0
    assert [pool.probe(0, Code.OK, 91.0), pool.probe(0, Code.OK, 92.0)] == [PROBING, HEALTHY]


def test_a_failure_on_probation_asks_no_quota() -> None:
    """It never stopped counting as ejected, so a full quota does not readmit it."""
    pool = Pool(2, max_ejection_percent=1)
    pool.eject(0)
    assert pool.probe(0, Code.INTERNAL, 30.0) == EJECTED
    assert pool.detector.out == 1


def test_a_probe_whose_caller_gave_up_says_nothing() -> None:
    """Its place is free again, its endpoint neither readmitted nor punished."""
    pool = Pool(2)
    pool.eject(0)
    assert pool.probe(0, None, 30.0) == PROBING
    assert pool.hosts[0].times == 1
    assert pool.probe(0, Code.OK, 30.0) == HEALTHY


def test_answers_that_blame_the_caller_pass_a_probation() -> None:
    """NOT_FOUND and RESOURCE_EXHAUSTED are answers of a server that works (linkerd: a lenient probe)."""
    for code in (Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED):
        pool = Pool(2)
        pool.eject(0)
        assert pool.probe(0, code, 30.0) == HEALTHY


def test_an_old_ticket_frees_nobodys_place() -> None:
    """A probe that outlives its ejection must not end the one that came after it."""
    pool = Pool(2)
    pool.eject(0)
    host = pool.hosts[0]
    old = host.admit(30.0)
    assert old
    pool.detector.release(31.0)
    pool.eject(0, now=31.0)
    new = host.admit(100.0)
    assert new
    assert pool.detector.probed(host, old, Code.OK, 100.0) == PROBING
    assert host.admit(100.0) is None
    assert pool.detector.probed(host, new, Code.OK, 100.0) == HEALTHY


def test_a_request_that_needed_no_ticket_is_no_probe() -> None:
    """It was let in freely and ends while its endpoint is on probation: it readmits nobody."""
    pool = Pool(2)
    ticket = pool.hosts[0].admit(0.0)
    assert ticket == 0
    pool.eject(0)
    assert pool.detector.probed(pool.hosts[0], ticket, Code.OK, 30.0) == PROBING


def test_a_probe_of_an_endpoint_that_left_changes_no_count() -> None:
    """It was forgotten while the probe was under way; the number of the ejected stays true."""
    pool = Pool(3)
    pool.eject(0)
    ticket = pool.hosts[0].admit(30.0)
    assert ticket
    pool.detector.adopt(pool.hosts[1:])
    pool.detector.probed(pool.hosts[0], ticket, Code.OK, 31.0)
    assert pool.detector.out == 0


# --- edits ---


def test_an_edit_forgets_no_ejection() -> None:
    """Other limits, same endpoints: who is out stays out until the time it was given."""
    pool = Pool(4)
    pool.eject(0)
    pool.detector.configure(edited(ONLY_CONSECUTIVE, consecutive5xx=3), 1.0)
    assert pool.hosts[0].state(29.0) == EJECTED
    assert pool.fail(1, 3, now=1.0) == "consecutive_5xx"


def test_a_limit_lowered_under_a_run_fires_at_the_next_failure() -> None:
    """Envoy, which waits for the exact number, would wait for a success first."""
    pool = Pool(4)
    pool.fail(0, 4)
    pool.detector.configure(edited(ONLY_CONSECUTIVE, consecutive5xx=2), 1.0)
    assert pool.fail(0, now=1.0) == "consecutive_5xx"


@pytest.mark.parametrize(
    "settings",
    [NOTHING, edited(AS_WRITTEN, max_ejection_percent=0)],
    ids=["no rule is left", "nobody may be ejected"],
)
def test_switching_it_off_readmits_everybody(settings: OutlierDetection) -> None:
    """gRFC A50: a configuration that can't eject un-ejects."""
    pool = Pool(4)
    pool.eject(0, 1)
    pool.detector.configure(settings, 1.0)
    assert (pool.out, pool.detector.out) == ([], 0)
    assert pool.hosts[0].admit(1.0) == 0


@pytest.mark.parametrize(
    ("rule", "can"),
    [
        ({"consecutive5xx": 1}, True),
        ({"consecutive_gateway_errors": 1}, True),
        ({"split_external_local_origin_errors": True}, True),
        ({"consecutive_local_origin_failures": 1}, False),  # which counts with the split alone
        ({"success_rate": AS_WRITTEN.success_rate}, True),
        ({"failure_percentage": AS_WRITTEN.failure_percentage}, True),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_while_any_rule_is_left_nobody_is_readmitted(rule: dict[str, Any], can: bool) -> None:
    """Each of the five rules is reason enough to keep an endpoint out until its time."""
    pool = Pool(4)
    pool.eject(0)
    pool.detector.configure(edited(NOTHING, **rule), 1.0)
    assert pool.out == ([0] if can else [])


@pytest.mark.parametrize(("interval", "due"), [(6, 6.0), (3, 4.0), (20, 20.0)])
def test_a_running_interval_keeps_the_time_that_has_passed(interval: float, due: float) -> None:
    """Edited 4 s after it began (gRFC A50): 6 s leave 2, 3 s are over at once, 20 s leave 16."""
    pool = Pool(1)
    for begun in (0.0, 10.0):
        pool.tick(begun)
        pool.detector.configure(edited(AS_WRITTEN, interval=interval), begun + 4.0)
        assert pool.detector.due_at == begun + due
        pool.detector.configure(AS_WRITTEN, begun + 4.0)


def test_what_is_printed_says_how_it_stands() -> None:
    """For the log of a bad night."""
    pool = Pool(2)
    pool.fail(0, 3)
    assert repr(pool.hosts[0]) == "<Outlier 0 ok, 3 failed, 3 in a row>"
    pool.fail(0, 2)
    assert repr(pool.hosts[0]) == "<Outlier 0 ok, 0 failed, 0 in a row, out until 30.000>"
    assert repr(pool.detector) == "<Detector 1 of 2 out>"
