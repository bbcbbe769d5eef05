"""Everything that changes on the data path, in one place: the current snapshot, and the nodes.

Nodes are keyed by destination and address and outlive snapshots, so that an edit of a document never forgets
what is under way ("We want to preserve the existing nodes if possible" - Finagle `Balancer.update`). Locks
here are held for a few instructions and never across a `yield`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from proxyless.model.snapshot import NOTHING, ClusterKey, Snapshot
from proxyless.model.topology import Endpoint


class Node:
    """One endpoint as a member of one destination: what is under way there, and what came of the rest."""

    __slots__ = ("address", "calls", "cluster", "endpoint", "failures", "inflight", "lock", "on_idle", "retired", "send")

    def __init__(self, cluster: ClusterKey, endpoint: Endpoint, make_send: Callable[[Node], object]) -> None:
        self.cluster = cluster
        self.endpoint = endpoint
        self.address = endpoint.address
        self.inflight = 0
        self.calls = 0
        self.failures = 0
        self.retired = False
        self.on_idle: Callable[[Node], None] | None = None
        self.lock = threading.Lock()
        self.send = make_send(self)

    def begin(self) -> None:
        """An attempt starts."""
        with self.lock:
            self.inflight += 1
            self.calls += 1

    def done(self, failed: bool) -> None:
        """That attempt ended."""
        with self.lock:
            self.inflight -= 1
            if failed:
                self.failures += 1
            idle = self.retired and self.inflight == 0
        if idle and self.on_idle is not None:
            self.on_idle(self)

    def retire(self, on_idle: Callable[[Node], None]) -> None:
        """No snapshot names this node any more: call `on_idle` once, as soon as nothing is under way on it."""
        with self.lock:
            self.on_idle = on_idle
            self.retired = True
            idle = self.inflight == 0
        if idle:
            on_idle(self)

    def __repr__(self) -> str:
        marks = " retired" if self.retired else ""
        return f"<Node {self.address} of {self.cluster}: {self.inflight} in flight, {self.calls} calls{marks}>"


class Nodes:
    """Every node there is. Written by the control plane alone, one thread at a time."""

    def __init__(self, make_send: Callable[[Node], object]) -> None:
        self._make_send = make_send
        self._nodes: dict[tuple[ClusterKey, str], Node] = {}
        self._addresses: Counter[str] = Counter()

    def node(self, cluster: ClusterKey, endpoint: Endpoint) -> Node:
        """The node for this member: the one there was, with its history, or a new one."""
        key = (cluster, endpoint.address)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(cluster, endpoint, self._make_send)
            self._addresses[endpoint.address] += 1
        elif node.endpoint is not endpoint:
            node.endpoint = endpoint
        return node

    def adopt(self, snapshot: Snapshot) -> list[Node]:
        """Keep the nodes that `snapshot` names and forget the rest; returns the forgotten ones."""
        named = {(cluster.key, node.address) for cluster in snapshot.clusters.values() for node in cluster.nodes}
        if len(named) == len(self._nodes):
            return []
        gone = [self._nodes.pop(key) for key in [key for key in self._nodes if key not in named]]
        for node in gone:
            self._addresses[node.address] -= 1
            if not self._addresses[node.address]:
                del self._addresses[node.address]
        return gone

    def named(self, address: str) -> bool:
        """Whether some node has this address."""
        return address in self._addresses

    def all(self) -> list[Node]:
        """Every node, as of now."""
        return list(self._nodes.values())

    def renew(self) -> None:
        """In a forked child: locks may be held by threads that are gone, and nothing is under way."""
        for node in self._nodes.values():
            node.lock = threading.Lock()
            node.inflight = 0

    def __len__(self) -> int:
        return len(self._nodes)


class SnapshotSlot:
    """The one reference that is swapped. Reading it is one attribute load; waiters are woken by callback."""

    def __init__(self) -> None:
        self.current: Snapshot = NOTHING
        self._lock = threading.Lock()
        self._waiters: set[Callable[[], None]] = set()

    def publish(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the current one and wake whoever waits for it."""
        with self._lock:
            self.current = snapshot
            waiters = list(self._waiters)
        for wake in waiters:
            wake()

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, from the publishing thread, after each publication; it must not block."""
        with self._lock:
            self._waiters.add(wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """Undo `subscribe`."""
        with self._lock:
            self._waiters.discard(wake)

    def renew(self) -> None:
        """In a forked child: a lock that a thread of the parent held would never be released here."""
        self._lock = threading.Lock()
        self._waiters = set()
