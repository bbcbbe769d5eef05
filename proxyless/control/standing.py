"""Where the members of a destination stand, seen from this process: by place, and no more than it may connect to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from proxyless.control.membership import absent, select, why_not
from proxyless.model.documents import Subset
from proxyless.model.topology import NOWHERE, Discovery, Endpoint, Locality
from proxyless.model.traffic import LOCALITY, TrafficPolicy
from proxyless.policy.locality import Place, arrange, health
from proxyless.policy.outlier import can_eject
from proxyless.policy.subset import closest


@dataclass(frozen=True, slots=True)
class Here:
    """This process, as far as it matters for where its calls go."""

    locality: Locality = NOWHERE
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    client: int = 0
    """Its number among its kind, for `connection.maxEndpoints`."""


def client_number(environ: Mapping[str, str], rng: Callable[[], float]) -> int:
    """This process's number among its kind: `PROXYLESS_CLIENT_NUMBER`, else Nomad's index of it, else any.

    Consecutive numbers spread the clients of an endpoint evenly; with random ones they are as many as chance has it.
    """
    for name in ("PROXYLESS_CLIENT_NUMBER", "NOMAD_ALLOC_INDEX"):
        if (given := environ.get(name, "")).isdecimal() and len(given) < 20:
            return int(given)
    return int(rng() * 2**53)


class Spot(NamedTuple):
    """The members that stand at one place."""

    place: Place
    members: Sequence[Endpoint]
    absent: int
    """How many the registrar knows there and thinks unhealthy."""


def is_short(
    own: Sequence[Endpoint] | None,
    discovery: Discovery,
    subset: Subset | None,
    policy: TrafficPolicy,
    sick: frozenset[str],
    already: bool,
) -> bool:
    """Whether too few of a destination's own endpoints are healthy, so that its failover is needed.

    From where calls would begin to spill over until all are well again (`already`): a datacenter is not to be followed
    and forgotten with every endpoint that wavers.
    """
    if own is None:
        return False  # not heard of yet
    members = select(own, discovery, subset)
    total = len(members) + len(absent(own, discovery, subset))
    healthy = sum(member.address not in sick for member in members)
    if already:
        return healthy < total or not total
    return health(healthy, total, round(100 * (policy.locality or LOCALITY).overprovisioning)) < 100


class Standing:
    """The members of a destination by place. `groups` are the endpoints as told: its own, then each failover's."""

    def __init__(
        self,
        groups: Sequence[Sequence[Endpoint]],
        discovery: Discovery,
        subset: Subset | None,
        policy: TrafficPolicy,
        here: Here,
    ) -> None:
        self._groups, self._discovery, self._subset, self._policy, self._here = groups, discovery, subset, policy, here
        self._members = 0

    def spots(self) -> list[Spot]:
        """By priority; one that may be empty where there is nothing to prefer, none where nothing may be called."""
        most = self._policy.connection.max_endpoints
        spots = self._placed()
        if most:
            spots = [self._thinned(spot, most, spots) for spot in spots]
        self._members = sum(len(spot.members) for spot in spots)
        return spots

    def left_out(self, members: Collection[str]) -> Iterator[tuple[Endpoint, str]]:
        """The endpoints that are known, of this subset, and not among the addresses `members`; each with the reason."""
        if sum(map(len, self._groups)) == self._members:
            return
        placed = {endpoint.address for spot in self._placed() for endpoint in spot.members}
        most = self._policy.connection.max_endpoints
        for endpoint in (endpoint for group in self._groups for endpoint in group):
            if endpoint.address in members:
                continue
            why = why_not(endpoint, self._discovery, self._subset)
            if why is None:
                continue
            if why:
                yield endpoint, why
            elif endpoint.address in placed:
                yield endpoint, f"it is not among the {most} that this process may have (connection.maxEndpoints)"
            else:
                yield endpoint, f"locality.distribute sends nothing to {endpoint.locality or 'an unknown place'}"

    def _placed(self) -> list[Spot]:
        if not self._may_rank:
            return [Spot(Place(0, 0, "", ()), select(self._groups[0], self._discovery, self._subset), 0)]
        present: dict[str, tuple[Endpoint, int]] = {}
        missing: dict[str, tuple[Endpoint, int]] = {}
        for tier, group in enumerate(self._groups):
            for endpoint in select(group, self._discovery, self._subset):
                present.setdefault(endpoint.address, (endpoint, tier))
            for endpoint in absent(group, self._discovery, self._subset):
                missing.setdefault(endpoint.address, (endpoint, tier))
        known = [*present.values(), *missing.values()]
        endpoints = [endpoint for endpoint, _ in known]
        places = self._places(endpoints, [tier for _, tier in known])
        if places is None:
            return [Spot(Place(0, 0, "", ()), endpoints[: len(present)], len(missing))]
        spots = []
        for place in places:
            members = [endpoints[index] for index in place.members if index < len(present)]
            spots.append(Spot(place, members, len(place.members) - len(members)))
        return spots

    @property
    def _may_rank(self) -> bool:
        """Whether places can matter at all: else nothing is paid for them."""
        locality = self._policy.locality
        return len(self._groups) > 1 or (locality is not None and locality.enabled)

    def _places(self, endpoints: Sequence[Endpoint], tiers: Sequence[int]) -> Sequence[Place] | None:
        locality = self._policy.locality
        return arrange(
            endpoints,
            tiers,
            self._here.locality,
            self._here.labels,
            locality if locality is not None and locality.enabled else None,
            can_eject(self._policy.outlier_detection),
        )

    def _thinned(self, spot: Spot, most: int, spots: Sequence[Spot]) -> Spot:
        """Each priority has that many, shared among its places by their weights: only one is in use at a time."""
        weights = sum(other.place.weight for other in spots if other.place.priority == spot.place.priority)
        most = max(1, ceil(most * spot.place.weight / weights - 1e-9)) if weights else most
        if len(spot.members) <= most:
            return spot
        kept = closest([endpoint.address for endpoint in spot.members], most, self._here.client)
        missing = round(spot.absent * most / len(spot.members))
        return Spot(spot.place, [spot.members[index] for index in kept], missing)
