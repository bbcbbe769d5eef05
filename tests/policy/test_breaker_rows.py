"""The peers' table of breakers (16): Finagle's and Linkerd's accrual policies, gRPC's limits.

A rule about one endpoint (failures in a row, probes) is outlier detection's here, a rule about a rate over
time is the circuit breaker's, and a number of requests under way is a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from proxyless.model.codes import Code
from proxyless.model.quantities import Duration
from proxyless.model.traffic import CircuitBreaker
from proxyless.policy.breaker import CLOSED, OPEN, Breaker
from proxyless.policy.limits import Limit
from proxyless.policy.outlier import EJECTED, HEALTHY
from tests.policy.pools import NOTHING, Pool
from tests.policy.rows import rows

NOT_OURS = {
    "backoff-resets-on-revive": "our ejection time decays, a step per healthy interval, as Envoy's does",
    "success-rate-rps-threshold": "the contract has minimumRequests, and no threshold of requests per second",
    "hybrid-window": "Finagle's window trips only once it is full; ours as soon as minimumRequests are there",
    "l5u-probation_failure_on_429": "ours is the lenient probe of the row l5-consecutive_probe_is_lenient: "
    "RESOURCE_EXHAUSTED is no 5xx to Envoy",
    "istio-doc-c3": "limits on HTTP/1 connections, and one recorded run",
}
"""Rows of 16 that are left out."""

Asks = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


def windowed(given: Mapping[str, Any], minimum: int | None = None) -> Breaker:
    """A breaker for a row that speaks of a ratio of successes."""
    settings = CircuitBreaker(
        failure_rate=100 * (1 - given.get("threshold", given.get("required", 0.0))),
        minimum_requests=max(1, minimum or given.get("min_requests", given.get("window_requests", 1))),
        window=Duration(given.get("window_s", 10)),
        open_for=Duration(5),
        half_open_requests=1,
    )
    return Breaker(settings)


def trips(breaker: Breaker, results: str, *instants: float) -> list[bool]:
    """After each result (S or F): has it opened?"""
    seen = []
    for at, result in zip(instants or (0.0,) * len(results), results, strict=True):
        breaker.record(breaker.admit(at), result == "S", at)
        seen.append(breaker.state(at) == OPEN)
    return seen


def in_a_row(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(2, consecutive5xx=given["max_failures"], base_ejection_time=expect["dead_for_s"])
    assert [bool(pool.fail(0)) for _ in given["results"]] == expect["dead_after"]
    assert pool.hosts[0].ejected_until == expect["dead_for_s"]


def revived(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(2, consecutive5xx=given["max_failures"])
    dead: list[bool | None] = []
    for event in given["events"]:
        if event == "F":
            dead.append(bool(pool.fail(0)))
        else:
            pool.detector.eject(pool.hosts[0], 0.0)
            pool.probe(0, Code.OK, 30.0)
            dead.append(None)
    assert dead == expect["dead_after"]


def after_enough(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    wanted = expect.get("dead_after") or expect["trip_after"]
    assert trips(windowed(given), given.get("results") or given["samples"]) == wanted


def empty(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    breaker = windowed(given)
    assert breaker.rate(0.0) is expect["ratio"] is None
    assert (breaker.state(0.0) == OPEN) is expect["trip"]


def burst(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    for instants in ((0.0,) * 5, (0.0, 1.0, 2.0, 3.0, 4.0)):
        assert trips(windowed(given), "FFFFF", *instants).index(True) + 1 == expect["trip_on_sample"]


def ratio(*results: tuple[str, float]) -> Asks:
    """What the window says after these results at these instants, where it never opens."""

    def ask(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
        breaker, now = windowed(given, minimum=100), 0.0
        for samples, now in results:
            trips(breaker, samples, *(now,) * len(samples))
        rate = breaker.rate(now)
        assert rate is not None
        assert 1 - rate / 100 == pytest.approx(expect["ratio"])

    return ask


def reset(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    breaker = windowed(given, minimum=5)
    assert trips(breaker, "FFFFF")[-1]
    breaker.record(breaker.admit(5.0), True, 5.0)
    assert breaker.state(5.0) == CLOSED
    assert breaker.rate(5.0) is expect["ratio"] is None


def unified_in_a_row(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(2, consecutive5xx=given["max_consecutive"])
    open_after = []
    for _ in given["results"]:
        pool.fail(0)
        open_after.append(pool.hosts[0].admit(0.0) == 0)
    assert open_after == expect["open_after"]


def probe(code: Code, delay: float = 0.0) -> Asks:
    """An ejected endpoint's first live request ends with `code`, after some time."""

    def ask(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
        pool = Pool(2, consecutive5xx=given.get("max_consecutive", 5))
        pool.eject(0)
        host = pool.hosts[0]
        ticket = host.admit(30.0)
        assert ticket
        assert pool.detector.probed(host, ticket, code, 30.0 + delay) == HEALTHY
        assert host.admit(30.0 + delay) == 0

    return ask


def without_policy(_given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    pool = Pool(1, NOTHING)
    pool.fail(0, 1000)
    assert pool.hosts[0].admit(0.0) == 0


def failfast(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    pool = Pool(given["endpoints"], consecutive5xx=given["max_failures"])
    pool.eject(0)
    host = pool.hosts[0]
    assert host.admit(29.0) is None
    assert (pool.probe(0, Code.UNAVAILABLE, 30.0) == EJECTED) is (expect["failed_probe"] == "shut again")
    assert host.admit(89.0) is None
    assert (pool.probe(0, Code.OK, 90.0) == HEALTHY) is (expect["ok_probe"] == "open")


def lowers_the_ratio(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    breaker = windowed(given, minimum=100)
    trips(breaker, "SSSF")
    assert breaker.rate(0.0) == 25


def ignores_exhaustion(_given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    pool = Pool(2, consecutive5xx=2)
    assert pool.answer(0, Code.RESOURCE_EXHAUSTED, 100) == ""


def cold_again(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    breaker = windowed({**given, "threshold": 0.5}, minimum=5)
    assert not any(trips(breaker, "S" * 20))
    assert trips(breaker, "FFFFF", *(100.0,) * 5) == [False, False, False, False, True]


def in_flight(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    for method, name in (("UnaryCall", "unary"), ("EmptyCall", "empty")):
        limit = Limit(given["methods"][method]["max_requests"])
        assert sum(limit.enter() for _ in range(2000)) == limit.used
        low, high = expect[f"{name}_in_flight"]
        assert low <= limit.used <= high
        if name == "unary":
            limit.maximum = 800
            assert sum(limit.enter() for _ in range(2000)) == 300
            low, high = expect["then_max_requests_unary_800"]
            assert low <= limit.used <= high


def over_limit(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    limit = Limit(given["max_requests"])
    assert all(limit.enter() for _ in range(given["in_flight"]))
    assert not limit.enter()
    limit.leave()
    assert limit.enter()


def nothing_gets_in(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    limit = Limit(given["max_requests"])
    assert [limit.enter() for _ in range(10)] == [not expect["all_fail"]] * 10


ASKED: Mapping[str, Asks] = {
    "consecutive-3": in_a_row,
    "consecutive-reset-on-revive": revived,
    "success-rate-min-requests": after_enough,
    "l5-empty_window_does_not_trip": empty,
    "l5-threshold_one_trips_on_any_failure_once_min_met": after_enough,
    "l5-failure_burst_trips_independent_of_rate": burst,
    "l5-ratio_recovers_as_failures_expire": ratio(("FF", 0.0), ("S" * 8, 6.0)),
    "l5-reset_clears_all_buckets": reset,
    "l5-large_gap_clears_entire_window": ratio(("FFFFF", 0.0), ("S", 1000.0)),
    "l5-unified_trips_on_consecutive_failures": unified_in_a_row,
    "l5-unified_probe_success_reopens": probe(Code.OK),
    "l5-consecutive_probe_is_lenient": probe(Code.RESOURCE_EXHAUSTED),
    "l5-failure_accrual_none_produces_no_breaker_task": without_policy,
    "l5-all-tripped-failfast": failfast,
    "l5u-success_rate_counts_5xx": lowers_the_ratio,
    "l5u-consecutive_failures_ignores_grpc_resource_exhausted": ignores_exhaustion,
    "l5u-idle_reengages_cold_start_with_failure": cold_again,
    "l5u-slow_healthy_probe_reopens": probe(Code.OK, delay=25.0),
    "psm-circuit-breaking": in_flight,
    "a32-over-limit": over_limit,
    "a32-zero": nothing_gets_in,
}
"""Every row that is not left out, and what it asks."""


@pytest.mark.parametrize("row", rows("16_breakers.json", left_out=NOT_OURS))
def test_breakers_and_limits_behave_as_with_the_peers(row: Mapping[str, Any]) -> None:
    """Each row of 16 in its own terms; a row that nobody knows fails."""
    ASKED[row["id"]](row["given"], row["expect"])


LINKERD = "linkerd2-proxy@29637b64 linkerd/app/outbound/src/http/breaker/success_rate.rs"


@pytest.mark.parametrize(
    ("results", "minimum", "threshold", "opens", "_source"),
    [
        ("SSSF", 4, 1.0, [False, False, False, True], f"{LINKERD} threshold_one_trips_on_any_failure"),
        ("FFFFF", 5, 0.5, [False] * 4 + [True], f"{LINKERD} failure_burst_trips_independent_of_rate"),
        ("FFFFF", 5, 0.5, [False] * 4 + [True], "finagle@4feb34cb FailureAccrualPolicyTest min requests"),
    ],
)
def test_the_rows_that_matter_most(
    results: str, minimum: int, threshold: float, opens: list[bool], _source: str
) -> None:
    """Enough requests, then the rate: kept beside the table."""
    assert trips(windowed({"threshold": threshold, "min_requests": minimum}), results) == opens


def test_at_exactly_the_rate_ours_is_open() -> None:
    """Linkerd trips under its ratio, we from our rate on: at one half of each they differ."""
    assert trips(windowed({"threshold": 0.5, "min_requests": 4}), "SSFF")[-1]
