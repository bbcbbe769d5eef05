"""`Mesh.channel(service)`: a `grpc.Channel` whose every call is routed and balanced by the mesh.

Generated stubs, `grpc.intercept_channel` and `grpc.channel_ready_future` work on it unchanged. It owns no
connection: those belong to the mesh and are shared, so a channel is cheap to make and to drop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakSet

import grpc

from proxyless.channel.connectivity import Connectivity
from proxyless.channel.links import Links
from proxyless.channel.outgoing import identity, outgoing
from proxyless.channel.profile import Profile
from proxyless.channel.requests import replay_cap
from proxyless.channel.subchannel import abandon, freeze, members
from proxyless.channel.sync_stream import StreamStream, UnaryStream
from proxyless.channel.sync_unary import StreamUnary, UnaryUnary
from proxyless.channel.wire import name_of
from proxyless.channel.wires import SyncWires
from proxyless.context import SCOPE
from proxyless.errors import InvalidMetadata
from proxyless.script import Replay, Rpc

Method = TypeVar("Method")


class MeshChannel(grpc.Channel):
    """A channel to a service of the mesh; see `Mesh.channel`."""

    def __init__(
        self,
        service: str,
        links: Links,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]] | None,
        compression: grpc.Compression | None,
    ) -> None:
        frozen = freeze(options)
        self.service = service
        self.authority = str(dict(frozen).get("grpc.default_authority", service))
        self.profile = Profile(self.authority, credentials, frozen, compression)
        self.replay_cap = replay_cap(frozen)
        self.subchannels = links.subchannels
        self.slot = links.slot
        self.timers = links.timers
        self.entry = links.entry
        self.clock = links.clock
        self.rng = links.rng
        self.identity = identity(links.rng)
        self.pause = links.pause
        self._calls: WeakSet[Any] = WeakSet()
        self._closed = False
        self._connectivity = Connectivity(self)

    def rpc(
        self, method: str, timeout: float | None, metadata: Any, wait_for_ready: bool | None, replay: Replay | None
    ) -> Rpc:
        """A call's record, from what the caller passed; raises InvalidMetadata on what no peer should see."""
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")
        return outgoing(self, method, timeout, metadata, wait_for_ready, replay, InvalidMetadata)

    def began(self, call: Any) -> None:
        """A call has begun that its caller holds (a future, a stream): closing the channel will end it.

        So will the caller of the incoming call that it is made for, by going away (of blocking calls:
        `sync_scoped.py`).
        """
        self._calls.add(call)
        if self._closed:
            call.close()
        scope = SCOPE.get()
        if scope is not None:
            scope.join(call, _cancel)

    def _method(self, kind: Callable[..., Method], arity: str, signature: tuple[Any, ...]) -> Method:
        method, serialize, deserialize, registered = signature
        name = name_of(method)
        wires = SyncWires(arity, (name, serialize, deserialize, bool(registered)), self.profile, self.subchannels)
        return kind(self, name, wires)

    # The fourth argument is positional for `grpc.intercept_channel`, by name for generated stubs.

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

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Tell `callback` of every change of the channel's connectivity, beginning with the present one."""
        self._connectivity.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        self._connectivity.unsubscribe(callback)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The channel's connectivity now: READY when some endpoint of the service can be called."""
        return self._connectivity.state(try_to_connect)

    def close(self) -> None:
        """No more calls on this channel; futures and streams end with CANCELLED, as with grpcio.

        Connections stay with the mesh while other channels may use them, and so a blocking call that waits in another
        thread ends by itself: grpcio gives us no handle on it.
        """
        self.mesh_closed()
        self.end_calls()
        self.subchannels.sweep_later()

    @property
    def closed(self) -> bool:
        """Whether somebody has closed the channel, or its mesh."""
        return self._closed

    def forked(self) -> None:
        """In a forked child: what the parent has under way is the parent's, and must not be touched."""
        self.identity = identity(self.rng)  # or the channels of all children would stick to one endpoint
        abandon(*members(self._calls), self._connectivity)
        self._calls = WeakSet()
        self._connectivity = Connectivity(self)

    def mesh_closed(self) -> None:
        """The mesh this channel belongs to is being closed: no more calls. Those under way have its grace."""
        self._closed = True
        self._connectivity.close()

    def end_calls(self) -> None:
        """That grace is over: end the futures and streams that are left."""
        for call in members(self._calls):
            call.close()

    def _get_registered_call_handle(self, _method: str) -> int:
        """grpcio's experimental static API asks for this; the endpoint channels register methods themselves."""
        return 0

    def __enter__(self) -> MeshChannel:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return describe(self.service, self.slot.current, "MeshChannel")


def describe(service: str, snapshot: Any, kind: str) -> str:
    """`<MeshChannel 'orders' v42: 12 nodes, 3 in flight>`: what a person at a debugger wants to know."""
    nodes = {
        node.address: node
        for key, cluster in snapshot.clusters.items()
        if key.service == service
        for node in cluster.nodes
    }
    if service not in snapshot.services:
        return f"<{kind} {service!r}: nothing known yet>"
    inflight = sum(node.inflight for node in nodes.values())
    return f"<{kind} {service!r} v{snapshot.version}: {len(nodes)} nodes, {inflight} in flight>"


def _cancel(call: Any) -> None:
    call.cancel()
