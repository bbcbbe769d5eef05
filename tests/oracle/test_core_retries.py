"""gRPC's own C-core as the judge of retries: `retryPolicy` and `retryThrottling` in a service config.

The same server fails the same calls in the same way, once before a bare channel and once before the mesh.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from proxyless.model.codes import Code
from tests.oracle.conftest import StartFleet, StartMesh
from tests.oracle.fleet import FAILS, FAILS_IN_TRAILERS, WELL, Does, Fleet, code_of

# Three tries at 10 ms; in ours full jitter, in C-core 20 % of it: none of which is looked at here.
POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.01s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
OURS = {"attempts": 2, "on": ["unavailable"], "backoff": {"base": "10ms", "max": "10ms"}, "previousHosts": "allow"}
# Five failures in a row must not eject the only server: what is tried again is the question here.
NO_EJECTIONS = {"outlierDetection": {"maxEjectionPercent": 0}}

UNAVAILABLE, INTERNAL = int(Code.UNAVAILABLE), int(Code.INTERNAL)
ONCE_THEN_WELL = (FAILS, WELL)


def pushed(says: str) -> Does:
    """A failure with the server's word about when to come back."""
    return Does(UNAVAILABLE, trailers=(("grpc-retry-pushback-ms", says),))


@contextmanager
def core(address: str, config: dict[str, Any]) -> Iterator[grpc.Channel]:
    """A bare channel that goes by a service config."""
    said = {"methodConfig": [{"name": [{}], "retryPolicy": POLICY}], **config}
    with grpc.insecure_channel(address, [("grpc.service_config", json.dumps(said))]) as channel:
        yield channel


def seen(fleet: Fleet, channel: grpc.Channel, faults: Sequence[Does]) -> tuple[int, list[int]]:
    """How a call ends that meets these faults, and what each of its attempts said of those before it."""
    server = fleet[0]
    server.next.clear()
    server.next.extend(faults)
    server.previous.clear()
    return code_of(channel), list(server.previous)


@pytest.mark.parametrize(
    ("faults", "code", "attempts"),
    [
        ([WELL], 0, [0]),
        ([FAILS, WELL], 0, [0, 1]),
        ([FAILS, FAILS, WELL], 0, [0, 1, 2]),
        ([FAILS, FAILS, FAILS, WELL], UNAVAILABLE, [0, 1, 2]),
        ([Does(INTERNAL), WELL], INTERNAL, [0]),
        ([FAILS, Does(INTERNAL), WELL], INTERNAL, [0, 1]),
        ([pushed("1"), WELL], 0, [0, 1]),
        ([pushed("30"), WELL], 0, [0, 1]),
        ([pushed("-1"), WELL], UNAVAILABLE, [0]),
        ([pushed("soon"), WELL], UNAVAILABLE, [0]),
        ([FAILS, pushed("-1"), WELL], UNAVAILABLE, [0, 1]),
    ],
    ids=lambda value: (
        "".join("ok" if one is WELL else f"-{one.code}" for one in value)
        if isinstance(value, list) and value and isinstance(value[0], Does)
        else None
    ),
)
def test_the_same_attempts_are_made(
    start_fleet: StartFleet, start_mesh: StartMesh, faults: list[Does], code: int, attempts: list[int]
) -> None:
    """As many, with the same `grpc-previous-rpc-attempts`, and with the same end."""
    fleet = start_fleet(1)
    with core(fleet[0].address, {}) as bare:
        assert seen(fleet, bare, faults) == (code, attempts)
    mesh = start_mesh(fleet.addresses, {"routes": [{"retry": OURS}], "trafficPolicy": NO_EJECTIONS})
    with mesh.channel("web") as ours:
        assert seen(fleet, ours, faults) == (code, attempts)


def test_at_once_is_at_once(start_fleet: StartFleet, start_mesh: StartMesh) -> None:
    """A pushback of 0 ms. C-core (1.85.1) is no judge of this one: there the call hangs until its deadline."""
    fleet = start_fleet(1)
    mesh = start_mesh(fleet.addresses, {"routes": [{"retry": OURS}], "trafficPolicy": NO_EJECTIONS})
    with mesh.channel("web") as ours:
        assert seen(fleet, ours, [pushed("0"), WELL]) == (0, [0, 1])


def test_an_error_in_the_trailers_is_tried_again_by_us_alone(start_fleet: StartFleet, start_mesh: StartMesh) -> None:
    """Headers commit a call to C-core ("an RPC becomes committed when the client receives Response-Headers" - gRFC
    A6). Of a unary call they give the caller nothing yet: the contract counts trailers as much as headers."""
    fleet = start_fleet(1)
    faults = [FAILS_IN_TRAILERS, WELL]
    with core(fleet[0].address, {}) as bare:
        assert seen(fleet, bare, faults) == (UNAVAILABLE, [0])
    mesh = start_mesh(fleet.addresses, {"routes": [{"retry": OURS}], "trafficPolicy": NO_EJECTIONS})
    with mesh.channel("web") as ours:
        assert seen(fleet, ours, faults) == (0, [0, 1])


def test_an_outage_starves_retries_and_good_times_feed_them(start_fleet: StartFleet, start_mesh: StartMesh) -> None:
    """`retryThrottling` 10/0.1 lets three retries go, two of the first call's and one of the second's, and then none
    until enough calls have succeeded. So does our budget with a reserve of three. Only the price of one more differs:
    51 successes there (from 0 to above half of 10 by 0.1 each), five here (ratio 0.2)."""
    fleet = start_fleet(1)
    outage = [3, 2] + [1] * 18
    throttling = {"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}}
    budget = {"ratio": 0.2, "minRetriesPerSecond": 0.3, "ttl": "10s"}
    mesh = start_mesh(
        fleet.addresses, {"routes": [{"retry": OURS}], "trafficPolicy": NO_EJECTIONS | {"retryBudget": budget}}
    )

    def attempts(channel: grpc.Channel, faults: Sequence[Does]) -> int:
        return len(seen(fleet, channel, faults)[1])

    def story(channel: grpc.Channel, price: int) -> None:
        assert [attempts(channel, [FAILS] * 3) for _ in outage] == outage
        assert {attempts(channel, [WELL]) for _ in range(price - 1)} == {1}
        assert attempts(channel, ONCE_THEN_WELL) == 1
        # that failure took a token there; here a retryable failure deposits nothing, and takes nothing
        assert {attempts(channel, [WELL]) for _ in range(price)} == {1}
        assert attempts(channel, ONCE_THEN_WELL) == 2

    with core(fleet[0].address, throttling) as bare:
        story(bare, 51)
    with mesh.channel("web") as ours:
        story(ours, 5)
