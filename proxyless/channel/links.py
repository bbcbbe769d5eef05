"""What every mesh channel is given by the mesh: the few things that a shell needs to perform scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from proxyless.channel.subchannel import Subchannels, members
from proxyless.channel.timers import Timers
from proxyless.model.snapshot import PlannedRoute
from proxyless.script import Service
from proxyless.state import SnapshotSlot


@dataclass(slots=True, eq=False)
class Links:
    """One set a mesh, shared by all of its channels.

    `entry` is the head of the stack, of which every channel keeps a copy, for it reads it once per call; `compose`
    nests the filters that a route needs; `clock` reads monotonic seconds; `rng` draws from [0, 1); `pause` sleeps in a
    thread.
    """

    slot: SnapshotSlot
    subchannels: Subchannels
    timers: Timers
    entry: Service
    compose: Callable[[PlannedRoute], Service]
    clock: Callable[[], float]
    rng: Callable[[], float]
    pause: Callable[[float], None]
    closed: bool = False
    _channels: WeakSet[Any] = field(default_factory=WeakSet)

    def join(self, channel: Any) -> None:
        """`channel` is made, and is to be told of all that concerns the mesh's channels."""
        self._channels.add(channel)
        channel.entry = self.entry  # again: it may have changed while the channel was made
        if self.closed:  # meanwhile: its calls would wait for news that nobody brings any more
            channel.mesh_closed()

    def enter_by(self, entry: Service) -> None:
        """Calls that are made from now on, on any channel, begin with `entry`."""
        self.entry = entry
        for channel in members(self._channels):
            channel.entry = entry

    def close(self) -> None:
        """The mesh is closed, and with it every channel, also those that are only being made."""
        self.closed = True
        for channel in self.channels():
            channel.mesh_closed()

    def channels(self) -> list[Any]:
        """Every channel of the mesh that is still held by somebody."""
        return members(self._channels)
