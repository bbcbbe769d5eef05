"""Who belongs where: endpoints into priorities and localities, as seen from where this process runs.

Istio's `localityLbSetting`, entry by entry: `distribute` sends shares to places and nothing elsewhere; without
it nearness makes the priorities (same zone, same region, the region that `failover` names, the rest), after
the labels of `failoverPriority` where there are some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

from proxyless.model.localities import Distribute, Failover, LocalityPolicy
from proxyless.model.topology import NOWHERE, Endpoint, Locality

NETWORK = "topology.istio.io/network"
"""A label of its own kind in `failoverPriority`: where it leads the list and differs, the others still count."""


class Place(NamedTuple):
    """Endpoints that are treated alike, by their indexes."""

    priority: int
    weight: float
    """Its share among the places of its priority; 0 where it is the only one."""
    name: str
    members: tuple[int, ...]


def matches(locality: Locality, pattern: str) -> bool:
    """Whether a locality is in `region/zone/subzone`, where `*` or nothing (but for the region) takes any."""
    region, zone, subzone = (*pattern.split("/"), "", "")[:3]
    return (
        region in ("*", locality.region) and zone in ("*", "", locality.zone) and subzone in ("*", "", locality.subzone)
    )


def distance(here: Locality, there: Locality, failover: Sequence[Failover] = ()) -> int:
    """0 same subzone, 1 same zone, 2 same region, 3 elsewhere; 4 where `failover` names another region than that."""
    if there.region == here.region:
        if there.zone != here.zone:
            return 2
        return 0 if there.subzone == here.subzone else 1
    rule = next((rule for rule in failover if rule.from_ == here.region), None)
    return 3 if rule is None or there.region == rule.to else 4


def unlikeness(ladder: Sequence[str], here: Mapping[str, str], there: Mapping[str, str]) -> int:
    """How early in the list of labels the two differ: 0 not at all, as many as there are labels at the first."""
    labels = list(ladder)
    apart = 0
    if labels and labels[0] == NETWORK and here.get(NETWORK) != there.get(NETWORK):
        apart, labels = len(ladder), labels[1:]
    for index, label in enumerate(labels):
        key, literal, value = label.partition("=")
        if there.get(key) != (value if literal else here.get(key)):
            return apart + len(labels) - index
    return apart


def rule_for(here: Locality, distribute: Sequence[Distribute]) -> Distribute | None:
    """The first entry that speaks of this place; the others are ignored."""
    return next((rule for rule in distribute if matches(here, rule.from_)), None)


def shares(places: Sequence[tuple[Locality, float]], rule: Distribute) -> list[int]:
    """The weight of each (locality, weight of its endpoints) by a rule; 0: it gets no calls.

    A target with wildcards is divided by the endpoints' weight, each part rounded up (Istio). Where several
    targets take a place, the one that says most counts.
    """
    weights = [0] * len(places)
    free = set(range(len(places)))
    for target in sorted(rule.to, key=_vagueness):
        taken = [index for index in sorted(free) if matches(places[index][0], target)]
        free.difference_update(taken)
        total = sum(places[index][1] for index in taken)
        for index in taken:
            weights[index] = ceil(places[index][1] * rule.to[target] / total - 1e-9) if total else 0
    return weights


def _vagueness(target: str) -> tuple[int, str]:
    parts = (*target.split("/"), "", "")[:3]
    return sum(part in ("*", "") for part in parts), target


def arrange(
    endpoints: Sequence[Endpoint],
    tiers: Sequence[int],
    here: Locality,
    labels: Mapping[str, str],
    policy: LocalityPolicy | None,
    fails_over: bool,
) -> list[Place] | None:
    """The places of a destination, by priority; None where there is nothing to prefer.

    `tiers` says for each endpoint how late in `discovery.failover` it comes (0: it is the destination's own).
    `policy` is None where localities don't count. Failover by place needs outlier detection (`fails_over`), as in
    Istio: "otherwise Envoy will never drop down to a lower priority".
    """
    known = policy is not None and here != NOWHERE
    if known and policy is not None and (rule := rule_for(here, policy.distribute)) is not None:
        return _distributed(endpoints, tiers, rule)
    near = known and fails_over
    ladder = policy.failover_priority if policy is not None and fails_over else ()
    failover = policy.failover if policy is not None else ()
    by_place = near and (not ladder or bool(failover))
    if not by_place and not ladder and not any(tiers):
        return None
    mine = _with_place(labels, here)
    ranks: list[tuple[int, int, int]] = []
    measured: dict[Locality, int] = {}
    for endpoint, tier in zip(endpoints, tiers, strict=True):
        there = endpoint.locality
        far = 0
        if by_place:
            far = measured.get(there, -1)
            if far < 0:
                far = measured[there] = distance(here, there, failover)
        unlike = unlikeness(ladder, mine, _with_place(endpoint.labels, there)) if ladder else 0
        ranks.append((tier, unlike, far))
    priorities = {rank: priority for priority, rank in enumerate(sorted(set(ranks)))}
    grouped: dict[int, list[int]] = {}
    for index, rank in enumerate(ranks):
        grouped.setdefault(priorities[rank], []).append(index)
    return [
        Place(priority, 0, _named({endpoints[index].locality for index in members}), tuple(members))
        for priority, members in sorted(grouped.items())
    ]


def _distributed(endpoints: Sequence[Endpoint], tiers: Sequence[int], rule: Distribute) -> list[Place]:
    """Shares within each tier. A failover of which the rule does not speak at all is taken as a whole."""
    places: list[Place] = []
    for tier in sorted(set(tiers)):
        priority = places[-1].priority + 1 if places else 0
        grouped: dict[Locality, list[int]] = {}
        for index, endpoint in enumerate(endpoints):
            if tiers[index] == tier:
                grouped.setdefault(endpoint.locality, []).append(index)
        groups = sorted(grouped.items(), key=lambda group: str(group[0]))
        sums = [(there, float(sum(endpoints[i].weight or 1 for i in found))) for there, found in groups]
        weights = shares(sums, rule)
        if tier and not any(weights):
            members = sorted(index for _, found in groups for index in found)
            places.append(Place(priority, 0, _named(set(grouped)), tuple(members)))
            continue
        places += [
            Place(priority, weight, _named({there}), tuple(found))
            for (there, found), weight in zip(groups, weights, strict=True)
            if weight
        ]
    return places


def _with_place(labels: Mapping[str, str], place: Locality) -> Mapping[str, str]:
    """Labels, with region, zone and subzone under their short names and Kubernetes' where they are not given."""
    found = {
        "region": place.region,
        "zone": place.zone,
        "subzone": place.subzone,
        "topology.kubernetes.io/region": place.region,
        "topology.kubernetes.io/zone": place.zone,
        "topology.istio.io/subzone": place.subzone,
    }
    return {**{key: value for key, value in found.items() if value}, **labels}


def _named(localities: set[Locality]) -> str:
    """What people are shown for a place."""
    names = sorted(str(locality) or "unknown" for locality in localities)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
