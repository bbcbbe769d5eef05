"""However many names somebody makes up, series stay few (scenario cardinality-cap)."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

import proxyless
from proxyless.otel.store import MOST
from tests.otel.world import Telling
from tests.wire.ways import Net


def test_made_up_methods_headers_and_authorities_share_series(net: Net, told: Telling) -> None:
    """3,000 methods, each called once with an authority and a header of its own: no metric has more series than its
    bound, what is over it goes to "other", and every call is counted."""
    net.server()
    calls = 3000
    with proxyless.connect(net.source, meter_provider=told.meters) as mesh, mesh.channel("echo") as channel:
        for number in range(calls):
            method: Any = channel.unary_unary(f"/made.Up/M{number}")
            with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                method(b"", timeout=5, metadata=[("x-made-up", str(number)), ("x-tenant", f"t{number}")])
        metrics = told.metrics()
    assert {
        name: len(metric.data.data_points)
        for name, metric in metrics.items()
        if len(metric.data.data_points) > MOST + 1
    } == {}
    points = metrics["rpc.client.call.duration"].data.data_points
    assert sum(point.count for point in points) == calls
    assert "other" in {str(value) for point in points for value in point.attributes.values()}
    assert not any("x-made-up" in str(point.attributes) for point in points)
