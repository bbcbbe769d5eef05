"""Every node and every destination there is, by identity."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from proxyless.model.routes import RateLimit as Settings
from proxyless.model.snapshot import ClusterKey, Snapshot
from proxyless.model.topology import Endpoint
from proxyless.model.traffic import TrafficPolicy
from proxyless.policy.rate_limit import RateLimit
from proxyless.state.destination import DestinationState, Tell
from proxyless.state.mirror import MirrorState
from proxyless.state.node import Node


class LockedRate(RateLimit):
    """A bucket that threads share."""

    __slots__ = ("_lock",)

    def __init__(self, settings: Settings, now: float) -> None:
        super().__init__(settings, now)
        self._lock = threading.Lock()

    def take(self, now: float) -> bool:
        """Whether a request may go now; if so, it has taken its token."""
        with self._lock:
            return super().take(now)

    def renew(self) -> None:
        """In a forked child: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()


class Nodes:
    """Every node there is. Written by the control plane alone, one thread at a time."""

    def __init__(
        self,
        make_send: Callable[[Node], object],
        tell: Tell,
        clock: Callable[[], float],
        on_health: Callable[[], None] | None = None,
    ) -> None:
        """`on_health` is told when a member of a destination that fails over fell sick or got well."""
        self._on_health = on_health
        self._make_send = make_send
        self._tell = tell
        self._clock = clock
        self._nodes: dict[tuple[ClusterKey, str], Node] = {}
        self._locks: defaultdict[ClusterKey, threading.RLock] = defaultdict(threading.RLock)
        """One for a destination and all of its nodes. Re-entrant: the garbage collector runs where it likes, in the
        middle of what is guarded too, and may end a call there that nobody holds any more, in the same thread."""
        self._addresses: Counter[str] = Counter()
        self._leaving: dict[str, list[Node]] = {}
        self._destinations: dict[ClusterKey, DestinationState] = {}
        self._forgotten: list[tuple[ClusterKey, DestinationState]] = []
        """Destinations that no snapshot names any more, while calls to them are under way."""
        self._rates: dict[tuple[str, str], LockedRate] = {}

    def node(self, cluster: ClusterKey, endpoint: Endpoint) -> Node:
        """The node for this member: the one there was, with its history, or a new one."""
        key = (cluster, endpoint.address)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = Node(cluster, endpoint, self._make_send, self._locks[cluster], self._clock())
            self._addresses[endpoint.address] += 1
        elif node.endpoint is not endpoint:
            node.endpoint = endpoint
        return node

    def sick(self, key: ClusterKey) -> frozenset[str]:
        """The addresses of a destination's members that are not well."""
        state = self._destinations.get(key)
        return state.sick() if state is not None else frozenset()

    def destination(
        self, key: ClusterKey, policy: TrafficPolicy, nodes: Sequence[Node], fails_over: bool = False
    ) -> DestinationState:
        """The state of a destination with these members: the one there was, or a new one."""
        state = self._destinations.get(key)
        if state is None:
            kind = MirrorState if key.mirrored else DestinationState
            state = kind(key, policy, self._tell, self._clock(), self._locks[key])
            self._destinations[key] = state
        state.follow(policy, nodes, self._clock())
        state.concerns(self._on_health if fails_over else None)
        return state

    def rate(self, service: str, route: str, settings: Settings) -> Callable[[float], bool]:
        """The bucket of a route: `(now) -> may a request go?`; an edit of the route keeps what it has saved."""
        now = self._clock()
        bucket = self._rates.get((service, route))
        if bucket is None:
            bucket = self._rates[service, route] = LockedRate(settings, now)
        bucket.configure(settings, now)
        return bucket.take

    def adopt(self, snapshot: Snapshot) -> list[Node]:
        """Keep the nodes that `snapshot` names and forget the rest; returns the forgotten ones."""
        named = {(cluster.key, node.address) for cluster in snapshot.clusters.values() for node in cluster.nodes}
        self._forgotten = [(key, state) for key, state in self._forgotten if state.under_way]
        for key in [key for key in self._destinations if key not in snapshot.clusters]:
            self._forgotten.append((key, self._destinations.pop(key)))
            self._locks.pop(key, None)
        if self._rates:
            limited = {
                (s, route.name) for s, table in snapshot.services.items() for route in table.routes if route.rate
            }
            self._rates = {key: bucket for key, bucket in self._rates.items() if key in limited}
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

    def busy(self, copies: bool = True) -> bool:
        """Whether calls are under way, wherever they went: to who is not named any more too, and on channels that were
        given to the mesh. With `copies`, those of mirrored calls count."""
        known = (*list(self._destinations.items()), *self._forgotten)
        return any(state.under_way for key, state in known if copies or not key.mirrored)

    def all(self) -> list[Node]:
        """Every node, as of now."""
        return list(self._nodes.values())

    def renew(self) -> None:
        """In a forked child: locks may be held by threads that are gone, and nothing is under way."""
        self._locks.clear()
        for node in self._nodes.values():
            node.lock = self._locks[node.cluster]
            node.inflight = 0
        self._leaving.clear()
        self._forgotten = []
        for key, state in self._destinations.items():
            state.renew(self._locks[key])
        for bucket in self._rates.values():
            bucket.renew()

    def __len__(self) -> int:
        return len(self._nodes)
