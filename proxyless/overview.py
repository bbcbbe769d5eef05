"""How it stands: `Mesh.status`, what `proxyless ps` says of a process, and what telemetry reports of it.

Made of the snapshot that calls read, and of what the loop knows of its documents. Like `explain.py` it sends
nothing and counts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from proxyless.explain import endpoints_of, ladder_of, plain, split_of, state_of
from proxyless.model.matches import Match, veiled
from proxyless.model.route_table import ServiceTable
from proxyless.model.snapshot import Cluster, NodeState, Snapshot
from proxyless.model.topology import Locality


def status_of(
    snapshot: Snapshot, loop: Mapping[str, Any], labels: Mapping[str, str], locality: Locality, now: float
) -> dict[str, Any]:
    """`Mesh.status()`: the loop's view of its documents, with the snapshot's of routes and endpoints."""
    services = {name: _service(table) for name, table in snapshot.services.items()}
    endpoints = [
        {**entry, **_role(cluster), **_worked(node, now)}
        for cluster in snapshot.clusters.values()
        for entry, node in zip(endpoints_of(cluster, now), cluster.nodes, strict=True)
    ]
    return {
        **loop,
        "labels": dict(labels),
        "locality": str(locality),
        "services": services,
        "endpoints": endpoints,
        "destinations": {
            str(key): {
                "service": key.service,
                "subset": key.subset or None,
                **_role(cluster),
                "known": cluster.known,
                **cluster.state.status(now),
                "ladder": ladder_of(cluster),
                "left_out": dict(Counter(why for _, why in cluster.left_out())),
            }
            for key, cluster in snapshot.clusters.items()
        },
    }


def summary_of(snapshot: Snapshot, loop: Mapping[str, Any]) -> dict[str, Any]:
    """The status in a few words: what there is to know of a process before it is looked into."""
    return {
        "source": loop["source"]["name"],
        "version": snapshot.version,
        "services": sorted(snapshot.services),
        "endpoints": sum(len(cluster.nodes) for cluster in snapshot.clusters.values()),
        "rejected": [document["document"] for document in loop["documents"] if not document["accepted"]],
        "stale": max((entry["seconds"] for entry in loop["stale"].values()), default=0.0),
        "from_disk": bool(loop["from_disk"]),
    }


def survey(snapshot: Snapshot, loop: Mapping[str, Any], now: float) -> dict[str, Any]:
    """How the mesh stands, counted: what telemetry reports at each collection, and no more than that."""
    return {
        "version": snapshot.version,
        "source": loop["source"]["name"],
        "staleness": max((watch["seconds"] for watch in loop["stale"].values()), default=0.0),
        "destinations": [_counted(cluster, now) for cluster in snapshot.clusters.values()],
    }


def _counted(cluster: Cluster, now: float) -> dict[str, Any]:
    status = cluster.state.status(now)
    return {
        "service": cluster.key.service,
        "subset": cluster.key.subset,
        "endpoints": Counter((state_of(node, now), str(node.endpoint.locality)) for node in cluster.nodes),
        "breaker": status["breaker"],
        "denied": status["retries_denied"],
        "mirror": cluster.key.mirrored,
        "mirrored": status.get("mirrored", 0),
    }


def _worked(node: NodeState, now: float) -> dict[str, Any]:
    """What this process has to do with it; of one that is ejected, for how many seconds it still is (0: probing)."""
    counted = {"in_flight": node.inflight, "calls": node.calls, "failures": node.failures}
    if not node.outlier.out:
        return counted
    return {**counted, "ejected_for": round(max(0.0, node.outlier.ejected_until - now), 3)}


def _role(cluster: Cluster) -> dict[str, Any]:
    """An endpoint may be there twice: as it is called, and as copies of calls go to it."""
    return {"mirror": True} if cluster.key.mirrored else {}


def _service(table: ServiceTable) -> dict[str, Any]:
    routes = [
        {
            "name": route.name,
            "match": [plain(_shown(block)) for block in route.route.match],
            "split": split_of(route),
            "timeout": route.timeout,
            "directResponse": plain(route.route.direct_response),
        }
        for route in table.routes
    ]
    return {"version": table.version, "rejected": table.rejected or None, "routes": routes}


def _shown(block: Match) -> Match:
    """Without the values of headers that carry credentials."""
    headers = {name: veiled(name, match) for name, match in block.headers.items()}
    without = {name: veiled(name, match) for name, match in block.without_headers.items()}
    return replace(block, headers=headers, without_headers=without)
