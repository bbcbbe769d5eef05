"""Documents and endpoints in, one snapshot out: or every error that keeps a document from having effect.

Here names are resolved, policies laid over each other, split tables, pickers and filter stacks made, so that
a call has nothing left to look up. What has not changed since the last snapshot is taken over as it is: a
picker keeps its place in the turn, and one changed endpoint costs nothing to the clusters it is not in.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import is_
from typing import Any, Protocol

from proxyless.control import SERVICES
from proxyless.control.mirroring import for_copies, mirror_to, mirrors
from proxyless.control.pickers import Pickers
from proxyless.control.scanner import quoted
from proxyless.control.standing import Here, Standing, is_short
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.findings import Finding
from proxyless.model.route_table import ServiceTable
from proxyless.model.routes import RateLimit, RetryPolicy, Route, Split
from proxyless.model.snapshot import (
    Cluster,
    ClusterKey,
    DestinationState,
    PlannedRoute,
    Snapshot,
)
from proxyless.model.topology import Endpoint, Watched
from proxyless.model.traffic import DEFAULTS, TrafficPolicy, overlay, settled
from proxyless.policy.backoff import strategies
from proxyless.policy.balancers import Balancer
from proxyless.policy.fault import Faults
from proxyless.policy.hashing import hasher, sticky
from proxyless.policy.headers import editor
from proxyless.policy.matcher import Matcher
from proxyless.policy.retriable import judge
from proxyless.policy.split import shares, splitter

log = logging.getLogger("proxyless")

NEVER = "none"
"""The version of a service's document where it has none that is in effect."""

CATCH_ALL = Route(name="default")
"""What a service without routes has: every call goes to every endpoint."""


@dataclass(frozen=True, slots=True)
class World:
    """All that is known and valid: what a snapshot is made of."""

    wanted: frozenset[str]
    services: Mapping[str, ServiceDocument]
    mesh: MeshDocument
    endpoints: Mapping[Watched, Sequence[Endpoint]]
    versions: Mapping[str, str] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    """Services whose document is invalid and that never had a valid one: nobody may guess what was meant."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What came of it. With `findings` (by document key) there is no snapshot."""

    snapshot: Snapshot | None
    findings: Mapping[str, Sequence[Finding]]
    watched: frozenset[Watched]
    missed: Mapping[str, tuple[str, Finding]] = field(default_factory=dict)
    """By the key of a document whose subset is named in vain: who names it, and the finding that says so."""


class Registry(Protocol):
    """Where state is kept by identity (`state.Nodes`): what is named again is the same object, with its history."""

    def node(self, cluster: ClusterKey, endpoint: Endpoint) -> Any:
        """The node for a member of a destination."""

    def destination(
        self, key: ClusterKey, policy: TrafficPolicy, nodes: Any, fails_over: bool = False
    ) -> DestinationState:
        """The state of a destination with these members."""

    def sick(self, key: ClusterKey) -> frozenset[str]:
        """The addresses of a destination's members that are not well."""

    def rate(self, service: str, route: str, settings: RateLimit) -> Callable[[float], bool]:
        """The bucket of a route."""


class Compiler:
    """Compiles worlds, one after the other; remembers the last so as to take over what is the same."""

    def __init__(
        self,
        registry: Registry,
        compose: Callable[[PlannedRoute], Any],
        balancers: Mapping[str, Balancer],
        here: Here,
        rng: Callable[[], float],
        disabled: frozenset[str] = frozenset(),
    ) -> None:
        self._registry = registry
        self._disabled = disabled
        self._compose = compose
        self._pickers = Pickers(balancers, rng)
        self.here = here
        """Where this process runs; what is compiled after it was changed goes by it."""
        self._failing: dict[str, str] = {}
        """Services that can't be compiled, each with the reason: told once."""
        self._clusters: dict[ClusterKey, tuple[tuple[Any, ...], Cluster]] = {}
        self._tables: dict[str, tuple[tuple[Any, ...], ServiceTable]] = {}

    @property
    def balancers(self) -> Mapping[str, Balancer]:
        """Those that documents may name, by name: `decode` sees to it that they name no other."""
        return self._pickers.balancers

    def compile(self, world: World, version: int) -> Compiled:
        """Make the snapshot of `world`, or say what is wrong with which document."""
        findings, missed = self._check(world)
        if findings:
            return Compiled(None, findings, frozenset(), missed)
        clusters: dict[ClusterKey, Cluster] = {}
        made: dict[ClusterKey, tuple[tuple[Any, ...], Cluster]] = {}
        tables: dict[str, tuple[tuple[Any, ...], ServiceTable]] = {}
        for service in sorted(world.wanted):
            try:
                for key in self._destinations(world, service):
                    if key not in made:
                        made[key] = self._cluster(world, key)
                        clusters[key] = made[key][1]
                tables[service] = self._table(world, service, clusters)
                self._failing.pop(service, None)
            except Exception as failed:
                tables[service] = self._as_before(service, failed, made, clusters)
        self._clusters, self._tables = made, tables
        snapshot = Snapshot(version, {name: table for name, (_, table) in tables.items()}, clusters)
        watched = frozenset(watched for cluster in clusters.values() for watched in cluster.watches)
        return Compiled(snapshot, {}, watched)

    def _as_before(
        self,
        service: str,
        failed: Exception,
        made: dict[ClusterKey, tuple[tuple[Any, ...], Cluster]],
        clusters: dict[ClusterKey, Cluster],
    ) -> tuple[tuple[Any, ...], ServiceTable]:
        """What is a defect of ours in one service's document is that service's alone: its last good routes stay, or if
        there are none its calls are refused. All other documents take effect."""
        why = f"its document can't be compiled ({type(failed).__name__}: {failed}), which is a defect of proxyless"
        if self._failing.get(service) != why:
            self._failing[service] = why
            log.error("%s: %s; its last good routes stay, if it has some", quoted(service), why, exc_info=failed)
        last = self._tables.get(service)
        if last is None or last[1].version == NEVER:
            return (), ServiceTable(service, (), NEVER, f"{service}: {why}")
        for cluster in (cluster for route in last[1].routes for cluster in route.reached):
            made[cluster.key] = self._clusters[cluster.key]
            clusters[cluster.key] = cluster
        return last

    # -- checking what no single document can show

    def _check(self, world: World) -> tuple[dict[str, list[Finding]], dict[str, tuple[str, Finding]]]:
        findings: dict[str, list[Finding]] = {}
        missed: dict[str, tuple[str, Finding]] = {}
        for service, document in world.services.items():
            wrong = []
            for owner, finding in self._unknown_destinations(world, service, document):
                missed.setdefault(SERVICES + owner, (SERVICES + service, finding))
                wrong.append(finding)
            if wrong:
                findings[SERVICES + service] = wrong
        return findings, missed

    def _unknown_destinations(
        self, world: World, service: str, document: ServiceDocument
    ) -> Iterable[tuple[str, Finding]]:
        for index, route in enumerate(document.routes):
            named = chain(
                ((f"split[{number}]", split.service, split.subset) for number, split in enumerate(route.split)),
                ((f"mirror[{number}]", mirror.service, mirror.subset) for number, mirror in enumerate(route.mirror)),
            )
            for where, other, subset in named:
                if subset is None:
                    continue
                owner = other or service
                known = world.services[owner].subsets if owner in world.services else {}
                if subset not in known:
                    near = difflib.get_close_matches(subset, list(known), n=1)
                    hint = f'did you mean "{near[0]}"?' if near else f"its subsets are: {', '.join(known) or 'none'}"
                    finding = Finding(f"routes[{index}].{where}.subset", f'{owner} has no subset "{subset}"', hint=hint)
                    yield owner, finding

    # -- clusters

    def _destinations(self, world: World, service: str) -> list[ClusterKey]:
        document = world.services.get(service)
        routes = (document.routes if document else ()) or (CATCH_ALL,)
        keys = [key for route in routes for key in (*destinations(service, route), *self._mirrors(service, route))]
        return list(dict.fromkeys(keys))

    def _mirrors(self, service: str, route: Route) -> list[ClusterKey]:
        return [] if "mirror" in self._disabled else mirrors(service, route)

    def _cluster(self, world: World, key: ClusterKey) -> tuple[tuple[Any, ...], Cluster]:
        document = world.services.get(key.service) or ServiceDocument()
        subset = document.subsets[key.subset] if key.subset else None
        narrower = subset.traffic_policy if subset else None
        policy = settled(overlay(DEFAULTS, world.mesh.defaults.traffic_policy, document.traffic_policy, narrower))
        if key.mirrored:
            policy = replace(policy, limits=for_copies(policy.limits))
        discovery = document.discovery
        watched, *failover = discovery.watches(key.service)
        last = self._clusters.get(key)
        own = world.endpoints.get(watched)
        if failover:
            sick, used = self._registry.sick(key), last is not None and bool(last[1].failover)
            failover = failover if is_short(own, discovery, subset, policy, sick, used) else []
        known = [own, *(world.endpoints.get(other) for other in failover)]
        inputs = (failover, discovery, subset, policy, self.here)
        if last is not None and last[0][1:] == inputs and all(map(is_, last[0][0], known)):
            return last
        standing = Standing([group or () for group in known], discovery, subset, policy, self.here)
        spots = standing.spots()
        places = [[self._registry.node(key, endpoint) for endpoint in spot.members] for spot in spots]
        nodes = [node for place in places for node in place]
        if last is not None and last[1].policy.load_balancer != policy.load_balancer:
            for node in nodes:  # what one balancer wants to know of its nodes, another does not pay for
                node.feedback = None
        state = self._registry.destination(key, policy, nodes, fails_over=bool(discovery.failover))
        picker = self._pickers.made(spots, places, policy, state)
        weights = [endpoint.effective_weight for spot in spots for endpoint in spot.members]

        def left_out() -> Iterable[tuple[Endpoint, str]]:
            return standing.left_out({node.address for node in nodes})

        cluster = Cluster(key, watched, policy, nodes, weights, picker, state, own is not None, failover, left_out)
        return (known, *inputs), cluster

    # -- routes

    def _table(
        self, world: World, service: str, clusters: Mapping[ClusterKey, Cluster]
    ) -> tuple[tuple[Any, ...], ServiceTable]:
        document = world.services.get(service)
        version = world.versions.get(SERVICES + service, NEVER)
        rejected = world.rejected.get(service, "")
        used = tuple(clusters[key] for key in self._destinations(world, service))
        inputs = (document, world.mesh.defaults, version, rejected, used)
        last = self._tables.get(service)
        if last is not None and last[0][:-1] == inputs[:-1] and all(a is b for a, b in zip(last[0][-1], used)):  # noqa: B905
            return last
        routes = () if rejected else (document.routes if document else ()) or (CATCH_ALL,)
        planned = [self._plan(world, service, index, route, clusters) for index, route in enumerate(routes)]
        return inputs, ServiceTable(service, planned, version, rejected)

    def _plan(
        self, world: World, service: str, index: int, route: Route, clusters: Mapping[ClusterKey, Cluster]
    ) -> PlannedRoute:
        timeout = route.timeout if route.timeout is not None else world.mesh.defaults.timeout
        weights = [split.weight for split in route.split] or [1.0]
        retry = route.retry or world.mesh.defaults.retry or RetryPolicy()
        hedge = route.hedge if "hedge" not in self._disabled else None
        name = route.name or f"route-{index}"
        targets = [clusters[key] for key in destinations(service, route)]
        hashed = any(self._pickers.hashes(target.policy.load_balancer) for target in targets)
        if retry.counts:  # now, not when a call has failed: for want of files, perhaps, and on somebody's loop
            strategies(retry.backoff.base, retry.backoff.max, retry.attempts)
        planned = PlannedRoute(
            name=name,
            route=route,
            matcher=Matcher(route.match, self.here.labels),
            choose=splitter(weights),
            clusters=targets,
            shares=shares(weights),
            edits=[editor(route.headers, split.headers) for split in route.split] or [editor(route.headers)],
            run=None,
            timeout=float(timeout) if timeout else None,
            retry=retry,
            may_retry=judge(retry.on),
            faults=Faults(route.fault) if route.fault and "fault" not in self._disabled else None,
            sticky=sticky(route.sticky.header, [str(t.key) for t in targets], weights)
            if route.sticky and targets  # none, where the route answers by itself
            else None,
            hash=hasher(route.hash) if hashed else None,
            rate=self._registry.rate(service, name, route.rate_limit) if route.rate_limit else None,
            hedge=hedge,
            non_fatal=judge(hedge.non_fatal if hedge else ()),
            mirrors=[
                mirror_to(clusters[key], name, mirror, self._compose)
                for mirror, key in zip(route.mirror, self._mirrors(service, route), strict=False)
                if mirror.percent > 0
            ],
        )
        object.__setattr__(planned, "run", self._compose(planned))  # it knows its own route, so it comes last
        return planned


def destinations(service: str, route: Route) -> list[ClusterKey]:
    """Where the calls of a route go: what a split leaves out is the document's own service, all of it."""
    if route.direct_response is not None:
        return []
    return [ClusterKey(split.service or service, split.subset or "") for split in route.split or (Split(),)]
