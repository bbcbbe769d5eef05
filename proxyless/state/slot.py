"""The one reference that is swapped."""

from __future__ import annotations

import threading
from collections.abc import Callable

from proxyless.model.snapshot import NOTHING, Snapshot


class SnapshotSlot:
    """The one reference that is swapped. Reading it is one attribute load; waiters are woken by callback."""

    def __init__(self) -> None:
        self.current: Snapshot = NOTHING
        self._lock = threading.Lock()
        self._waiters: set[Callable[[], None]] = set()

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

    def wait(self, holds: Callable[[], bool], timeout: float | None, clock: Callable[[], float]) -> bool:
        """Block until a publication makes `holds()` true; False when `timeout` seconds went by first."""
        published = threading.Event()
        until = None if timeout is None else clock() + timeout
        self.subscribe(published.set)
        try:
            while not holds():
                left = None if until is None else until - clock()
                if left is not None and left <= 0:
                    return False
                published.wait(left)
                published.clear()
            return True
        finally:
            self.unsubscribe(published.set)

    def renew(self) -> None:
        """In a forked child: a lock that a thread of the parent held would never be released here."""
        self._lock = threading.Lock()
        self._waiters = set()
