"""How a process ends whose servers are registered: they leave first, then it ends as it would have.

Three ends are covered: SIGTERM, the interpreter's own, and a fork's child, which ends without a word to
anybody because nothing of this was the child's.

A Python signal handler runs in the main thread between two of its steps, so it may not wait for anything that
the main thread could hold. All it does is to wake a thread of its own (`SimpleQueue.put` is made for that),
which does the leaving and then raises the signal once more, for whoever handled it before.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import threading
import time
from queue import SimpleQueue
from typing import Any, Protocol

log = logging.getLogger("proxyless")


LAST_WORDS = 0.5
"""Seconds the main thread has for what it does between the stop of its server and the end of its block."""


class Leaver(Protocol):
    """Who has something to do before the process ends."""

    def leave(self) -> None:
        """Do it, whichever thread asks, and return when it is done. May be asked again."""

    def leave_at_exit(self) -> None:
        """The same in haste: the interpreter is ending, no thread can be started."""


class Termination:
    """All who are to leave before this process ends."""

    def __init__(self) -> None:
        self._previous: Any = None
        self.renew()

    def renew(self) -> None:
        """Begin anew, in a forked child: nobody who was to leave is here. The handler stays installed."""
        self._lock = threading.Lock()
        self._leavers: tuple[Leaver, ...] = ()
        self._mail: SimpleQueue[int | None] = SimpleQueue()
        self._signalled = False  # and the thread has not raised it again yet
        self._under_way = False  # the same, but until the main thread has the signal
        self._main_is_done = threading.Event()

    def add(self, leaver: Leaver) -> None:
        """From now on `leaver` is told."""
        with self._lock:
            if not self._leavers:
                self._mail, self._main_is_done = SimpleQueue(), threading.Event()
                name = "proxyless-termination"
                threading.Thread(target=self._run, args=(self._mail,), name=name, daemon=True).start()
            self._leavers += (leaver,)
        self._handle_sigterm()

    def remove(self, leaver: Leaver) -> None:
        """It has left."""
        with self._lock:
            before, self._leavers = self._leavers, tuple(x for x in self._leavers if x is not leaver)
            last = bool(before) and not self._leavers
            if last:
                self._mail.put(None)
        if last and _in_main_thread() and signal.getsignal(signal.SIGTERM) == self._on_sigterm:
            signal.signal(signal.SIGTERM, self._previous)

    def settle(self) -> None:
        """The main thread has nothing more to do: it must not end the process in another way than SIGTERM
        does."""
        while self._under_way and _in_main_thread():
            self._main_is_done.set()
            time.sleep(0.005)

    async def settle_aio(self) -> None:
        """The same for the main thread's event loop."""
        while self._under_way and _in_main_thread():
            self._main_is_done.set()
            await asyncio.sleep(0.005)

    def at_exit(self) -> None:
        """The interpreter ends."""
        self.settle()
        for leaver in self._leavers:
            leaver.leave_at_exit()

    # -- SIGTERM

    def _handle_sigterm(self) -> None:
        current = signal.getsignal(signal.SIGTERM)
        if current == self._on_sigterm:
            return
        if not _in_main_thread() or current is None:
            why = "SIGTERM is handled outside of Python" if current is None else "this is not the main thread"
            log.warning("register() can't handle SIGTERM: %s; close the registration before exit", why)
            return
        self._previous = current
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, signum: int, frame: Any) -> None:
        if self._signalled:
            return  # to send it twice makes nothing go faster
        if self._leavers:
            self._signalled = self._under_way = True
            self._mail.put(signum)
            if self._leavers:
                return
            # The last has just left, and the thread may have ended before it saw the signal.
            self._signalled = self._under_way = False
        self._hand_on(signum, frame)

    def _hand_on(self, signum: int, frame: Any) -> None:
        if callable(self._previous):
            self._previous(signum, frame)
        elif self._previous is signal.SIG_DFL:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            # Only the first process of a container is still here: the kernel spares it every default action.
            raise SystemExit(128 + signum)

    def _run(self, mail: SimpleQueue[int | None]) -> None:
        signum = mail.get()
        if signum is None:
            return
        log.info("SIGTERM: leaving")
        try:
            # At once, not one after the other: each may take its drain time and its grace period.
            leaving = [threading.Thread(target=leaver.leave, name="proxyless-leave") for leaver in self._leavers]
            for thread in leaving:
                thread.start()
            for thread in leaving:
                thread.join()
            self._main_is_done.wait(LAST_WORDS)
        finally:
            self._leavers = ()  # whoever failed to leave, too
            self._signalled = False
            signal.pthread_kill(threading.main_thread().ident or 0, signum)
            self._under_way = False


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


TERMINATION = Termination()

atexit.register(TERMINATION.at_exit)
os.register_at_fork(after_in_child=TERMINATION.renew)
