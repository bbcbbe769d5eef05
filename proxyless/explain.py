"""What would happen to a request, and why: `Mesh.explain`, made of the snapshot that calls read.

It is pure: it reads what is there, sends nothing, draws nothing and counts nothing. How all of it stands is in
`overview.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

from proxyless.model.quantities import Duration, camel
from proxyless.model.snapshot import Cluster, NodeState, PlannedMirror, PlannedRoute, Snapshot
from proxyless.policy.locality import Ladder
from proxyless.policy.matcher import joined


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision for one request (CONTRACT section 1). `refusal` is the reason's word, or None."""

    service: str
    method: str
    route: str | None
    refusal: str | None
    rejected: tuple[Mapping[str, str], ...]
    split: tuple[Mapping[str, Any], ...]
    endpoints: tuple[Mapping[str, Any], ...]
    timeout: float | None
    retry: Mapping[str, Any] | None
    fault: Mapping[str, Any] | None
    mirror: tuple[Mapping[str, Any], ...]
    policy: Mapping[str, Any]
    """The traffic policy in effect for each destination, defaults included."""
    ladder: tuple[Mapping[str, Any], ...] = ()
    """Where localities count: each place with its priority, its health and its percentage of the calls."""
    left_out: tuple[Mapping[str, Any], ...] = ()
    """Endpoints that are known and can't be called, with the reason."""
    sticky: Mapping[str, Any] | None = None
    """Where the split sticks to a header: which, and where it leads this request (None: it has none, and is drawn)."""
    hash: Mapping[str, Any] | None = None
    """Where a destination places calls by their hash: of what, and which place this request has (None: by chance)."""

    hedge: Mapping[str, Any] | None = None
    """What takes the place of retries on a hedged route."""

    def to_dict(self) -> dict[str, Any]:
        """The same, JSON-able; what was added to the contract only where there is something to say."""
        made = asdict(self)
        return {key: value for key, value in made.items() if value or key not in OCCASIONAL}


OCCASIONAL = ("ladder", "left_out", "sticky", "hash", "hedge")


def explain(
    snapshot: Snapshot, service: str, method: str, metadata: Iterable[tuple[str, Any]] = (), now: float = 0.0
) -> Explanation:
    """Follow a request through `snapshot` without making it. A `fraction` counts as drawn: it is chance."""
    table = snapshot.services.get(service)
    if table is None or table.rejected:
        return _refused(service, method, "not_ready", ())
    sent = tuple(metadata)
    headers = joined(sent)
    rejected: list[Mapping[str, str]] = []
    for route in table.routes:
        why = route.matcher.why_not(method, service, headers)
        if not why:
            made = _followed(service, method, route, tuple(rejected), now)
            return replace(
                made, refusal=_refusal(route, sent, now), sticky=_sticky(route, sent), hash=_hash(route, sent)
            )
        rejected.append({"route": route.name, "why": why})
    return _refused(service, method, "no_route", tuple(rejected))


def _refused(service: str, method: str, reason: str, rejected: tuple[Mapping[str, str], ...]) -> Explanation:
    return Explanation(service, method, None, reason, rejected, (), (), None, None, None, (), {})


def _followed(
    service: str, method: str, route: PlannedRoute, rejected: tuple[Mapping[str, str], ...], now: float
) -> Explanation:
    endpoints = tuple(entry for cluster in route.clusters for entry in endpoints_of(cluster, now))
    answers = route.route.direct_response is not None
    split = tuple(split_of(route))
    retry = None
    hedge = None
    if route.hedge is not None and not answers:
        hedge = {
            "delay": float(route.hedge.delay),
            "attempts": route.hedge.attempts,
            "non_fatal": list(route.hedge.non_fatal),
        }
    elif route.retry.counts and not answers:
        per_try = route.retry.per_try_timeout
        retry = {
            "attempts": route.retry.attempts,
            "per_try_timeout": float(per_try) if per_try else None,
            "on": list(route.retry.on),
        }
    fault = plain(route.route.fault) if route.faults is not None else None
    policies = {str(cluster.key): plain(cluster.policy) for cluster in route.clusters}
    return Explanation(
        service,
        method,
        route.name,
        None,
        rejected,
        split,
        endpoints,
        route.timeout,
        retry,
        fault,
        tuple(_mirror(mirror) for mirror in route.mirrors),
        policies,
        tuple(rung for cluster in route.clusters for rung in ladder_of(cluster)),
        tuple(one for cluster in route.clusters for one in _left_out(cluster)),
        hedge=hedge,
    )


def _refusal(route: PlannedRoute, metadata: Sequence[tuple[str, Any]], now: float) -> str | None:
    """What the call would be refused for now, wherever the split may send it; what is left to chance is not asked."""
    if route.route.direct_response is not None:
        return "direct_response"
    stuck = route.sticky(metadata) if route.sticky is not None else None
    may = [share > 0 if stuck is None else index == stuck for index, share in enumerate(route.shares)]
    reasons = [_refused_at(cluster, now) for cluster, goes in zip(route.clusters, may, strict=False) if goes]
    return reasons[0] if all(reasons) else None


def _refused_at(cluster: Cluster, now: float) -> str | None:
    """In the order of `stack.py`: the breaker is asked first, then somebody is chosen, then the limit."""
    state, nodes, locality = cluster.state.status(now), cluster.nodes, cluster.policy.locality
    if state["breaker"] == "OPEN":
        return "circuit_open"
    if not nodes:
        return "no_endpoints" if cluster.known else "not_ready"
    if locality is not None and not locality.panic_threshold:  # then the best there is may be one that is not called
        best = min(nodes, key=lambda node: (bool(node.reachable_at), node.outlier.out))
        if best.outlier.out and all(state_of(node, now) in ("ejected", "unreachable") for node in nodes):
            return "no_endpoints"
    most = cluster.policy.limits.max_requests
    return "limit" if most is not None and state["requests"] >= most else None


def _sticky(route: PlannedRoute, metadata: Sequence[tuple[str, Any]]) -> dict[str, Any] | None:
    if route.sticky is None or route.route.sticky is None:
        return None
    index = route.sticky(metadata)
    goes = None if index is None else route.clusters[index].key
    return {
        "header": route.route.sticky.header,
        "service": goes.service if goes else None,
        "subset": (goes.subset or None) if goes else None,
    }


def _hash(route: PlannedRoute, metadata: Sequence[tuple[str, Any]]) -> dict[str, Any] | None:
    if route.hash is None:
        return None
    index = route.sticky(metadata) if route.sticky is not None else None
    edit = route.edits[index or 0]  # what a split changes of what is hashed is that destination's
    found = route.hash(metadata if edit is None else edit(metadata), 0)
    if any(source.channel for source in route.route.hash):
        found = None  # every channel has a number of its own, which nobody can know here
    return {"of": [plain(source) for source in route.route.hash], "hash": None if found is None else f"{found:016x}"}


def split_of(route: PlannedRoute) -> list[dict[str, Any]]:
    """Where a route sends calls, each destination with its percentage of them."""
    return [
        {"service": cluster.key.service, "subset": cluster.key.subset or None, "percent": round(100 * share, 6)}
        for cluster, share in zip(route.clusters, route.shares, strict=False)
    ]


def ladder_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Where localities count: each place with its priority, its health and its percentage of the calls."""
    if not isinstance(cluster.picker, Ladder):
        return []
    of = {"service": cluster.key.service, "subset": cluster.key.subset or None}
    return [{**of, **rung} for rung in cluster.picker.view()]


def _left_out(cluster: Cluster) -> list[dict[str, Any]]:
    return [
        {
            "address": endpoint.address,
            "service": cluster.key.service,
            "subset": cluster.key.subset or None,
            "locality": str(endpoint.locality),
            "why": why,
        }
        for endpoint, why in cluster.left_out()
    ]


def _mirror(mirror: PlannedMirror) -> dict[str, Any]:
    key = mirror.cluster.key
    return {
        "service": key.service,
        "subset": key.subset or None,
        "percent": mirror.percent,
        "endpoints": len(mirror.cluster.nodes),
        "allow_headers": list(mirror.allowed),
    }


def endpoints_of(cluster: Cluster, now: float) -> list[dict[str, Any]]:
    """Where calls to a destination can go, each endpoint with its weight and state."""
    return [
        {
            "address": node.address,
            "service": cluster.key.service,
            "subset": cluster.key.subset or None,
            "locality": str(node.endpoint.locality),
            "weight": weight,
            "state": state_of(node, now),
            **_standing(cluster, node),
        }
        for node, weight in zip(cluster.nodes, cluster.weights, strict=True)
    ]


def _standing(cluster: Cluster, node: NodeState) -> dict[str, Any]:
    """Where localities count: a node's priority, and what its place gets of the calls."""
    if not isinstance(cluster.picker, Ladder):
        return {}
    priority, percent = cluster.picker.place(node)
    return {"priority": priority, "place_percent": round(percent, 3)}


def state_of(node: NodeState, now: float) -> str:
    """healthy, warning, unreachable, ejected or probing: the strongest word that is true."""
    if node.outlier.out:
        return node.outlier.state(now)
    if node.reachable_at > now:
        return "unreachable"
    return "healthy" if node.endpoint.status == "passing" else node.endpoint.status


def plain(value: Any) -> Any:
    """A model value as a document would write it: camelCase keys, durations as text, nothing that is unset."""
    if isinstance(value, Duration):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((camel(f.name).rstrip("_"), getattr(value, f.name)) for f in fields(value))
        return {key: plain(part) for key, part in pairs if part is not None and part not in ((), {})}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value
