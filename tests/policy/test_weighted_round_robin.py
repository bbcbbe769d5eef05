"""Weights from what servers report: gRFC A58, C-core's scheduler, and the rows of 05 about them."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.codes import Code
from proxyless.model.snapshot import Picker
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.balancers.load_report import JSON, KEY, LONGEST, TEXT, LoadReport, decode, read, weight
from proxyless.policy.balancers.weighted_round_robin import AT_ONCE, Reports, Stride
from proxyless.script import OK, Outcome
from proxyless.state import Node
from tests.fakes import START, Asks
from tests.policy.rows import rows
from tests.worlds import balancing, node

MINE = {
    "EmptyWeightsIsNullopt",
    "AllZeroWeightsIsNullopt",
    "PicksAreWeightedExactly",
    "MaxIsClampedForHighRatio",
    "AllWeightsEqualIsRoundRobin",
    "orca-app-util-all",
    "orca-app-over-cpu",
    "orca-no-reports",
}
"""The rows of 05 about C-core's scheduler and reports; test_schedule.py has the others."""


def stride(weights: Sequence[float]) -> Stride:
    """A scheduler that begins at the beginning."""
    made = Stride(weights, count().__next__)
    assert made.ready(len(weights))
    return made


def report(app: float = 0.0, cpu: float = 0.0, qps: float = 0.0, eps: float = 0.0) -> bytes:
    """An OrcaLoadReport on the wire: doubles by their field numbers."""
    fields = ((1, cpu), (6, qps), (7, eps), (9, app))
    return b"".join(bytes([number << 3 | 1]) + struct.pack("<d", value) for number, value in fields if value)


def ended(data: bytes | None) -> Outcome:
    """A success whose trailers have a report."""
    return Outcome(0, trailers=((KEY, data),) if data is not None else (), committed=True)


def reporting(reports: Sequence[bytes | None], now: float, **fields: Any) -> tuple[list[Node], Picker]:
    """Nodes that have reported since long before `now`."""
    members = [node(f"n{index}") for index in range(len(reports))]
    block = balancing("weighted_round_robin", **fields)
    picker = BALANCERS["weighted_round_robin"](members, [1] * len(members), block, lambda: 0.0)
    for at in (now - 100, now):
        for member, data in zip(members, reports, strict=True):
            assert member.feedback is not None
            member.feedback.observe(ended(data), 0.01, at)
    return members, picker


def picks(members: Sequence[Node], picker: Picker, number: int, now: float = START) -> list[int]:
    """How often each was picked."""
    counts = Counter(picker.pick(Asks(random.random, now)) for _ in range(number))
    return [counts[member] for member in members]


def test_an_edit_goes_on_with_the_weights_there_were() -> None:
    """A new picker over the same nodes begins with what they have reported, and not with a turn of them all."""
    half = 2 * AT_ONCE
    reports = [report(app=0.1, qps=10)] * half + [report(app=0.1, qps=1000)] * half
    members, _ = reporting(reports, START)
    block = balancing("weighted_round_robin")
    made = BALANCERS["weighted_round_robin"](members, [1] * len(members), block, lambda: 0.25)
    # Fewer than the picks that it takes to look at all reports anew; a turn would begin with the light ones.
    first = [made.pick(Asks(random.random, START)) for _ in range(4)]
    assert [member in members[half:] for member in first] == [True] * 4


@pytest.mark.parametrize("row", rows("05_wrr_edf_rr.json", only=lambda row: row["id"] in MINE))
def test_turns_are_those_of_c_core(row: Mapping[str, Any]) -> None:
    """static_stride_scheduler_test.cc and weighted_round_robin_test.cc."""
    told, expect = row["given"], row["expect"]
    if "reports" in told:
        data = [None if one is None else report(**one) for one in told["reports"]]
        members, picker = reporting(data, START)
        total = sum(expect["weights"])
        found = picks(members, picker, 100 * total)
        for had, wanted in zip(found, expect["weights"], strict=True):
            assert abs(had - 100 * wanted) <= 2
    elif "weighted_scheduler" in expect:
        members, picker = reporting([None] * len(told["weights"]), START)
        assert picks(members, picker, 4 * len(members) or 1) == [4] * len(members)
    else:
        turns = stride(told["weights"])
        found = [turns.next() for _ in range(told["picks"])]
        if "counts" in expect:
            counts = Counter(found)
            assert [counts[index] for index in range(len(told["weights"]))] == expect["counts"]
        else:
            assert all(sorted(found[at : at + 3]) == [0, 1, 2] for at in range(0, len(found) - 2, 3))
            assert found[3:] == found[:-3]


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=20))
def test_shares_are_the_weights_between_their_bounds(weights: list[float]) -> None:
    """Whatever is above ten times the mean, or below a hundredth of it, counts as that much (C-core)."""
    turns = stride(weights)
    mean = sum(weights) / len(weights)
    capped = [min(max(one, 0.01 * mean), 10 * mean) for one in weights]
    number = 3000
    counts = Counter(turns.next() for _ in range(number))
    for index, wanted in enumerate(capped):
        assert abs(counts[index] - number * wanted / sum(capped)) <= 2 + len(weights)


# --- the weight of a report: gRFC A58 ---


@pytest.mark.parametrize(
    ("told", "penalty", "expected"),
    [
        (LoadReport(application=0.9, qps=100), 1.0, 100 / 0.9),
        (LoadReport(cpu=0.5, qps=100), 1.0, 200),
        (LoadReport(cpu=0.5, application=0.25, qps=100), 1.0, 400),
        (LoadReport(cpu=0.5, qps=100, eps=50), 1.0, 100),
        (LoadReport(cpu=0.5, qps=100, eps=50), 0.0, 200),
        (LoadReport(cpu=0.5, qps=100, eps=50), 2.0, 100 / 1.5),
        (LoadReport(cpu=0.5), 1.0, 0),
        (LoadReport(qps=100), 1.0, 0),
        (LoadReport(cpu=5e-324, qps=1.7e308), 1.0, 0),
    ],
    ids=str,
)
def test_more_queries_by_less_effort_weigh_more(told: LoadReport, penalty: float, expected: float) -> None:
    """qps / (utilization + eps/qps * penalty); the application's measure before the CPU's; 0 where it is unknown."""
    assert weight(told, penalty) == pytest.approx(expected)


# --- when a report counts ---


def test_reports_count_after_the_blackout_and_until_they_expire() -> None:
    """10 s of reports first; 180 s after the last one they are forgotten, and the blackout begins anew."""
    known = Reports(1.0)
    known.observe(ended(report(cpu=0.5, qps=100)), 0.01, START)
    assert known.weight(START + 9.9, 10, 180) == 0
    assert known.weight(START + 10, 10, 180) == 200
    assert known.weight(START + 179.9, 10, 180) == 200
    assert known.weight(START + 180, 10, 180) == 0
    known.observe(ended(report(cpu=0.5, qps=50)), 0.01, START + 200)
    assert known.weight(START + 205, 10, 180) == 0
    assert known.weight(START + 210, 10, 180) == 100
    assert known.weight(START + 205, 0, 180) == 100


def test_a_lost_connection_begins_the_blackout_anew() -> None:
    """Whoever answers at that address after it may be another process, with cold caches."""
    known = Reports(1.0)
    known.observe(ended(report(cpu=0.5, qps=100)), 0.01, START)
    known.observe(Outcome(Code.UNAVAILABLE, unsent=True), 0.0, START + 20)
    known.observe(ended(report(cpu=0.5, qps=100)), 0.01, START + 21)
    assert known.weight(START + 22, 10, 180) == 0
    assert known.weight(START + 31, 10, 180) == 200


def test_a_failure_reports_as_well() -> None:
    """Its trailers come with it; what came without any changes nothing."""
    known = Reports(1.0)
    known.observe(Outcome(Code.INTERNAL, trailers=((KEY, report(cpu=0.5, qps=100)),)), 0.01, START)
    known.observe(OK, 0.01, START + 1)
    known.observe(ended(b"\xff"), 0.01, START + 2)
    assert known.weight(START + 10, 10, 180) == 200


def test_one_that_reports_alone_is_no_reason_to_weigh() -> None:
    """ "fewer than two" that are known: round robin by the registered weights - gRFC A58."""
    members, picker = reporting([report(cpu=0.9, qps=1), None, None], START)
    assert picks(members, picker, 300) == [100, 100, 100]


def test_who_has_not_reported_yet_counts_as_the_mean() -> None:
    """A newcomer neither starves nor is flooded."""
    members, picker = reporting([report(cpu=0.5, qps=100), report(cpu=0.5, qps=300), None], START)
    assert picks(members, picker, 600) == pytest.approx([100, 300, 200], abs=3)


def test_weights_are_renewed_once_a_period() -> None:
    """Not by each report: between two computations shares stay as they are."""
    members, picker = reporting([report(cpu=0.5, qps=100)] * 2, START)
    assert picks(members, picker, 200) == [100, 100]
    members[0].feedback.observe(ended(report(cpu=0.5, qps=300)), 0.01, START)  # type: ignore[union-attr]
    assert picks(members, picker, 200, START + 0.9) == [100, 100]
    assert picks(members, picker, 400, START + 1.0) == pytest.approx([300, 100], abs=3)


def test_a_pick_looks_at_few_reports_however_many_there_are() -> None:
    """A thousand endpoints are looked through by 125 picks and weighed by as many; the old weights hold until then."""
    members, picker = reporting([report(cpu=0.5, qps=100)] * 1000, START)
    picks(members, picker, 2 * 1000 // AT_ONCE)
    members[0].feedback.observe(ended(report(cpu=0.5, qps=900)), 0.01, START + 1)  # type: ignore[union-attr]
    assert picks(members, picker, 2 * 1000 // AT_ONCE - 2, START + 1)[0] <= 1
    assert picks(members, picker, 10_000, START + 1)[0] > 80


def test_what_was_reported_outlives_a_swap() -> None:
    """A new endpoint, or an edit, does not begin with round robin again."""
    members, _ = reporting([report(cpu=0.5, qps=100), report(cpu=0.5, qps=300)], START)
    block = balancing("weighted_round_robin")
    again = BALANCERS["weighted_round_robin"](members, [1, 1], block, lambda: 0.0)
    assert picks(members, again, 400, START) == pytest.approx([100, 300], abs=3)


# --- bytes that a server sent ---


def test_a_report_is_read_past_what_is_of_no_use() -> None:
    """Maps of named metrics, fields of a later version, deprecated integers."""
    other = b"\x22\x03abc" + b"\x18\x96\x01" + b"\x7d\x00\x00\x80\x3f" + b"\x11" + struct.pack("<d", 0.7)
    assert decode(other + report(app=0.5, qps=10) + other) == LoadReport(application=0.5, qps=10)
    assert decode(b"") == LoadReport()


@pytest.mark.parametrize(
    "data",
    [b"\x09", b"\x09\x00", b"\x22\xff\xff\xff\xff\x0f", b"\x0b", b"\x80" * 20, b"\x09" + b"\0" * 8 + b"\x80", b"\xff"],
    ids=repr,
)
def test_what_is_no_report_is_nothing(data: bytes) -> None:
    """Cut short, too long by its own account, or never a message."""
    assert decode(data) is None


def test_a_report_without_end_is_not_read() -> None:
    """Bounded before it is looked at."""
    assert decode(b"\x22\x01a" * LONGEST) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_numbers_that_mean_nothing_are_0(value: float) -> None:
    """No weight may become infinite or negative by them."""
    assert decode(report(app=value, qps=value)) == LoadReport()


@pytest.mark.parametrize(
    ("trailers", "expected"),
    [
        ((("a", "b"), (TEXT, "cpu_utilization:0.3, rps_fractional: 120,eps:1")), LoadReport(cpu=0.3, qps=120, eps=1)),
        (((TEXT, "application_utilization:0.5,named_metrics.queue:7"),), LoadReport(application=0.5)),
        (((TEXT, "cpu_utilization:much"),), None),
        (((TEXT, ""),), LoadReport()),
        (((JSON, '{"cpuUtilization": 0.3, "rps_fractional": 120, "utilization": {"a": 1}}'),), LoadReport(0.3, 0, 120)),
        (((JSON, '{"eps": 1e999, "cpuUtilization": true, "rpsFractional": 1' + "0" * 400 + "}"),), LoadReport()),
        (((JSON, "["),), None),
        (((JSON, "[" * 9000),), None),
        (((JSON, "[1]"),), None),
        (((KEY, report(cpu=0.5, qps=9)),), LoadReport(cpu=0.5, qps=9)),
        (((TEXT, "eps:1," * LONGEST),), None),
        ((), None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_report_is_read_however_it_is_written(trailers: Any, expected: LoadReport | None) -> None:
    """Envoy's three ways (orca_parser.cc): text, JSON, and the message itself."""
    assert read(trailers) == expected


@pytest.mark.parametrize(
    ("report", "penalty", "expected"),
    [
        # Envoy orca_weight_manager_test.cc, CalculateWeightFromOrcaReport_Valid, _NoQps, _NoUtilization, _ErrorPenalty
        (LoadReport(application=0.5, qps=1000), 0.0, 2000),
        (LoadReport(), 0.0, 0),
        (LoadReport(qps=1000), 0.0, 0),
        (LoadReport(application=0.5, qps=1000, eps=100), 2.0, 1428.57),
        # …_MaxWeight: `std::numeric_limits<uint32_t>::max()`
        (LoadReport(application=1e-7, qps=1e13), 0.0, 2**32 - 1),
        (LoadReport(cpu=1e-8, qps=9e299), 1.0, 2**32 - 1),
        (LoadReport(cpu=1.0, qps=1e-310), 1.0, 1 / (2**32 - 1)),
        (LoadReport(cpu=1.0, qps=1e-310, eps=1e299), 1.0, 1 / (2**32 - 1)),
    ],
)
def test_a_weight_is_a_number_that_can_be_counted_with(report: LoadReport, penalty: float, expected: float) -> None:
    """A58's formula, within what a turn of the schedule can hold."""
    assert weight(report, penalty) == pytest.approx(expected, abs=0.01 if expected > 1 else 1e-12)


_any = st.floats(0, 1e300, exclude_max=True)


@given(st.lists(st.builds(LoadReport, _any, _any, _any, _any), min_size=2, max_size=6), st.floats(0, 1000))
def test_whatever_servers_report_somebody_is_next(reports: list[LoadReport], penalty: float) -> None:
    """Two weights near infinity had a sum that was, and every call of the service failed with OverflowError."""
    weights = [weight(report, penalty) for report in reports]
    if any(weights):
        stride = Stride(weights, count().__next__)
        assert stride.ready(len(weights))
        assert all(0 <= stride.next() < len(weights) for _ in range(20))


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    """A report with sane numbers, or none."""
    read = decode(data)
    assert read is None or all(0 <= value < float("inf") for value in read)
