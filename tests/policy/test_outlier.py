"""Outlier detection: what counts, who is ejected, for how long, and how an endpoint comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxyless.model.codes import Code
from proxyless.model.traffic import FailurePercentage, Probation, SuccessRate
from proxyless.policy import outlier, retriable
from proxyless.policy.outlier import EJECTED, HEALTHY, PROBING, Outlier, spread, threshold
from tests.policy.pools import AS_WRITTEN, NOTHING, ONLY_CONSECUTIVE, ONLY_RATES, Pool

# --- what counts ---


@pytest.mark.parametrize("code", list(Code))
def test_statuses_count_as_they_do_in_envoy(code: Code) -> None:
    """Five in a row eject where the status would be 5xx, and five of any other are five successes.

    The six are those of semantics.md section 0 (`envoy:source/common/grpc/status.cc`).
    """
    is_5xx = code in {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
    pool = Pool(2)
    assert pool.answer(0, code, 4) == ""
    assert pool.hosts[0].successes == (0 if is_5xx else 4)
    assert pool.answer(0, code) == ("consecutive_5xx" if is_5xx else "")


def test_retries_and_outlier_detection_agree_on_what_a_server_error_is() -> None:
    """Two policies that do not know each other name the same statuses."""
    assert outlier.SERVER_ERRORS == retriable.SERVER_ERRORS
    assert outlier.GATEWAY_ERRORS == retriable.GATEWAY_ERRORS


def test_a_success_between_failures_ends_the_run() -> None:
    """Consecutive means consecutive: four, one good, four is no reason to eject."""
    pool = Pool(2)
    pool.fail(0, 4)
    pool.answer(0, Code.OK)
    assert pool.fail(0, 4) == ""
    assert pool.fail(0) == "consecutive_5xx"


def test_other_server_errors_end_a_run_of_gateway_errors() -> None:
    """Only 503 and 504 are a gateway's; INTERNAL between them begins their count anew (Envoy)."""
    pool = Pool(2, consecutive5xx=0, consecutive_gateway_errors=3)
    pool.answer(0, Code.UNAVAILABLE, 2)
    pool.answer(0, Code.INTERNAL)
    assert pool.answer(0, Code.DEADLINE_EXCEEDED, 2) == ""
    assert pool.answer(0, Code.UNAVAILABLE) == "consecutive_gateway_failure"


def test_a_limit_of_zero_switches_its_rule_off() -> None:
    """With every limit at 0 and no rates, a thousand failures eject nobody."""
    pool = Pool(2, NOTHING)
    assert pool.fail(0, 1000) == ""
    assert pool.tick(10.0) == []
    assert pool.out == []


def test_without_the_split_a_broken_connection_is_a_server_error() -> None:
    """A refused connection counts as 503, as in Envoy, and with the errors of the server itself."""
    pool = Pool(2)
    pool.answer(0, Code.UNAVAILABLE, 3, local=True)
    assert pool.answer(0, Code.INTERNAL, 2) == "consecutive_5xx"


def test_with_the_split_the_two_kinds_are_counted_apart() -> None:
    """Four of each are neither five of the one nor five of the other; any answer proves that it was reached."""
    pool = Pool(2, split_external_local_origin_errors=True)
    pool.answer(0, Code.UNAVAILABLE, 4, local=True)
    pool.answer(0, Code.INTERNAL, 4)
    assert pool.out == []
    assert pool.answer(0, Code.UNAVAILABLE, 4, local=True) == ""
    pool.answer(0, Code.OK)
    assert pool.answer(0, Code.UNAVAILABLE, 4, local=True) == ""
    assert pool.answer(0, Code.UNAVAILABLE, local=True) == "consecutive_local_origin_failure"


def test_what_ends_after_an_ejection_says_nothing_new() -> None:
    """Attempts that were under way when it was ejected neither lengthen its time nor readmit it."""
    pool = Pool(2)
    pool.eject(0)
    until = pool.hosts[0].ejected_until
    pool.fail(0, 100, now=5.0)
    pool.answer(0, Code.OK, 100)
    assert (pool.hosts[0].ejected_until, pool.hosts[0].run, pool.hosts[0].successes) == (until, 0, 0)


# --- who may be ejected ---


@pytest.mark.parametrize(
    ("hosts", "percent", "out"),
    [
        (10, 10, 1),
        (10, 30, 3),
        (10, 39, 3),
        (10, 50, 5),
        (10, 100, 10),
        (5, 30, 1),
        (5, 10, 1),  # a tenth of five is nobody: but one may always be ejected (CONTRACT section 5)
        (1, 50, 1),
        (1, 1, 1),
        (10, 0, 0),  # unless nobody may
    ],
)
def test_the_share_that_may_be_ejected(hosts: int, percent: float, out: int) -> None:
    """All fail: as many go as the share holds with them in it, one at least, and none at 0 %."""
    pool = Pool(hosts, max_ejection_percent=percent)
    for index in range(hosts):
        pool.fail(index, 50)
    assert pool.out == list(range(out))
    assert pool.detector.out == out


@pytest.mark.parametrize(("healthy", "out"), [(0, 10), (50, 5), (55, 4), (90, 1), (95, 0), (100, 0)])
def test_no_ejection_brings_the_healthy_below_their_minimum(healthy: float, out: int) -> None:
    """`minHealthPercent` stands above the one that may always be ejected: it was asked for in so many words."""
    pool = Pool(10, max_ejection_percent=100, min_health_percent=healthy)
    for index in range(10):
        pool.fail(index, 50)
    assert len(pool.out) == out


@pytest.mark.parametrize("kind", ["consecutive_5xx", "consecutive_gateway_failure", "local"])
def test_an_ejection_that_was_not_allowed_is_asked_for_again_after_another_run(kind: str) -> None:
    """The quota frees, the endpoint still fails: when the next five are full, it goes."""
    local = kind == "local"
    pool = Pool(
        2,
        consecutive5xx=5 if kind == "consecutive_5xx" else 0,
        consecutive_gateway_errors=5 if kind == "consecutive_gateway_failure" else 0,
        split_external_local_origin_errors=local,
    )
    pool.answer(0, Code.UNAVAILABLE, 5, local=local)
    assert pool.out == [0]
    pool.answer(1, Code.UNAVAILABLE, 8, local=local)
    pool.probe(0, Code.OK, 30.0)
    assert pool.answer(1, Code.UNAVAILABLE, now=30.0, local=local) == ""
    assert pool.answer(1, Code.UNAVAILABLE, now=30.0, local=local).startswith(
        "consecutive_local_origin" if local else kind
    )


def test_endpoints_on_probation_count_as_ejected() -> None:
    """They take one request at a time: who ejects others meanwhile would be left with too few."""
    pool = Pool(4)
    pool.eject(0, 1)
    assert pool.hosts[0].state(30.0) == PROBING
    assert pool.fail(2, 50, now=31.0) == ""
    pool.probe(0, Code.OK, 31.0)
    assert pool.fail(2, 5, now=31.0) == "consecutive_5xx"


def test_an_endpoint_that_left_is_not_ejected_and_does_not_count() -> None:
    """An attempt may end after its endpoint has left the set: it can do nothing there (Envoy)."""
    pool = Pool(4)
    pool.eject(0, 1)
    pool.detector.adopt(pool.hosts[1:])
    assert pool.detector.out == 1
    assert not pool.detector.eject(pool.hosts[0], 1.0)
    assert pool.detector.out == 1


def test_a_new_endpoint_is_measured_by_the_settings_in_effect() -> None:
    """Who joins with an old opinion of the limits takes on the destination's."""
    pool = Pool(2, consecutive5xx=2)
    late = Outlier(AS_WRITTEN)
    pool.detector.adopt([*pool.hosts, late])
    assert [late.record(Code.INTERNAL), late.record(Code.INTERNAL)] == ["", "consecutive_5xx"]


# --- rates ---


def test_five_rates_have_the_threshold_of_the_documents() -> None:
    """{50, 100, 100, 100, 100}: mean 90, deviation 20, threshold 52 (semantics.md section 7.2)."""
    assert spread([50, 100, 100, 100, 100]) == (90, 20)
    assert threshold([50, 100, 100, 100, 100], 1.9) == pytest.approx(52)


def test_the_spread_is_of_the_whole_population() -> None:
    """grpc-java OutlierDetectionLoadBalancerTest#mathChecksOut: divided by n, not by n - 1."""
    mean, deviation = spread([600, 470, 170, 430, 300])
    assert (mean, deviation) == (394, pytest.approx(147.32277488562318))


@pytest.mark.parametrize(("successes", "ejected"), [(50, [(0, "success_rate")]), (100, [])])
def test_who_is_under_the_threshold_is_ejected(successes: int, ejected: list[tuple[int, str]]) -> None:
    """50 % among four at 100 % lies under 52 %; five equals are no outliers at any rate."""
    pool = Pool(5, ONLY_RATES, failure_percentage=None)
    pool.serve([(successes, 100 - successes), *[(100, 0)] * 4])
    assert pool.tick(10.0) == ejected


def test_equals_are_no_outliers_by_a_last_bit() -> None:
    """The mean of three rates of 5 in 9 is, as a float, above all of them; nobody is ejected for that."""
    pool = Pool(3, ONLY_RATES, success_rate=SuccessRate(3, 9, 0.0), failure_percentage=None)
    pool.serve([(5, 4)] * 3)
    mean, _ = spread([100 * 5 / 9] * 3)
    assert mean > 100 * 5 / 9
    assert pool.tick(10.0) == []


@pytest.mark.parametrize(
    ("volume", "hosts", "ejected"), [(100, 5, [0]), (99, 5, []), (100, 4, []), (100, 9, [0])]
)
def test_rates_want_enough_requests_on_enough_endpoints(volume: int, hosts: int, ejected: list[int]) -> None:
    """99 requests are no rate (100 wanted), and four rates are no peers (five wanted)."""
    pool = Pool(hosts, ONLY_RATES, failure_percentage=None)
    pool.serve([(0, volume), *[(volume, 0)] * (hosts - 1)])
    assert [index for index, _ in pool.tick(10.0)] == ejected


@pytest.mark.parametrize(
    ("threshold", "ok", "failed", "ejected"),
    [
        (85, 16, 84, []),
        (85, 15, 85, [0]),
        (64.4, 89, 161, [0]),  # 64.4 % exactly, but not in floats: 100 * 89 / 250 > 100 - 64.4
    ],
)
def test_the_failure_percentage_counts_from_its_threshold_on(
    threshold: float, ok: int, failed: int, ejected: list[int]
) -> None:
    """Envoy: `100 - rate >= threshold`; gRFC A50's text says "greater", its field comment "at least"."""
    rule = FailurePercentage(threshold, 5, 50)
    pool = Pool(5, ONLY_RATES, success_rate=None, failure_percentage=rule)
    pool.serve([(ok, failed), *[(100, 0)] * 4])
    assert [index for index, _ in pool.tick(10.0)] == ejected


def test_a_threshold_of_zero_spares_who_never_failed() -> None:
    """Any failure is too many then; none is not."""
    pool = Pool(3, ONLY_RATES, success_rate=None, failure_percentage=FailurePercentage(0, 1, 1))
    pool.serve([(99, 1), (100, 0), (100, 0)])
    assert pool.tick(10.0) == [(0, "failure_percentage")]


def test_within_a_tick_the_worst_go_first() -> None:
    """Four of ten fail, three may go: the one that fails least stays, wherever it stands in the list."""
    pool = Pool(10, ONLY_RATES, success_rate=None, max_ejection_percent=30)
    pool.serve([(10, 90), (15, 85), (0, 100), (5, 95), *[(100, 0)] * 6])
    assert [index for index, _ in pool.tick(10.0)] == [2, 3, 0]


def test_success_rate_is_judged_before_failure_percentage() -> None:
    """An endpoint that both would eject is ejected once, by the first (Envoy's order)."""
    pool = Pool(6, ONLY_RATES)
    pool.serve([(0, 100), *[(100, 0)] * 5])
    assert pool.tick(10.0) == [(0, "success_rate")]


def test_with_the_split_unreachable_endpoints_have_a_rate_of_their_own() -> None:
    """Half of the attempts never reached the first: among four that were always reached it stands out."""
    pool = Pool(5, ONLY_RATES, failure_percentage=None, split_external_local_origin_errors=True)
    pool.serve([(50, 0), *[(100, 0)] * 4])
    pool.hosts[0].settings = replace(pool.settings, consecutive_local_origin_failures=0)
    pool.answer(0, Code.UNAVAILABLE, 50, local=True)
    assert pool.tick(10.0) == [(0, "local_origin_success_rate")]


def test_each_interval_is_judged_by_itself() -> None:
    """What was counted before a tick is gone after it, whether it ejected anybody or not."""
    pool = Pool(5, ONLY_RATES, split_external_local_origin_errors=True, consecutive_local_origin_failures=0)
    pool.answer(0, Code.UNAVAILABLE, 10, local=True)
    pool.tick(10.0)
    assert pool.hosts[0].unreached == 0
    pool = Pool(5, ONLY_RATES)
    pool.serve([(40, 10), *[(50, 0)] * 4])
    assert pool.tick(10.0) == []
    pool.serve([(0, 50), *[(50, 0)] * 4])
    assert pool.hosts[0].errors == 50
    assert pool.tick(20.0) == [(0, "failure_percentage")]


def test_a_tick_before_its_time_does_nothing() -> None:
    """Whoever drives the clock may call as often as he likes: the interval is the detector's."""
    pool = Pool(5, ONLY_RATES)
    pool.serve([(0, 100), *[(100, 0)] * 4])
    assert pool.tick(9.999) == []
    assert pool.tick(10.0) == [(0, "success_rate")]


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
    """Three were asked for; after the third everybody is let in, without a ticket, and counts from nothing."""
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
    pool.detector.configure(replace(ONLY_CONSECUTIVE, consecutive5xx=3), 1.0)
    assert pool.hosts[0].state(29.0) == EJECTED
    assert pool.fail(1, 3, now=1.0) == "consecutive_5xx"


def test_a_limit_lowered_under_a_run_fires_at_the_next_failure() -> None:
    """Envoy, which waits for the exact number, would wait for a success first."""
    pool = Pool(4)
    pool.fail(0, 4)
    pool.detector.configure(replace(ONLY_CONSECUTIVE, consecutive5xx=2), 1.0)
    assert pool.fail(0, now=1.0) == "consecutive_5xx"


@pytest.mark.parametrize(
    "settings",
    [NOTHING, replace(AS_WRITTEN, max_ejection_percent=0)],
    ids=["no rule is left", "nobody may be ejected"],
)
def test_switching_it_off_readmits_everybody(settings: outlier.OutlierDetection) -> None:
    """gRFC A50: a configuration that can't eject un-ejects."""
    pool = Pool(4)
    pool.eject(0, 1)
    pool.detector.configure(settings, 1.0)
    assert (pool.out, pool.detector.out) == ([], 0)
    assert pool.hosts[0].admit(1.0) == 0


@pytest.mark.parametrize(("interval", "due"), [(6, 6.0), (3, 4.0), (20, 20.0)])
def test_a_running_interval_keeps_the_time_that_has_passed(interval: float, due: float) -> None:
    """Edited 4 s after it began (gRFC A50): 6 s leave 2, 3 s are over at once, 20 s leave 16."""
    pool = Pool(1)
    for begun in (0.0, 10.0):
        pool.tick(begun)
        pool.detector.configure(replace(AS_WRITTEN, interval=interval), begun + 4.0)
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
