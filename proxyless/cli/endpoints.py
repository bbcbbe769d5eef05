"""`proxyless endpoints`: where calls can go; and where they can't, what Consul has instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxyless.cli import screen
from proxyless.cli.names import check_known
from proxyless.cli.options import Format, OneService, Output, Source
from proxyless.cli.screen import BAD, DOUBTFUL, GOOD, NONE, QUIET, TITLE, Cell
from proxyless.cli.session import View, look

if TYPE_CHECKING:
    from proxyless.model.snapshot import Cluster

FEW = 5
STANDING = ("priority", "place_percent")
"""What is there where localities count."""
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
        left_out(list(missing(view)))
    empty = note_empty(view)
    refused = [table.rejected for table in view.snapshot.services.values() if table.rejected]
    for why in refused:
        screen.note(why)
    if not view.snapshot.clusters and output is Format.table:
        screen.line("no service has a document; name one to see its endpoints: proxyless endpoints SERVICE")
    return view.end(empty or bool(refused))


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    """An endpoint of `Mesh.status()` as the command line shows it."""
    shown = {field: entry[field] for field in (*FIELDS, *STANDING) if field in FIELDS or field in entry}
    return shown | ({"mirror": True} if entry.get("mirror") else {})


def missing(view: View) -> Iterator[tuple[str, str, str]]:
    """Who is known and can't be called: (address, destination, why)."""
    for key, cluster in sorted(view.snapshot.clusters.items()):
        for endpoint, why in cluster.left_out():
            yield endpoint.address, str(key), why


def left_out(found: Sequence[tuple[str, str, str]]) -> None:
    """Who can't be called, by reason: a few names each."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for address, destination, why in found:
        by_reason.setdefault((destination, why), []).append(address)
    if not by_reason:
        return
    screen.line()
    screen.line(("Left out", TITLE))
    for (destination, why), addresses in by_reason.items():
        more = f" and {len(addresses) - FEW} more" if len(addresses) > FEW else ""
        screen.line(f"  {destination}: {why}: {', '.join(addresses[:FEW])}", (more, QUIET))


def subset_cell(subset: str | None, mirror: bool) -> Cell:
    """A destination of copies is told from the one of calls."""
    return " ".join(filter(None, (subset, "(mirror)" if mirror else ""))) or NONE


def table(listed: list[dict[str, Any]], indent: int = 0) -> None:
    """Endpoints for people."""
    heads: tuple[str, ...] = ("ADDRESS", "SERVICE", "SUBSET", "LOCALITY", "WEIGHT", "STATE")
    rows: list[tuple[Cell, ...]] = [
        (
            entry["address"],
            entry["service"],
            subset_cell(entry["subset"], entry.get("mirror", False)),
            entry["locality"] or NONE,
            str(entry["weight"]),
            (entry["state"], state_style(entry["state"])),
        )
        for entry in listed
    ]
    if any("priority" in entry for entry in listed):
        heads += ("PRIORITY",)
        rows = [(*row, str(entry.get("priority", NONE))) for row, entry in zip(rows, listed, strict=True)]
    screen.table(heads, rows, indent)


def ladder(rungs: Sequence[Mapping[str, Any]], indent: int = 0) -> None:
    """Where localities count: who gets how much of the calls, and for what health."""
    rows: list[tuple[Cell, ...]] = [
        (
            f"{rung['service']}/{rung['subset']}" if rung["subset"] else rung["service"],
            str(rung["priority"]),
            rung["locality"] or NONE,
            (f"{rung['healthy']} of {rung['endpoints']}", GOOD if rung["healthy"] == rung["endpoints"] else DOUBTFUL),
            (
                f"{rung['percent']:g} %" + (", PANIC: all are called" if rung["panic"] else ""),
                BAD if rung["panic"] else "",
            ),
        )
        for rung in rungs
    ]
    screen.table(("DESTINATION", "PRIORITY", "LOCALITY", "HEALTHY", "CALLS"), rows, indent)


def state_style(state: str) -> str:
    """Healthy is good, warning is doubtful, everything else is bad."""
    return {"healthy": GOOD, "warning": DOUBTFUL}.get(state, BAD)


def note_empty(view: View) -> bool:
    """Say of each destination without an endpoint why it has none; returns whether there is such a one."""
    empty = [cluster for cluster in view.snapshot.clusters.values() if cluster.known and not cluster.nodes]
    for cluster in sorted(empty, key=lambda cluster: cluster.key):
        screen.note(why_none(view, cluster))
    return bool(empty)


def why_none(view: View, cluster: Cluster) -> str:
    """That it has no endpoint, and what is registered instead: the next question of whoever reads it."""
    text, watched = f"{cluster.key} has no endpoint that may be called", cluster.watched
    reasons = Counter(why for _, why in cluster.left_out())
    those = "; ".join(f"{number}: {why}" for why, number in reasons.items())
    if not view.source.is_consul or view.trouble:
        return f"{text} ({those})" if those else text
    from proxyless.control.consul_settings import ConsulSettings
    from proxyless.control.store import KvStore
    from proxyless.control.watcher import Unanswered

    try:
        settings = ConsulSettings.parse(view.source.url)
        with KvStore(replace(settings, dc=watched.datacenter or settings.dc)) as store:
            counted = store.instances(watched.service)
            hidden = "" if counted else store.hidden(watched.service)
    except (Unanswered, ValueError):
        return text
    if not counted:
        return f"{text}; {hidden or f'Consul has no instance of {watched}'}"
    kinds = ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
    text = f"{text}; Consul's instances of {watched}: {kinds}"
    if those:
        return f"{text}; of these, {those}"
    chosen = f"the subset {cluster.key.subset}" if cluster.key.subset else "the document's discovery"
    return f"{text}; none of them is in {chosen}: see its labels or filter, `proxyless get {cluster.key.service}`"
