"""Who asks: find the processes of this user that have a mesh, and put a question to them.

A socket that nobody listens at is what a killed process left; it is removed. What a process says is taken as text
from outside, for any program of this user can listen there.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless.admin import places

WITHIN = 2.0
"""Seconds for an answer: a process that is busy in one thread of Python's answers within some of its 5 ms turns."""

LARGEST = 256 * 1024 * 1024
"""Bytes of an answer: the status of some hundred thousand endpoints."""


class NoAnswer(Exception):
    """The process does not answer, or not as it should; the message says what it did."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process with a mesh. `about` is what it says of itself; where it says nothing, `silent` says why."""

    path: Path
    pid: int
    about: Mapping[str, Any]
    silent: str = ""


def processes(environ: Mapping[str, str]) -> tuple[list[Process], list[str]]:
    """Every process of this user that can be asked, by number; and the folders that can't be looked into, with why."""
    found: dict[Path, int] = {}
    trouble = []
    for folder in places.folders(environ):
        try:
            places.check(folder)
            found |= places.sockets(folder)
        except FileNotFoundError:
            continue  # nobody has ever listened there
        except OSError as failure:
            trouble.append(str(failure))
    if not found:
        return [], trouble
    with ThreadPoolExecutor(min(len(found), 16)) as pool:  # one that hangs does not keep the others waiting
        asked = pool.map(_process, found.items())
        return sorted((one for one in asked if one is not None), key=lambda one: (one.pid, one.path)), trouble


def _process(named: tuple[Path, int]) -> Process | None:
    path, pid = named
    try:
        about = ask(path, {"ask": "about"})
    except FileNotFoundError:
        return None  # it ended just now
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return None
    except (NoAnswer, OSError) as failure:
        return Process(path, pid, {}, str(failure))
    said = about.get("pid")
    return Process(path, said if isinstance(said, int) else pid, about)


def ask(path: Path, question: Mapping[str, Any], within: float = WITHIN) -> dict[str, Any]:
    """The answer to one question. Raises NoAnswer, and OSError where nobody listens."""
    with places.connect(path, within) as asking:
        _put(asking, question)
        for answer in _lines(asking):
            return answer
    raise NoAnswer("it closed the connection without a word")


def stream(path: Path, question: Mapping[str, Any]) -> tuple[socket.socket, Iterator[dict[str, Any]]]:
    """The connection, to be closed by whoever has read enough, and what comes over it, until the process ends.

    Raises NoAnswer where the process refuses, and OSError where nobody listens."""
    asking = places.connect(path, WITHIN)
    try:
        _put(asking, question)
        lines = _lines(asking)
        next(lines, None)  # who it is; or what it has against the question, which raises
        asking.settimeout(None)
    except BaseException:
        asking.close()
        raise
    return asking, lines


def _put(asking: socket.socket, question: Mapping[str, Any]) -> None:
    asking.sendall(json.dumps(question).encode() + b"\n")


def _lines(asking: socket.socket) -> Iterator[dict[str, Any]]:
    kept: list[bytes] = []
    size = 0
    while True:
        try:
            part = asking.recv(1 << 16)
        except TimeoutError:
            raise NoAnswer(f"it accepts connections and does not answer within {WITHIN:g} s") from None
        except OSError:
            return  # it has ended, or whoever reads has read enough
        if not part:
            return
        *ends, rest = part.split(b"\n")
        for end in ends:
            yield _read(b"".join([*kept, end]))
            kept, size = [], 0
        kept.append(rest)
        size += len(rest)
        if size > LARGEST:
            raise NoAnswer("its answer is too long")


def _read(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise NoAnswer("its answer is not what a mesh says")
    if "error" in answer:
        raise NoAnswer(f"it says: {str(answer['error'])[:300]}")
    return answer
