"""Who has to know that this process forks: before it, and afterwards in both processes.

Before it, because of gRPC's core: "Other threads are currently calling into gRPC, skipping fork() handlers" - what
it says (`fork_posix.cc`) and does where a thread is inside of it at that moment. The child then begins with a core
in the middle of something; seen with grpcio 1.85.3: one in a dozen such children ended with SIGSEGV or was
a hundred times slower for ever. So calls that are about to begin wait for the fork, and the fork waits a moment for
those under way. It does not wait for long ones: a stream may never end.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol
from weakref import WeakSet

PATIENCE = 0.1
"""Seconds that a fork waits for calls under way. Nearly all calls are shorter, and nobody minds so slow a fork."""

SETTLE = 0.005
"""Seconds in which a thread that has passed the gate is under way, and counted: Python switches threads every 5 ms."""


class Forker(Protocol):
    """Somebody with calls, threads and connections."""

    def hold(self) -> None:
        """Let no call begin until `release`."""

    def busy(self) -> bool:
        """Whether calls are under way."""

    def release(self) -> None:
        """In the parent: the fork is over."""

    def renew(self) -> None:
        """In the child: threads, locks and connections of the parent are of no use. No call is to be held."""


_FORKERS: WeakSet[Forker] = WeakSet()


def join(forker: Forker) -> None:
    """Tell `forker` of every fork from now on."""
    _FORKERS.add(forker)


def leave(forker: Forker) -> None:
    """Tell it no more."""
    _FORKERS.discard(forker)


def _before() -> None:
    forkers = list(_FORKERS)
    for forker in forkers:
        forker.hold()
    if not forkers or _alone():
        return
    until = time.monotonic() + PATIENCE
    time.sleep(SETTLE)
    while any(forker.busy() for forker in forkers) and time.monotonic() < until:
        time.sleep(0.001)


def _alone() -> bool:
    """Whether nobody else can be calling: there are no threads but this one and the mesh's own."""
    here = threading.current_thread()
    return all(thread is here or thread.name.startswith("proxyless-") for thread in threading.enumerate())


def _in_parent() -> None:
    for forker in list(_FORKERS):
        forker.release()


def _in_child() -> None:
    for forker in list(_FORKERS):
        forker.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
