"""Every policy but the choice of an endpoint: for channels that are given to the mesh as they are.

Where an interceptor can't send a call to the mesh's endpoints, the call still follows its route, keeps its
deadline, is retried, limited and refused as the documents say; only the picker has nothing to choose from. So
the filters see the snapshot that is, in which every destination has one member: the channel that was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from proxyless.model.snapshot import Cluster, PlannedRoute, Snapshot
from proxyless.model.topology import Endpoint
from proxyless.script import Send
from proxyless.state import Node


class GivenSlot:
    """The mesh's own slot, seen by the calls of one service over channels that were given to it."""

    def __init__(self, slot: Any, service: str, compose: Callable[[PlannedRoute], Any]) -> None:
        self._slot = slot
        self._service = service
        self._compose = compose
        self._made: tuple[Snapshot | None, Snapshot] = (None, Snapshot(0))
        self._routes: dict[int, tuple[PlannedRoute, PlannedRoute]] = {}

    @property
    def current(self) -> Snapshot:
        """What is known now; made once for each snapshot, and a route once for as long as it lasts."""
        known, made = self._made
        present: Snapshot = self._slot.current
        if known is not present:
            made = self._derive(present)
            self._made = (present, made)
        return made

    def subscribe(self, wake: Callable[[], None]) -> None:
        """As of the slot itself."""
        self._slot.subscribe(wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        """As of the slot itself."""
        self._slot.unsubscribe(wake)

    def _derive(self, present: Snapshot) -> Snapshot:
        table = present.services.get(self._service)
        if table is None:
            return Snapshot(present.version)
        earlier = self._routes
        self._routes = {}
        routes = []
        for route in table.routes:
            pair = earlier.get(id(route))
            if pair is None or pair[0] is not route:
                pair = (route, self._follow(route))
            self._routes[id(route)] = pair
            routes.append(pair[1])
        clusters = {cluster.key: cluster for route in routes for cluster in route.clusters}
        return Snapshot(present.version, {self._service: replace(table, routes=routes, plans={})}, clusters)

    def _follow(self, route: PlannedRoute) -> PlannedRoute:
        # Hedges and mirrors go to somebody else, and there is nobody else; a hedged route has its retries here.
        members = [_with_one_member(cluster) for cluster in route.clusters]
        given = replace(route, clusters=members, hedge=None, mirrors=())
        object.__setattr__(given, "run", self._compose(given))  # it knows its own route, so it comes last
        return given


def _with_one_member(cluster: Cluster) -> Cluster:
    node = Node(cluster.key, Endpoint(HERE), Send)
    state: Any = _Unjudged(cluster.state)
    return replace(cluster, nodes=(node,), weights=(1,), picker=_TheOne(node), state=state, known=True)


HERE = "wrapped-channel:1"
"""What stands for an address where addresses are told: nobody is ever connected by it."""


class _TheOne:
    """A picker without a choice."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def pick(self, _info: Any) -> Node:
        """The channel."""
        self._node.reachable_at = 0.0  # there is no other: keeping away from it would keep away from all
        return self._node


class _Unjudged:
    """The destination's state: its breaker, its budget and its limits hold; nobody is compared with anybody."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def ended(
        self, node: Any, _code: int | None, _local: bool, now: float, ticket: int = 0, holds: bool = False
    ) -> None:
        """An attempt ended, and no detector is told how: there is nobody else to go to."""
        self._state.ended(node, None, False, now, ticket, holds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)
