"""A real Envoy judges the ladder: the same endpoints, the same health, the same shares of the calls.

Ours are ejected by failures, Envoy's are told to be unhealthy. Each of its counts is within four standard deviations
of what the ladder computes, and so is each of ours.
"""

from __future__ import annotations

from collections import Counter
from math import sqrt
from typing import Any

import grpc
import pytest

from proxyless.policy.locality import Ladder
from tests.filters.test_locality import World
from tests.oracle.conftest import StartEnvoy, StartFleet
from tests.oracle.envoy import cluster, endpoint, route
from tests.oracle.fleet import Fleet, calling

CALLS = 2000
OPEN_END = "outlierDetection: {maxEjectionPercent: 100}"


def told(fleet: Fleet, sizes: dict[str, int], lost: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """The endpoints by zone, as Envoy is told of them: the first so many of each are unhealthy."""
    addresses = iter(fleet.addresses)
    return {
        zone: [
            endpoint(next(addresses), health_status="UNHEALTHY" if index < lost.get(zone, 0) else "HEALTHY")
            for index in range(size)
        ]
        for zone, size in sizes.items()
    }


def asked(address: str, fleet: Fleet, sizes: dict[str, int]) -> tuple[Counter[str], set[str]]:
    """How many of `CALLS` calls through Envoy each zone served, and which endpoints did."""
    names = [f"{zone}{index}" for zone, size in sizes.items() for index in range(size)]
    with grpc.insecure_channel(address) as channel:
        call = calling(channel)
        served = [names[int(call(b"", timeout=10))] for _ in range(CALLS)]
    return Counter(name[0] for name in served), set(served)


def agree(world: World, theirs: Counter[str]) -> None:
    """Both draw from the shares that the ladder has computed."""
    ladder = world.cluster.picker
    assert isinstance(ladder, Ladder)
    computed: Counter[str] = Counter()
    for rung, percent in zip(ladder.rungs, ladder.percent, strict=True):
        computed[rung.nodes[0].address[0]] += percent  # type: ignore[assignment]
    ours = world.shares(CALLS)
    for zone, percent in computed.items():
        bound = 4 * sqrt(percent * (100 - percent) / CALLS)
        assert abs(100 * theirs[zone] / CALLS - percent) <= bound, f"Envoy, zone {zone}"
        assert abs(ours.get(zone, 0.0) - percent) <= bound, f"ours, zone {zone}"


@pytest.mark.parametrize(
    "lost",
    [
        {},
        {"a": 1},
        {"a": 2},
        {"a": 3},
        {"a": 4},
        {"a": 5},
        {"a": 4, "b": 3},
        {"a": 5, "b": 5},
        {"a": 4, "b": 4, "c": 4},
    ],
    ids=str,
)
def test_priorities_spill_over_as_envoys_do(
    lost: dict[str, int], start_envoy: StartEnvoy, start_fleet: StartFleet
) -> None:
    """Three zones of five, nearest first, with fewer and fewer healthy; the last row is a panic of all."""
    sizes = {"a": 5, "b": 5, "c": 5}
    fleet = start_fleet(15)
    zones = told(fleet, sizes, lost)
    web = cluster(
        "web",
        localities=[
            {"locality": {"zone": zone}, "priority": priority, "lb_endpoints": zones[zone]}
            for priority, zone in enumerate("abc")
        ],
        lb_policy="ROUND_ROBIN",
    )
    envoy = start_envoy([web], {"in": [route("web")]})
    world = World(f"{OPEN_END}, locality: {{}}", a=5, b=5, c=5)
    world.fail(*(f"{zone}{index}" for zone, number in lost.items() for index in range(number)))
    theirs, served = asked(envoy.address("in"), fleet, sizes)
    agree(world, theirs)
    assert world.cluster.state.status(0.0)["panic"] is (len(lost) == 3)
    if len(lost) == 3:
        assert len(served) == 15, "in a panic Envoy calls all, and so do we"


@pytest.mark.parametrize("lost", [{}, {"a": 1}, {"a": 2}, {"a": 3}, {"a": 2, "c": 2}, {"c": 4}], ids=str)
def test_localities_keep_their_shares_as_envoys_do(
    lost: dict[str, int], start_envoy: StartEnvoy, start_fleet: StartFleet
) -> None:
    """70/30 over two zones of four, each for as much of it as is well."""
    sizes = {"a": 4, "c": 4}
    fleet = start_fleet(8)
    zones = told(fleet, sizes, lost)
    web = cluster(
        "web",
        localities=[
            {"locality": {"zone": zone}, "load_balancing_weight": weight, "lb_endpoints": zones[zone]}
            for zone, weight in (("a", 70), ("c", 30))
        ],
        lb_policy="ROUND_ROBIN",
        common_lb_config={"locality_weighted_lb_config": {}, "healthy_panic_threshold": {"value": 0}},
    )
    envoy = start_envoy([web], {"in": [route("web")]})
    rule = "distribute: [{from: '*', to: {us-east-1/us-east-1a: 70, us-west-2/*: 30}}]"
    world = World(f"{OPEN_END}, locality: {{panicThreshold: 0, {rule}}}", a=4, c=4)
    world.fail(*(f"{zone}{index}" for zone, number in lost.items() for index in range(number)))
    agree(world, asked(envoy.address("in"), fleet, sizes)[0])
