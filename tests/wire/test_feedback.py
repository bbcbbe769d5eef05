"""What balancers are told by real calls: load reports in trailers, and latencies, by every way to make a call."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest

from proxyless.policy.balancers.load_report import KEY, TEXT
from proxyless.policy.balancers.peak_ewma import Latency
from proxyless.policy.balancers.weighted_round_robin import Reports
from tests.wire.echo import Request
from tests.wire.talks import each_call, talk
from tests.wire.ways import Net

WEIGHTED = (
    "{trafficPolicy: {loadBalancer: {policy: weighted_round_robin, blackoutPeriod: 0s, weightUpdatePeriod: 100ms}}}"
)


def report(cpu: float, qps: float) -> tuple[str, str]:
    """A load report, in the way that grpcio shows."""
    return TEXT, f"cpu_utilization:{cpu},rps_fractional:{qps}"


def feedback(net: Net, address: str) -> Any:
    """What the balancer keeps about an endpoint."""
    (found,) = [node.feedback for node in net.mesh._nodes.all() if node.address == address]
    return found


@each_call
@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_reports_are_read_from_trailers(net: Net, style: str, method: str, fails: bool) -> None:
    """And the caller sees the call as ever: its messages, its own trailers, its error."""
    server = net.server()
    server.echo.trailers = [report(0.5, 100.0)]
    net.document(WEIGHTED)
    request = Request(message="m", count=3, fail_code=9 if fails else 0)
    requests = [request] if fails else [request, request]  # grpcio may stumble over writing to what has failed
    ending = talk(net, "mesh", style, method, *requests, metadata=[("x-trailing-own", "1")]).end()
    known = feedback(net, server.address)
    assert isinstance(known, Reports)
    assert known.weight(time.monotonic(), 0, 180) == 200.0
    code = grpc.StatusCode.FAILED_PRECONDITION if fails else grpc.StatusCode.OK
    messages = {"Unary": ["m"], "ServerStream": ["m"] * 3, "ClientStream": ["m,m"], "BidiStream": ["m", "m"]}
    assert (ending.messages, ending.code) == ([] if fails else messages[method], code)
    assert ending.trailing == [("x-trailing-own", "1")]


def test_a_blocking_call_gives_its_answer_alone(net: Net) -> None:
    """Trailers are fetched behind the caller's back: who did not ask for the call object does not get it."""
    server = net.server()
    server.echo.trailers = [report(0.25, 100.0)]
    net.document(WEIGHTED)
    stub = net.stub()
    assert stub.Unary(Request(message="m")).message == "m"
    answer, call = stub.Unary.with_call(Request(message="m"))
    assert (answer.message, call.code()) == ("m", grpc.StatusCode.OK)
    assert feedback(net, server.address).weight(time.monotonic(), 0, 180) == 400.0


def test_the_server_with_room_gets_the_calls(net: Net) -> None:
    """3 : 1 by what two real servers say of themselves."""
    busy, idle = net.server("busy"), net.server("idle")
    busy.echo.trailers = [report(0.9, 100.0)]
    idle.echo.trailers = [report(0.3, 100.0)]
    net.document(WEIGHTED)
    stub = net.stub()
    for _ in range(20):
        stub.Unary(Request())
    time.sleep(0.15)  # a weightUpdatePeriod
    before = len(busy.seen), len(idle.seen)
    for _ in range(100):
        stub.Unary(Request())
    shares = len(busy.seen) - before[0], len(idle.seen) - before[1]
    assert shares == pytest.approx((25, 75), abs=4)


def test_grpcio_keeps_the_binary_report_to_itself(net: Net) -> None:
    """The day this fails, C-core shows it: the reports of servers in other languages count from then on, and
    docs/balancing.md has to say so."""
    server = net.server()
    server.echo.trailers = [(KEY, b"\x09\0\0\0\0\0\0\xe0\x3f"), ("x-trailing-bin", b"shown")]
    _, call = net.stub("grpcio").Unary.with_call(Request(message="m"))
    assert list(call.trailing_metadata()) == [("x-trailing-bin", b"shown")]


@each_call
def test_latencies_are_told(net: Net, style: str, method: str) -> None:
    """From sending to the answer; of a stream, to its first message."""
    server = net.server()
    net.document("{trafficPolicy: {loadBalancer: {policy: peak_ewma}}}")
    request = Request(message="m", count=1, delay_ms=60)
    talk(net, "mesh", style, method, request).end()
    known = feedback(net, server.address)
    assert isinstance(known, Latency)
    assert 0.05 < known.cost < 2.0
