"""`proxyless status`: all that a client would know. The first command at three in the morning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from proxyless.cli import screen
from proxyless.cli.endpoints import ladder, shown, state_style
from proxyless.cli.options import Format, Output, Source
from proxyless.cli.screen import BAD, DOUBTFUL, GOOD, NONE, QUIET, Cell
from proxyless.cli.session import View, look


def status(source: Source = None, output: Output = Format.table) -> int:
    """What a client with this source would see now: documents, endpoints, doubts."""
    view = look(source, every=True)
    if output is Format.json:
        screen.as_json({**view.status, "endpoints": [shown(entry) for entry in view.status["endpoints"]]})
    else:
        _head(view)
        _documents(view.status["documents"])
        _destinations(view)
        _doubts(view.status)
    invalid = any(not document["accepted"] for document in view.status["documents"])
    empty = any(cluster.known and not cluster.nodes for cluster in view.snapshot.clusters.values())
    return view.end(invalid or empty)


def _head(view: View) -> None:
    screen.line("Source     ", view.name, "   ", ("NOT ANSWERING", BAD) if view.trouble else ("in sync", GOOD))
    labels = ", ".join(f"{key}={value}" for key, value in view.status["labels"].items())
    if labels or view.status["locality"]:
        screen.line("Client     ", f"labels {labels or NONE}, locality {view.status['locality'] or NONE}")


def _documents(documents: list[dict[str, Any]]) -> None:
    screen.line()
    if not documents:
        screen.line("No document: every call goes to every healthy instance of its service, with the defaults.")
        screen.line(("`proxyless services` lists them, `proxyless endpoints SERVICE` shows where one leads.", QUIET))
        return
    rows = [(document["document"], document["version"] or NONE, _verdict(document)) for document in documents]
    screen.table(("DOCUMENT", "VERSION", "STATE"), rows)
    for document in documents:
        if document["errors"]:
            screen.line()
            screen.line((f"{document['origin']} is invalid:", BAD))
            for error in document["errors"]:
                screen.line(f"  {error}")


def _verdict(document: dict[str, Any]) -> Cell:
    if document["accepted"]:
        return "in effect", GOOD
    if document["in_effect"] is not None:
        return f"INVALID; version {document['in_effect']} stays in effect", BAD
    if document["document"].startswith("services/"):
        # What a client that knew an earlier version does, this one can't know: it has only just begun.
        return (
            "INVALID; a client that starts now refuses its calls, one that has a good version goes on",
            BAD,
        )
    return "INVALID; it has no effect", BAD


def _destinations(view: View) -> None:
    rows: list[tuple[Cell, ...]] = []
    states: dict[tuple[str, str], Counter[str]] = {}
    for entry in view.status["endpoints"]:
        states.setdefault((entry["service"], entry["subset"] or ""), Counter())[entry["state"]] += 1
    for key, cluster in sorted(view.snapshot.clusters.items()):
        counted = states.get((key.service, key.subset), Counter())
        rows.append((key.service, key.subset or NONE, str(sum(counted.values())), _in_words(counted, cluster.known)))
    if rows:
        screen.line()
        screen.table(("SERVICE", "SUBSET", "ENDPOINTS", "STATE"), rows)
    rungs = [rung for one in view.status["destinations"].values() for rung in one["ladder"]]
    if rungs:
        screen.line()
        ladder(rungs)


def _in_words(counted: Counter[str], known: bool) -> Cell:
    if not known:
        return "not heard of yet", DOUBTFUL
    if not counted:
        return "NO ENDPOINT: calls fail with UNAVAILABLE", BAD
    worst = min(counted, key=lambda state: state == "healthy")
    return ", ".join(f"{number} {state}" for state, number in sorted(counted.items())), state_style(worst)


def _doubts(status: Mapping[str, Any]) -> None:
    for watch, reason in status["suspicious"].items():
        screen.line()
        screen.line((f"Not believed of {watch}: ", DOUBTFUL), reason)
    for watch, reasons in status["dropped"].items():
        screen.line()
        screen.line((f"Left out, {len(reasons)} of the instances of {watch}:", DOUBTFUL))
        for reason in reasons[:10]:
            screen.line(f"  {reason}")
        if len(reasons) > 10:
            screen.line((f"  and {len(reasons) - 10} more; -o json has all of them", QUIET))
