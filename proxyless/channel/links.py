"""What every mesh channel is given by the mesh: the few things that a shell needs to perform scripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxyless.channel.subchannel import Subchannels
from proxyless.channel.timers import Timers
from proxyless.script import Service
from proxyless.state import SnapshotSlot


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """One set a mesh, shared by all of its channels.

    `entry` is the head of the stack; `clock` reads monotonic seconds; `rng` draws from [0, 1); `pause`
    sleeps in a thread.
    """

    slot: SnapshotSlot
    subchannels: Subchannels
    timers: Timers
    entry: Service
    clock: Callable[[], float]
    rng: Callable[[], float]
    pause: Callable[[float], None]
