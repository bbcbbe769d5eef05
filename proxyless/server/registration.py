"""A server's life in the mesh: healthy and registered while it serves, gone from everybody's list before it
stops.

The end is what it is about. A server that just stops fails the calls that are on their way to it. So it
leaves in this order: its health says NOT_SERVING, its entry is removed, everybody who watches is given
`drain` seconds to send their calls elsewhere (they hear of it within milliseconds), and only then it stops,
with `grace` seconds for the calls it has.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

from proxyless.server.health import Health
from proxyless.server.presence import Presence
from proxyless.server.termination import TERMINATION

LOOP_WITHIN = 10.0
"""Seconds beyond drain and grace that a busy or ending event loop has to leave on."""

_STRANDED: list[Any] = []
"""Servers whose loop ended before they did. grpcio blocks for good when such a server is collected (1.85.1),
so none is."""


class Registration:
    """What `register()` returns: a context manager, for `with` and for `async with`; made means registered.

    It ends once, whoever ends it first: the end of the block, `close()`, `aclose()`, SIGTERM, or the
    interpreter. A server that is registered as several services stops with the last of them.
    """

    def __init__(
        self,
        server: Any,
        service: str,
        health: Health,
        presence: Presence | None,
        *,
        drain: float,
        grace: float,
    ) -> None:
        self._server = server
        self._service = service
        self._health = health
        self._presence = presence
        self._drain, self._grace = drain, grace
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._ending = False
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._know_loop()
        health.enter(service)
        if presence is not None:
            presence.start()
        TERMINATION.add(self)

    def ready(self, timeout: float | None = None) -> bool:
        """Wait until the server is started and registered; False when `timeout` seconds went by first.

        Nothing needs it that only serves. True at once where there is no registry.
        """
        return self._presence is None or self._presence.ready.wait(timeout)

    def close(self) -> None:
        """Leave, and stop the server; back when it has stopped.

        A server on asyncio can't be waited for inside of its own loop: there this only begins it, and
        `await aclose()` is the one to use.
        """
        if os.getpid() != self._pid:
            return  # a forked child: server and entry are its parent's
        self.leave()
        if not self._is_on_loop():  # which has to go on, or nothing would ever end
            TERMINATION.settle()

    async def aclose(self) -> None:
        """The same without blocking the loop."""
        if os.getpid() != self._pid:
            return
        if self._health.is_aio:
            self._know_loop()
            await asyncio.shield(self._leaving_on_loop())
        else:
            await asyncio.to_thread(self.leave)
        await TERMINATION.settle_aio()

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    async def __aenter__(self) -> Registration:
        self._know_loop()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        where = "no registry" if self._presence is None else self._presence.instance.target
        state = "ended" if self._ended.is_set() else "ending" if self._ending else "open"
        return f"<Registration of {self._service}: {where}, {state}>"

    # -- leaving, as TERMINATION asks for it

    def leave(self) -> None:
        """Everything, from any thread."""
        if not self._health.is_aio:
            self._leave()
        elif self._is_on_loop():
            self._leaving_on_loop()
        elif self._loop is None or not self._loop.is_running():
            self._leave_registry()
        else:
            self._loop.call_soon_threadsafe(self._leaving_on_loop)
            self._ended.wait(self._drain + self._grace + LOOP_WITHIN)

    def leave_at_exit(self) -> None:
        """In haste. The threads that would have answered calls have ended already: there is nothing to
        drain."""
        if self._health.is_aio:
            self._leave_registry()
        elif self._first():
            try:
                last = self._health.leave(self._service)
                self._leave_presence(haste=True)
                if last:
                    self._server.stop(None)
            finally:
                self._has_left()

    def _leave(self) -> None:
        if not self._first():
            self._ended.wait()
            return
        try:
            last = self._health.leave(self._service)
            try:
                self._leave_presence()
                time.sleep(self._drain)
            finally:  # of a Ctrl-C, too
                if last:
                    self._server.stop(self._grace).wait()
        finally:
            self._has_left()

    def _leaving_on_loop(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._leave_aio())
        return self._task

    async def _leave_aio(self) -> None:
        if not self._first():
            return
        try:
            last = await self._health.leave_aio(self._service)
            await asyncio.to_thread(self._leave_presence)
            await asyncio.sleep(self._drain)
            if last:
                await self._server.stop(self._grace)
        finally:
            self._has_left()

    def _leave_registry(self) -> None:
        """All that is left to do: without its loop a server on asyncio serves nobody."""
        if self._first():
            _STRANDED.append(self._server)
            try:
                self._leave_presence(haste=True)
            finally:
                self._has_left()

    def _leave_presence(self, *, haste: bool = False) -> None:
        if self._presence is not None:
            self._presence.leave(haste=haste)

    def _first(self) -> bool:
        with self._lock:
            first, self._ending = not self._ending, True
        return first

    def _has_left(self) -> None:
        self._ended.set()
        TERMINATION.remove(self)

    def _is_on_loop(self) -> bool:
        return self._loop is not None and _running_loop() is self._loop

    def _know_loop(self) -> None:
        if self._health.is_aio and self._loop is None:
            self._loop = _running_loop()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
