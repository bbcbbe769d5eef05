"""`Mesh.aio_channel(service)`: a `grpc.aio.Channel` whose every call is routed and balanced by the mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

import grpc

from proxyless.channel.aio_call import Driven
from proxyless.channel.aio_method import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from proxyless.channel.connectivity import candidates
from proxyless.channel.links import Links
from proxyless.channel.news import await_news
from proxyless.channel.outgoing import identity, outgoing
from proxyless.channel.profile import Profile
from proxyless.channel.requests import replay_cap
from proxyless.channel.subchannel import abandon, freeze, members
from proxyless.channel.sync import describe
from proxyless.channel.wire import name_of
from proxyless.channel.wires import AioWires
from proxyless.context import SCOPE
from proxyless.errors import AioInvalidMetadata
from proxyless.script import Replay, Rpc, Wait

State = grpc.ChannelConnectivity

Method = TypeVar("Method")

_ARITIES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_KINDS = {
    "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
    "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
    "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
    "stream_stream": grpc.aio.StreamStreamClientInterceptor,
}


class AioMeshChannel(grpc.aio.Channel):
    """A channel to a service of the mesh; see `Mesh.aio_channel`. It may be used from any running loop."""

    def __init__(
        self,
        service: str,
        links: Links,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]] | None,
        compression: grpc.Compression | None,
        interceptors: Sequence[Any] | None,
    ) -> None:
        frozen = freeze(options)
        self.service = service
        self.authority = str(dict(frozen).get("grpc.default_authority", service))
        self.profile = Profile(self.authority, credentials, frozen, compression)
        self.replay_cap = replay_cap(frozen)
        self.subchannels = links.subchannels
        self.slot = links.slot
        self.entry = links.entry
        self.clock = links.clock
        self.rng = links.rng
        self.identity = identity(links.rng)
        self.calls: dict[Any, Driven] = {}
        """Calls with one response whose attempt is under way, by that attempt."""
        self.streams: WeakSet[Driven] = WeakSet()
        """The other calls under way: streams, which end with whoever reads them, and calls between attempts."""
        self.attempt_over = self._attempt_over  # bound once, not per call
        self._closed = False
        # Not grpcio's public API, but a protocol all the same: google-api-core, pymilvus and others append
        # to these lists of any channel they are given, at any time.
        self._unary_unary_interceptors: list[Any] = []
        self._unary_stream_interceptors: list[Any] = []
        self._stream_unary_interceptors: list[Any] = []
        self._stream_stream_interceptors: list[Any] = []
        for interceptor in interceptors or ():
            self._sort_in(interceptor)

    def _sort_in(self, interceptor: Any) -> None:
        """grpcio's rule: an object goes into the first list whose kind it is, and into no other."""
        for arity in _ARITIES:
            if isinstance(interceptor, _KINDS[arity]):
                getattr(self, f"_{arity}_interceptors").append(interceptor)
                return
        kinds = ", ".join(kind.__name__ for kind in _KINDS.values())
        raise ValueError(f"Interceptor {interceptor!r} must be one of {kinds}")

    def rpc(
        self, method: str, timeout: float | None, metadata: Any, wait_for_ready: bool | None, replay: Replay | None
    ) -> Rpc:
        """A call's record, from what the caller passed; raises AioInvalidMetadata on what no peer should see."""
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        return outgoing(self, method, timeout, metadata, wait_for_ready, replay, AioInvalidMetadata)

    @staticmethod
    def began(call: Driven) -> None:
        """A call has begun: it is cancelled when the incoming call that it is made for is, awaited or not."""
        scope = SCOPE.get()
        if scope is not None:
            scope.join(call, _cancel)

    def _attempt_over(self, native: Any) -> None:
        call = self.calls.pop(native, None)
        if call is not None and not call._attended:
            call._noticed(native)

    def _method(self, kind: Callable[..., Method], arity: str, signature: tuple[Any, ...]) -> Method:
        method, serialize, deserialize, registered = signature
        name = name_of(method)
        known = (name, serialize, deserialize, bool(registered))
        wires = AioWires(arity, known, self.profile, self.subchannels, self.forget_ended_loops)
        return kind(self, name, wires, getattr(self, f"_{arity}_interceptors"))

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnary:
        signature = (method, request_serializer, response_deserializer, _registered_method)
        return self._method(UnaryUnary, "unary_unary", signature)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> UnaryStream:
        signature = (method, request_serializer, response_deserializer, _registered_method)
        return self._method(UnaryStream, "unary_stream", signature)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> StreamUnary:
        signature = (method, request_serializer, response_deserializer, _registered_method)
        return self._method(StreamUnary, "stream_unary", signature)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> StreamStream:
        signature = (method, request_serializer, response_deserializer, _registered_method)
        return self._method(StreamStream, "stream_stream", signature)

    def get_state(self, try_to_connect: bool = False) -> State:
        """READY when some endpoint of the service is connected on this loop; the best of them otherwise."""
        if self._closed:
            return State.SHUTDOWN
        states = {native.get_state(try_to_connect) for native in self._natives(connect=try_to_connect)}
        for state in (State.READY, State.CONNECTING, State.IDLE, State.TRANSIENT_FAILURE):
            if state in states:
                return state
        return State.CONNECTING if try_to_connect else State.IDLE

    def _natives(self, connect: bool) -> list[Any]:
        """The endpoint channels of this loop: those there are, and with `connect` one at least."""
        loop = asyncio.get_running_loop()
        nodes = candidates(self)
        known = [
            native
            for node, cluster in nodes
            if (native := self.subchannels.peek(loop, node.address, cluster.connection, self.profile)) is not None
        ]
        if not known and connect and nodes:
            node, cluster = nodes[int(self.rng() * len(nodes))]
            known.append(self.subchannels.aio(loop, node.address, cluster.connection, self.profile))
        return known

    async def wait_for_state_change(self, last_observed_state: State) -> None:
        """Until the state is another than `last_observed_state`."""
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        pause = 0.005
        while self.get_state() == last_observed_state:
            await asyncio.sleep(pause)  # several channels behind one state: looking is cheaper than watching all
            pause = min(pause * 2, 0.1)

    async def channel_ready(self) -> None:
        """Until some endpoint of the service is connected."""
        pause = 0.005
        while self.get_state(try_to_connect=True) is not State.READY:
            if self._closed:
                raise grpc.aio.UsageError("Channel is closed.")
            if not candidates(self):
                await await_news(self, Wait(self.slot.current.version, self.clock() + 0.1))
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)

    async def close(self, grace: float | None = None) -> None:
        """No more calls on this channel; what is under way has `grace` seconds, and is cancelled then."""
        if self._closed:
            return
        if grace is not None and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}.")
        self._closed = True
        here = asyncio.get_running_loop()
        ours = [call for call in self._begun() if call._loop is here]
        if grace and ours:
            tasks = [asyncio.ensure_future(call._complete()) for call in ours]
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
        for call in ours:
            call.cancel()
        self.end_calls()
        self.subchannels.sweep_later()

    @property
    def closed(self) -> bool:
        """Whether somebody has closed the channel, or its mesh."""
        return self._closed

    def _begun(self) -> list[Driven]:
        """Every call under way, on whichever loop."""
        return [call for call in {*self.calls.copy().values(), *members(self.streams)} if not call.done()]

    def forget_ended_loops(self) -> None:
        """`asyncio.run` is over: its calls that nobody awaited ended with it, unseen."""
        for native, call in list(self.calls.items()):
            if call._loop.is_closed():
                self.calls.pop(native, None)
                call.abandon()
        for call in members(self.streams):
            if call._loop.is_closed():
                call.abandon()

    def forked(self) -> None:
        """In a forked child: what the parent has under way is the parent's, and must not be touched."""
        self.identity = identity(self.rng)  # or the channels of all children would stick to one endpoint
        abandon(self.calls, *self._begun())
        self.calls = {}
        self.streams = WeakSet()

    def mesh_closed(self) -> None:
        """The mesh this channel belongs to is being closed: no more calls. Those under way have its grace."""
        self._closed = True

    def end_calls(self) -> None:
        """That grace is over: cancel the calls that are left, each on its own loop."""
        for call in self._begun():
            _cancel(call)

    async def __aenter__(self) -> AioMeshChannel:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return describe(self.service, self.slot.current, "AioMeshChannel")


def _cancel(call: Driven) -> None:
    try:
        call._loop.call_soon_threadsafe(call.cancel)
    except RuntimeError:
        pass  # its loop has ended, and it with the loop
