"""A real Envoy judges where keys go: rings and tables, weights, sizes, and how hash policies are combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import pytest

from proxyless.model.routes import Hash
from proxyless.policy.hashing import hasher
from tests.oracle.conftest import StartEnvoy, StartFleet
from tests.oracle.envoy import cluster, endpoint, route
from tests.oracle.fleet import calling
from tests.policy.hashes import picker
from tests.worlds import node

Pairs = Sequence[tuple[str, str]]

USERS: list[Pairs] = [[("x-user", f"user-{number}")] for number in range(600)]

POLICIES: Mapping[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "ring of the default size": ("RING_HASH", {}, "ring_hash", {}),
    "small ring": (
        "RING_HASH",
        {"ring_hash_lb_config": {"minimum_ring_size": 10, "maximum_ring_size": 16}},
        "ring_hash",
        {"minimum_ring_size": 10, "maximum_ring_size": 16},
    ),
    "large ring": (
        "RING_HASH",
        {"ring_hash_lb_config": {"minimum_ring_size": 20_000}},
        "ring_hash",
        {"minimum_ring_size": 20_000},
    ),
    "maglev of the default size": ("MAGLEV", {}, "maglev", {}),
    "small maglev table": ("MAGLEV", {"maglev_lb_config": {"table_size": 251}}, "maglev", {"table_size": 251}),
}


def asked(address: str, requests: Sequence[Pairs]) -> list[int]:
    """Which server Envoy asks for each request."""
    with grpc.insecure_channel(address) as channel:
        call = calling(channel)
        return [int(call(b"", timeout=10, metadata=request)) for request in requests]


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 2, 3, 4), (7, 1)], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_keys_go_where_envoy_sends_them(
    name: str, weights: Sequence[int], start_envoy: StartEnvoy, start_fleet: StartFleet
) -> None:
    """600 keys each. Envoy is told of endpoints in the order of their addresses, in which we lay rings."""
    theirs_name, theirs_sizes, ours_name, ours_sizes = POLICIES[name]
    fleet = start_fleet(len(weights))
    members = [node(address, weight) for address, weight in zip(sorted(fleet.addresses), weights, strict=True)]
    told = [endpoint(member.address, load_balancing_weight=member.endpoint.weight) for member in members]
    web = cluster("web", localities=[{"lb_endpoints": told}], lb_policy=theirs_name, **theirs_sizes)
    by_user = [{"header": {"header_name": "x-user"}}]
    envoy = start_envoy([web], {"in": [route("web", hash_policy=by_user)]})
    made = picker(ours_name, members, **ours_sizes)
    key_of = hasher([Hash(header="x-user")])
    assert key_of is not None
    ours = [fleet.addresses.index(made.at(key_of(request, 0) or 0).address) for request in USERS]
    assert asked(envoy.address("in"), USERS) == ours


COMBINATIONS: Mapping[str, list[dict[str, Any]]] = {
    "two headers": [{"header": "x-user"}, {"header": "x-cart"}],
    "the other way round": [{"header": "x-cart"}, {"header": "x-user"}],
    "the first is enough": [{"header": "x-user", "terminal": True}, {"header": "x-cart"}],
    "the same one twice": [{"header": "x-cart"}, {"header": "x-cart"}],
    "one that is never there": [{"header": "x-none", "terminal": True}, {"header": "x-user"}, {"header": "x-cart"}],
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_hash_policies_are_combined_as_envoy_combines_them(
    name: str, start_envoy: StartEnvoy, start_fleet: StartFleet
) -> None:
    """Of requests that have both headers, or one of them."""
    policies = COMBINATIONS[name]
    requests: list[Pairs] = []
    for number in range(150):
        user, cart = ("x-user", f"user-{number}"), ("x-cart", f"cart-{number * 7}")
        requests.append([[user, cart], [user], [cart]][number % 3])
    fleet = start_fleet(6)
    theirs = [
        {"header": {"header_name": policy["header"]}, "terminal": policy.get("terminal", False)} for policy in policies
    ]
    web = cluster("web", sorted(fleet.addresses), lb_policy="RING_HASH")
    envoy = start_envoy([web], {"in": [route("web", hash_policy=theirs)]})
    made = picker("ring_hash", [node(address) for address in fleet.addresses])
    key_of = hasher([Hash(**policy) for policy in policies])
    assert key_of is not None
    found = asked(envoy.address("in"), requests)
    placed = 0
    for request, number in zip(requests, found, strict=True):
        key = key_of(request, 0)
        if key is not None:  # else Envoy draws
            assert fleet.addresses[number] == made.at(key).address, request
            placed += 1
    assert placed >= 100
