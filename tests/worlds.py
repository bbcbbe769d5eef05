"""Something for calls to be made on: nodes, routes and snapshots, with as little said as a test needs.

All of it is made by the real thing. A snapshot comes from documents through the reader and the compiler, so
what a test drives in virtual time (`tests/fakes.py`) is what a program would drive.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxyless.control.compiler import Compiled, Compiler, World
from proxyless.control.dialects import DIALECTS
from proxyless.control.standing import Here
from proxyless.control.syntax import parse
from proxyless.model.codes import Code
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.routes import RetryPolicy, Route
from proxyless.model.snapshot import Cluster, ClusterKey, Picker, PlannedRoute, Snapshot
from proxyless.model.topology import NOWHERE, Endpoint, Locality, Watched
from proxyless.model.traffic import DEFAULTS, LoadBalancer, TrafficPolicy, overlay, settled
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.fault import Faults
from proxyless.policy.matcher import Matcher
from proxyless.policy.retriable import judge
from proxyless.script import Metadata, Replay, Rpc, Send
from proxyless.stack import compose
from proxyless.state import DestinationState, Node, Nodes
from tests.fakes import START, InTurn

WEB = ClusterKey("web")

POLICY = settled(DEFAULTS)
"""What holds where no document says anything."""


def node(name: str, weight: int = 1, cluster: ClusterKey = WEB) -> Node:
    """A real node; `a` listens on `a:1`."""
    return Node(cluster, Endpoint(f"{name}:1" if ":" not in name else name, weight), Send)


def balancing(policy: str, **fields: Any) -> LoadBalancer:
    """The block as a document with these fields would have it in effect; a ring is as large as it gets, for it
    shares only as evenly as it is large."""
    given = LoadBalancer(policy=policy, **({"minimum_ring_size": 65536} | fields))
    return settled(overlay(DEFAULTS, TrafficPolicy(load_balancer=given))).load_balancer


def planned(*nodes: Node, picker: Picker | None = None, known: bool = True, **route: Any) -> PlannedRoute:
    """A route to one cluster of `nodes`, picked in turn; `route` has fields of `Route`. Retries are off."""
    weights = [member.endpoint.weight for member in nodes]
    state = DestinationState(WEB, POLICY, lambda *_told: None, START)
    state.follow(POLICY, nodes, START)
    cluster = Cluster(WEB, Watched("web"), POLICY, nodes, weights, picker or InTurn(*nodes), state, known)
    rule = Route(name="r", **route)
    answers = rule.direct_response is not None
    retry = rule.retry or RetryPolicy(attempts=0)
    return PlannedRoute(
        name="r",
        route=rule,
        matcher=Matcher(rule.match, {}),
        choose=lambda _draw: 0,
        clusters=() if answers else (cluster,),
        shares=() if answers else (1.0,),
        edits=(None,),
        run=None,
        timeout=rule.timeout or None,
        retry=retry,
        may_retry=judge(retry.on),
        faults=Faults(rule.fault) if rule.fault else None,
        hedge=rule.hedge,
        non_fatal=judge(rule.hedge.non_fatal if rule.hedge else ()),
    )


def on_route(route: PlannedRoute, **fields: Any) -> Rpc:
    """A call that has found its route already, for filters below the first."""
    found = rpc(Snapshot(1, {}, {cluster.key: cluster for cluster in route.clusters}), **fields)
    found.route = route
    if route.clusters:
        found.cluster = route.clusters[0]
    return found


def rpc(
    snapshot: Snapshot,
    *,
    service: str = "web",
    method: str = "/shop.Products/Get",
    metadata: Metadata | None = None,
    timeout: float | None = None,
    wait_for_ready: bool | None = None,
    replay: Replay | None = None,
    now: float = START,
    rng: Callable[[], float] = lambda: 0.0,
) -> Rpc:
    """A call's record, as a channel makes it."""
    until = None if timeout is None else now + timeout
    return Rpc(service, method, service, metadata, wait_for_ready, until, now, rng, snapshot, replay)


def fail(state: Any, node: Any, now: float = START, times: int = 1, code: int = Code.INTERNAL) -> None:
    """So many attempts on `node`, and how they ended."""
    for _ in range(times):
        assert state.begin(node)
        state.ended(node, code, False, now)


def document(text: str, kind: type[ServiceDocument] | type[MeshDocument] = ServiceDocument) -> Any:
    """Read a document that is meant to be good."""
    value, findings = DIALECTS["proxyless/v1"](parse(text), kind)
    assert value is not None, "\n".join(map(str, findings))
    return value


class Known:
    """What is known, and the compiler that makes snapshots of it: change a field and `compile()` again.

    `endpoints` maps a service to its endpoints, a bare address standing for one without labels.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        locality: Locality = NOWHERE,
        client: int = 0,
        seed: int = 1,
        disabled: Sequence[str] = (),
    ) -> None:
        self.now = START
        self.told: list[tuple[str, str, str]] = []
        self.nodes = Nodes(Send, self._tell, lambda: self.now)
        self.services: dict[str, ServiceDocument] = {}
        self.mesh = MeshDocument()
        self.endpoints: dict[Watched, Sequence[Endpoint]] = {}
        self.rejected: dict[str, str] = {}
        self._version = 0
        dice = random.Random(seed).random
        here = Here(locality, labels or {}, client)
        self._compiler = Compiler(self.nodes, compose, BALANCERS, here, dice, frozenset(disabled))

    def _tell(self, what: str, _key: ClusterKey, address: str, why: str) -> None:
        self.told.append((what, address, why))

    def lives(self, service: str, *endpoints: str | Endpoint, datacenter: str = "") -> Known:
        """Say where `service` runs."""
        made = tuple(Endpoint(one) if isinstance(one, str) else one for one in endpoints)
        self.endpoints[Watched(service, datacenter)] = made
        return self

    def compiled(self, *wanted: str) -> Compiled:
        """Snapshot or findings, for a process that calls `wanted` (default: web)."""
        self._version += 1
        world = World(frozenset(wanted or ("web",)), self.services, self.mesh, self.endpoints, {}, self.rejected)
        return self._compiler.compile(world, self._version)

    def snapshot(self, *wanted: str) -> Snapshot:
        """The snapshot, where nothing is wrong."""
        compiled = self.compiled(*wanted)
        assert compiled.snapshot is not None, compiled.findings
        return compiled.snapshot
