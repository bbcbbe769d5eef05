"""A service of ten thousand instances in a real Consul, of which three are alive and the rest are idle."""

from __future__ import annotations

import json
from typing import Any

from tests.agent import ConsulAgent

SERVICE = "fleet"
NODE = "bulk"
PER_TRANSACTION = 64
"""Operations that Consul takes in one transaction."""


def register(agent: ConsulAgent, live: list[str], idle: int) -> None:
    """`live` addresses with the label live=yes, and `idle` more that nothing listens on."""
    agent.do("PUT", "catalog/register", {"Node": NODE, "Address": "127.0.0.1"})
    services = [_service(f"live-{n}", *address.split(":"), live="yes") for n, address in enumerate(live)]
    # 127/8 is all loopback, so every idle instance has an address of its own without leaving this machine.
    services += [_service(f"idle-{n}", f"127.1.{n // 250}.{n % 250 + 1}", "9", live="no") for n in range(idle)]
    for start in range(0, len(services), PER_TRANSACTION):
        operations = [
            {"Service": {"Verb": "set", "Node": NODE, "Service": service}}
            for service in services[start : start + PER_TRANSACTION]
        ]
        agent.do("PUT", "txn", operations)


def flip(agent: ConsulAgent, number: int, turn: int) -> None:
    """Change one idle instance's meta."""
    service = _service(f"idle-{number}", f"127.1.{number // 250}.{number % 250 + 1}", "9", live="no")
    service["Meta"]["turn"] = str(turn)
    agent.do("PUT", "txn", [{"Service": {"Verb": "set", "Node": NODE, "Service": service}}])


def document() -> str:
    """Calls go to what is alive; all the rest is a destination too, so that its picker is rebuilt as well."""
    return json.dumps(
        {
            "subsets": {"live": {"labels": {"live": "yes"}}, "idle": {"labels": {"live": "no"}}},
            "routes": [
                {"name": "never", "match": [{"headers": {"x-idle": {"exact": "1"}}}], "split": [{"subset": "idle"}]},
                {"name": "live", "split": [{"subset": "live"}]},
            ],
        }
    )


def _service(name: str, address: str, port: str, *, live: str) -> dict[str, Any]:
    return {
        "ID": name,
        "Service": SERVICE,
        "Address": address,
        "Port": int(port),
        "Meta": {"version": "v1", "live": live, "zone": "a"},
        "Tags": ["grpc"],
    }
