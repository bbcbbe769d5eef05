"""`proxyless ps`: the processes of this user that have a mesh, and whether one of them is out of date."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from proxyless.cli import screen
from proxyless.cli.options import Format, Output
from proxyless.cli.screen import BAD, DOUBTFUL, GOOD, NONE, QUIET, Cell

if TYPE_CHECKING:
    from proxyless.admin.asking import Process


def ps(output: Output = Format.table) -> int:
    """The processes of this user that have a mesh."""
    from proxyless.admin.asking import processes

    found, trouble = processes(os.environ)
    for one in trouble:
        screen.note(f"not looked into: {one}")
    if output is Format.json:
        screen.as_json([_described(process) for process in found])
    elif found:
        rows = [row for process in found for row in _rows(process, time.time())]
        screen.table(("PID", "PROGRAM", "SERVICES", "SOURCE", "VERSION", "STATE", "SINCE"), rows)
    else:
        from proxyless.admin import places

        screen.line("no process of this user has a mesh that can be looked into")
        looked = " and ".join(str(folder) for folder in places.folders(os.environ))
        screen.line((f"looked in {looked}; a service's own folder is named by PROXYLESS_RUNTIME_DIR", QUIET))
    return int(any(_is_bad(process) for process in found))


def _described(process: Process) -> dict[str, Any]:
    return {**process.about, "pid": process.pid, "socket": str(process.path), "silent": process.silent or None}


def _is_bad(process: Process) -> bool:
    return bool(process.silent) or any(mesh["stale"] or mesh["rejected"] for mesh in meshes(process.about))


def meshes(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a process says of its meshes, every word of a summary in its place."""
    empty = {"source": NONE, "version": 0, "services": [], "stale": 0.0, "rejected": [], "from_disk": False, "since": 0}
    said = about.get("meshes")
    return [{**empty, **mesh} for mesh in said if isinstance(mesh, dict)] if isinstance(said, list) else []


def _rows(process: Process, now: float) -> list[tuple[Cell, ...]]:
    pid, program = str(process.pid), str(process.about.get("program", NONE))
    if process.silent:
        return [(pid, program, NONE, NONE, NONE, (f"NO ANSWER: {process.silent}", BAD), NONE)]
    return [
        (
            pid,
            program,
            _some([str(service) for service in mesh["services"]]),
            str(mesh["source"]),
            str(mesh["version"]),
            _state(mesh),
            f"{ago(now - float(mesh['since']))} ago",
        )
        for mesh in meshes(process.about)
    ]


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or NONE


def _state(mesh: Mapping[str, Any]) -> Cell:
    if mesh["stale"]:
        return f"STALE for {ago(float(mesh['stale']))}", BAD
    if mesh["rejected"]:
        return f"INVALID: {_some([str(document) for document in mesh['rejected']])}", BAD
    if mesh["from_disk"]:
        return "from disk, not confirmed yet", DOUBTFUL
    return "in sync", GOOD


def ago(seconds: float) -> str:
    """A length of time as one says it: 4 s, 12 min, 3 h, 2 d."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
