"""From one snapshot to the next: what is the same, and what has to wait until it is warm."""

from __future__ import annotations

from proxyless.model.route_table import ServiceTable
from proxyless.model.snapshot import Snapshot


def warmed(snapshot: Snapshot, last: Snapshot | None) -> tuple[Snapshot, tuple[str, ...]]:
    """`snapshot`, in which a service keeps its earlier routes until all that its new ones lead to is known.

    As Envoy warms clusters: an edit that leads to another service takes effect when its endpoints are here, and
    no call waits for them meanwhile. Also returns the services that wait.
    """
    if last is None:
        return snapshot, ()
    kept = {
        name: last.services[name]
        for name, table in snapshot.services.items()
        if not known(table) and name in last.services and last.services[name].routes and known(last.services[name])
    }
    if not kept:
        return snapshot, ()
    held = {cluster.key: cluster for table in kept.values() for route in table.routes for cluster in route.reached}
    return Snapshot(snapshot.version, {**snapshot.services, **kept}, {**held, **snapshot.clusters}), tuple(sorted(kept))


def known(table: ServiceTable) -> bool:
    """Whether the source has named the endpoints of everything that this service's calls go to. Where copies of
    them go is waited for by nobody."""
    return all(cluster.known for route in table.routes for cluster in route.clusters)


def same(one: Snapshot, other: Snapshot) -> bool:
    """Whether nothing was made anew: the compiler hands on what is unchanged as the same objects."""
    return (
        one.services.keys() == other.services.keys()
        and one.clusters.keys() == other.clusters.keys()
        and all(one.services[name] is other.services[name] for name in one.services)
        and all(one.clusters[key] is other.clusters[key] for key in one.clusters)
    )
