"""Every name that is promised is told by real traffic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.otel.names import METRICS
from proxyless.protos import echo_pb2_grpc
from tests.otel.world import Telling
from tests.wire.echo import Request, eventually
from tests.wire.ways import Net

PROMISED = """
rpc.client.call.duration
grpc.client.attempt.started grpc.client.attempt.duration grpc.client.call.retries
proxyless.endpoints proxyless.ejections proxyless.breaker.state proxyless.retry.denied
proxyless.config.version proxyless.config.rejected proxyless.refusals proxyless.mirrored
proxyless.source.staleness
""".split()
"""The list of the public contract."""

DOCUMENT = """{routes: [
    {name: refused, match: [{headers: {x-refuse: {present: true}}}], directResponse: {status: NOT_FOUND}},
    {name: all, split: [{subset: v1}], retry: {attempts: 1, on: [unavailable], backoff: {base: 1ms, max: 1ms}},
     mirror: [{subset: shadow, percent: 100}]}],
  subsets: {v1: {labels: {version: v1}}, shadow: {labels: {version: v1}}},
  trafficPolicy: {outlierDetection: {consecutive5xx: 3}, circuitBreaker: {failureRate: 100, minimumRequests: 1000},
                  retryBudget: {ratio: 0, minRetriesPerSecond: 1, ttl: 1s}}}""".replace("\n", " ")


def test_the_list_is_the_promised_one() -> None:
    """No more, no less."""
    assert sorted(metric.name for metric in METRICS) == sorted(PROMISED)


@pytest.fixture
def traffic(net: Net, told: Telling) -> Iterator[Telling]:
    """Good calls, failing ones, retried and refused ones; an ejection, a bad document."""
    server, other = net.server("a"), net.server("b")
    net.endpoints(server.address, other.address, version="v1")
    net.document(DOCUMENT)
    with proxyless.connect(net.source, services=["echo"], **told.both) as mesh:
        assert mesh.ready("echo", timeout=5.0)
        stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
        for _ in range(4):
            stub.Unary(Request())
        for number in range(12):
            with pytest.raises(grpc.RpcError):
                stub.Unary(Request(fail_code=14, fail_key=f"f{number}"))
        with pytest.raises(grpc.RpcError):
            stub.Unary(Request(), metadata=[("x-refuse", "1")])
        net.document("{routes: [{timeout: soon}]}")
        eventually(lambda: not all(document["accepted"] for document in mesh.status()["documents"]))
        yield told


def test_each_is_told(traffic: Telling) -> None:
    """Found by an SDK that somebody else wrote, with the unit and the words of our table."""
    found = traffic.metrics()
    for metric in METRICS:
        assert (found[metric.name].unit, found[metric.name].description) == (metric.unit, metric.says)


def total(points: list[Any], **attributes: str) -> int:
    """The sum over the points with these attributes; `_` stands for a dot."""
    wanted = {key.replace("_", "."): value for key, value in attributes.items()}
    chosen = [point for point in points if wanted.items() <= dict(point.attributes).items()]
    return sum(int(getattr(point, "count", 0) or getattr(point, "value", 0)) for point in chosen)


def test_numbers_agree(traffic: Telling) -> None:
    """17 calls, of which one was refused and four were good; attempts are what the retries add."""
    calls = traffic.points("rpc.client.call.duration")
    assert total(calls) == 17
    by_status = {point.attributes["rpc.response.status_code"]: point.count for point in calls}
    assert by_status == {"OK": 4, "UNAVAILABLE": 12, "NOT_FOUND": 1}
    retried = sum(point.sum for point in traffic.points("grpc.client.call.retries"))
    started = total(traffic.points("grpc.client.attempt.started"))
    assert started == total(traffic.points("grpc.client.attempt.duration")) == 16 + retried
    assert retried + total(traffic.points("proxyless.retry.denied")) == 12
    (refused,) = traffic.points("proxyless.refusals")
    assert (refused.value, refused.attributes["proxyless.reason"]) == (1, "direct_response")
    assert total(traffic.points("proxyless.ejections")) >= 1
    assert total(traffic.points("proxyless.config.rejected")) == 1
    (mirrored,) = traffic.points("proxyless.mirrored")
    assert (mirrored.value, mirrored.attributes["proxyless.subset"]) == (16, "shadow")


def test_attributes_are_the_field_s(traffic: Telling) -> None:
    """Route, subset, status; the method without its slash; and nobody's address."""
    call = next(p for p in traffic.points("rpc.client.call.duration") if p.attributes["proxyless.route"] == "all")
    assert (
        dict(call.attributes).items()
        >= {
            "rpc.system.name": "grpc",
            "rpc.method": "echo.Echo/Unary",
            "server.address": "echo",
            "proxyless.service": "echo",
            "proxyless.subset": "v1",
        }.items()
    )
    attempt = traffic.points("grpc.client.attempt.started")[0]
    assert dict(attempt.attributes) == {
        "grpc.method": "echo.Echo/Unary",
        "grpc.target": "proxyless:///echo",
        "grpc.lb.backend_service": "echo/v1",
        "proxyless.route": "all",
        "proxyless.subset": "v1",
    }
    for name in PROMISED:
        assert not any("127.0.0.1" in str(value) for p in traffic.points(name) for value in p.attributes.values())
