"""What servers say of retries: gRPC's trailer, and RetryInfo in the details of a status."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from proxyless.policy.pushback import NEVER, pushback, retry_delay


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0", 0.0),
        ("250", 0.25),
        ("2147483647", 2147483.647),
        ("2147483648", NEVER),
        ("99999999999999999999", NEVER),
        ("-1", NEVER),
        ("soon", NEVER),
        ("", NEVER),
        ("+5", NEVER),
        ("1_000", NEVER),
        (" 5", NEVER),
        ("5.0", NEVER),
        ("\u0665", NEVER),
        (b"5", NEVER),
    ],
)
def test_a_server_says_when_to_come_back_or_never(value: Any, says: float) -> None:
    """ "negative or unparseable … not to retry at all" - gRFC A6; more than an int32 is unparseable."""
    assert pushback((("x", "1"), ("grpc-retry-pushback-ms", value))) == says


@pytest.mark.parametrize("values", [("100", "200"), ("100", "100"), ("100", "-1"), ("100", "soon")])
def test_a_server_that_says_two_things_is_not_asked_again(values: tuple[str, str]) -> None:
    """ "Server retry pushback specified multiple values (%q); not retrying." - grpc-go stream.go shouldRetry"""
    trailers = [("grpc-retry-pushback-ms", value) for value in values]
    assert pushback(trailers) == pushback(trailers[::-1]) == NEVER


def test_a_server_that_says_nothing() -> None:
    """No trailers, or others."""
    assert [pushback(trailers) for trailers in (None, (), (("x", "1"),))] == [None] * 3


def status(*details: Any) -> bytes:
    """A serialized google.rpc.Status."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    data: bytes = status_pb2.Status(code=14, message="no \u00fc", details=packed).SerializeToString()
    return data


def info(seconds: int, nanos: int = 0) -> Any:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))


@given(st.integers(-(2**62), 2**62), st.integers(-999_999_999, 999_999_999))
def test_retry_info_is_read_as_protobuf_writes_it(seconds: int, nanos: int) -> None:
    """Whatever the numbers; a wait below zero, or of weeks, is none that a server can ask for."""
    delay = seconds + nanos / 1e9
    said = retry_delay(status(error_details_pb2.ErrorInfo(reason="BUSY"), info(seconds, nanos)))
    assert said == (pytest.approx(delay) if 0 <= delay <= 2147483.647 else NEVER)


@given(st.integers(0, 2_000_000), st.integers(0, 999_999_999))
def test_what_is_a_wait_comes_out_as_it_went_in(seconds: int, nanos: int) -> None:
    """To the nanosecond that a float holds."""
    assert retry_delay(status(info(seconds, nanos))) == seconds + nanos / 1e9


@given(st.binary(max_size=200))
def test_garbage_says_nothing_and_breaks_nothing(data: bytes) -> None:
    """A trailer is a stranger's: any bytes at all."""
    said = retry_delay(data)
    assert said is None or said == NEVER or said >= 0


@given(st.integers(0, 80))
def test_half_a_status_says_nothing(size: int) -> None:
    """Cut off anywhere but at its end."""
    whole = status(info(5))
    assert retry_delay(whole[:size]) == (None if size < len(whole) else 5.0)


def test_details_without_a_retry_info_say_nothing() -> None:
    """Nor does too much of anything."""
    assert retry_delay(status(error_details_pb2.ErrorInfo(reason="BUSY"))) is None
    assert retry_delay(status()) is None
    assert retry_delay(b"") is None
    assert retry_delay(status(*[error_details_pb2.ErrorInfo()] * 100, info(1))) is None
    assert retry_delay(status(error_details_pb2.ErrorInfo(reason="x" * 70_000), info(1))) is None


def test_grpcs_own_word_wins() -> None:
    """Whichever comes first."""
    details = ("grpc-status-details-bin", status(info(5)))
    own = ("grpc-retry-pushback-ms", "100")
    assert pushback((details, own)) == pushback((own, details)) == 0.1
    assert pushback((details,)) == 5.0
