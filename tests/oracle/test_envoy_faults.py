"""A real Envoy as the judge of injected faults: its fault filter, told the same by document and by header."""

from __future__ import annotations

from math import sqrt
from typing import Any

import grpc
import pytest

from proxyless.model.codes import Code
from proxyless.policy.fault import ABORT_GRPC, ABORT_HTTP, ABORT_PERCENTAGE, from_http
from tests.oracle.conftest import StartEnvoy, StartFleet, StartMesh
from tests.oracle.envoy import FILTERS, cluster, route
from tests.oracle.fleet import code_of


def filter_(**fault: Any) -> dict[str, Any]:
    """Envoy's HTTP filter."""
    return {
        "name": "envoy.filters.http.fault",
        "typed_config": {"@type": f"{FILTERS}.fault.v3.HTTPFault", **fault},
    }


def percent(number: int) -> dict[str, Any]:
    return {"numerator": number, "denominator": "HUNDRED"}


# What gRPC's mapping has learned since Envoy copied it (`grpc:doc/http-grpc-status-mapping.md`).
NEWER = {431: Code.UNKNOWN}


@pytest.mark.parametrize(
    "headers",
    [
        *({ABORT_GRPC: str(number)} for number in range(1, 19)),
        *({ABORT_HTTP: str(status)} for status in (400, 401, 403, 404, 418, 429, 500, 502, 503, 504, 599)),
        {ABORT_GRPC: "8", ABORT_HTTP: "404"},
        {ABORT_GRPC: "8", ABORT_HTTP: "600"},
        {ABORT_HTTP: "404", ABORT_PERCENTAGE: "200"},
    ],
    ids=lambda headers: ",".join(f"{key.removeprefix('x-envoy-fault-')}={value}" for key, value in headers.items()),
)
def test_headers_ask_for_the_same_statuses(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, headers: dict[str, str]
) -> None:
    """gRPC's by number, HTTP's by the mapping; of both, HTTP's."""
    theirs, ours = both(start_envoy, start_fleet, start_mesh, headers)
    assert ours == theirs != 0


@pytest.mark.parametrize("headers", [{ABORT_HTTP: "600"}, {ABORT_HTTP: "199"}, {ABORT_GRPC: "soon"}, {"x-id": "7"}])
def test_where_no_header_asks_the_document_holds(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, headers: dict[str, str]
) -> None:
    """Of Envoy's filter a header asks or nobody; ours has the document's status beside it."""
    assert both(start_envoy, start_fleet, start_mesh, headers) == (0, Code.DATA_LOSS)


def test_a_header_may_switch_it_off(start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh) -> None:
    """0 %."""
    headers = {ABORT_HTTP: "404", ABORT_PERCENTAGE: "0"}
    assert both(start_envoy, start_fleet, start_mesh, headers) == (0, 0)


def both(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh, headers: dict[str, str]
) -> tuple[int, int]:
    """What becomes of a call with these headers: through Envoy, and through the mesh."""
    fleet = start_fleet(1)
    fault = filter_(abort={"header_abort": {}, "percentage": percent(100)})
    envoy = start_envoy([cluster("web", fleet.addresses)], {"in": [route("web")]}, filters=[fault])
    said = {"fault": {"abort": {"percent": 100, "status": "DATA_LOSS"}, "headers": True}}
    mesh = start_mesh(fleet.addresses, {"routes": [said]})
    sent = list(headers.items())
    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        return code_of(judge, metadata=sent), code_of(channel, metadata=sent)


def test_http_statuses_become_the_same_grpc_ones(start_envoy: StartEnvoy) -> None:
    """All from 201 to 599, by Envoy's own fault filter and its translation for gRPC clients."""
    fault = filter_(abort={"header_abort": {}, "percentage": percent(100)})
    envoy = start_envoy([cluster("web")], {"in": [route("web")]}, filters=[fault])
    with grpc.insecure_channel(envoy.address("in")) as judge:
        theirs = {status: code_of(judge, metadata=[(ABORT_HTTP, str(status))]) for status in range(201, 600)}
    assert {status: code for status, code in theirs.items() if from_http(status) != code} == NEWER


def test_a_fifth_is_delayed_and_a_twentieth_aborted(
    start_envoy: StartEnvoy, start_fleet: StartFleet, start_mesh: StartMesh
) -> None:
    """20 % and 5 %, drawn apart: by Envoy's count, and by the calls that come through both. Within four sigma."""
    calls = 2000
    fleet = start_fleet(1)
    fault = filter_(
        delay={"fixed_delay": "0.001s", "percentage": percent(20)},
        abort={"grpc_status": 10, "percentage": percent(5)},
    )
    envoy = start_envoy([cluster("web", fleet.addresses)], {"in": [route("web")]}, filters=[fault])
    mesh = start_mesh(
        fleet.addresses,
        {
            "routes": [
                {
                    "fault": {
                        "delay": {"percent": 20, "fixed": "1ms"},
                        "abort": {"percent": 5, "status": "ABORTED"},
                    }
                }
            ]
        },
    )

    def near(found: int, share: float) -> bool:
        return abs(found - share * calls) <= 4 * sqrt(share * (1 - share) * calls)

    with grpc.insecure_channel(envoy.address("in")) as judge, mesh.channel("web") as channel:
        for way in (judge, channel):
            aborted = sum(code_of(way) == Code.ABORTED for _ in range(calls))
            assert near(aborted, 0.05), aborted
    assert near(envoy.stat("http.in.fault.delays_injected"), 0.2)
    assert near(envoy.stat("http.in.fault.aborts_injected"), 0.05)
