"""Where calls begin: the head of the stack, and what stands before it now and then.

As a rule nothing does. Somebody may watch; a fork may be about to happen, and calls wait for it; and in a child the
first call wakes the mesh up. Each is a different head, which the channels are given when it changes: what is not
needed is not even asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from proxyless import forks
from proxyless.script import Outcome, Rpc, Script, Service, Watcher
from proxyless.stack import ENTRY, watched


class Entrance:
    """The entrance of one mesh, and so whom `forks` tells of a fork (`forks.Forker`)."""

    def __init__(
        self,
        enter_by: Callable[[Service], None],
        start: Callable[[], None],
        busy: Callable[[], bool],
        polled: Callable[[], bool],
        renew: Callable[[], None],
    ) -> None:
        """`enter_by` gives a head to all channels; `start` makes a forked child's mesh live, and `renew` rids it of
        what is its parent's; `busy`: whether calls are under way; `polled`: whether asyncio channels live."""
        self._enter_by = enter_by
        self._start = start
        self._polled = polled
        self._renew = renew
        self.busy = busy
        """Whether calls are under way."""
        self._holds = False
        """Whether a fork is about to happen."""
        self._watchers: tuple[Watcher, ...] = ()
        self.asleep = False
        """Whether this is a forked child in which nothing has been used yet."""
        self._locks()

    def _locks(self) -> None:
        self._lock = threading.RLock()
        self._waking: dict[str, threading.Lock] = {}
        self._forked = threading.Event()
        """Set when the fork that calls are waiting for is over."""

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Show `watcher` every call that begins from now on; call the result to end that."""
        self._watch(lambda others: (*others, watcher))
        return lambda: self._watch(lambda others: tuple(other for other in others if other is not watcher))

    def _watch(self, edit: Callable[[tuple[Watcher, ...]], tuple[Watcher, ...]]) -> None:
        with self._lock:
            self._watchers = edit(self._watchers)
            if not self._holds:
                self._enter_by(self._head())

    def _head(self) -> Service:
        return self._first_call if self.asleep else watched(ENTRY, self._watchers)

    # -- forking

    def hold(self) -> bool:
        """Calls that begin from now on wait until `release`. Returns whether it helps to wait for those under way."""
        with self._lock:
            self._holds = True
            self._forked.clear()
            self._enter_by(self._held)
        return not self._polled()

    def release(self) -> None:
        """The fork is over, and this is the parent."""
        with self._lock:
            self._holds = False
            self._enter_by(self._head())
        self._forked.set()

    def renew(self) -> None:
        """In a child: the rest waits for the first use, for many children never make a call."""
        self._locks()
        self._holds = False
        self.asleep = True
        self._renew()
        self._enter_by(self._head())

    def awaken(self) -> None:
        """In a child, at its first use: watch the source again, by threads of its own."""
        if not self.asleep:
            return
        # Made now, and not with the fork: after that gunicorn's gevent worker replaces what locks are made of, and of
        # one made before the greenlets of one thread would wait for each other for ever.
        with self._waking.setdefault("lock", threading.Lock()):
            if self.asleep:
                self._start()
                self.asleep = False
                with self._lock:
                    self._enter_by(self._head())

    def _held(self, rpc: Rpc) -> Script[Outcome]:
        forks.wait(self._forked)
        return self._head()(rpc)

    def _first_call(self, rpc: Rpc) -> Script[Outcome]:
        self.awaken()
        return self._head()(rpc)
