"""The native multicallables of one method, one per node: made once, looked up per call.

grpcio builds a multicallable in some microseconds and an interceptor builds one per call; here a call costs
one dictionary look-up and the comparison of one number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from proxyless.channel.subchannel import Profile, Subchannels
from proxyless.model.snapshot import NodeState
from proxyless.script import Rpc


class SyncWires:
    """For threads."""

    __slots__ = ("_arity", "_by_node", "_generation", "_profile", "_subchannels", "signature")

    def __init__(self, arity: str, signature: tuple[Any, ...], profile: Profile, subchannels: Subchannels) -> None:
        self._arity = arity
        self.signature = signature
        self._profile = profile
        self._subchannels = subchannels
        self._by_node: dict[NodeState, Callable[..., Any]] = {}
        self._generation = subchannels.generation

    def of(self, rpc: Rpc) -> Any:
        """The native multicallable for the node that `rpc` goes to."""
        if self._generation != self._subchannels.generation:
            self._by_node = {}
            self._generation = self._subchannels.generation
        native = self._by_node.get(rpc.node)
        if native is None:
            channel = self._subchannels.sync(rpc.node.address, rpc.cluster.connection, self._profile)
            native = self._by_node[rpc.node] = getattr(channel, self._arity)(*self.signature)
        return native


class AioWires:
    """For event loops: grpcio binds a channel to its loop, and a process may run several."""

    __slots__ = ("_arity", "_by_node", "_generation", "_loop", "_profile", "_subchannels", "signature")

    def __init__(self, arity: str, signature: tuple[Any, ...], profile: Profile, subchannels: Subchannels) -> None:
        self._arity = arity
        self.signature = signature
        self._profile = profile
        self._subchannels = subchannels
        self._by_node: dict[NodeState, Callable[..., Any]] = {}
        self._generation = subchannels.generation
        self._loop: asyncio.AbstractEventLoop | None = None

    def of(self, rpc: Rpc, loop: asyncio.AbstractEventLoop) -> Any:
        """The native multicallable for the node that `rpc` goes to, on the running `loop`."""
        if self._generation != self._subchannels.generation or self._loop is not loop:
            # Two loops that share one channel object take turns here: slower, never wrong.
            self._by_node = {}
            self._generation = self._subchannels.generation
            self._loop = loop
        by_node = self._by_node
        native = by_node.get(rpc.node)
        if native is None:
            channel = self._subchannels.aio(loop, rpc.node.address, rpc.cluster.connection, self._profile)
            native = by_node[rpc.node] = getattr(channel, self._arity)(*self.signature)
        return native
