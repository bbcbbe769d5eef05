"""A server's entry in the registry: made once the server answers, looked after while it runs, removed at its
end.

One daemon thread does all of it, so neither the server's start nor its calls ever wait for a registry. A
registry that is down is asked again, one that has forgotten the entry gets it again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Final, Protocol

from proxyless.model.instance import Instance
from proxyless.server.probe import another, doubt

log = logging.getLogger("proxyless")

AGAIN: Final = 1.0
"""Seconds until a server that did not answer is asked again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Between two attempts to reach the registry: doubled each time, each time with up to half of it off by
chance."""

LEAVE_WITHIN: Final = 7.0
"""Seconds an exit waits for the registry: what was being asked, and the deregistration, may take 3 s each."""


class Registry(Protocol):
    """Who is told. Every method may block for seconds and raises with a text for people."""

    name: str

    def address(self) -> str:
        """Where this machine can be reached."""

    def register(self, instance: Instance, *, passing: bool) -> None:
        """Enter it, or replace its entry."""

    def has(self, id: str) -> bool:
        """Whether it is entered."""

    def deregister(self, id: str) -> None:
        """Remove it, if it is entered."""

    def close(self) -> None:
        """No more questions."""


class Presence:
    """Keeps `instance` in the registry that `open_registry` opens, from `start` to `leave`.

    Every `interval` seconds it looks whether the entry is still there.
    """

    def __init__(
        self,
        instance: Instance,
        open_registry: Callable[[], Registry],
        *,
        interval: float,
        doubt: Callable[[Instance, threading.Event], str] = doubt,
        another: Callable[[Instance], bool] = another,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.instance = instance
        self._open = open_registry
        self._interval = interval
        self._doubt = doubt
        self._another = another
        self._rng = rng
        self._registry: Registry | None = None
        self._tried = False  # to enter it: from then on it may be there, whatever we heard
        self._entered = False
        self._passing = False
        self._said = ""
        self._alone = False
        self._leaving = threading.Event()
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxyless-register", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def leave(self, *, haste: bool = False) -> None:
        """Remove the entry, unless it is another process's too; back when it is done, or can't be helped.

        Whoever leaves has said by then that it is not serving. `haste`: there is no time to look for others.
        """
        self._alone = haste
        self._leaving.set()
        self._thread.join(LEAVE_WITHIN)

    # -- the thread's

    def _run(self) -> None:
        failures = 0
        while not self._leaving.is_set():
            try:
                pause = self._step()
                failures = 0
            except Exception as e:  # whatever it is: without this thread nobody would ever find the server
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) * (1 - self._rng() / 2)
                failures = min(failures + 1, 16)
                state = "can't be confirmed as registered" if self._entered else "is not registered yet"
                self._say(f"{self.instance.service} {state}, trying on: {str(e) or type(e).__name__}")
            self._leaving.wait(pause)
        self._end()

    def _step(self) -> float:
        """Do what is to be done; the seconds until there may be more."""
        if self._registry is None:
            self._registry = self._open()
        if not self.instance.address:
            self.instance = self.instance.at(self._registry.address())
        there = self._entered and self._registry.has(self.instance.id)
        if there and self._passing:
            self._said = ""
            return self._interval
        doubt = self._doubt(self.instance, self._leaving)
        if self._leaving.is_set():
            return 0.0
        if not there or not doubt:
            self._tried = True
            self._registry.register(self.instance, passing=not doubt)
            if doubt:
                self._say(f"{self.instance.id} is registered, but not as healthy: {doubt}")
            else:
                again = " again: the entry was gone" if self._passing else ""
                log.info("%s is registered at %s%s", self.instance.id, self._registry.name, again)
                self._said = ""
                self.ready.set()
            self._entered, self._passing = True, not doubt
        return AGAIN if doubt else self._interval

    def _end(self) -> None:
        if self._registry is None:
            return
        try:
            if self._passing and not self._alone and self._another(self.instance):
                # Who shares the port shares the entry: taken out, it would be missing until they look again.
                log.info("%s stays registered: another process serves there", self.instance.id)
            elif self._tried:
                self._registry.deregister(self.instance.id)
                log.info("%s is deregistered", self.instance.id)
        except Exception as e:
            log.warning("%s could not be deregistered; its health check will end it: %s", self.instance.id, e)
        self._registry.close()

    def _say(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            log.warning("%s", problem)
