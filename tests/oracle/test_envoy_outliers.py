"""A real Envoy as the judge of outlier detection: the same endpoints fail, who is ejected?

Errors are "Trailers-Only" answers, the one place where Envoy looks for a gRPC status; but for the test of what
it does not see.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.model.codes import Code
from proxyless.policy.outlier import threshold
from tests.oracle.conftest import StartEnvoy, StartFleet, StartMesh
from tests.oracle.envoy import Envoy, cluster, route
from tests.oracle.fleet import FAILS, FAILS_IN_TRAILERS, WELL, Does, Fleet, code_of

# Envoy's own default lets nobody go from a pool of fewer than ten, at 10 %.
THEIRS = {"consecutive_5xx": 5, "base_ejection_time": "60s", "interval": "0.3s", "always_eject_one_host": True}
OURS = {"consecutive5xx": 5, "baseEjectionTime": "60s", "interval": "300ms"}


def behind(start: StartEnvoy, fleet: Fleet, **detection: Any) -> Envoy:
    """An Envoy before the fleet, with outlier detection, and without panic: who is ejected is not called."""
    common = {"healthy_panic_threshold": {"value": 0}}
    web = cluster("web", fleet.addresses, outlier_detection={**THEIRS, **detection}, common_lb_config=common)
    return start([web], {"in": [route("web")]})


def document(**detection: Any) -> Mapping[str, Any]:
    """The mesh's document for the same."""
    policy = {"loadBalancer": {"policy": "round_robin"}, "outlierDetection": {**OURS, **detection}}
    return {"routes": [{"retry": {"attempts": 0}}], "trafficPolicy": policy}


def out(mesh: proxyless.Mesh, fleet: Fleet) -> list[int]:
    """Whom the mesh keeps away from."""
    return fleet.numbers([one["address"] for one in mesh.status()["endpoints"] if one["state"] != "healthy"])


def settles(found: Callable[[], Any], expected: Any) -> None:
    """Envoy's ejections travel from its main thread to its worker; that is waited for."""
    until = time.monotonic() + 2.0
    while found() != expected:
        assert time.monotonic() < until, f"{found()}, not {expected}"
        time.sleep(0.005)


def until_it_has_failed(fleet: Fleet, channel: grpc.Channel, number: int, times: int = 5) -> int:
    """Call until the endpoint has failed so often, or is left out by everybody; how often it was called."""
    before = fleet[number].calls
    for _ in range(times * len(fleet.endpoints) * 2):
        code_of(channel)
        if fleet[number].calls - before == times:
            break
    return fleet[number].calls - before


@pytest.mark.parametrize(
    ("size", "percent", "failing", "ejected"),
    [
        (10, 30, [7, 2, 5, 0], [2, 5, 7]),
        (10, 100, [7, 2, 5, 0], [0, 2, 5, 7]),
        (5, 50, [4, 1, 3], [1, 4]),
        (5, 1, [4, 1], [4]),
        (3, 66, [0, 1, 2], [0]),
        (3, 67, [0, 1, 2], [0, 1]),
        (1, 10, [0], [0]),
    ],
)
def test_five_in_a_row_eject_in_order_up_to_the_share(
    start_envoy: StartEnvoy,
    start_fleet: StartFleet,
    start_mesh: StartMesh,
    size: int,
    percent: int,
    failing: Sequence[int],
    ejected: list[int],
) -> None:
    """Endpoints go bad one after the other; each goes at its fifth failure, until the share is used up."""
    fleet = start_fleet(size)
    envoy = behind(start_envoy, fleet, max_ejection_percent=percent)
    with grpc.insecure_channel(envoy.address("in")) as channel:
        go_bad(fleet, channel, failing, ejected, lambda: fleet.numbers(envoy.ejected("web")))
    fleet.all_do(WELL)
    mesh = start_mesh(fleet.addresses, document(maxEjectionPercent=percent))
    with mesh.channel("web") as channel:
        go_bad(fleet, channel, failing, ejected, lambda: out(mesh, fleet))


def go_bad(
    fleet: Fleet, channel: grpc.Channel, failing: Sequence[int], ejected: list[int], found: Callable[[], list[int]]
) -> None:
    """One after the other; those that are `ejected` are so from the fifth failure on."""
    gone: list[int] = []
    for number in failing:
        fleet[number].does = FAILS
        assert until_it_has_failed(fleet, channel, number, 4) == 4
        assert number not in found()
        assert until_it_has_failed(fleet, channel, number, 1) == 1
        gone += [number] if number in ejected else []
        settles(found, sorted(gone))
    assert sorted(gone) == ejected


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK], ids=lambda code: code.name)
def test_the_same_statuses_are_an_endpoints_failures(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, code: Code
) -> None:
    """Each status five times in a row: what is 5xx to Envoy, by its own table, is to us."""
    fleet = start_fleet(2)
    fleet[0].does = Does(int(code))
    envoy = behind(start_envoy, fleet)
    with grpc.insecure_channel(envoy.address("in")) as channel:
        assert until_it_has_failed(fleet, channel, 0) == 5
    theirs = envoy.stat("cluster.web.outlier_detection.ejections_detected_consecutive_5xx")
    mesh = start_mesh(fleet.addresses, document())
    with mesh.channel("web") as channel:
        assert until_it_has_failed(fleet, channel, 0) == 5
    assert out(mesh, fleet) == [0] * theirs


def test_what_fails_in_trailers_is_ejected_by_us_alone(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh
) -> None:
    """One of ten answers with headers, and then with an error: 10 % of the calls through Envoy fail for as long as
    anybody calls. The contract: "Trailers count as much as headers (Envoy's blind spot)"."""
    fleet = start_fleet(10)
    fleet[3].does = FAILS_IN_TRAILERS
    envoy = behind(start_envoy, fleet)
    with grpc.insecure_channel(envoy.address("in")) as channel:
        failed = sum(code_of(channel) == Code.UNAVAILABLE for _ in range(500))
    assert failed == fleet[3].calls == 50
    assert envoy.ejected("web") == set()
    mesh = start_mesh(fleet.addresses, document())
    with mesh.channel("web") as channel:
        failed = sum(code_of(channel) == Code.UNAVAILABLE for _ in range(500))
    assert failed == fleet[3].calls - 50 == 5
    assert out(mesh, fleet) == [3]


# -- rates

ROUNDS = 20
ONE_IN_TWO = (FAILS, WELL) * ROUNDS
THREE_IN_FOUR = (FAILS, FAILS, FAILS, WELL) * ROUNDS


def by_rates(
    fleet: Fleet, channel: grpc.Channel, failing: Mapping[int, Sequence[Does]], found: Callable[[], list[int]]
) -> list[int]:
    """Who is ejected within some intervals, in which the endpoints `failing` fail their share."""
    until = time.monotonic() + 1.1
    while not (gone := found()) and time.monotonic() < until:
        for number, faults in failing.items():
            fleet[number].next.clear()
            fleet[number].next.extend(faults)
        for _ in range(ROUNDS * len(fleet.endpoints)):
            code_of(channel)
    return gone


@pytest.mark.parametrize(
    ("failing", "theirs", "ours", "expected"),
    [
        ({0: ONE_IN_TWO}, {"success_rate_request_volume": 10}, {"successRate": {"requestVolume": 10}}, [0]),
        (
            {0: ONE_IN_TWO, 1: ONE_IN_TWO},
            {"success_rate_request_volume": 10},
            {"successRate": {"requestVolume": 10}},
            [],
        ),
        (
            {0: ONE_IN_TWO},
            {"success_rate_request_volume": 10, "success_rate_minimum_hosts": 6},
            {"successRate": {"requestVolume": 10, "minimumHosts": 6}},
            [],
        ),
        (
            {0: ONE_IN_TWO},
            {"success_rate_request_volume": 10, "success_rate_stdev_factor": 2100},
            {"successRate": {"requestVolume": 10, "stdevFactor": 2.1}},
            [],
        ),
        (
            {2: THREE_IN_FOUR, 4: ONE_IN_TWO},
            {
                "enforcing_success_rate": 0,
                "enforcing_failure_percentage": 100,
                "failure_percentage_threshold": 70,
                "failure_percentage_request_volume": 10,
            },
            {"failurePercentage": {"threshold": 70, "requestVolume": 10}},
            [2],
        ),
    ],
    ids=["one of five", "two are no outliers", "hosts", "factor", "percentage"],
)
def test_rates_eject_the_same(
    start_envoy: StartEnvoy,
    start_fleet: StartFleet,
    start_mesh: StartMesh,
    failing: Mapping[int, Sequence[Does]],
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    expected: list[int],
) -> None:
    """Success rate and failure percentage, once an interval."""
    fleet = start_fleet(5)
    envoy = behind(start_envoy, fleet, max_ejection_percent=100, **theirs)
    with grpc.insecure_channel(envoy.address("in")) as channel:
        assert by_rates(fleet, channel, failing, lambda: fleet.numbers(envoy.ejected("web"))) == expected
    mesh = start_mesh(fleet.addresses, document(maxEjectionPercent=100, **ours))
    with mesh.channel("web") as channel:
        assert by_rates(fleet, channel, failing, lambda: out(mesh, fleet)) == expected


def test_the_threshold_is_envoys(start_envoy: StartEnvoy, start_fleet: StartFleet) -> None:
    """Envoy tells what it computed from the rates that it saw: {50, 100, 100, 100, 100} make 52, in both."""
    fleet = start_fleet(5)
    envoy = behind(start_envoy, fleet, success_rate_request_volume=10, enforcing_success_rate=0)
    bound, rates = -1.0, [-1.0]
    with grpc.insecure_channel(envoy.address("in")) as channel:
        until = time.monotonic() + 5.0
        while rates != [50, 100, 100, 100, 100] and time.monotonic() < until:
            fleet[0].next.extend(ONE_IN_TWO)
            for _ in range(ROUNDS * 5):
                code_of(channel)
            report = json.loads(envoy.admin("/clusters?format=json"))["cluster_statuses"][0]
            bound = report.get("success_rate_ejection_threshold", {}).get("value", -1.0)
            rates = sorted(host.get("success_rate", {}).get("value", -1.0) for host in report["host_statuses"])
            if min(rates) >= 0:
                assert threshold(rates, 1.9) == pytest.approx(bound)
    assert bound == pytest.approx(52, abs=1.5)
    assert threshold(rates, 1.9) == pytest.approx(bound)
