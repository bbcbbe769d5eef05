"""Faults: how many calls they touch, what headers may ask for, and what an HTTP status becomes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.codes import Code
from proxyless.model.quantities import Duration
from proxyless.model.routes import Fault, FaultAbort, FaultDelay
from proxyless.policy.fault import Faults, from_http
from tests.policy.rows import rows

DELAY = "x-envoy-fault-delay-request"
DELAY_PERCENTAGE = "x-envoy-fault-delay-request-percentage"
ABORT_GRPC = "x-envoy-fault-abort-grpc-request"
ABORT_HTTP = "x-envoy-fault-abort-request"
ABORT_PERCENTAGE = "x-envoy-fault-abort-request-percentage"

NOT_OURS = {
    "max-faults-zero": "the contract has no cap on faults under way",
    "two-filters-abort-then-delay": "a route has one fault block, and its delay comes first",
}
"""Rows of 15 that are left out."""


def faults(
    *, delay: float | None = None, fixed: float = 5.0, abort: float | None = None, headers: bool = False
) -> Faults:
    """Faults of so many percent; an abort is UNAVAILABLE."""
    return Faults(
        Fault(
            FaultDelay(delay, Duration(fixed)) if delay is not None else None,
            FaultAbort(abort, "UNAVAILABLE") if abort is not None else None,
            headers,
        )
    )


def delayed(fault: Faults, draw: float = 0.0, **metadata: str) -> float:
    """What becomes of a call with these headers, where the dice show `draw` percent."""
    return fault.delay(named(metadata), lambda: draw / 100)


def aborted(fault: Faults, draw: float = 0.0, **metadata: str) -> Code | None:
    """As `delayed`, of the abort."""
    return fault.abort(named(metadata), lambda: draw / 100)


def named(short: Mapping[str, str]) -> list[tuple[str, str]]:
    """Headers by short names, among one that is nobody's business."""
    names = {
        "delay": DELAY,
        "delay_percentage": DELAY_PERCENTAGE,
        "grpc": ABORT_GRPC,
        "http": ABORT_HTTP,
        "percentage": ABORT_PERCENTAGE,
    }
    return [("x-request-id", "7"), *((names[key], value) for key, value in short.items())]


# --- the document's own faults ---


def test_a_fifth_and_a_twentieth_touch_24_percent() -> None:
    """20 % delayed and 5 % aborted, drawn apart (gRFC A33): 20, 5, 24 in a hundred, and one in both."""
    fault, rng = faults(delay=20, abort=5), random.Random(42).random
    calls = 100_000
    seen = [(fault.delay((), rng) > 0, fault.abort((), rng) is not None) for _ in range(calls)]
    shares = [
        100 * sum(kind) / calls
        for kind in (
            [delay for delay, _ in seen],
            [abort for _, abort in seen],
            [delay or abort for delay, abort in seen],
            [delay and abort for delay, abort in seen],
        )
    ]
    assert shares == pytest.approx([20, 5, 24, 1], abs=0.4)


@pytest.mark.parametrize(("percent", "hit", "missed"), [(0.01, 0.009, 0.01), (50, 49.99, 50), (100, 99.99, None)])
def test_the_draw_must_lie_under_the_percentage(percent: float, hit: float, missed: float | None) -> None:
    """Down to a hundredth of a percent; 100 % is every call."""
    fault = faults(delay=percent, abort=percent)
    assert (delayed(fault, hit), aborted(fault, hit)) == (5.0, Code.UNAVAILABLE)
    if missed is not None:
        assert (delayed(fault, missed), aborted(fault, missed)) == (0.0, None)


@pytest.mark.parametrize("fault", [faults(), faults(delay=0, abort=0), faults(headers=True)])
def test_what_is_not_configured_rolls_no_dice(fault: Faults) -> None:
    """Neither without faults, nor at 0 %, nor where headers ask for what the document does not allow."""

    def rng() -> float:
        raise AssertionError("nothing is left to chance here")

    metadata = named({"delay": "5", "delay_percentage": "100", "grpc": "14", "percentage": "100"})
    assert fault.delay(metadata, rng) == 0.0
    assert fault.abort(metadata, rng) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        # grpc:doc/http-grpc-status-mapping.md
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (431, Code.INTERNAL),
        (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
        (504, Code.UNAVAILABLE),
        (200, Code.UNKNOWN),
        (418, Code.UNKNOWN),
        (500, Code.UNKNOWN),
    ],
)
def test_an_http_status_becomes_what_a_grpc_client_makes_of_it(status: int, code: Code) -> None:
    """500 is UNKNOWN and 400 is INTERNAL: not what one would guess, but what every gRPC client does."""
    fault = Faults(Fault(abort=FaultAbort(100, http_status=status)))
    assert from_http(status) == aborted(fault) == code


# --- headers ---


def test_headers_are_ignored_unless_the_document_lets_them() -> None:
    """Without `headers: true` a caller's metadata changes nothing."""
    fault = faults(delay=50, abort=50)
    assert delayed(fault, 49, delay="1", delay_percentage="0") == 5.0
    assert aborted(fault, 49, grpc="5", percentage="0") == Code.UNAVAILABLE


def test_without_headers_the_document_holds() -> None:
    """`headers: true` allows control; it demands none."""
    fault = faults(delay=50, abort=50, headers=True)
    assert (delayed(fault, 49), aborted(fault, 49)) == (5.0, Code.UNAVAILABLE)
    assert fault.delay(None, lambda: 0.0) == 5.0
    assert fault.abort(None, lambda: 0.0) == Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("percentage", "hit", "missed"),
    [("30", 29, 30), ("79", 78, 79), ("80", 79, 80), ("100", 79, 80), ("4000000000", 79, 80), ("0", None, 0)],
)
def test_a_header_lowers_the_percentage_and_never_raises_it(percentage: str, hit: int | None, missed: int) -> None:
    """The document's 80 % are the most that anybody gets."""
    fault = faults(delay=80, abort=80, headers=True)
    assert delayed(fault, missed, delay="1", delay_percentage=percentage) == 0.0
    assert aborted(fault, missed, grpc="15", percentage=percentage) is None
    if hit is not None:
        assert delayed(fault, hit, delay="1", delay_percentage=percentage) == 0.001
        assert aborted(fault, hit, grpc="15", percentage=percentage) == Code.DATA_LOSS


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [
        ("0", 0.0),
        ("1", 0.001),
        ("250", 0.25),
        ("3600000", 3600.0),
        ("3600001", 3600.0),
        ("9999999999", 3600.0),
    ],
)
def test_a_header_says_how_long_up_to_what_a_document_could(milliseconds: str, seconds: float) -> None:
    """Milliseconds, an hour at most."""
    assert delayed(faults(delay=100, headers=True), delay=milliseconds) == seconds


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"grpc": "16"}, Code.UNAUTHENTICATED),
        ({"grpc": "0"}, Code.UNKNOWN),
        ({"http": "404"}, Code.UNIMPLEMENTED),
        ({"http": "200"}, Code.UNKNOWN),
        ({"http": "599"}, Code.UNKNOWN),
        ({"grpc": "8", "http": "404"}, Code.UNIMPLEMENTED),
        ({"grpc": "8", "http": "199"}, Code.RESOURCE_EXHAUSTED),
        ({"grpc": "17", "http": "404"}, Code.UNIMPLEMENTED),
        ({"grpc": "17"}, Code.UNKNOWN),
        ({"http": "199"}, Code.UNAVAILABLE),
        ({"http": "600"}, Code.UNAVAILABLE),
    ],
)
def test_a_header_says_which_status(headers: dict[str, str], code: Code) -> None:
    """HTTP 200 to 599 before any gRPC status, as in Envoy; without either the document's holds, and OK is none."""
    assert aborted(faults(abort=100, headers=True), 0.0, **headers) == code


WRONG = ["", " 5", "5 ", "+5", "-5", "5.0", "1e1", "0x5", "1_0", "five", "\u0665", "\u00b2", "1,2", "9" * 11]


@pytest.mark.parametrize("value", WRONG)
def test_malformed_headers_are_ignored(value: str) -> None:
    """What is no whole number of ten digits at most is as good as missing."""
    fault = faults(delay=80, abort=80, headers=True)
    assert delayed(fault, 79, delay=value, delay_percentage=value) == 5.0
    assert delayed(fault, 80, delay=value, delay_percentage=value) == 0.0
    assert aborted(fault, 79, grpc=value, http=value, percentage=value) == Code.UNAVAILABLE


def test_a_header_that_is_given_twice_is_ignored() -> None:
    """Several values of a key are one with a comma (CONTRACT section 4), and that is no number."""
    fault = faults(delay=100, headers=True)
    assert fault.delay([(DELAY, "1"), (DELAY, "1")], lambda: 0.0) == 5.0
    assert fault.delay([(DELAY, "1"), (DELAY, b"1")], lambda: 0.0) == 5.0
    assert fault.delay([(DELAY, b"1")], lambda: 0.0) == 5.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([DELAY, DELAY_PERCENTAGE, ABORT_GRPC, ABORT_HTTP, ABORT_PERCENTAGE, "x"]),
            st.one_of(st.text(max_size=12), st.binary(max_size=4), st.integers(-5, 700).map(str)),
        ),
        max_size=8,
    ),
    st.integers(0, 100),
    st.floats(0, 1, exclude_max=True),
)
def test_no_header_does_more_than_the_document_allows(
    metadata: Sequence[tuple[str, Any]], percent: int, draw: float
) -> None:
    """Whatever is sent: none is touched beyond the percentage, no delay is over an hour, no status is OK."""
    fault = faults(delay=percent, abort=percent, headers=True)
    seconds, code = fault.delay(metadata, lambda: draw), fault.abort(metadata, lambda: draw)
    assert 0 <= seconds <= 3600
    assert code is None or code != Code.OK
    if draw * 100 >= percent:
        assert (seconds, code) == (0.0, None)


# --- the peers' table ---


def ask(given_: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    """A row of 15 in terms of draws."""
    if "http_status" in given_:
        assert from_http(given_["http_status"]) == Code[expect["grpc"]]
    elif "metadata" in given_:
        headers = list(given_["metadata"].items())
        cap = given_["filter_percent_cap"]
        rng = lambda: given_["draw"] / 100  # noqa: E731
        if "delay_ms" in expect:
            assert faults(delay=cap, headers=True).delay(headers, rng) * 1000 == expect["delay_ms"]
        else:
            wanted = expect["code"].split()[0]
            found = faults(abort=cap, headers=True).abort(headers, rng)
            assert (found.name if found is not None else "OK") == wanted
    elif "draws" in given_ and "abort" in given_:
        fault = Faults(Fault(abort=FaultAbort(given_["abort"]["percent"], given_["abort"]["code"])))
        codes = [aborted(fault, 5.0 * (call % 20)) for call in range(given_["rpcs"])]
        ((code, count),) = expect["codes"].items()
        assert codes.count(Code[code]) == count == len(codes)
    elif "draws" in given_:
        delay = given_["delay"]
        fault = faults(delay=100 * delay["numerator"] / delay["denominator"], fixed=delay["fixed_s"])
        found_delays = [delayed(fault, draw * 100 / delay["denominator"]) for draw in given_["draws"]]
        assert expect["pattern"] == "2 delayed, 18 not, 2 delayed"
        assert found_delays == [1.0] * 2 + [0.0] * 18 + [1.0] * 2
    else:
        # the PSM suite: a fault that is longer than the deadline, over some hundred calls
        fault = faults(delay=given_["delay"], fixed=given_.get("fixed_s", 20), abort=given_.get("abort"))
        rng, calls = random.Random(7).random, given_["first_rpcs"] + given_["then_s"] * given_["qps"]
        late = sum(fault.delay((), rng) > given_.get("app_deadline_s", 1) for _ in range(calls)) / calls
        ((code, share),) = [(key, value) for key, value in expect.items() if key in {"OK", "DEADLINE_EXCEEDED"}]
        assert abs((late if code != "OK" else 1 - late) - share) <= expect["tolerance"]


@pytest.mark.parametrize("row", rows("15_fault.json", left_out=NOT_OURS))
def test_faults_are_those_of_the_peers(row: Mapping[str, Any]) -> None:
    """grpc-go's filter tests, the PSM suite's shares, and the mapping of statuses."""
    ask(row["given"], row["expect"])


GO = "grpc-go@4793ad04 internal/xds/httpfilter/fault/fault_test.go"


@pytest.mark.parametrize(
    ("headers", "draw", "code", "_source"),
    [
        ({"grpc": "15", "percentage": "30"}, 30, None, f"{GO} header abort"),
        ({"grpc": "15", "percentage": "100"}, 80, None, f"{GO} header abort, capped"),
        ({"http": "429", "percentage": "100"}, 0, Code.UNAVAILABLE, f"{GO} header abort, HTTP"),
        ({"grpc": "15", "percentage": "error"}, 50, Code.DATA_LOSS, f"{GO} header abort, malformed"),
    ],
)
def test_the_rows_that_matter_most(headers: dict[str, str], draw: int, code: Code | None, _source: str) -> None:
    """Percentages by header, their cap, and what is malformed: kept beside the table."""
    assert aborted(faults(abort=80, headers=True), draw, **headers) == code


def test_what_is_printed_says_what_is_done_to_calls() -> None:
    """For the log of a bad night."""
    assert repr(faults(delay=20, abort=0.5, headers=True)) == (
        "<Faults delay 20 % by 5 s, abort 0.5 % with UNAVAILABLE, or as headers say>"
    )
