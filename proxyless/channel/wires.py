"""The native multicallables of one method, one per node: made once, looked up per call.

grpcio builds a multicallable in some microseconds and an interceptor builds one per call; here a call costs
one dictionary look-up and the comparison of one number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from proxyless.channel.aio_requests import AioFeeding
from proxyless.channel.profile import Profile
from proxyless.channel.requests import Feeding, serializing
from proxyless.channel.subchannel import Subchannels
from proxyless.channel.sync_scoped import ScopedStream, ScopedUnary, in_one_thread
from proxyless.context import Scope
from proxyless.model.snapshot import NodeState
from proxyless.script import Rpc


def _native(arity: str, signature: tuple[Any, ...]) -> tuple[Any, ...]:
    """A method's signature as grpcio gets it: of streams of requests, each message is serialized once."""
    method, serialize, *rest = signature
    return (method, serializing(serialize) if arity.startswith("stream") else serialize, *rest)


class SyncWires:
    """For threads."""

    __slots__ = (
        "_arity",
        "_feeds",
        "_known",
        "_native_signature",
        "_profile",
        "_shadow",
        "_streams",
        "_subchannels",
        "signature",
    )

    def __init__(
        self, arity: str, signature: tuple[Any, ...], profile: Profile, subchannels: Subchannels, feeds: bool = True
    ) -> None:
        self._arity = arity
        self._feeds = feeds and arity.startswith("stream")
        self._shadow: SyncWires | None = None
        self.signature = signature
        self._native_signature = _native(arity, signature)
        self._profile = profile
        self._subchannels = subchannels
        # One reference, for threads read it without a lock: the generation and what was made in it.
        self._known: tuple[int, dict[NodeState, Any]] = (subchannels.generation, {})
        self._streams: SyncWires | None = None
        """The same method as a response stream, for calls within a scope; made when there is the first."""

    def of(self, rpc: Rpc) -> Any:
        """The native multicallable for the node that `rpc` goes to."""
        generation, by_node = self._known
        if generation != self._subchannels.generation:
            generation, by_node = self._known = (self._subchannels.generation, {})
        native = by_node.get(rpc.node)
        if native is None:
            native = self._subchannels.sync_method(
                rpc.node.address, rpc.cluster.connection, self._profile, self._arity, self._native_signature
            )
            if self._feeds:
                native = Feeding(native)
            if self._subchannels.may_be_remembered(rpc.cluster):
                by_node[rpc.node] = native
        return native

    def within(self, scope: Scope, rpc: Rpc) -> Any:
        """The same for a call with one response that ends when the scope's caller goes."""
        if self._arity == "stream_unary":
            return ScopedStream(self.of(rpc), scope)
        streams = self._streams
        if streams is None:
            profile = in_one_thread(self._profile)
            streams = self._streams = SyncWires("unary_stream", self.signature, profile, self._subchannels)
        return ScopedUnary(streams.of(rpc), scope)

    @property
    def streams(self) -> bool:
        """Whether the response is a stream."""
        return self._arity.endswith("stream")

    def shadow(self, authority: str) -> SyncWires:
        """The same method for copies of requests: under another authority, and of bytes, in and out."""
        shadow = self._shadow
        if shadow is None or shadow._profile.authority != authority:
            signature = (self.signature[0], None, None, False)
            profile = self._profile.named(authority)
            shadow = self._shadow = SyncWires(self._arity, signature, profile, self._subchannels, feeds=False)
        return shadow


class AioWires:
    """For event loops: grpcio binds a channel to its loop, and a process may run several."""

    __slots__ = (
        "__weakref__",
        "_arity",
        "_feeds",
        "_known",
        "_loop_ended",
        "_native_signature",
        "_profile",
        "_shadow",
        "_subchannels",
        "signature",
    )

    def __init__(
        self,
        arity: str,
        signature: tuple[Any, ...],
        profile: Profile,
        subchannels: Subchannels,
        loop_ended: Callable[[], None],
        feeds: bool = True,
    ) -> None:
        self._arity = arity
        self._feeds = feeds and arity.startswith("stream")
        self._shadow: AioWires | None = None
        self.signature = signature
        self._native_signature = _native(arity, signature)
        self._profile = profile
        self._subchannels = subchannels
        self._loop_ended = loop_ended
        self._known: tuple[int, asyncio.AbstractEventLoop | None, dict[NodeState, Any]] = (-1, None, {})
        subchannels.rememberers.add(self)

    def forget_ended_loop(self) -> None:
        """If the loop has ended, let go of what was made for it."""
        known_loop = self._known[1]
        if known_loop is not None and known_loop.is_closed():
            self._loop_ended()
            self._known = (-1, None, {})

    def of(self, rpc: Rpc, loop: asyncio.AbstractEventLoop) -> Any:
        """The native multicallable for the node that `rpc` goes to, on the running `loop`."""
        generation, known_loop, by_node = self._known
        if known_loop is not loop or generation != self._subchannels.generation:
            # Two loops that share one channel object take turns here: slower, never wrong.
            if known_loop is not None and known_loop.is_closed():
                self._loop_ended()
            generation, known_loop, by_node = self._known = (self._subchannels.generation, loop, {})
        native = by_node.get(rpc.node)
        if native is None:
            channel = self._subchannels.aio(loop, rpc.node.address, rpc.cluster.connection, self._profile)
            native = getattr(channel, self._arity)(*self._native_signature)
            if self._feeds:
                native = AioFeeding(native)
            if self._subchannels.may_be_remembered(rpc.cluster):
                by_node[rpc.node] = native
        return native

    def renamed(self, method: str) -> AioWires:
        """Another method, whose messages are written and read alike."""
        signature = (method, *self.signature[1:3], False)
        return AioWires(self._arity, signature, self._profile, self._subchannels, self._loop_ended)

    @property
    def streams(self) -> bool:
        """Whether the response is a stream."""
        return self._arity.endswith("stream")

    def shadow(self, authority: str) -> AioWires:
        """The same method for copies of requests: under another authority, and of bytes, in and out."""
        shadow = self._shadow
        if shadow is None or shadow._profile.authority != authority:
            signature = (self.signature[0], None, None, False)
            profile = self._profile.named(authority)
            shadow = AioWires(self._arity, signature, profile, self._subchannels, self._loop_ended, feeds=False)
            self._shadow = shadow
        return shadow
