"""Instances as Consul lists them, for the tests that read them."""

from __future__ import annotations

import json
from typing import Any

from proxyless.control.instances import Instances
from proxyless.model.topology import Endpoint

# Four instances as Consul 1.8.7 listed them, cut down to what differs: web-1 has tagged addresses and weights
# 10/2, web-2 warns and has no address of its own, web-3 is critical, web-4 was registered without a port.
NODE: dict[str, Any] = {
    "ID": "1380de8b-48ea-e6ae-ea38-c11881fa83bd",
    "Node": "dev1",
    "Address": "127.0.0.1",
    "Datacenter": "dc1",
    "TaggedAddresses": {"lan": "127.0.0.1", "wan": "127.0.0.1", "wan_ipv4": "127.0.0.1"},
    "Meta": {"consul-network-segment": ""},
}
SERF: dict[str, Any] = {"Node": "dev1", "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""}


def check(id: str, status: str) -> dict[str, Any]:
    return {"Node": "dev1", "CheckID": id, "Status": status, "ServiceID": "web-1", "ServiceTags": ["v1"]}


WEB: list[dict[str, Any]] = [
    {
        "Node": NODE,
        "Service": {
            "ID": "web-1",
            "Service": "web",
            "Tags": ["v1", "primary"],
            "Address": "127.0.0.1",
            "TaggedAddresses": {
                "lan": {"Address": "10.0.0.1", "Port": 9001},
                "wan": {"Address": "192.0.2.1", "Port": 19001},
            },
            "Meta": {"version": "v1", "zone": "a"},
            "Port": 9001,
            "Weights": {"Passing": 10, "Warning": 2},
        },
        "Checks": [SERF, check("web-1-ttl", "passing")],
    },
    {
        "Node": NODE,
        "Service": {
            "ID": "web-2",
            "Service": "web",
            "Tags": ["v2"],
            "Address": "",
            "Meta": {"version": "v2", "zone": "b"},
            "Port": 9002,
            "Weights": {"Passing": 1, "Warning": 1},
        },
        "Checks": [SERF, check("web-2-ttl", "warning")],
    },
    {
        "Node": NODE,
        "Service": {
            "ID": "web-3",
            "Service": "web",
            "Tags": [],
            "Meta": None,
            "Address": "10.0.0.3",
            "Port": 9003,
        },
        "Checks": [SERF, check("web-3-ttl", "critical")],
    },
    {
        "Node": NODE,
        "Service": {
            "ID": "web-4",
            "Service": "web",
            "Tags": None,
            "Meta": {},
            "Address": "10.0.0.4",
            "Port": 0,
        },
        "Checks": [SERF],
    },
]


def compact(entries: object) -> bytes:
    """As an agent writes it."""
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()


def indented(entries: object) -> bytes:
    """As a dev agent writes it."""
    return (json.dumps(entries, indent=4, ensure_ascii=False) + "\n").encode()


def entry(node: dict[str, Any] | None = None, checks: object = (), **service: Any) -> dict[str, Any]:
    """An instance that is like others but for these fields."""
    base = {"ID": "web-1", "Service": "web", "Address": "10.0.0.1", "Port": 9001}
    return {
        "Node": NODE | (node or {}),
        "Service": base | service,
        "Checks": list(checks) if checks == () else checks,
    }


def one(what: object, *, elsewhere: bool = False) -> Endpoint:
    """The endpoint of an answer about one instance that is fine."""
    (endpoint,), dropped = Instances(elsewhere=elsewhere).read(compact([what]))
    assert dropped == []
    return endpoint


def reason(what: object) -> str:
    """Why the one instance of an answer was left out; another one beside it was not."""
    endpoints, (why,) = Instances().read(compact([what, entry(Address="10.0.0.99")]))
    assert [endpoint.address for endpoint in endpoints] == ["10.0.0.99:9001"]
    return why
