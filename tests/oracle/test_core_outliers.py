"""gRPC's own C-core as the judge of outlier detection by rates: `outlier_detection_experimental` (gRFC A50).

The same endpoints fail the same share of the same calls, once before a bare channel with that policy over
`round_robin` and once before the mesh; then it is looked at who is still called.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import pytest

from tests.oracle.conftest import StartFleet, StartMesh
from tests.oracle.fleet import FAILS, WELL, Fleet, code_of

INTERVAL = 0.3
"""Seconds: enough for 50 calls and more, short enough to wait for."""
ROUNDS = 25
"""Calls to each endpoint between two looks."""
ONE_IN_TWO = tuple((FAILS, WELL) * ROUNDS)
ALL = tuple([FAILS] * 2 * ROUNDS)


def core(addresses: Sequence[str], detection: Mapping[str, Any]) -> grpc.Channel:
    """A bare channel that ejects by the rates given; nobody returns within the test."""
    policy = {
        "interval": f"{INTERVAL}s",
        "baseEjectionTime": "60s",
        "childPolicy": [{"round_robin": {}}],
        **detection,
    }
    config = {"loadBalancingConfig": [{"outlier_detection_experimental": policy}]}
    options = [("grpc.service_config", json.dumps(config)), ("grpc.enable_retries", 0)]
    return grpc.insecure_channel(f"ipv4:{','.join(addresses)}", options)


def document(detection: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same for the mesh, and no rule about runs, which A50 has not."""
    rules = {"interval": f"{INTERVAL}s", "baseEjectionTime": "60s", "consecutive5xx": 0, **detection}
    policy = {"loadBalancer": {"policy": "round_robin"}, "outlierDetection": rules}
    return {"routes": [{"retry": {"attempts": 0}}], "trafficPolicy": policy}


def ejected(fleet: Fleet, channel: grpc.Channel, failing: Mapping[int, Sequence[Any]]) -> list[int]:
    """Who is left out after some intervals of calls of which the endpoints `failing` fail theirs."""
    size = len(fleet.endpoints)
    deadline = time.monotonic() + 3.5 * INTERVAL
    found: list[int] = []
    while True:
        for number, faults in failing.items():
            fleet[number].next.clear()
            fleet[number].next.extend(faults)
        before = fleet.calls
        for _ in range(ROUNDS * size):
            code_of(channel)
        had = [now - then for now, then in zip(fleet.calls, before, strict=True)]
        out = [number for number, calls in enumerate(had) if calls == 0]
        if time.monotonic() > deadline or (out and out == found):
            return out
        found = out


BOTH = pytest.mark.parametrize(
    ("failing", "half", "theirs", "ours", "expected"),
    [
        # {50, 100, 100, 100, 100}: mean 90, deviation 20, threshold 52
        (
            {0: ONE_IN_TWO},
            100,
            {"successRateEjection": {"minimumHosts": 5, "requestVolume": 10}},
            {"successRate": {"minimumHosts": 5, "requestVolume": 10}},
            [0],
        ),
        # {50, 50, 100, 100, 100}: mean 80, deviation 24.5, threshold 33.5
        (
            {0: ONE_IN_TWO, 1: ONE_IN_TWO},
            100,
            {"successRateEjection": {"minimumHosts": 5, "requestVolume": 10}},
            {"successRate": {"minimumHosts": 5, "requestVolume": 10}},
            [],
        ),
        (
            {2: ALL, 4: ALL},
            100,
            {"failurePercentageEjection": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}},
            {"failurePercentage": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}},
            [2, 4],
        ),
        # half of its calls is not 85 %
        (
            {2: ONE_IN_TWO, 4: ALL},
            100,
            {"failurePercentageEjection": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}},
            {"failurePercentage": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}},
            [4],
        ),
        # five endpoints are not six
        (
            {2: ALL},
            100,
            {"failurePercentageEjection": {"threshold": 85, "minimumHosts": 6, "requestVolume": 10}},
            {"failurePercentage": {"threshold": 85, "minimumHosts": 6, "requestVolume": 10}},
            [],
        ),
        # nobody has so many calls in an interval
        (
            {2: ALL},
            100,
            {"failurePercentageEjection": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10_000}},
            {"failurePercentage": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10_000}},
            [],
        ),
        # one may always go
        (
            {3: ALL},
            1,
            {"failurePercentageEjection": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}},
            {"failurePercentage": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}},
            [3],
        ),
    ],
    ids=["one of five", "two are no outliers", "percentage", "at the threshold", "hosts", "volume", "one always"],
)


@BOTH
def test_the_same_endpoints_are_left_out(
    start_fleet: StartFleet,
    start_mesh: StartMesh,
    failing: Mapping[int, Sequence[Any]],
    half: int,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    expected: list[int],
) -> None:
    """By success rate and by failure percentage, with enough calls on enough endpoints, or not."""
    fleet = start_fleet(5)
    with core(fleet.addresses, {"maxEjectionPercent": half, **theirs}) as bare:
        assert ejected(fleet, bare, failing) == expected
    mesh = start_mesh(fleet.addresses, document({"maxEjectionPercent": half, **ours}))
    with mesh.channel("web") as channel:
        assert ejected(fleet, channel, failing) == expected


def test_the_quota_is_passed_by_one_there_and_held_here(start_fleet: StartFleet, start_mesh: StartMesh) -> None:
    """A50 asks before it ejects ("if the percentage of ejected addresses is greater than or equal to
    max_ejection_percent, stop"): at 30 % of five, a second one follows the first. Ours asks with it, as Envoy does."""
    fleet = start_fleet(5)
    theirs = {"failurePercentageEjection": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}}
    ours = {"failurePercentage": {"threshold": 85, "minimumHosts": 5, "requestVolume": 10}}
    failing = {0: ALL, 1: ALL, 2: ALL}
    with core(fleet.addresses, {"maxEjectionPercent": 30, **theirs}) as bare:
        assert len(ejected(fleet, bare, failing)) == 2
    mesh = start_mesh(fleet.addresses, document({"maxEjectionPercent": 30, **ours}))
    with mesh.channel("web") as channel:
        assert len(ejected(fleet, channel, failing)) == 1
