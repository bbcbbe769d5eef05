"""Where copies of a route's calls go, and how: each mirror has a destination and a small route of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from proxyless.model.routes import Mirror, Route
from proxyless.model.snapshot import Cluster, ClusterKey, PlannedMirror, PlannedRoute
from proxyless.model.traffic import Limits
from proxyless.policy.matcher import Matcher
from proxyless.policy.mirror import MOST, stripper
from proxyless.policy.split import shares, splitter


def mirrors(service: str, route: Route) -> list[ClusterKey]:
    """The destinations; a call that is answered here is sent nowhere, and nor are copies of it."""
    if route.direct_response is not None:
        return []
    return [ClusterKey(mirror.service or service, mirror.subset or "", mirrored=True) for mirror in route.mirror]


def for_copies(limits: Limits) -> Limits:
    """The limits of a destination, as they bound the copies that go there."""
    most = limits.max_requests
    return replace(limits, max_requests=MOST if most is None else min(most, MOST))


def mirror_to(cluster: Cluster, name: str, mirror: Mirror, compose: Callable[[PlannedRoute], Any]) -> PlannedMirror:
    """What a copy follows: one destination, without retries, faults or a timeout of its own."""
    planned = PlannedRoute(
        name=f"{name} (mirror)",
        route=Route(),
        matcher=Matcher((), {}),
        choose=splitter([1.0]),
        clusters=[cluster],
        shares=shares([1.0]),
        edits=[None],
        run=None,
    )
    object.__setattr__(planned, "run", compose(planned))  # it knows its own route, so it comes last
    return PlannedMirror(mirror.percent, stripper(mirror.allow_headers), planned, mirror.allow_headers)
