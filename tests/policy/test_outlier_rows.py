"""The peers' table of outlier detection (09): Envoy's and gRPC's, as far as ours is theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from proxyless.model.codes import Code
from proxyless.model.traffic import FailurePercentage, SuccessRate
from proxyless.policy.outlier import EJECTED, HEALTHY, PROBING, spread
from tests.policy.pools import AS_WRITTEN, NOTHING, ONLY_CONSECUTIVE, ONLY_RATES, Pool
from tests.policy.rows import rows
from tests.worlds import POLICY

NOT_OURS = {
    "grpc-defaults": "the contract's differ: half may be ejected, and rates are compared on demand",
    "envoy-max-below-base-rejected": "documents are laid over each other field by field, so the pair may "
    "come from two; the cap holds (test_outlier.py: no ejection is longer than the longest)",
    "envoy-ejection-time-not-aligned": "ours ends at its exact instant: 305 s are 305 and not 310",
    "envoy-max-percent-zero-hosts-not-allowed": "the contract lets one go unless the percentage is 0",
    "sr-enforcement-0": "the contract has no enforcement percentages",
    "go-fp-enforce-0": "as above",
    "sr-three-outliers-max-30": "A50 asks before each ejection and passes the limit by one; ours holds: one "
    "of five (test_outlier.py: the share that may be ejected)",
    "go-multi-address-endpoint-one-unit": "an endpoint of ours has one address",
}
"""Rows of 09 that are left out."""


def is_the_default(_given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    ours = POLICY.outlier_detection
    assert ours.consecutive5xx == expect["consecutive_5xx"]
    assert ours.interval * 1000 == expect["interval_ms"]
    assert ours.base_ejection_time * 1000 == expect["base_ejection_time_ms"]
    assert ours.max_ejection_time * 1000 == expect["max_ejection_time_ms"]


def spreads(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    mean, deviation = spread(given["values"])
    assert mean == expect["mean"]
    assert deviation == pytest.approx(expect["stdev"])


def returns_in_time(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(2, base_ejection_time=given["base_ejection_time_ms"] / 1000)
    pool.eject(0, now=given["ejected_at_ms"] / 1000)
    assert {pool.hosts[0].state(ms / 1000) for ms in expect["still_out_at_ms"]} == {EJECTED}
    assert {pool.hosts[0].state(ms / 1000) for ms in expect["back_at_ms"]} == {PROBING}


def splits(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(2, split_external_local_origin_errors=given["split_external_local_origin_errors"])
    results = [
        pool.answer(0, {"connect_timeout": Code.DEADLINE_EXCEEDED}[result], local=True)
        for result in given["local_results"]
    ]
    assert results[-1] == expect["ejected_by"]
    assert pool.hosts[0].run == expect["external_counter"]


def is_too_quiet(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    rule = SuccessRate(5, given["success_rate_request_volume"], 1.9)
    pool = Pool(len(given["success_percent"]), ONLY_RATES, success_rate=rule, failure_percentage=None)
    requests = given["requests_each"]
    good = [requests * percent // 100 for percent in given["success_percent"]]
    pool.serve([(ok, requests - ok) for ok in good])
    assert [index for index, _ in pool.tick(10.0)] == expect["ejected"]


def fails_too_much(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    rule = FailurePercentage(given["threshold_percent"], 5, 50)
    pool = Pool(5, ONLY_RATES, success_rate=None, failure_percentage=rule)
    pool.serve([(given["ok"], given["failed"]), *[(350, 0)] * 4])
    assert bool(pool.tick(10.0)) is expect["ejected"]


def leaves_while_ejected(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(4)
    pool.eject(*given["ejected"])
    pool.detector.adopt(pool.hosts[1:])
    assert pool.detector.out == expect["ejections_active_gauge"]


def grows(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool, now, times = (
        Pool(2, base_ejection_time=given["base_s"], max_ejection_time=given["max_s"]),
        0.0,
        [],
    )
    for _ in range(given["consecutive_ejections"]):
        pool.eject(0, now=now)
        times.append(pool.hosts[0].ejected_until - now)
        now = pool.hosts[0].ejected_until
        pool.probe(0, Code.OK, now)
    assert times == expect["ejection_times_s"]


def has_no_results(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    rule = SuccessRate(given["success_rate_minimum_hosts"], 0, 1.9)
    pool = Pool(3, ONLY_RATES, success_rate=rule)
    pool.serve(given["results"])
    assert [index for index, _ in pool.tick(10.0)] == expect["ejected"]


def is_capped(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(2, base_ejection_time=given["base_s"], max_ejection_time=given["max_s"])
    pool.hosts[0].times = given["multiplier"]
    pool.eject(0, now=given["ejected_at_s"])
    assert pool.hosts[0].ejected_until == expect["uneject_when_now_after_s"]


def is_shortened(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(1, interval=given["old_interval_s"])
    now = float(given["elapsed_s"])
    pool.detector.configure(Pool(1, interval=given["new_interval_s"]).settings, now)
    assert pool.detector.due_at - now == expect["next_tick_in_s"]


def is_switched_off(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(4)
    pool.eject(*given["ejected"])
    pool.detector.configure(NOTHING, 1.0)
    assert pool.out == expect["ejected"]


def never_ejects(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(given["endpoints"], NOTHING)
    pool.fail(given["bad"], 1000)
    assert not pool.tick(10.0)
    assert sum(host.admit(10.0) == 0 for host in pool.hosts) == expect["rr_over"]


def comes_back(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    pool = Pool(
        3,
        ONLY_RATES,
        success_rate=None,
        failure_percentage=FailurePercentage(**given["fp"]),
        base_ejection_time=given["base_s"],
        max_ejection_time=given["max_s"],
        max_ejection_percent=10,
        interval=1.0,
    )
    pool.serve([(0, 1), (1, 0), (1, 0)])
    assert [index for index, _ in pool.tick(1.0)] == given["failing"]
    assert [host.admit(1.5) for host in pool.hosts] == [None, 0, 0]
    assert pool.probe(0, Code.OK, 2.0) == HEALTHY


def by_rates(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    """grpc-java's and grpc-go's tables: everybody gets the same number of calls, some fail all of theirs."""
    # A50's defaults, and its stdev_factor in thousandths
    sr = {"minimum_hosts": 5, "request_volume": 100, "stdev_factor": 1900, **given.get("sr", {})}
    fp = {"threshold": 85, "minimum_hosts": 5, "request_volume": 50, **given.get("fp", {})}
    assert (sr.pop("enforcement_percentage", 100), fp.pop("enforcement_percentage", 100)) == (100, 100)
    sr["stdev_factor"] /= 1000
    pool = Pool(
        given["endpoints"],
        ONLY_RATES,
        max_ejection_percent=given["max_ejection_percent"],
        success_rate=SuccessRate(**sr) if "sr" in given else None,
        failure_percentage=FailurePercentage(**fp) if "fp" in given else None,
    )
    calls = [given["rpcs_each"]] * given["endpoints"]
    if "rpcs_on_failing" in given:
        calls[given["failing"][0]] = given["rpcs_on_failing"]
    if "one_other_has_rpcs" in given:
        calls[1] = given["one_other_has_rpcs"]
    if "rpcs_on_2" in given:
        calls[2] = given["rpcs_on_2"]
    pool.serve([(0, n) if index in given["failing"] else (n, 0) for index, n in enumerate(calls)])
    ejected = sorted(index for index, _ in pool.tick(10.0))
    if "then" in given:
        assert ejected == given["failing"]
        for index in ejected:
            pool.probe(index, Code.OK, 10.0 + AS_WRITTEN.max_ejection_time + 1e-9)
        ejected = pool.out
    if "ejected_count" in expect:
        assert len(ejected) == expect["ejected_count"]
    else:
        assert ejected == expect["ejected"]


ASKED: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], None]] = {
    "envoy-defaults": is_the_default,
    "java-mean-stdev": spreads,
    "envoy-consecutive-return-time": returns_in_time,
    "envoy-local-origin-split": splits,
    "envoy-success-rate-low-volume": is_too_quiet,
    "envoy-failure-percentage-50-300": fails_too_much,
    "envoy-remove-while-ejected": leaves_while_ejected,
    "envoy-ejection-time-grows-to-max": grows,
    "envoy-empty-success-rate-min-hosts-0": has_no_results,
    "grpc-uneject-time-capped": is_capped,
    "grpc-interval-shortened": is_shortened,
    "sr-no-outliers": by_rates,
    "sr-unejected-after-max": by_rates,
    "sr-not-enough-volume": by_rates,
    "fp-one-outlier": by_rates,
    "fp-not-enough-hosts-with-volume": by_rates,
    "sr-plus-fp": by_rates,
    "go-fp-3-conns": by_rates,
    "go-noop-config-unejects": is_switched_off,
    "go-e2e-noop": never_ejects,
    "core-failure-percentage": comes_back,
}
"""Every row that is not left out, and what it asks."""


@pytest.mark.parametrize("row", rows("09_outlier.json", left_out=NOT_OURS))
def test_endpoints_are_ejected_as_with_the_peers(row: Mapping[str, Any]) -> None:
    """Each row of 09 in its own terms; a row that nobody knows fails."""
    ASKED[row["id"]](row["given"], row["expect"])


ENVOY = "envoy@00bd11e3 test/common/upstream/outlier_detection_impl_test.cc"
JAVA = "grpc-java@5fda0c7c OutlierDetectionLoadBalancerTest.java"


@pytest.mark.parametrize(
    ("asks", "given", "expect", "_source"),
    [
        (
            grows,
            {"base_s": 10, "max_s": 40, "consecutive_ejections": 6},
            {"ejection_times_s": [10, 20, 30, 40, 40, 40]},
            f"{ENVOY} MaxEjectTime, shortened",
        ),
        (
            fails_too_much,
            {"threshold_percent": 85, "ok": 50, "failed": 300},
            {"ejected": True},
            f"{ENVOY} BasicFlowFailurePercentageExternalOrigin: 85.71 %",
        ),
        (
            by_rates,
            {
                "endpoints": 5,
                "rpcs_each": 20,
                "max_ejection_percent": 50,
                "sr": {"minimum_hosts": 3, "request_volume": 10},
                "failing": [0],
                "then": "healthy, advance max_ejection_time + 1 ns",
            },
            {"ejected": []},
            f"{JAVA} successRateOneOutlier_unejected",
        ),
        (
            by_rates,
            {
                "endpoints": 3,
                "rpcs_each": 5,
                "fp": {"threshold": 50, "minimum_hosts": 3, "request_volume": 3},
                "max_ejection_percent": 10,
                "failing": [2],
            },
            {"ejected_count": 1},
            "grpc-go@4793ad04 outlierdetection/balancer_test.go TestEjectFailureRate",
        ),
    ],
    ids=["times", "percentage", "rate", "one may always go"],
)
def test_the_rows_that_matter_most(
    asks: Callable[[Mapping[str, Any], Mapping[str, Any]], None],
    given: Mapping[str, Any],
    expect: Mapping[str, Any],
    _source: str,
) -> None:
    """Growth, percentages, rates and the one that may always go: kept beside the table."""
    asks(given, expect)


def test_ours_ends_at_its_instant_where_envoys_waits_for_the_tick() -> None:
    """Envoy's MaxEjectTimeNotAlligned: 305 s are 310 there, with ticks each 10 s, and 305 here."""
    pool = Pool(2, ONLY_CONSECUTIVE, base_ejection_time=10, max_ejection_time=305)
    pool.hosts[0].times = 31
    pool.eject(0)
    assert [pool.hosts[0].state(now) for now in (304.9, 305.0)] == [EJECTED, PROBING]
