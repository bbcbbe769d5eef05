"""`proxyless tap`: the calls that running processes make, as they end, a line each."""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyless.cli import screen
from proxyless.cli.failures import Failure, Misuse, Unreachable
from proxyless.cli.options import Format, Output
from proxyless.cli.process import Pid, chosen
from proxyless.cli.screen import BAD, DOUBTFUL, GOOD, NONE, QUIET, TITLE, Cell

if TYPE_CHECKING:
    from proxyless.admin.asking import Process

Service = Annotated[str, typer.Option("--service", metavar="NAME", help="Only calls to this service; * for any text.")]
Method = Annotated[
    str, typer.Option("--method", metavar="NAME", help="Only this one: /package.Service/Method, or Method.")
]
Status = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="CODE", help="Only calls that end so: UNAVAILABLE, ok, error. Repeatable."),
]
Count = Annotated[int, typer.Option("--count", "-n", metavar="N", min=0, help="End after so many calls.")]
Seconds = Annotated[float, typer.Option("--seconds", metavar="S", min=0.0, help="End after so many seconds.")]
Rate = Annotated[float, typer.Option("--rate", metavar="N", help="At most so many calls a second of each process.")]

WIDEST = 80
"""Characters that a column grows to: one absurd name must not push all others off the screen."""

Told = tuple["Process", Mapping[str, Any] | None]
"""A line of a process; None when it has ended."""


def tap(
    service: Service = "",
    method: Method = "",
    status: Status = None,
    pid: Pid = None,
    count: Count = 0,
    seconds: Seconds = 0.0,
    rate: Rate = 200.0,
    output: Output = Format.table,
) -> None:
    """Live calls of running processes; Ctrl-C ends it. It never slows them, and shows no metadata."""
    question = {"ask": "tap", "service": service, "method": method, "status": status or [], "rate": rate}
    _check(question)
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    with ExitStack() as ends:
        lines = _Lines()
        show = _as_json if output is Format.json else lines.show
        lost: Counter[int] = Counter()
        try:
            tapped = _open(chosen(pid), question, told, ends)
            screen.note(f"{len(tapped)} process{'es' if len(tapped) > 1 else ''}; Ctrl-C ends it")
            if output is Format.table:
                lines.head()
            for process, line in _until(told, len(tapped), count, seconds):
                if "lost" in line:
                    lost[process.pid] += int(line["lost"])
                else:
                    show(process, line)
        except KeyboardInterrupt:
            pass
    for number, calls in lost.items():
        screen.note(f"{calls} more calls of {number} ended that are not shown: more than {rate:g} a second")


def _check(question: Mapping[str, Any]) -> None:
    from proxyless.admin.tap import Wanted

    try:
        Wanted(question)
    except ValueError as wrong:
        raise Misuse(str(wrong)) from None


def _open(
    processes: list[Process], question: Mapping[str, Any], told: queue.SimpleQueue[Told], ends: ExitStack
) -> list[Process]:
    """Begin to read each process on a thread of its own; those that could be tapped."""
    from proxyless.admin.asking import NoAnswer, stream

    tapped = []
    for process in processes:
        try:
            asking, lines = stream(process.path, question)
        except (NoAnswer, OSError) as silent:
            screen.note(f"process {process.pid} is left out: {silent}")
            continue
        ends.callback(_end, asking)
        threading.Thread(target=_read, args=(process, lines, told), daemon=True).start()
        tapped.append(process)
    if not tapped:
        raise Unreachable("no process answers")
    return tapped


def _end(asking: socket.socket) -> None:
    try:
        asking.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the process has ended
    asking.close()


def _read(process: Process, lines: Iterator[Mapping[str, Any]], told: queue.SimpleQueue[Told]) -> None:
    from proxyless.admin.asking import NoAnswer

    try:
        for line in lines:
            told.put((process, line))
    except (NoAnswer, OSError, ValueError):
        pass  # what is no line ends it
    told.put((process, None))


def _until(
    told: queue.SimpleQueue[Told], processes: int, count: int, seconds: float
) -> Iterator[tuple[Process, Mapping[str, Any]]]:
    """What is told until enough is: so many calls, so many seconds, or all processes have ended."""
    until = time.monotonic() + seconds if seconds else None
    shown = 0
    while processes and (not count or shown < count):
        try:
            left = 3600.0 if until is None else until - time.monotonic()
            process, line = told.get(timeout=max(left, 0.0))
        except queue.Empty:
            if until is not None:
                return
            continue
        if line is None:
            screen.note(f"process {process.pid} has ended")
            processes -= 1
            continue
        shown += "lost" not in line
        yield process, line


def _as_json(process: Process, line: Mapping[str, Any]) -> None:
    import json

    sys.stdout.write(json.dumps({"pid": process.pid, **line}) + "\n")
    sys.stdout.flush()


class _Lines:
    """What a tap prints, each line when it comes: a column grows with what has stood in it so far."""

    def __init__(self) -> None:
        self._widths = [12, 7, 36, 12, 22, 21, 9]

    def head(self) -> None:
        """What the columns are."""
        heads = ("TIME", "PID", "CALL", "ROUTE", "DESTINATION", "ENDPOINT", "TOOK", "OUTCOME")
        screen.line((self._columns(*heads), TITLE))
        sys.stdout.flush()

    def show(self, process: Process, line: Mapping[str, Any]) -> None:
        """A call."""
        try:
            at = datetime.fromtimestamp(float(line["at"]))
            seconds, attempts = float(line["seconds"]), list(line["attempts"])
            where = str(line["destination"] or NONE) + (f"/{line['subset']}" if line["subset"] else "")
            call, route, endpoint = f"{line['service']} {line['method']}", line["route"], line["endpoint"]
            outcome = _outcome(line, attempts)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise Failure(f"process {process.pid} says what this version does not understand: {line!r:.200}") from None
        texts = (call, str(route or NONE), where, str(endpoint or NONE), took(seconds), "")
        screen.line(self._columns(f"{at:%H:%M:%S.%f}"[:-3], str(process.pid), *texts), *outcome)
        sys.stdout.flush()

    def _columns(self, *texts: str) -> str:
        *others, last = texts
        self._widths = [max(width, min(len(text), WIDEST)) for width, text in zip(self._widths, others, strict=True)]
        return "  ".join([*(f"{text:<{width}}" for text, width in zip(others, self._widths, strict=True)), last])


def took(seconds: float) -> str:
    """`12.3 ms`, or `4.56 s`."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1.0 else f"{seconds:.2f} s"


def _outcome(line: Mapping[str, Any], attempts: list[Mapping[str, Any]]) -> list[Cell]:
    style = GOOD if line["status"] == "OK" else BAD
    cells: list[Cell] = [(str(line["status"]), style)]
    if line["refused"]:
        cells.append((f" refused: {line['refused']}", BAD))
    others = attempts[:-1]
    if earlier := [f"{attempt['status']} {attempt['endpoint']}" for attempt in others if not attempt.get("given_up")]:
        cells += [(f" at the {_nth(len(earlier) + 1)} try", DOUBTFUL), (f" after {', '.join(earlier)}", QUIET)]
    if beside := [str(attempt["endpoint"]) for attempt in others if attempt.get("given_up")]:
        cells.append((f" beside {', '.join(beside)}, given up", QUIET))
    return cells


def _nth(number: int) -> str:
    return f"{number}{('th', 'st', 'nd', 'rd')[number] if number < 4 else 'th'}"
