"""One grpc channel per endpoint: opened on first use, shared by everybody, drained and closed when unnamed.

A grpc channel here is what grpc itself calls a subchannel: one address, one connection. It is keyed by event
loop (None for sync), address, connection settings and profile, because grpcio binds an asyncio channel to its
loop and makes one connection per distinct set of arguments. `generation` changes whenever a channel that
somebody may have remembered must be forgotten: callers compare one number per call and look again.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

import grpc

from proxyless.channel.native import aio_factories, polls, sync_factories
from proxyless.channel.profile import Profile
from proxyless.channel.settings import Key, Settings, User
from proxyless.channel.timers import Timers
from proxyless.model.snapshot import Cluster, Snapshot
from proxyless.model.traffic import Connection

T = TypeVar("T")

LINGER = 1.0
"""Seconds between the last call on an unnamed endpoint, or by settings that were edited, and the closing of its
connection: a call that read the snapshot just before the swap has long picked and begun by then."""


Which: TypeAlias = "Callable[[Collection[Key]], Collection[Key]]"
"""Of all channels, those that are to be closed."""


class Subchannels:
    """Every endpoint channel of a mesh."""

    def __init__(self, timers: Timers) -> None:
        self.generation = 0
        self._timers = timers
        self._closed = False
        self._lock = threading.RLock()
        self._in_use = False
        """Whether the thread that holds the lock has a channel in its hands."""
        self._postponed: list[Which] = []
        """What was to be closed meanwhile by that same thread: in the handler of a signal, or by a `__del__`."""
        self._channels: dict[Key, Any] = {}
        self._settings = Settings()
        self._sweeps = False
        """Whether a look for channels that nobody wants is to come."""
        self.users: Callable[[], Collection[User]] | None = None
        """Says who is held of the mesh's own channels; None: nobody is asked, and every profile is somebody's."""
        self._aio_lost = False
        self.rememberers: WeakSet[Any] = WeakSet()
        """Who remembers asyncio channels beside us, and can be told to forget those of a loop that has ended."""
        _LIVING.add(self)

    def sync(self, address: str, connection: Connection, profile: Profile) -> grpc.Channel:
        """The channel to `address` for threads."""
        with self._using():
            channel: grpc.Channel = self._sync(address, connection, profile)
        return channel

    def sync_method(
        self, address: str, connection: Connection, profile: Profile, arity: str, signature: tuple[Any, ...]
    ) -> Any:
        """A multicallable on the channel to `address`, for threads.

        Made under the lock, so that no other thread closes the channel meanwhile: registering a method on a
        closed channel ends the whole process (seen with grpcio 1.85.1: a segmentation fault).
        """
        with self._using():
            return getattr(self._sync(address, connection, profile), arity)(*signature)

    def _sync(self, address: str, connection: Connection, profile: Profile) -> Any:
        return self._get(None, address, connection, profile, *sync_factories())

    def aio(
        self, loop: asyncio.AbstractEventLoop, address: str, connection: Connection, profile: Profile
    ) -> grpc.aio.Channel:
        """The channel to `address` for `loop`, which must be the running one."""
        with self._using():
            channel: grpc.aio.Channel = self._get(loop, address, connection, profile, *aio_factories())
        return channel

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Nobody closes a channel meanwhile."""
        postponed = []
        try:
            with self._lock:
                self._in_use = True
                try:
                    yield
                finally:
                    self._in_use = False
                    postponed, self._postponed = self._postponed, []
        finally:
            for which in postponed:
                self._close(which)

    def _get(
        self,
        loop: asyncio.AbstractEventLoop | None,
        address: str,
        connection: Connection,
        profile: Profile,
        insecure: Callable[..., Any],
        secure: Callable[..., Any],
    ) -> Any:
        """Called under the lock."""
        key = (loop, address, connection, profile)
        channel = self._channels.get(key)
        if channel is None:
            if self._closed:
                raise ValueError("the mesh is closed: no endpoint can be connected any more")
            if loop is not None and self._aio_lost:
                raise grpc.aio.UsageError(
                    "this process was forked while grpcio's asyncio API was in use, and in such a child that API "
                    "would hang: fork before the first asyncio call, or end the loop before the fork, or make "
                    "blocking calls in the child"
                )
            options = profile.arguments(connection)
            if profile.credentials is None:
                channel = insecure(address, options, profile.compression)
            else:
                channel = secure(address, profile.credentials, options, profile.compression)
            if loop is not None:
                self._forget_closed_loops()
            self._channels[key] = channel
            self.sweep_later()  # who makes channels without end lets go of some
        return channel

    def peek(self, loop: Any, address: str, connection: Connection, profile: Profile) -> Any:
        """The channel there is, for reading its state; None if nobody has needed it yet."""
        return self._channels.get((loop, address, connection, profile))

    @property
    def polled(self) -> bool:
        """Whether asyncio channels live: one thread polls for all of them, and is inside of gRPC all the time."""
        with self._lock:
            return any(key[0] is not None for key in self._channels)

    def follow(self, snapshot: Snapshot) -> None:
        """Connect as `snapshot` says, which is about to be published: whoever goes by it finds no earlier channel."""
        if self._settings.follow(snapshot):
            with self._lock:
                self.generation += 1
        self.sweep_later()

    def may_be_remembered(self, cluster: Cluster) -> bool:
        """Whether what a call by `cluster` was given will do for later calls: not where its settings are outdated.

        Such a call has opened a connection again, perhaps, that nobody else wants.
        """
        current = self._settings.are_current(cluster)
        if not current:
            self.sweep_later()
        return current

    def sweep_later(self) -> None:
        """Have what nobody wants any more be closed after a while."""
        with self._lock:
            due, self._sweeps = not self._sweeps, True
        if due:
            self._timers.after(LINGER, self._sweep)

    def _sweep(self) -> None:
        self._sweeps = False
        with self._lock:
            keys = list(self._channels)
        unwanted, later = self._unwanted(keys)
        if unwanted:
            self._close(lambda keys: self._unwanted(unwanted.intersection(keys))[0])
        if later:
            self.sweep_later()

    def _unwanted(self, keys: Collection[Key]) -> tuple[set[Key], bool]:
        return self._settings.unwanted(keys, self.users() if self.users is not None else None)

    def retire(self, address: str, is_needed: Callable[[str], bool]) -> None:
        """Close the channels to `address` after a while, unless it is named again or called by then.

        Whoever ends the last call on it asks again.
        """

        def unneeded(keys: Collection[Key]) -> Collection[Key]:
            there = [key for key in keys if key[1] == address]
            return there if not is_needed(address) else ()

        self._timers.after(LINGER, lambda: self._close(unneeded))

    def close(self) -> None:
        """Close everything, now and for good."""
        self._closed = True
        self._timers.close()
        self._close(lambda keys: keys)

    def renew(self) -> None:
        """In a forked child: the parent's channels are dropped, not closed; touching them could hang."""
        abandon(*self._channels.values())
        # One thread polls for all asyncio channels of a process, also those that are not ours, or that a loop which was
        # closed under their calls has left for ever. It lives while there are any, and not in a child.
        self._aio_lost = self._aio_lost or _polled or any(key[0] is not None for key in self._channels)
        self._channels = {}
        self._lock = threading.RLock()
        self._in_use = False
        self._postponed = []
        self._settings.renew()
        self._sweeps = False
        self.generation += 1

    def _close(self, which: Which) -> None:
        """Close those that `which` names. It may ask what is under way: a call that it does not see looks its channel
        up anew, for the generation has changed by then, and gets another."""
        with self._lock:
            if self._in_use:
                self._postponed.append(which)
                return
            self.generation += 1
            closing = [(key[0], self._channels.pop(key)) for key in which(list(self._channels))]
        for loop, channel in closing:
            if loop is None:
                channel.close()
            else:
                _close_on(loop, channel)

    def forget_ended_loops(self) -> None:
        """Let go of what belongs to loops that have ended, so that a child of this process can use asyncio."""
        with self._lock:
            forgotten = self._forget_closed_loops()
        for rememberer in members(self.rememberers):
            rememberer.forget_ended_loop()
        if forgotten:
            gc.collect()

    def _forget_closed_loops(self) -> int:
        """Loops end (`asyncio.run` twice): their channels are of no use to anybody. Called under the lock."""
        ended = [key for key in self._channels if key[0] is not None and key[0].is_closed()]
        for key in ended:
            del self._channels[key]
        return len(ended)

    def __len__(self) -> int:
        return len(self._channels)


_ABANDONED: list[Any] = []


def abandon(*things: Any) -> None:
    """Keep what belongs to a parent process from the garbage collector, for finalizers would touch its connections."""
    _ABANDONED.extend(things)


def members(weak: WeakSet[T]) -> list[T]:
    """What is in `weak` now; other threads may be adding to it, which an iteration doesn't survive."""
    while True:
        try:
            return list(weak)
        except RuntimeError:
            continue


_LIVING: WeakSet[Subchannels] = WeakSet()


_polled = False
"""Whether grpcio's asyncio API was in use when this process was forked."""


def _before_fork() -> None:
    global _polled  # noqa: PLW0603 - of the process
    living = members(_LIVING)
    for subchannels in living:
        subchannels.forget_ended_loops()
    _polled = bool(living) and polls()
    if _polled and not any(subchannels.polled for subchannels in living):
        gc.collect()  # somebody else's channels, which may be garbage
        _polled = polls()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)


def _close_on(loop: asyncio.AbstractEventLoop, channel: grpc.aio.Channel) -> None:
    def close() -> None:
        task = loop.create_task(channel.close())
        _CLOSING.add(task)
        task.add_done_callback(_CLOSING.discard)

    try:
        loop.call_soon_threadsafe(close)
    except RuntimeError:
        pass  # the loop is closed, and its channels' connections with it


_CLOSING: set[Any] = set()


def freeze(options: Sequence[tuple[str, Any]] | None) -> tuple[tuple[str, Any], ...]:
    """Channel options as a part of a key: a list of pairs or None, as grpcio takes them."""
    return tuple((str(name), value) for name, value in options or ())
