"""Is the service reachable? `subscribe`, `get_state`, and with them `grpc.channel_ready_future`.

READY means that one endpoint of the service has a connection. Subscribing to every endpoint would cost a
polling thread for each (grpcio polls at 5 Hz), so one daemon thread per channel that has subscribers tries
endpoints in turn, stays with the first that can be connected, and ends once there is nobody left to tell.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.model.snapshot import NOTHING, Cluster, NodeState

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel

log = logging.getLogger("proxyless")

State = grpc.ChannelConnectivity

PATIENCE = 1.0
"""Seconds that one endpoint is given to connect before the next is tried; the default connect timeout."""
LOOK = 0.2
"""Seconds between looks while nothing has been heard; grpcio's own interval."""


def candidates(channel: Any) -> list[tuple[NodeState, Cluster]]:
    """The nodes that calls of this channel may go to."""
    snapshot = channel.slot.current if channel.slot.current is not None else NOTHING
    table = snapshot.services.get(channel.service)
    if table is None:
        return []
    clusters = {id(cluster): cluster for route in table.routes for cluster in route.clusters}
    return [(node, cluster) for cluster in clusters.values() for node in cluster.nodes]


class Connectivity:
    """Watches on behalf of a channel's subscribers."""

    def __init__(self, channel: MeshChannel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._callbacks: list[list[Any]] = []
        self._thread: threading.Thread | None = None
        self._connect = False
        self._until_ready = False
        self._state = State.IDLE
        self._wake = threading.Event()
        self._closed = False

    def state(self, try_to_connect: bool) -> State:
        """The last known state; with `try_to_connect`, somebody begins to find out."""
        if self._closed:
            return State.SHUTDOWN
        if try_to_connect and self._state is not State.READY:
            self._connect = self._until_ready = True
            self._ensure_thread()
        return self._state

    def subscribe(self, callback: Any, try_to_connect: bool) -> None:
        with self._lock:
            self._callbacks.append([callback, None])
            self._connect = self._connect or try_to_connect
        self._ensure_thread()

    def unsubscribe(self, callback: Any) -> None:
        with self._lock:
            for entry in self._callbacks:
                if entry[0] == callback:
                    self._callbacks.remove(entry)
                    break
        self._wake.set()

    def close(self) -> None:
        """Tell nobody any more."""
        self._closed = True
        self._wake.set()

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._wake.set()
            # In a forked child the thread is there by name only.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="proxyless-connectivity", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        search = _Search(self._channel, self._wake.set)
        self._channel.slot.subscribe(self._wake.set)
        try:
            while not self._closed:
                self._wake.clear()
                self._state = search.look(self._connect)
                self._tell()
                with self._lock:
                    if not self._callbacks and not (self._until_ready and self._state is not State.READY):
                        self._connect = self._until_ready = False
                        self._thread = None
                        return
                self._wake.wait(LOOK)
        finally:
            self._channel.slot.unsubscribe(self._wake.set)
            search.end()

    def _tell(self) -> None:
        state = self._state
        with self._lock:
            due = [entry for entry in self._callbacks if entry[1] is not state]
            for entry in due:
                entry[1] = state
        for callback, _ in due:
            try:
                callback(state)
            except Exception:
                log.exception("a subscriber to the state of %r failed", self._channel)


class _Search:
    """Looks for an endpoint that can be connected, one after another, and then keeps an eye on it."""

    def __init__(self, channel: MeshChannel, news: Callable[[], None]) -> None:
        self._channel = channel
        self._news = news
        self._node: NodeState | None = None
        self._native: Any = None
        self._heard: State | None = None
        self._since = 0.0
        self._failed: set[int] = set()

    def look(self, connect: bool) -> State:
        """How things stand; takes the next step where `connect` says so."""
        nodes = candidates(self._channel)
        if self._node is not None and not self._is_wanted(nodes):
            self.end()
        if not connect:
            return State.READY if self._is_used(nodes) else State.IDLE
        now = self._channel.clock()
        if self._native is not None:
            if self._heard is State.READY:
                self._failed.clear()
                return State.READY
            if self._heard is State.TRANSIENT_FAILURE or now - self._since > PATIENCE:
                self._failed.add(id(self._node))
                self.end()
        if self._native is None:
            untried = [entry for entry in nodes if id(entry[0]) not in self._failed]
            if nodes and not untried:
                self._failed.clear()
                return State.TRANSIENT_FAILURE
            if untried:
                self._try(*untried[int(self._channel.rng() * len(untried))], now)
        return State.CONNECTING

    def _is_wanted(self, nodes: list[tuple[NodeState, Cluster]]) -> bool:
        """Whether it is looked at as calls would connect it: it may be gone, and so may be its settings."""
        return any(node is self._node and self._peek(node, cluster) is self._native for node, cluster in nodes)

    def _peek(self, node: NodeState, cluster: Cluster) -> Any:
        return self._channel.subchannels.peek(None, node.address, cluster.connection, self._channel.profile)

    def _is_used(self, nodes: list[tuple[NodeState, Cluster]]) -> bool:
        """Whether calls have connected the channel by themselves, as far as is known."""
        return any(not node.reachable_at and self._peek(node, cluster) is not None for node, cluster in nodes)

    def _try(self, node: NodeState, cluster: Cluster, now: float) -> None:
        try:
            native = self._channel.subchannels.sync(node.address, cluster.connection, self._channel.profile)
            native.subscribe(self._hear, try_to_connect=True)
        except ValueError:  # closed meanwhile: the endpoint was just removed, or the mesh closed
            return
        self._node, self._native, self._heard, self._since = node, native, None, now

    def _hear(self, state: State) -> None:
        if self._heard is State.READY and state is State.IDLE:
            state = State.TRANSIENT_FAILURE  # it is gone, and an idle channel does not look for it again
        self._heard = state
        self._news()

    def end(self) -> None:
        """Look at that endpoint no more."""
        native, self._node, self._native = self._native, None, None
        if native is not None:
            native.unsubscribe(self._hear)
