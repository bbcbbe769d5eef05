"""`proxyless endpoints`: where calls can go; and where they can't, what Consul has instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxyless.cli import screen
from proxyless.cli.names import check_known
from proxyless.cli.options import Format, OneService, Output, Source
from proxyless.cli.screen import BAD, DOUBTFUL, GOOD, NONE, Cell
from proxyless.cli.session import View, look

if TYPE_CHECKING:
    from proxyless.model.snapshot import Cluster

FIELDS = ("address", "service", "subset", "locality", "weight", "state")
"""What is shown of an endpoint. What is under way on it is known to the program that calls it, not here."""


def endpoints(service: OneService = None, source: Source = None, output: Output = Format.table) -> int:
    """The endpoints of every destination that the routes lead to."""
    view = look(source, [service] if service else (), every=service is None)
    if service is not None:
        check_known(view, service)
    listed = [shown(entry) for entry in view.status["endpoints"]]
    if output is Format.json:
        screen.as_json(listed)
    elif listed:
        table(listed)
    empty = [cluster for cluster in view.snapshot.clusters.values() if cluster.known and not cluster.nodes]
    for cluster in sorted(empty, key=lambda cluster: cluster.key):
        screen.note(why_none(view, cluster))
    if not view.snapshot.clusters and output is Format.table:
        screen.line("no service has a document; name one to see its endpoints: proxyless endpoints SERVICE")
    return view.end(bool(empty))


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    """An endpoint of `Mesh.status()` as the command line shows it."""
    return {field: entry[field] for field in FIELDS}


def table(listed: list[dict[str, Any]], indent: int = 0) -> None:
    """Endpoints for people."""
    rows: list[tuple[Cell, ...]] = [
        (
            entry["address"],
            entry["service"],
            entry["subset"] or NONE,
            entry["locality"] or NONE,
            str(entry["weight"]),
            (entry["state"], state_style(entry["state"])),
        )
        for entry in listed
    ]
    screen.table(("ADDRESS", "SERVICE", "SUBSET", "LOCALITY", "WEIGHT", "STATE"), rows, indent)


def state_style(state: str) -> str:
    """Healthy is good, warning is doubtful, everything else is bad."""
    return {"healthy": GOOD, "warning": DOUBTFUL}.get(state, BAD)


def why_none(view: View, cluster: Cluster) -> str:
    """That it has no endpoint, and what is registered instead: the next question of whoever reads it."""
    text, service = f"{cluster.key} has no endpoint that may be called", cluster.watched.service
    if not view.source.is_consul or view.trouble:
        return text
    from proxyless.control.consul_settings import ConsulSettings
    from proxyless.control.store import KvStore
    from proxyless.control.watcher import Unanswered

    try:
        with KvStore(ConsulSettings.parse(view.source.url)) as store:
            counted = store.instances(service)
    except (Unanswered, ValueError):
        return text
    if not counted:
        return f"{text}; Consul has no instance of {service}"
    kinds = ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
    return f"{text}; Consul's instances of {service}: {kinds}"
