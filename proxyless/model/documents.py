"""The documents: one a service, one for the mesh, and the file that holds all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from proxyless.model.findings import Invalid
from proxyless.model.quantities import STRICT, AtMost, Checked, Duration, Name, checked
from proxyless.model.routes import RetryPolicy, Route, ensure_unique_names
from proxyless.model.topology import Discovery, Endpoint, Locality
from proxyless.model.traffic import TrafficPolicy

Version = Literal["proxyless/v1"]


@dataclass(frozen=True, slots=True)
class Subset(Checked):
    """A named part of a service's endpoints: by labels (all must be equal), by Consul's filter, or both."""

    __pydantic_config__ = STRICT
    labels: Annotated[Mapping[str, str], AtMost(64)] = field(default_factory=dict, hash=False)
    filter: Annotated[str, AtMost(4096)] = ""
    traffic_policy: TrafficPolicy | None = None


@dataclass(frozen=True, slots=True)
class ServiceDocument:
    """Everything about calls *to* one service (CONTRACT section 3)."""

    __pydantic_config__ = STRICT
    api_version: Version = "proxyless/v1"
    service: Name | None = None
    discovery: Discovery = Discovery()
    subsets: Annotated[Mapping[Name, Subset], AtMost(1024)] = field(default_factory=dict, hash=False)
    routes: Annotated[tuple[Route, ...], AtMost(1024)] = ()
    traffic_policy: TrafficPolicy | None = None

    def __post_init__(self) -> None:
        checked(self, *ensure_unique_names(self.routes))


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for every service of the mesh that doesn't say otherwise."""

    __pydantic_config__ = STRICT
    timeout: Duration | None = None
    retry: RetryPolicy | None = None
    traffic_policy: TrafficPolicy | None = None


@dataclass(frozen=True, slots=True)
class MeshDocument:
    """The mesh-wide document, `<prefix>/mesh`."""

    __pydantic_config__ = STRICT
    api_version: Version = "proxyless/v1"
    defaults: Defaults = Defaults()


@dataclass(frozen=True, slots=True)
class FileEndpoint:
    """An endpoint written down by hand, for the file source."""

    __pydantic_config__ = STRICT
    address: Annotated[str, AtMost(300)]
    labels: Annotated[Mapping[str, str], AtMost(64)] = field(default_factory=dict, hash=False)
    locality: Annotated[str, AtMost(400)] = ""
    weight: int = 1

    def __post_init__(self) -> None:
        """What would be wrong with the endpoint, said of the file's own fields."""
        problems = []
        try:
            Locality.parse(self.locality)
        except Invalid as wrong:
            problems.append(("locality", str(wrong)))
        try:
            Endpoint(self.address, self.weight, labels=self.labels)
        except Invalid as wrong:
            problems += wrong.problems
        checked(self, *problems)
