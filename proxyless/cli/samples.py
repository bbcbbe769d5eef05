"""Simulated draws: the chance in a decision, drawn many times over, to see where calls would go.

Nothing is sent. Fractions of routes, splits and pickers are the mesh's own, drawn from one seeded generator;
pickers are built anew, so that the same seed gives the same draws. Least request sees an idle mesh: with
nothing under way it draws evenly.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from proxyless.model.snapshot import Cluster, ClusterKey, Picker, PlannedRoute, Snapshot
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.locality import Ladder
from proxyless.policy.matcher import joined


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a picker asks of a call, of one that is only drawn."""

    rng: Callable[[], float]
    now: float = 0.0
    hash: int | None = None


def draw(
    snapshot: Snapshot, service: str, method: str, metadata: Iterable[tuple[str, str]], number: int, seed: int
) -> dict[str, Any]:
    """`number` calls, none of them made: how many took which route to which endpoint."""
    rng = random.Random(seed).random
    headers = joined(metadata)
    plan = snapshot.services[service].plan(method, service).steps
    pickers = {key: _picker(cluster, rng) for key, cluster in sorted(snapshot.clusters.items())}
    counted: Counter[tuple[str | None, ClusterKey | None, str | None]] = Counter()
    sent, channel = list(metadata), int(rng() * (1 << 64))
    for _ in range(number):
        route = next((planned for test, planned in plan if test is None or test(headers, rng)), None)
        counted[_follow(route, pickers, rng, sent, channel)] += 1
    went = [
        {
            "route": route,
            "service": key.service if key else None,
            "subset": (key.subset or None) if key else None,
            "address": address,
            "calls": calls,
        }
        for (route, key, address), calls in sorted(counted.items(), key=lambda pair: (-pair[1], str(pair[0])))
    ]
    return {"calls": number, "seed": seed, "went": went}


def _follow(
    route: PlannedRoute | None,
    pickers: Mapping[ClusterKey, Picker],
    rng: Callable[[], float],
    metadata: Sequence[tuple[str, str]],
    channel: int,
) -> tuple[str | None, ClusterKey | None, str | None]:
    if route is None:
        return None, None, None
    if not route.clusters:
        return route.name, None, None
    index = route.sticky(metadata) if route.sticky is not None else None
    if index is None:
        index = route.choose(rng()) if len(route.clusters) > 1 else 0
    cluster, edit = route.clusters[index], route.edits[index]
    hashed = None if route.hash is None else route.hash(metadata if edit is None else edit(metadata), channel)
    node = pickers[cluster.key].pick(_Drawn(rng, hash=hashed))
    return route.name, cluster.key, node.address if node is not None else None


def _picker(cluster: Cluster, rng: Any) -> Picker:
    policy = cluster.policy.load_balancer
    build = BALANCERS.get(policy.policy)
    if build is None:  # a plug-in's
        build = next(e for e in entry_points(group="proxyless.balancers") if e.name == policy.policy).load()
    balancer = build
    if isinstance(cluster.picker, Ladder):
        return cluster.picker.rebuilt(lambda nodes, weights: balancer(nodes, weights, policy, rng))
    return balancer(cluster.nodes, cluster.weights, policy, rng)
