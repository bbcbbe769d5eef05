"""Waiting for a newer snapshot: blocking, called back, and on a loop.

Nobody has to be told that the source has news for somebody else; so a waiter looks whenever anything is
published, and says what it has found once it is newer than what its script knows.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxyless.context import SCOPE
from proxyless.errors import MeshRpcError
from proxyless.model.codes import Code
from proxyless.model.snapshot import Snapshot
from proxyless.script import Wait

if TYPE_CHECKING:
    from proxyless.channel.aio import AioMeshChannel
    from proxyless.channel.sync import MeshChannel

LOOK = 0.2
"""Seconds between looks whether the channel was closed, for a thread that waits for news: grpcio's own interval."""


def block_for_news(channel: MeshChannel, effect: Wait) -> Snapshot | None:
    """Block until there is a newer snapshot, or until the instant the effect names."""
    published = threading.Event()
    channel.slot.subscribe(published.set)
    scope = SCOPE.get()
    if scope is not None:
        scope.join(published, threading.Event.set)
    try:
        while channel.slot.current.version <= effect.version:
            left = LOOK if effect.until is None else effect.until - channel.clock()
            if left <= 0 or (scope is not None and scope.gone):
                return None
            if channel.closed:
                raise MeshRpcError(Code.CANCELLED, "closed", "Channel closed!")
            published.wait(min(left, LOOK))
            published.clear()
        return channel.slot.current
    finally:
        channel.slot.unsubscribe(published.set)


class Waiter:
    """Waits for a snapshot without a thread: woken by the slot or, at the latest, by a timer."""

    def __init__(self, channel: MeshChannel, effect: Wait, resume: Any) -> None:
        self._slot = channel.slot
        self._timers = channel.timers
        self._version = effect.version
        self._resume = resume
        self._lock = threading.Lock()
        self._over = False
        self._forget: Callable[[], None] = lambda: None
        self._slot.subscribe(self._look)  # from here on somebody may publish
        if effect.until is not None:
            self._forget = channel.timers.alarm(max(0.0, effect.until - channel.clock()), lambda: self._end(None))
        self._look()
        if self._over:  # while the alarm was set
            self._forget()

    def _look(self) -> None:
        if self._slot.current.version > self._version:
            self._end(self._slot.current)

    def _end(self, reply: Any) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._slot.unsubscribe(self._look)
        self._forget()  # or the call and its request would be kept until its deadline
        # Not here: this may be the publishing thread, and what the caller does when called back may wait for it.
        self._timers.after(0.0, lambda: self._resume(reply))


async def await_news(channel: AioMeshChannel, effect: Wait) -> Any:
    """Wait for a newer snapshot, at most until the instant the effect names."""
    loop = asyncio.get_running_loop()
    published = asyncio.Event()

    def wake() -> None:  # called by the publishing thread
        try:
            loop.call_soon_threadsafe(published.set)
        except RuntimeError:
            pass  # the loop has ended, and whoever waited with it

    channel.slot.subscribe(wake)
    try:
        while channel.slot.current.version <= effect.version:
            left = None if effect.until is None else effect.until - channel.clock()
            if left is not None and left <= 0:
                return None
            try:
                await asyncio.wait_for(published.wait(), left)
            except asyncio.TimeoutError:
                return None
            published.clear()
        return channel.slot.current
    finally:
        channel.slot.unsubscribe(wake)
