"""The process's own end of the socket: one thread that waits for somebody to ask, and one for each who does.

It is opened with the first mesh and closed with the last. A forked child closes what it has inherited and opens its own
when its mesh is first used. Nothing that happens here is an error of the mesh's: where no socket can be had, one line
in the log says so.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from proxyless.admin import Subject, places
from proxyless.admin.tap import Tap, Wanted

log = logging.getLogger("proxyless")

MOST_ASKING = 8
"""Connections at once. They are a person's; more would be a mistake of somebody's script."""

LONGEST_QUESTION = 4096
PATIENCE = 5.0
"""Seconds in which somebody who connected asks, and takes what is told."""

LOOK = 0.05
"""Seconds between two looks at what a tap has gathered: nobody has to wake the reader, so a call never does."""


class Listener:
    """The listener of this process."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()  # the handler of a signal may close a mesh while this thread holds it
        self._subjects: WeakKeyDictionary[Subject, float] = WeakKeyDictionary()
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self._asking: set[socket.socket] = set()

    def admit(self, subject: Subject, environ: Mapping[str, str]) -> None:
        """`subject` may be looked into from now on."""
        with self._lock:
            self._subjects[subject] = time.time()
            if self._socket is None:
                self._open(environ)
                if not self._subjects:  # closed meanwhile, by such a handler
                    self._close()

    def dismiss(self, subject: Subject) -> None:
        """It is over; with the last one, the socket goes too."""
        with self._lock:
            if self._subjects.pop(subject, None) is not None and not self._subjects:
                self._close()

    def close(self) -> None:
        """The process ends."""
        with self._lock:
            self._close()

    def renew(self) -> None:
        """In a forked child: the sockets are the parent's. Ours comes with the first use of a mesh."""
        inherited = [self._socket, *self._asking]
        self._begin()
        for one in inherited:
            if one is not None:
                one.close()  # not shut down: it lives on in the parent

    # -- inside, under the lock

    def _open(self, environ: Mapping[str, str]) -> None:
        reasons = []
        try:
            for folder in places.folders(environ):
                try:
                    self._socket, self._path = places.listen(folder)
                    break
                except OSError as failure:
                    reasons.append(str(failure))
            if self._socket is not None:
                waiting = threading.Thread(
                    target=self._accept, args=(self._socket,), name="proxyless-admin", daemon=True
                )
                waiting.start()
                return
        except Exception as failure:  # no more threads, or a system without such sockets: not the mesh's trouble
            reasons.append(repr(failure))
            if (alone := self._socket) is not None:
                self._close()
                alone.close()  # nobody waits in it who would
        log.warning("`proxyless ps` can't see this process: %s (PROXYLESS_ADMIN=off is silent)", "; ".join(reasons))

    def _close(self) -> None:
        listening, path = self._socket, self._path
        self._socket = self._path = None
        if path is not None:
            path.unlink(missing_ok=True)
        for one in [listening, *self._asking]:
            if one is not None:
                _shut(one)  # wakes the thread that is in it, which closes it

    # -- threads

    def _accept(self, listening: socket.socket) -> None:
        while self._socket is listening:
            try:
                asking, _ = listening.accept()
            except OSError:
                if self._socket is listening:
                    time.sleep(0.5)  # no more file descriptors: the program has other worries
                continue
            with self._lock:
                let_in = self._socket is listening and len(self._asking) < MOST_ASKING
                if let_in:
                    self._asking.add(asking)
            if not let_in:
                asking.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(asking,), name="proxyless-asked", daemon=True).start()
            except RuntimeError:  # no more threads: the next who asks may find one
                with self._lock:
                    self._asking.discard(asking)
                asking.close()
        listening.close()

    def _serve(self, asking: socket.socket) -> None:
        try:
            try:
                self._answer(asking)
            except ValueError as wrong:
                _tell(asking, {"error": str(wrong)})
        except OSError:
            pass  # whoever asked has gone, or takes nothing
        except Exception:
            log.exception("a question from outside could not be answered")
        finally:
            with self._lock:
                self._asking.discard(asking)
            asking.close()

    def _answer(self, asking: socket.socket) -> None:
        asking.settimeout(PATIENCE)
        question = _question(asking)
        answer = _ANSWERS.get(str(question.get("ask")))
        if answer is None:
            raise ValueError(f"ask one of {', '.join(_ANSWERS)}")
        with self._lock:
            subjects = dict(self._subjects)
        answer(asking, question, subjects, lambda: asking in self._asking)


def _question(asking: socket.socket) -> dict[str, Any]:
    text = b""
    until = time.monotonic() + PATIENCE
    while not text.endswith(b"\n"):
        part = asking.recv(LONGEST_QUESTION)
        text += part
        if not part or len(text) > LONGEST_QUESTION or time.monotonic() > until:
            raise ValueError("a question is one line of JSON")
    try:
        question = json.loads(text)
    except (ValueError, RecursionError):
        question = None
    if not isinstance(question, dict):
        raise ValueError("a question is one line of JSON")
    return question


def _tell(asking: socket.socket, *lines: Mapping[str, Any]) -> None:
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    asking.settimeout(PATIENCE)
    asking.sendall(text)


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is already


# -- what can be asked

Answer = Callable[[socket.socket, Mapping[str, Any], Mapping[Subject, float], Callable[[], bool]], None]


def _about(asking: socket.socket, _question: Any, subjects: Mapping[Subject, float], _open: Any) -> None:
    meshes = [{**subject.summary(), "since": since} for subject, since in subjects.items()]
    _tell(asking, {**_whoami(), "meshes": meshes})


def _status(asking: socket.socket, _question: Any, subjects: Mapping[Subject, float], _open: Any) -> None:
    meshes = [{**subject.status(), "since": since} for subject, since in subjects.items()]
    _tell(asking, {**_whoami(), "meshes": meshes})


def _tap(
    asking: socket.socket, question: Mapping[str, Any], subjects: Mapping[Subject, float], is_open: Callable[[], bool]
) -> None:
    tap = Tap(Wanted(question))
    ends = [subject.watch(tap.watcher) for subject in subjects]
    try:
        _tell(asking, _whoami())  # from now on no call is missed
        while is_open():
            calls, lost = tap.read()
            ahead = time.time() - time.monotonic()
            lines: list[dict[str, Any]] = [{"at": round(at + ahead, 6), **call} for at, call in calls]
            if lost:
                lines.append({"lost": lost})
            if lines:
                _tell(asking, *lines)
            asking.settimeout(LOOK)
            try:
                if not asking.recv(1):
                    return  # who asked has gone
            except TimeoutError:
                continue
    finally:
        for end in ends:
            end()


_ANSWERS: dict[str, Answer] = {"about": _about, "status": _status, "tap": _tap}


def _whoami() -> dict[str, Any]:
    # The name alone: arguments may be secrets.
    program = Path(sys.argv[0] if sys.argv else "")
    name = program.parent.name if program.name == "__main__.py" else program.name
    return {"pid": os.getpid(), "program": name or "python", "python": sys.version.split()[0]}


LISTENER = Listener()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=LISTENER.renew)
atexit.register(LISTENER.close)
