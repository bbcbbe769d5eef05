"""C-core's own ring hash as the judge: the same key goes to the same server, whoever balances."""

from __future__ import annotations

import json

import grpc
import pytest

from tests.oracle.conftest import StartFleet, StartMesh
from tests.oracle.fleet import calling

KEYS = [f"user-{number}" for number in range(1000)]
HEADER = "x-user"


def asked(channel: grpc.Channel, keys: list[str]) -> list[int]:
    """Which server answers for each key."""
    call = calling(channel)
    return [int(call(b"", timeout=10, metadata=((HEADER, key),))) for key in keys]


@pytest.mark.parametrize("size", [2, 5, 12])
def test_a_thousand_keys_go_where_c_core_sends_them(
    size: int, start_fleet: StartFleet, start_mesh: StartMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ring_hash_experimental` hashes a request's header only where its environment flag is set (grpcio 1.85)."""
    monkeypatch.setenv("GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY", "true")
    fleet = start_fleet(size)
    config = {"loadBalancingConfig": [{"ring_hash_experimental": {"requestHashHeader": HEADER, "minRingSize": 1024}}]}
    options = [("grpc.service_config", json.dumps(config)), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(f"ipv4:{','.join(fleet.addresses)}", options=options) as channel:
        theirs = asked(channel, KEYS)
    document = {
        "trafficPolicy": {"loadBalancer": {"policy": "ring_hash"}},
        "routes": [{"hash": [{"header": HEADER}]}],
    }
    with start_mesh(fleet.addresses, document).channel("web") as channel:
        ours = asked(channel, KEYS)
    assert len(set(theirs)) == size
    assert ours == theirs
