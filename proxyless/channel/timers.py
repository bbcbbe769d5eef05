"""One thread for all that has to happen later: pauses of `.future()` calls, channels to be closed.

A `threading.Timer` is a thread each; a retry storm of thousands of futures must not be thousands of threads.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("proxyless")


class Timers:
    """Calls functions when their time has come, on one daemon thread that lives while there is work."""

    IDLE = 5.0
    """Seconds without work after which the thread ends; the next timer starts another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._serial = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` in `seconds`. It must not block; what it raises is logged.

        Where the system gives no thread, it is called once a later timer gets one.
        """
        with self._wake:
            if self._closed:
                return
            heapq.heappush(self._heap, (self._clock() + seconds, next(self._serial), function))
            if self._thread is None:
                self._begin()
            self._wake.notify()

    def alarm(self, seconds: float, function: Callable[[], None]) -> Callable[[], None]:
        """The same for what may be over before: call the result, and `function` is let go of with all that it holds."""
        wanted = [function]

        def ring() -> None:
            for still in tuple(wanted):
                still()

        self.after(seconds, ring)
        return wanted.clear

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="proxyless-timers", daemon=True)
        try:
            thread.start()
        except RuntimeError as failure:  # "can't start new thread"; whoever wants something later is not to blame
            log.warning("what has to happen later waits for a thread: %s", failure)
        else:
            self._thread = thread

    def close(self) -> None:
        """Do what is due, forget the rest, and let the thread end at once."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def renew(self) -> None:
        """In a forked child: the thread is gone, and so are those who wanted to be called."""
        self._heap = []
        self._wake = threading.Condition()
        self._thread = None

    def _run(self) -> None:
        wake = self._wake
        while True:
            with wake:
                if wake is not self._wake:
                    return  # forked meanwhile, and this thread is a greenlet of gevent's: the child has one of its own
                while not self._heap or self._heap[0][0] > self._clock():
                    if self._closed:
                        return
                    pause = self._heap[0][0] - self._clock() if self._heap else self.IDLE
                    notified = wake.wait(pause)
                    if wake is not self._wake:
                        return
                    if not notified and not self._heap:
                        self._thread = None
                        return
                _, _, function = heapq.heappop(self._heap)
            try:
                function()
            except BaseException:  # a SystemExit, too, would end the thread for all who wait for it
                log.exception("a timer's function failed")
            del function
