"""The one reference that is swapped."""

from __future__ import annotations

import threading
from collections.abc import Callable

from proxyless.model.snapshot import NOTHING, Snapshot


class SnapshotSlot:
    """The one reference that is swapped. Reading it is one attribute load; waiters are woken by callback."""

    def __init__(self) -> None:
        self.current: Snapshot = NOTHING
        self._lock = threading.RLock()
        """Re-entrant: the garbage collector may end somebody who waits while this thread holds it."""
        self._waiters: set[Callable[[], None]] = set()
        self._closed = False

    def publish(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the current one and wake whoever waits for it."""
        with self._lock:
            self.current = snapshot
            waiters = list(self._waiters)
        for wake in waiters:
            wake()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from the publishing thread, after each publication; it must not block."""
        with self._lock:
            self._waiters.add(wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Undo `subscribe`."""
        with self._lock:
            self._waiters.discard(wake)

    def close(self) -> None:
        """Nothing will be published any more: nobody is to wait for it."""
        with self._lock:
            self._closed = True
            self.publish(self.current)

    def wait(self, holds: Callable[[], bool], timeout: float | None, clock: Callable[[], float]) -> bool:
        """Block until a publication makes `holds()` true; False after `timeout` seconds without one, or `close`."""
        published = threading.Event()
        until = None if timeout is None else clock() + timeout
        self.subscribe(published.set)
        try:
            while not holds():
                left = None if until is None else until - clock()
                if self._closed or (left is not None and left <= 0):
                    return False
                published.wait(left)
                published.clear()
            return True
        finally:
            self.unsubscribe(published.set)

    def renew(self) -> None:
        """In a forked child: a lock that a thread of the parent held would never be released here."""
        self._lock = threading.RLock()
        self._waiters = set()
