"""Where calls can go: endpoints, their localities, and the clusters they are grouped into."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from proxyless.model.findings import Invalid
from proxyless.model.quantities import STRICT, AtMost, Name, Shaped, checked

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
_SEGMENT = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?")

HEAVIEST = 65535
"""The largest weight Consul takes (`Weights.Passing` 1..65535); more is a mistake or an attack."""

LABELS = 64 * 1024
"""Characters that the labels of one endpoint may have together: Consul allows 64 pairs of 128 + 512."""


@dataclass(frozen=True, slots=True)
class Locality:
    """`region/zone/subzone`, each part possibly empty: where a process runs."""

    region: str = ""
    zone: str = ""
    subzone: str = ""

    def __post_init__(self) -> None:
        bad = [
            (name, f"must be letters, digits and inner . _ -, got {part[:60]!r}")
            for name, part in (("region", self.region), ("zone", self.zone), ("subzone", self.subzone))
            if part and not _SEGMENT.fullmatch(part)
        ]
        if bad:
            raise Invalid(*bad)

    @classmethod
    def parse(cls, text: str) -> Locality:
        """Read `region[/zone[/subzone]]`; raises Invalid."""
        parts = text.split("/")
        if len(parts) > 3:
            raise Invalid(("", f"must be region/zone/subzone, got {text[:60]!r}"))
        return cls(*parts)

    def __str__(self) -> str:
        return "/".join((self.region, self.zone, self.subzone)).rstrip("/")


NOWHERE = Locality()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that can serve calls, with what its registrar said about it.

    `address` is `host:port`, IPv6 in brackets. `weight` counts while the instance passes its checks,
    `warning_weight` while one of them warns; 0 means no traffic. `status` is `passing`, `warning` or
    `critical`. `labels` are the instance's meta, plus its tags. `entry` is the registrar's own record as JSON
    text: subset filters are asked of it, and only when a document has some, so it is not kept decoded.
    """

    address: str
    weight: int = 1
    warning_weight: int = 1
    locality: Locality = NOWHERE
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    status: str = "passing"
    entry: str = field(default="", hash=False, repr=False)

    def __post_init__(self) -> None:
        problems = []
        if wrong := address_problem(self.address):
            problems.append(("address", wrong))
        problems += [
            (name, f"must be 0 to {HEAVIEST}, got {weight}")
            for name, weight in (("weight", self.weight), ("warningWeight", self.warning_weight))
            if not 0 <= weight <= HEAVIEST
        ]
        if sum(len(key) + len(value) for key, value in self.labels.items()) > LABELS:
            problems.append(("labels", f"must have at most {LABELS} characters together"))
        if problems:
            raise Invalid(*problems)

    @property
    def effective_weight(self) -> int:
        """The weight its status gives it: Consul's own rule for Envoy (`agent/xds/endpoints.go`)."""
        if self.status == "passing":
            return self.weight
        return self.warning_weight if self.status == "warning" else 0


def address_problem(address: str) -> str:
    """Why `host:port` can't be dialled, or "": whoever may register an instance chooses these bytes.

    Refused beside malformed ones: link-local addresses (169.254.169.254 is every cloud's metadata server),
    unspecified and multicast ones, `localhost` (it would mean *this* machine, whoever registered it), and
    anything that grpc would read as another kind of target (`unix:`, `dns:///`).
    """
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        return f"must be host:port with a port of 1 to 65535, got {address[:80]!r}"
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        if bracketed or len(host) > 253 or not _HOSTNAME.fullmatch(host) or host.replace(".", "").isdecimal():
            return f"must be an IP address or a host name and a port, got {address[:80]!r}"
        if host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost"):
            return "must not be localhost, which names a different machine for every reader; use the address"
        return ""
    if (ip.version == 6) != bracketed:
        return f"must have brackets around an IPv6 address and only there, got {address[:80]!r}"
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or str(mapped) == "255.255.255.255":
        return f"must not be a link-local, multicast, broadcast or unspecified address, got {address[:80]!r}"
    return ""


_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
Elsewhere = Annotated[
    str, Shaped(rf"{_NAME}|{_NAME}@({_NAME})?", 257, "a datacenter, service@datacenter, or service@ for our own")
]


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where the endpoints of a service come from, and which of them count.

    `failover` says where else to look, in order, when too few are healthy: the same service in another datacenter
    (`dc2`), or another service (`stand-in@dc2`, `stand-in@` in the same one).
    """

    __pydantic_config__ = STRICT

    service: Name | None = None
    datacenter: Name | None = None
    only_passing: bool = True
    filter: str = ""
    failover: Annotated[tuple[Elsewhere, ...], AtMost(8)] = ()

    def __post_init__(self) -> None:
        own = {self.datacenter, f"{self.service}@{self.datacenter or ''}"}
        problems = []
        for index, entry in enumerate(self.failover):
            if entry in own:
                problems.append((f"failover[{index}]", f'must be somewhere else: "{entry}" is what fails over'))
            elif entry in self.failover[:index]:
                problems.append((f"failover[{index}]", f'"{entry}" is already failover[{self.failover.index(entry)}]'))
        checked(self, *problems)

    def watches(self, service: str) -> tuple[Watched, ...]:
        """What is to be followed for `service`: its own endpoints, then each failover in order; nothing twice."""
        own = Watched(self.service or service, self.datacenter or "")
        others = []
        for entry in self.failover:
            name, at, datacenter = entry.rpartition("@")
            others.append(Watched(name, datacenter or own.datacenter) if at else Watched(own.service, entry))
        return tuple(dict.fromkeys((own, *others)))


@dataclass(frozen=True, slots=True)
class Watched:
    """What a source is asked to follow: one service in one datacenter ("" is the source's own)."""

    service: str
    datacenter: str = ""

    def __str__(self) -> str:
        return f"{self.service}@{self.datacenter}" if self.datacenter else self.service
