"""One instance of a service, as it announces itself to a registry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from proxyless.model.quantities import Name, checked
from proxyless.model.topology import HEAVIEST, NOWHERE, Locality, address_problem

LOCALITY = "proxyless_locality"
"""The meta key that carries the locality: Consul before 1.17 refuses a registration with a `Locality`."""

# Consul's own limits for the meta of a service (structs.ValidateServiceMetadata), measured on 1.8.7. A
# value's length counts in bytes of UTF-8.
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PAIRS, _VALUE = 64, 512


@dataclass(frozen=True, slots=True)
class Instance:
    """What is announced: where it is, what may be asked of it and how much of the traffic it can take.

    `address` is an IP address or a host name, IPv6 without brackets; "" is not yet known.
    """

    service: Name
    port: int
    address: str = ""
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    tags: tuple[str, ...] = ()
    weight: int = 1
    locality: Locality = NOWHERE

    def __post_init__(self) -> None:
        checked(self, *self._problems(), *self._meta_problems())

    @property
    def target(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def id(self) -> str:
        """One per service, address and port: an instance that is started again replaces its old entry."""
        return f"{self.service}-{self.address}-{self.port}"

    @property
    def labels(self) -> dict[str, str]:
        """The meta, with the locality in it."""
        return {**self.meta, **({LOCALITY: str(self.locality)} if self.locality != NOWHERE else {})}

    def at(self, address: str) -> Instance:
        """The same where its address is known; raises Invalid."""
        return replace(self, address=address)

    def _problems(self) -> Iterator[tuple[str, str]]:
        if type(self.port) is not int or not 1 <= self.port <= 65535:
            hint = ": `add_insecure_port` says which one it chose" if self.port == 0 else ""
            yield "port", f"must be the port that the server listens on, 1 to 65535, got {self.port!r:.40}{hint}"
        elif self.address and (wrong := address_problem(self.target)):
            yield "address", wrong
        if type(self.weight) is not int or not 1 <= self.weight <= HEAVIEST:
            yield "weight", f"must be a whole number from 1 to {HEAVIEST}, got {self.weight!r:.40}"
        if not all(isinstance(tag, str) and tag for tag in self.tags):
            yield "tags", f"must be words, got {list(self.tags)!r:.80}"

    def _meta_problems(self) -> Iterator[tuple[str, str]]:
        if LOCALITY in self.meta and self.locality != NOWHERE:
            yield f"meta[{LOCALITY!r}]", "is what locality= sets; give one of them"
        if len(self.labels) > _PAIRS:
            yield "meta", f"must have at most {_PAIRS} keys, got {len(self.labels)}"
        for key, value in self.meta.items():
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                rule = "must be a key of letters, digits, _ and - (no dots, no slashes), at most 128 of them"
                yield f"meta[{key!r:.60}]", rule
            elif key.startswith("consul-"):
                yield f"meta[{key!r:.60}]", "must not begin with consul-, which Consul keeps for itself"
            if not isinstance(value, str):
                yield f"meta[{key!r:.60}]", f"must be text, got {value!r:.40}: write {str(value)!r:.40}"
            elif len(value.encode(errors="replace")) > _VALUE:
                yield f"meta[{key!r:.60}]", f"must have at most {_VALUE} bytes, got {len(value.encode())}"
