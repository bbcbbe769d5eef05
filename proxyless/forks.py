"""Who has to know that this process forks: before it, and afterwards in both processes.

Before it, because of gRPC's core: "Other threads are currently calling into gRPC, skipping fork() handlers" - what
it says (`fork_posix.cc`) and does where a thread is inside of it at that moment. The child then begins with a core
in the middle of something; seen with grpcio 1.85.3: one in a dozen such children ended with SIGSEGV or was
a hundred times slower for ever. So calls that are about to begin wait for the fork, and the fork waits a moment for
those under way. It does not wait for long ones: a stream may never end. Nor where asyncio channels live: grpcio keeps
a thread inside of gRPC for them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType
from typing import Protocol
from weakref import WeakSet

PATIENCE = 0.25
"""Seconds that a fork waits for calls under way. Nearly all calls are shorter, also on a machine that is busy with
starting something; and a longer wait would be felt by the calls that wait for the fork."""

_CALLS = ("proxyless.channel.sync", "proxyless.channel.aio")
"""The modules that a thread is in while it makes a call, from before it is counted until it has left gRPC."""


class Forker(Protocol):
    """Somebody with calls, threads and connections."""

    def hold(self) -> bool:
        """Let no call begin until `release`. Returns whether it helps to wait for those under way."""

    def busy(self) -> bool:
        """Whether calls are under way."""

    def release(self) -> None:
        """In the parent: the fork is over."""

    def renew(self) -> None:
        """In the child: threads, locks and connections of the parent are of no use. No call is to be held."""


_FORKERS: WeakSet[Forker] = WeakSet()
_FORKING: set[int] = set()
"""The threads that are forking. Several may be at a time: the gate is opened when the last of them is through."""
_GATE = threading.RLock()


def join(forker: Forker) -> None:
    """Tell `forker` of every fork from now on."""
    _FORKERS.add(forker)


def leave(forker: Forker) -> None:
    """Tell it no more."""
    _FORKERS.discard(forker)


def _before() -> None:
    forkers = _members()
    with _GATE:
        _FORKING.add(threading.get_ident())
        worth_waiting = [forker.hold() for forker in forkers]  # every one of them
    if not forkers or not all(worth_waiting) or _alone():
        return
    until = time.monotonic() + PATIENCE
    while (_calling() or any(forker.busy() for forker in forkers)) and time.monotonic() < until:
        time.sleep(0.001)


def _members() -> list[Forker]:
    while True:
        try:
            return list(_FORKERS)
        except RuntimeError:  # another thread joined meanwhile
            continue


def _alone() -> bool:
    """Whether nobody else can be calling: there are no threads but this one and the mesh's own."""
    here = threading.current_thread()
    return all(thread is here or thread.name.startswith("proxyless-") for thread in threading.enumerate())


def wait(over: threading.Event) -> None:
    """Wait in a call that was about to begin, at most as long as a fork may take."""
    over.wait(4 * PATIENCE)


def _calling() -> bool:
    """Whether another thread is in a call: it may have passed the gate a moment ago, and not be counted yet."""
    frames = sys._current_frames() if hasattr(sys, "_current_frames") else {}  # CPython has it
    frames.pop(threading.get_ident(), None)
    return any(_in_a_call(frame) for frame in frames.values())


def _in_a_call(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is wait.__code__:
            return False  # it stands at the gate
        if frame.f_globals.get("__name__", "").startswith(_CALLS):
            return True
        frame = frame.f_back
    return False


def _in_parent() -> None:
    with _GATE:
        _FORKING.discard(threading.get_ident())
        if not _FORKING:
            for forker in _members():
                forker.release()


def _in_child() -> None:
    global _GATE  # noqa: PLW0603 - a thread that is gone may hold it
    _GATE = threading.RLock()
    _FORKING.clear()
    for forker in _members():
        forker.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
