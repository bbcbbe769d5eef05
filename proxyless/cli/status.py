"""`proxyless status`: all that a client would know. The first command at three in the morning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from proxyless.cli import screen
from proxyless.cli.endpoints import ladder, note_empty, shown, state_style, subset_cell
from proxyless.cli.failures import Failure, Misuse
from proxyless.cli.options import Format, Output, Source
from proxyless.cli.process import Pid, asked
from proxyless.cli.screen import BAD, DOUBTFUL, GOOD, NONE, QUIET, Cell
from proxyless.cli.session import look

MOST = 20
"""Endpoints of a process that are shown to a person, those that are not well first."""


def status(source: Source = None, pid: Pid = None, output: Output = Format.table) -> int:
    """What a client with this source would see now; with --pid, what that process sees."""
    if pid is not None:
        if source is not None:
            raise Misuse("--pid asks a running process, which has a source of its own: leave --source out")
        return _of_process(pid, output)
    view = look(source, every=True)
    if output is Format.json:
        screen.as_json({**view.status, "endpoints": [shown(entry) for entry in view.status["endpoints"]]})
    else:
        silent = "ANSWERS IN PART ONLY" if view.in_part else "NOT ANSWERING"
        _show(view.status, silent if view.trouble else "")
        if not view.trouble:
            note_empty(view)
    return view.end(_findings(view.status))


def _of_process(pid: int, output: Format) -> int:
    """The status of each mesh of a running process, as it is there: what it holds, counts and leaves out."""
    answer = asked(pid, "status")
    meshes: list[Mapping[str, Any]] = answer.get("meshes") or []
    try:
        if output is Format.json:
            screen.as_json(answer)
        else:
            for number, mesh in enumerate(meshes):
                if number:
                    screen.line()
                screen.line("Process    ", f"{pid}, {answer['program']}, Python {answer['python']}")
                _show(mesh, _staleness(mesh))
                _at_work(mesh)
        return int(any(_findings(mesh) or mesh["stale"] for mesh in meshes))
    except (KeyError, TypeError, AttributeError) as strange:
        raise Failure(f"process {pid} says what this version of proxyless does not understand: {strange!r}") from None


def _staleness(status: Mapping[str, Any]) -> str:
    seconds = max((entry["seconds"] for entry in status["stale"].values()), default=0.0)
    return f"STALE for {seconds:.0f} s" if seconds else ""


def _findings(status: Mapping[str, Any]) -> bool:
    invalid = any(not document["accepted"] for document in status["documents"])
    there = {(entry["service"], entry["subset"]) for entry in status["endpoints"]}
    return invalid or any(
        (one["known"] and (one["service"], one["subset"]) not in there) or (_alarms(one) and not one.get("mirror"))
        for one in status["destinations"].values()
    )


def _alarms(one: Mapping[str, Any]) -> str:
    """What goes on with a destination as a whole that its endpoints' states don't tell."""
    alarms = ["PANIC: all are called"] if one["panic"] else []
    if one["breaker"] == "OPEN":
        alarms.append(f"BREAKER OPEN: calls are refused, tried again in {one.get('breaker_retry_in') or 0:.0f} s")
    elif one["breaker"] == "HALF_OPEN":
        alarms.append("BREAKER HALF_OPEN: a few calls decide")
    return "; ".join(alarms)


def _show(status: Mapping[str, Any], trouble: str) -> None:
    screen.line("Source     ", status["source"]["name"], "   ", (trouble, BAD) if trouble else ("in sync", GOOD))
    labels = ", ".join(f"{key}={value}" for key, value in status["labels"].items())
    if labels or status["locality"]:
        screen.line("Client     ", f"labels {labels or NONE}, locality {status['locality'] or NONE}")
    for watch, entry in status["stale"].items():
        screen.line("Stale      ", f"{watch}, for {entry['seconds']:.0f} s: {entry['reason']}")
    _documents(status["documents"])
    _destinations(status)
    _doubts(status)


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


def _destinations(status: Mapping[str, Any]) -> None:
    rows: list[tuple[Cell, ...]] = []
    states: dict[tuple[str, str, bool], Counter[str]] = {}
    for entry in status["endpoints"]:
        named = (entry["service"], entry["subset"] or "", entry.get("mirror", False))
        states.setdefault(named, Counter())[entry["state"]] += 1
    for _, one in sorted(status["destinations"].items()):
        mirror = one.get("mirror", False)
        counted = states.get((one["service"], one["subset"] or "", mirror), Counter())
        number = str(sum(counted.values()))
        subset = subset_cell(one["subset"], mirror)
        rows.append((one["service"], subset, number, _in_words(counted, one)))
    if rows:
        screen.line()
        screen.table(("SERVICE", "SUBSET", "ENDPOINTS", "STATE"), rows)
    for name, one in sorted(status["destinations"].items()):
        for why, number in one["left_out"].items():
            screen.line((f"Left out of {name}, {number}: ", DOUBTFUL), why)
    rungs = [rung for one in status["destinations"].values() for rung in one["ladder"]]
    if rungs:
        screen.line()
        ladder(rungs)


def _in_words(counted: Counter[str], one: Mapping[str, Any]) -> Cell:
    if not one["known"]:
        return "not heard of yet", DOUBTFUL
    if not counted:
        return "NO ENDPOINT: calls fail with UNAVAILABLE", BAD
    worst = min(counted, key=lambda state: state == "healthy")
    words = ", ".join(f"{number} {state}" for state, number in sorted(counted.items()))
    alarms = _alarms(one)
    return (f"{words}; {alarms}", BAD) if alarms else (words, state_style(worst))


def _at_work(status: Mapping[str, Any]) -> None:
    """What only the process that makes the calls knows: what it counted, and who is out for it, and for how long."""
    counts = ("requests", "pending", "retries", "retries_left", "retries_denied", "hedges", "refused")
    destinations = sorted(status["destinations"].items())
    if not destinations:
        return
    screen.line()
    heads = ("DESTINATION", "UNDER WAY", "WAITING", "RETRIES", "LEFT", "DENIED", "HEDGES", "OVER LIMIT")
    screen.table(heads, [(name, *(f"{one[count]:.0f}" for count in counts)) for name, one in destinations])
    listed = sorted(status["endpoints"], key=lambda entry: (entry["state"] == "healthy", -entry["in_flight"]))
    if not listed:
        return
    screen.line()
    screen.table(
        ("ADDRESS", "SERVICE", "SUBSET", "STATE", "UNDER WAY", "CALLS", "FAILED"),
        [
            (
                entry["address"],
                entry["service"],
                subset_cell(entry["subset"], entry.get("mirror", False)),
                (_standing(entry), state_style(entry["state"])),
                *(str(entry[count]) for count in ("in_flight", "calls", "failures")),
            )
            for entry in listed[:MOST]
        ],
    )
    if len(listed) > MOST:
        screen.line((f"and {len(listed) - MOST} more, no worse; -o json has all of them", QUIET))


def _standing(entry: Mapping[str, Any]) -> str:
    left = entry.get("ejected_for")
    return f"{entry['state']} for {left:.0f} s more" if left else str(entry["state"])


def _doubts(status: Mapping[str, Any]) -> None:
    if unread := status["source"].get("watches", {}).get("documents", {}).get("unread"):
        screen.line()
        screen.line(("No client reads: ", DOUBTFUL), ", ".join(unread))
        screen.line(("A document's key below the prefix is `mesh`, or `services/` and the name of a service.", QUIET))
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
