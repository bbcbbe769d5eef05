"""A real Envoy as the judge of retries: the same words, the same faults, the same attempts?"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from proxyless.model.codes import Code
from tests.oracle.conftest import StartEnvoy, StartFleet, StartMesh
from tests.oracle.envoy import cluster, route
from tests.oracle.fleet import FAILS, SILENT, WELL, Does, Fleet, code_of
from tests.wire.echo import dead_address

NO_EJECTIONS = {"outlierDetection": {"maxEjectionPercent": 0}}
UNAVAILABLE = int(Code.UNAVAILABLE)

WORDS = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"]
"""The five of Envoy's `retry_on` that name a gRPC status."""
STATUSES = [
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.INTERNAL,
    Code.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE,
    Code.UNKNOWN,
    Code.NOT_FOUND,
    Code.ABORTED,
    Code.DATA_LOSS,
]


def seen(fleet: Fleet, channel: grpc.Channel, faults: Sequence[Does]) -> tuple[int, int]:
    """How a call ends that meets these faults, and its attempts."""
    server = fleet[0]
    server.next.clear()
    server.next.extend(faults)
    before = server.calls
    return code_of(channel), server.calls - before


def theirs(word: str, **policy: Any) -> dict[str, Any]:
    """Envoy's route with retries."""
    back = {"base_interval": "0.005s", "max_interval": "0.005s"}
    return route("web", retry_policy={"retry_on": word, "num_retries": 2, "retry_back_off": back, **policy})


def ours(word: str, **policy: Any) -> dict[str, Any]:
    """The same as a document."""
    retry = {"attempts": 2, "on": [word], "backoff": {"base": "5ms", "max": "5ms"}, **policy}
    return {"routes": [{"retry": retry}], "trafficPolicy": NO_EJECTIONS}


@pytest.mark.parametrize("word", WORDS)
def test_a_status_is_tried_again_where_its_word_is_named(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, word: str
) -> None:
    """Nine statuses: mended by the first retry, by the second, or not at all."""
    fleet = start_fleet(1)
    envoy = start_envoy([cluster("web", fleet.addresses)], {"in": [theirs(word)]})
    mesh = start_mesh(fleet.addresses, ours(word))
    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        for status in STATUSES:
            for failures in (1, 2, 3):
                faults = [Does(int(status))] * failures + [WELL]
                named = status.name.lower().replace("_", "-") == word
                expected = ((0, failures + 1) if failures < 3 else (status, 3)) if named else (status, 1)
                assert seen(fleet, judge, faults) == expected, f"Envoy, {failures} x {status.name}"
                assert seen(fleet, channel, faults) == expected, f"the mesh, {failures} x {status.name}"


@pytest.mark.parametrize(
    ("word", "mended_by_us"),
    [
        ("5xx", {"DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN", "DATA_LOSS"}),
        ("gateway-error", {"DEADLINE_EXCEEDED", "UNAVAILABLE"}),
        ("retriable-4xx", {"ABORTED"}),
        ("reset", set()),
        ("connect-failure", set()),
        ("refused-stream", set()),
    ],
)
def test_words_for_http_statuses_mean_grpcs_to_us(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, word: str, mended_by_us: set[str]
) -> None:
    """The status of a gRPC answer is 200 to Envoy, whatever `grpc-status` says, so its words for HTTP statuses never
    hold. To us they mean the statuses that Envoy itself puts beside them (`source/common/grpc/status.cc`)."""
    fleet = start_fleet(1)
    envoy = start_envoy([cluster("web", fleet.addresses)], {"in": [theirs(word)]})
    mesh = start_mesh(fleet.addresses, ours(word))
    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        for status in STATUSES:
            faults = [Does(int(status)), WELL]
            assert seen(fleet, judge, faults) == (status, 1)
            assert seen(fleet, channel, faults) == ((0, 2) if status.name in mended_by_us else (status, 1))


@pytest.mark.parametrize("word", ["connect-failure", "reset", "5xx", "gateway-error", "refused-stream", "unavailable"])
def test_nobody_listens(start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, word: str) -> None:
    """One endpoint of two is dead, and each call that finds it so is tried again on the other, by the words that say
    so. `unavailable` is ours to mend too: to a gRPC client that is what a dead endpoint is, while to Envoy it is a
    word of the server's. We call a dead endpoint once, Envoy (without outlier detection) every other time."""
    fleet = start_fleet(1)
    addresses = [dead_address(), *fleet.addresses]
    mends = word not in ("refused-stream", "unavailable")
    envoy = start_envoy([cluster("web", addresses)], {"in": [theirs(word)]})
    mesh = start_mesh(addresses, {**ours(word), "trafficPolicy": {"loadBalancer": {"policy": "round_robin"}}})
    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        found = [code_of(judge) for _ in range(10)]
        assert found.count(UNAVAILABLE) == (0 if mends else 5)
        found = [code_of(channel) for _ in range(10)]
        assert found.count(UNAVAILABLE) == (0 if mends or word == "unavailable" else 1)


@pytest.mark.parametrize(
    ("word", "envoys", "mended_by_us"),
    [
        ("5xx", True, True),
        ("gateway-error", True, True),
        ("reset", True, True),
        ("unavailable", False, False),
        ("connect-failure", False, False),
        ("deadline-exceeded", False, True),
    ],
)
def test_a_try_that_takes_too_long(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, word: str, envoys: bool, mended_by_us: bool
) -> None:
    """`per_try_timeout` answers to the words for resets and for HTTP statuses; to us to `deadline-exceeded` as well,
    for that is the status it ends with. Envoy's is UNAVAILABLE, its own 504."""
    fleet = start_fleet(1)
    envoy = start_envoy([cluster("web", fleet.addresses)], {"in": [theirs(word, per_try_timeout="0.1s")]})
    mesh = start_mesh(fleet.addresses, ours(word, perTryTimeout="100ms"))
    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        assert code_of(judge) == code_of(channel) == 0  # connected
        assert seen(fleet, judge, [SILENT, WELL]) == ((0, 2) if envoys else (UNAVAILABLE, 1))
        assert seen(fleet, channel, [SILENT, WELL]) == ((0, 2) if mended_by_us else (Code.DEADLINE_EXCEEDED, 1))


def test_retries_go_elsewhere(start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh) -> None:
    """`previous_hosts`: a call that failed on an endpoint is tried again on each of the others, never there."""
    avoid = {
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 5,
    }
    for way in ("envoy", "mesh"):
        fleet = start_fleet(3)
        fleet.all_do(FAILS)
        if way == "envoy":
            envoy = start_envoy([cluster("web", fleet.addresses)], {"in": [theirs("unavailable", **avoid)]})
            channel = grpc.insecure_channel(envoy.address("in"))
        else:
            channel = start_mesh(fleet.addresses, ours("unavailable")).channel("web")
        with channel:
            assert [code_of(channel) for _ in range(10)] == [UNAVAILABLE] * 10
        assert fleet.calls == [10, 10, 10]


# -- limits: a circuit breaker to Envoy


def at_once(channel: grpc.Channel, calls: int) -> tuple[list[int], list[float]]:
    """So many calls that begin together: how each ended, and when, in order of their ends."""
    begin = threading.Barrier(calls)
    ends: list[tuple[float, int]] = []

    def one() -> None:
        begin.wait(5.0)
        started = time.monotonic()
        code = code_of(channel)
        ends.append((time.monotonic() - started, code))

    with ThreadPoolExecutor(calls) as pool:
        for _ in range(calls):
            pool.submit(one)
    return [code for _, code in sorted(ends)], [took for took, _ in sorted(ends)]


def test_as_many_requests_at_once_as_the_limit_says(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh
) -> None:
    """`max_requests: 5`, eight calls: three fail at once, untried and not tried again; then five more are let in."""
    fleet = start_fleet(1)
    limits = {"thresholds": [{"max_requests": 5}]}
    envoy = start_envoy([cluster("web", fleet.addresses, circuit_breakers=limits)], {"in": [theirs("unavailable,5xx")]})
    mesh = start_mesh(
        fleet.addresses,
        {**ours("unavailable"), "trafficPolicy": {"limits": {"maxRequests": 5}}},
    )
    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        for way in (judge, channel):
            assert code_of(way) == 0  # connected
            fleet.all_do(Does(after=0.4))
            before = fleet[0].calls
            for _ in range(2):
                codes, took = at_once(way, 8)
                assert codes == [UNAVAILABLE] * 3 + [0] * 5
                assert took[2] < 0.3
                assert took[3] >= 0.4
            assert fleet[0].calls - before == 10
            fleet.all_do(WELL)


def test_as_many_retries_at_once_as_the_limit_says(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh
) -> None:
    """`max_retries: 2`: of six calls that fail together two are tried again while the others end as they are."""
    fleet = start_fleet(1)
    limits = {"thresholds": [{"max_retries": 2}]}
    envoy = start_envoy([cluster("web", fleet.addresses, circuit_breakers=limits)], {"in": [theirs("unavailable")]})
    policy = NO_EJECTIONS | {"limits": {"maxRetries": 2}}
    mesh = start_mesh(fleet.addresses, {**ours("unavailable"), "trafficPolicy": policy})
    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        for way in (judge, channel):
            assert code_of(way) == 0  # connected
            before = fleet[0].calls
            fleet[0].next.extend([Does(UNAVAILABLE, after=0.2)] * 6)
            fleet[0].does = Does(after=0.4)
            codes, _ = at_once(way, 6)
            assert codes == [UNAVAILABLE] * 4 + [0] * 2
            assert fleet[0].calls - before == 8
            fleet.all_do(WELL)
    assert envoy.stat("cluster.web.upstream_rq_retry_overflow") == 4
