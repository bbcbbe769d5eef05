"""Is the service reachable? `subscribe`, `get_state`, and with them `grpc.channel_ready_future`.

READY means that one endpoint of the service has a connection. Subscribing to every endpoint would cost a
polling thread for each (grpcio polls at 5 Hz), so one daemon thread per channel that has subscribers tries
endpoints in turn, and ends once there is nobody left to tell.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.model.snapshot import NOTHING, Cluster, NodeState

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel

State = grpc.ChannelConnectivity

PATIENCE = 1.0
"""Seconds that one endpoint is given to connect before the next is tried; the default connect timeout."""
LOOK = 0.5
"""Seconds between looks while nothing has been published."""


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
        self._state = State.IDLE
        self._wake = threading.Event()
        self._closed = False

    def state(self, try_to_connect: bool) -> State:
        """The last known state; with `try_to_connect`, somebody begins to find out."""
        if try_to_connect and self._state is not State.READY:
            self._connect = True
            self._ensure_thread(once=True)
        return State.SHUTDOWN if self._closed else self._state

    def subscribe(self, callback: Any, try_to_connect: bool) -> None:
        with self._lock:
            self._callbacks.append([callback, None])
            self._connect = self._connect or try_to_connect
        self._ensure_thread(once=False)

    def unsubscribe(self, callback: Any) -> None:
        with self._lock:
            self._callbacks = [entry for entry in self._callbacks if entry[0] is not callback and entry[0] != callback]
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._set(State.SHUTDOWN)
        self._wake.set()

    def _ensure_thread(self, once: bool) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                self._wake.set()
                return
            self._thread = threading.Thread(
                target=self._run, args=(once,), name="proxyless-connectivity", daemon=True
            )
            self._thread.start()

    def _run(self, once: bool) -> None:
        self._channel.slot.subscribe(self._wake.set)
        try:
            while not self._closed:
                self._wake.clear()
                if self._connect:
                    self._connect_one()
                self._deliver()
                with self._lock:
                    if not self._callbacks and (not once or self._state is State.READY):
                        self._thread = None
                        return
                self._wake.wait(LOOK)
        finally:
            self._channel.slot.unsubscribe(self._wake.set)

    def _connect_one(self) -> None:
        nodes = candidates(self._channel)
        if self._state is not State.READY:
            self._set(State.CONNECTING)
            if not nodes:
                return
        for node, cluster in nodes[:16]:
            native = self._channel.subchannels.sync(node.address, cluster.connection, self._channel.profile)
            ready = grpc.channel_ready_future(native)
            try:
                ready.result(timeout=PATIENCE)
                self._set(State.READY)
                return
            except grpc.FutureTimeoutError:
                continue
            except ValueError:  # closed meanwhile: the endpoint was just removed
                continue
            finally:
                ready.cancel()
        if not self._closed:
            self._set(State.TRANSIENT_FAILURE)

    def _set(self, state: State) -> None:
        self._state = state
        self._deliver()

    def _deliver(self) -> None:
        state = self._state
        with self._lock:
            due = [entry for entry in self._callbacks if entry[1] is not state]
            for entry in due:
                entry[1] = state
        for callback, _ in due:
            callback(state)
