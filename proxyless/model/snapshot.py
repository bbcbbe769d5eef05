"""Everything known at one version, immutable: what a call reads once and holds to its end.

gRFC A74 ("xDS Config Tears") exists because routes and clusters were swapped apart. Here one reference is
swapped: routes, clusters, pickers and the state of their nodes are always of one version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from proxyless.model.route_table import ServiceTable
from proxyless.model.routes import Hedge, RetryPolicy, Route
from proxyless.model.topology import Endpoint, Watched
from proxyless.model.traffic import Connection, TrafficPolicy


class ClusterKey(NamedTuple):
    """A destination: a service, or one subset of it ("" is all of it).

    `mirrored`: as it is for copies of requests, with state of its own. What becomes of a copy can't touch the
    budget, the outliers or the limits of real calls, even where both go to the same endpoints.
    """

    service: str
    subset: str = ""
    mirrored: bool = False

    def __str__(self) -> str:
        name = f"{self.service}/{self.subset}" if self.subset else self.service
        return f"{name} (mirror)" if self.mirrored else name


class Result(Protocol):
    """How an attempt ended, as far as a balancer may ask: a `script.Outcome` is one."""

    @property
    def code(self) -> int:
        """The status code; CANCELLED also where the caller gave the attempt up."""

    @property
    def trailers(self) -> Sequence[tuple[str, str | bytes]]:
        """Trailing metadata; of a success only where `Feedback.reads_trailers`."""

    @property
    def unsent(self) -> bool:
        """Whether it never left this process, because the node could not be connected."""


class Feedback(Protocol):
    """What a balancer keeps about one node, from swap to swap, and is told of every attempt there.

    Only nodes whose balancer sets `node.feedback` pay for it. It is asked under the destination's lock.
    """

    @property
    def reads_trailers(self) -> bool:
        """Whether it needs the trailers of successful calls, which drivers don't fetch by themselves."""

    def observe(self, result: Result, seconds: float | None, now: float) -> None:
        """An attempt has ended, `seconds` after it was sent; or it has begun to answer with a stream, whose end is
        told separately, with None for `seconds`: how long a stream lives says nothing about its endpoint."""


class NodeState(Protocol):
    """An endpoint as a destination's member, with what changes about it (`state.Node`)."""

    address: str
    inflight: int
    calls: int
    failures: int
    endpoint: Endpoint
    feedback: Feedback | None
    """Where its balancer wants to know how attempts end: set by the balancer, and gone with it."""
    reachable_at: float
    """0 while it can be connected; else the instant before which nobody should try."""
    since: float
    """The instant from which it has been there, and well."""
    send: Any
    """The `Send` effect for this node, made once."""

    @property
    def outlier(self) -> OutlierState:
        """Whether it is ejected: a property, because the node that has it knows more of it."""

    def probe(self, now: float) -> bool:
        """Whether the caller may be the one who finds out if it can be connected again."""

    def reached(self, now: float) -> None:
        """It was connected."""

    def unreachable(self, now: float, draw: float) -> None:
        """It could not be connected; `draw` from [0, 1) keeps processes out of step."""


class DestinationState(Protocol):
    """What changes about a destination as a whole (`state.DestinationState`)."""

    def deposit(self, now: float) -> None:
        """A call ended that nobody needs to make again."""

    def withdraw(self, now: float, hedge: bool = False) -> bool:
        """Whether a retry, or a `hedge`, may be made: the limit lets it in and the budget pays. `retried` ends it."""

    def retried(self) -> None:
        """A retry or a hedge is over."""

    def begin(self, node: Any, held: bool = False) -> bool:
        """Whether one more attempt may be under way, and then `node` has it. `held`: the call has its place already."""

    def ended(self, node: Any, code: int | None, local: bool, now: float, ticket: int = 0, holds: bool = False) -> None:
        """How it ended, exactly once for every `begin`; None where nobody knows, or it says nothing about the node.

        `ticket`: it was a probe. `holds`: the call keeps its place, and tries again or `leave`s.
        """

    def observed(self, feedback: Feedback, result: Result, seconds: float | None, now: float) -> None:
        """Tell a balancer what it asked to know."""

    def leave(self) -> None:
        """A call that held its place gives it up."""

    def queue(self) -> bool:
        """Whether one more call may wait for an endpoint. Whoever queues unqueues, exactly once."""

    def unqueue(self) -> None:
        """It waits no longer."""

    def admit(self, now: float) -> int:
        """0: the breaker is open. Else a ticket for `judge`."""

    def retry_in(self, now: float) -> float:
        """Seconds until an open breaker lets a call through again; 0 where it is not open."""

    def judge(self, ticket: int, ok: bool | None, now: float) -> None:
        """How the call with this ticket ended; None if nobody knows."""

    def sick(self) -> frozenset[str]:
        """The addresses of its members that are ejected, on probation or unreachable."""

    def watch(self, ladder: Any) -> None:
        """Keep a `policy.locality.Ladder` told which of its nodes are well."""

    def probe(self, node: Any, now: float) -> int | None:
        """May a request go to this ejected node? None: no. Else the ticket for `probed` (0: it is back)."""

    def probed(self, node: Any, ticket: int, code: int | None, now: float) -> None:
        """How the probe with this ticket ended; None if nobody knows."""

    def status(self, now: float) -> dict[str, Any]:
        """For `Mesh.status()`."""


class MirrorState(DestinationState, Protocol):
    """The same of a destination that copies go to (`state.MirrorState`)."""

    def mirrored(self) -> None:
        """A copy of a request is sent here, or would be if there were room."""


class OutlierState(Protocol):
    """What outlier detection remembers of a node (`policy.outlier.Outlier`)."""

    out: bool
    """Ejected or on probation: not to be picked like the others."""
    ejected_until: float
    ticket: int
    """Of the probe under way; 0 when there is none."""

    def state(self, now: float) -> str:
        """healthy, ejected or probing."""


class PickInfo(Protocol):
    """What a picker may ask of the call that it picks for: an `Rpc` is one (grpc-go `balancer.PickInfo`)."""

    @property
    def now(self) -> float:
        """The present: monotonic seconds."""

    @property
    def rng(self) -> Callable[[], float]:
        """Draws from [0, 1)."""

    @property
    def hash(self) -> int | None:
        """What the route's hash policy made of the request: 64 bits, or None where it made nothing of it."""


class Picker(Protocol):
    """Chooses a node; built for one snapshot, shared by all threads, never blocks.

    "Pick should not block." and "Balancer is expected to generate a new picker from its snapshot every
    time its internal state has changed." - grpc-go `balancer.Picker`

    It may also have `others(info) -> Iterator[NodeState]`: whom to call instead, in order of preference, when
    the node it picked does not suit the call (ejected, unreachable, tried already). The picked node and
    repetitions may be among them; only as many are drawn as are needed. A picker without it is asked again a
    few times, and then any member may be taken.
    """

    def pick(self, info: PickInfo) -> NodeState | None:
        """A node, or None when there is none to be had."""


class _Noticed:
    """Whether somebody holds it can be noticed. (`weakref_slot` is Python 3.11's.)"""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True, eq=False)
class Cluster(_Noticed):
    """A destination with its members and how one of them is chosen.

    `known` is False until its source has answered for it once: calls wait then, instead of failing.
    """

    key: ClusterKey
    watched: Watched
    policy: TrafficPolicy
    nodes: Sequence[NodeState]
    weights: Sequence[int]
    picker: Picker
    state: DestinationState
    known: bool = True
    failover: Sequence[Watched] = ()
    """Where else its endpoints come from at present, for too few of its own are healthy."""
    left_out: Callable[[], Iterable[tuple[Endpoint, str]]] = tuple
    """Endpoints that are known and no members, with the reason: asked for when somebody wants to see it."""

    @property
    def watches(self) -> Sequence[Watched]:
        """All that is followed for it."""
        return (self.watched, *self.failover)

    @property
    def connection(self) -> Connection:
        """How its endpoints are connected."""
        return self.policy.connection

    def __repr__(self) -> str:
        return f"<Cluster {self.key}: {len(self.nodes)} nodes, {self.policy.load_balancer.policy}>"


NO_RETRIES = RetryPolicy(attempts=0)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedRoute:
    """A route, ready to be followed: names resolved, split weighed, filters composed."""

    name: str
    route: Route
    matcher: Any
    """`policy.matcher.Matcher`."""
    choose: Callable[[float], int]
    """A number in [0, 1) -> the index of a destination."""
    clusters: Sequence[Cluster]
    shares: Sequence[float]
    edits: Sequence[Callable[[Any], Any] | None]
    """For each destination, what it does to the request metadata."""
    run: Any
    """The `script.Service` below the route filter, composed of what this route needs."""
    timeout: float | None = None
    retry: RetryPolicy = NO_RETRIES
    may_retry: Callable[[Any, bool], bool] = field(default=lambda _outcome, _timed_out: False)
    faults: Any = None
    """`policy.fault.Faults`, where the route has some."""
    sticky: Callable[[Any], int | None] | None = None
    """From the request metadata to the index of a destination, where the split is sticky; None: draw."""
    hash: Any = None
    """`policy.hashing.Hasher`, where a destination's balancer goes by hashes."""
    rate: Callable[[float], bool] | None = None
    """Takes a token of the route's bucket, where it has one."""
    hedge: Hedge | None = None
    """Hedging takes the place of retries where it is set."""
    non_fatal: Callable[[Any, bool], bool] = field(default=lambda _outcome, _timed_out: False)
    """Which failures don't end a hedged call."""
    mirrors: Sequence[PlannedMirror] = ()

    @property
    def reached(self) -> Sequence[Cluster]:
        """Every destination that something is sent to: where calls go, and where copies of them do."""
        return (*self.clusters, *(mirror.cluster for mirror in self.mirrors))


@dataclass(frozen=True, slots=True, eq=False)
class PlannedMirror:
    """A mirror, ready to be cast: `route` is what the copy follows, its own destination and nothing that retries."""

    percent: float
    strip: Callable[[Any], Any]
    """What it does to the request metadata."""
    route: PlannedRoute
    allowed: Sequence[str] = ()
    """Keys that go along although they may carry credentials."""

    @property
    def cluster(self) -> Cluster:
        """Where copies go."""
        return self.route.clusters[0]

    @property
    def state(self) -> MirrorState:
        """What changes about that destination."""
        state: Any = self.cluster.state
        return state  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Routes of every used service, and every cluster they lead to, at one version."""

    version: int
    services: Mapping[str, ServiceTable] = field(default_factory=dict)
    clusters: Mapping[ClusterKey, Cluster] = field(default_factory=dict)

    def __repr__(self) -> str:
        nodes = sum(len(cluster.nodes) for cluster in self.clusters.values())
        return (
            f"<Snapshot v{self.version}: {len(self.services)} services, {len(self.clusters)} clusters, {nodes} nodes>"
        )


NOTHING = Snapshot(0)
"""What is known before anything is known."""
