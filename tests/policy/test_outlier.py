"""Outlier detection: what counts, whose rates are compared, and who may be ejected."""

from __future__ import annotations

import pytest

from proxyless.model.codes import Code
from proxyless.model.traffic import FailurePercentage, SuccessRate
from proxyless.policy.outlier import PROBING, Outlier, spread, threshold
from tests.policy.pools import AS_WRITTEN, NOTHING, ONLY_RATES, Pool

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
    """Four of each are five of neither; and any answer proves that the endpoint was reached."""
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
    """`minHealthPercent` stands above the one that may always be ejected: it was asked for in words."""
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
    assert mean == 394
    assert deviation == pytest.approx(147.32277488562318)


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


@pytest.mark.parametrize(("volume", "hosts", "ejected"), [(100, 5, [0]), (99, 5, []), (100, 4, []), (100, 9, [0])])
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
    rule = FailurePercentage(0, 1, 1)
    pool = Pool(3, ONLY_RATES, success_rate=None, failure_percentage=rule, max_ejection_percent=100)
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
    pool = Pool(
        5,
        ONLY_RATES,
        failure_percentage=None,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failures=0,
    )
    pool.serve([(50, 0), *[(100, 0)] * 4])
    pool.answer(0, Code.UNAVAILABLE, 50, local=True)
    assert pool.tick(10.0) == [(0, "local_origin_success_rate")]


def test_whoever_answers_was_reached_whatever_it_answers() -> None:
    """60 good answers, 40 bad ones, 50 attempts lost: 40 % failed, and 33 % never reached it; not 45 %."""
    pool = Pool(
        5,
        ONLY_RATES,
        success_rate=None,
        failure_percentage=FailurePercentage(42, 1, 50),
        split_external_local_origin_errors=True,
        consecutive_local_origin_failures=0,
    )
    pool.serve([(60, 40)])
    pool.answer(0, Code.UNAVAILABLE, 50, local=True)
    assert pool.tick(10.0) == []


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
