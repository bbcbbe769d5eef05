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
from proxyless.model.traffic import RetryBudget as RetryBudgetSettings
from proxyless.policy.budget import RetryBudget
from proxyless.policy.fail_fast import PROBE, pause


class Node:
    """One endpoint as a member of one destination: what is under way there, and what came of the rest."""

    __slots__ = (
        "address",
        "calls",
        "cluster",
        "endpoint",
        "failures",
        "inflight",
        "lock",
        "on_idle",
        "reachable_at",
        "refusals",
        "retired",
        "send",
    )

    def __init__(self, cluster: ClusterKey, endpoint: Endpoint, make_send: Callable[[Node], object]) -> None:
        self.cluster = cluster
        self.endpoint = endpoint
        self.address = endpoint.address
        self.inflight = 0
        self.calls = 0
        self.failures = 0
        self.reachable_at = 0.0
        self.refusals = 0
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

    def unreachable(self, now: float) -> None:
        """It could not be connected: keep calls away for a while, longer each time in a row."""
        with self.lock:
            self.refusals += 1
            self.reachable_at = now + pause(self.refusals)

    def probe(self, now: float) -> bool:
        """Whether the caller may be the one who finds out if it can be connected again."""
        with self.lock:
            if self.reachable_at > now:
                return False
            self.reachable_at = now + PROBE
            return True

    def reached(self) -> None:
        """It was connected: it takes part again."""
        with self.lock:
            self.refusals = 0
            self.reachable_at = 0.0

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


class ClusterState:
    """What changes about a destination as a whole: its retry budget."""

    __slots__ = ("_budget", "_lock", "_settings", "denied", "retries")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settings: RetryBudgetSettings | None = None
        self._budget = RetryBudget(10.0, 10.0, 0.2)
        self.retries = 0
        self.denied = 0

    def configure(self, settings: RetryBudgetSettings) -> None:
        """Follow the policy in effect; the same settings keep what has been saved."""
        with self._lock:
            if settings != self._settings:
                self._settings = settings
                self._budget = RetryBudget(settings.ttl, settings.min_retries_per_second, settings.ratio)

    def deposit(self, now: float) -> None:
        """A call ended that nobody needs to make again."""
        with self._lock:
            self._budget.deposit(now)

    def withdraw(self, now: float) -> bool:
        """Whether the budget has a retry left; if so, it is paid for."""
        with self._lock:
            granted = self._budget.withdraw(now)
            self.retries += granted
            self.denied += not granted
        return granted

    def status(self, now: float) -> dict[str, int]:
        """For `Mesh.status()`."""
        with self._lock:
            return {"retries_left": self._budget.balance(now), "retries": self.retries, "denied": self.denied}

    def renew(self) -> None:
        """In a forked child: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()


class Nodes:
    """Every node there is. Written by the control plane alone, one thread at a time."""

    def __init__(self, make_send: Callable[[Node], object]) -> None:
        self._make_send = make_send
        self._nodes: dict[tuple[ClusterKey, str], Node] = {}
        self._addresses: Counter[str] = Counter()
        self._leaving: dict[str, list[Node]] = {}
        self._clusters: dict[ClusterKey, ClusterState] = {}

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

    def cluster(self, key: ClusterKey, settings: RetryBudgetSettings) -> ClusterState:
        """The state of a destination: the one there was, or a new one."""
        state = self._clusters.get(key)
        if state is None:
            state = self._clusters[key] = ClusterState()
        state.configure(settings)
        return state

    def adopt(self, snapshot: Snapshot) -> list[Node]:
        """Keep the nodes that `snapshot` names and forget the rest; returns the forgotten ones."""
        named = {(cluster.key, node.address) for cluster in snapshot.clusters.values() for node in cluster.nodes}
        for key in [key for key in self._clusters if key not in snapshot.clusters]:
            del self._clusters[key]
        if len(named) == len(self._nodes):
            return []
        gone = [self._nodes.pop(key) for key in [key for key in self._nodes if key not in named]]
        for node in gone:
            self._addresses[node.address] -= 1
            if not self._addresses[node.address]:
                del self._addresses[node.address]
            others = [other for other in self._leaving.get(node.address, ()) if other.inflight]
            self._leaving[node.address] = [*others, node]
        return gone

    def needed(self, address: str) -> bool:
        """Whether some node has this address, or a call is under way there on any of those that had it: one address
        is a node of every destination it belongs to, and they all share its connection."""
        if address in self._addresses:
            return True
        needed = any(node.inflight for node in self._leaving.get(address, ()))
        if not needed:
            self._leaving.pop(address, None)
        return needed

    def all(self) -> list[Node]:
        """Every node, as of now."""
        return list(self._nodes.values())

    def renew(self) -> None:
        """In a forked child: locks may be held by threads that are gone, and nothing is under way."""
        for node in self._nodes.values():
            node.lock = threading.Lock()
            node.inflight = 0
        self._leaving.clear()
        for state in self._clusters.values():
            state.renew()

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
