"""The names that dashboards are built on: metrics with their units and buckets, spans, attributes.

They are the field's own where the field has one: OpenTelemetry's semantic conventions for the call
(`rpc.client.call.duration`, seen from the caller, retries inside), gRPC's for its attempts (gRFC A66, A96; locality
and destination as in A78 and A89). What only a mesh knows begins with `proxyless.`.
"""

from __future__ import annotations

from typing import NamedTuple

SCOPE = "proxyless"
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"


class Metric(NamedTuple):
    """One instrument: what it is called, what it counts in, and what it says."""

    name: str
    unit: str
    says: str
    buckets: tuple[float, ...] | None = None


CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Seconds: those that the semantic conventions give for `rpc.client.call.duration`."""

# fmt: off
ATTEMPT_BUCKETS = (
    0, .00001, .00005, .0001, .0003, .0006, .0008, .001, .002, .003, .004, .005, .006, .008, .01, .013, .016, .02, .025,
    .03, .04, .05, .065, .08, .1, .13, .16, .2, .25, .3, .4, .5, .65, .8, 1, 2, 5, 10, 20, 50, 100,
)
"""Seconds: "Buckets for histograms in the default view", latency - gRFC A66."""
# fmt: on

RETRY_BUCKETS = (1, 2, 3, 4, 5, 10)
"""Retries of one call; documents allow 10 at most."""

CALL_DURATION = Metric(
    "rpc.client.call.duration", "s", "How long calls took, as their callers saw them: retries inside.", CALL_BUCKETS
)
ATTEMPT_STARTED = Metric(
    "grpc.client.attempt.started", "{attempt}", "Attempts that were started, those included that have not ended."
)
ATTEMPT_DURATION = Metric(
    "grpc.client.attempt.duration", "s", "How long attempts took, a stream to its end.", ATTEMPT_BUCKETS
)
CALL_RETRIES = Metric(
    "grpc.client.call.retries", "{retry}", "Retries of the calls that were retried at all.", RETRY_BUCKETS
)
ENDPOINTS = Metric("proxyless.endpoints", "{endpoint}", "Endpoints of each destination that is in use, by state.")
EJECTIONS = Metric("proxyless.ejections", "{ejection}", "Endpoints that outlier detection took out of rotation.")
BREAKER_STATE = Metric(
    "proxyless.breaker.state", "1", "The circuit breaker of a destination: 1 for the state it is in, 0 for the others."
)
RETRY_DENIED = Metric("proxyless.retry.denied", "{retry}", "Retries that the budget or a limit did not allow.")
CONFIG_VERSION = Metric("proxyless.config.version", "1", "The version of the snapshot that calls go by.")
CONFIG_REJECTED = Metric("proxyless.config.rejected", "{document}", "Documents that were invalid and have no effect.")
REFUSALS = Metric("proxyless.refusals", "{call}", "Calls that the mesh itself ended, by reason.")
MIRRORED = Metric("proxyless.mirrored", "{request}", "Copies of requests that were sent to mirrors.")
STALENESS = Metric("proxyless.source.staleness", "s", "For how long the source has not answered; 0 while it does.")

METRICS = (
    CALL_DURATION,
    ATTEMPT_STARTED,
    ATTEMPT_DURATION,
    CALL_RETRIES,
    ENDPOINTS,
    EJECTIONS,
    BREAKER_STATE,
    RETRY_DENIED,
    CONFIG_VERSION,
    CONFIG_REJECTED,
    REFUSALS,
    MIRRORED,
    STALENESS,
)

# Attributes. Values are names out of documents, status words and methods: never a header's value, never an address.

SYSTEM = "rpc.system.name"
METHOD = "rpc.method"
STATUS = "rpc.response.status_code"
"""Renamed `rpc.status_code` on the conventions' main branch after 1.44: it stands here once."""
ERROR = "error.type"
SERVER = "server.address"
GRPC_METHOD = "grpc.method"
GRPC_TARGET = "grpc.target"
GRPC_STATUS = "grpc.status"
GRPC_LOCALITY = "grpc.lb.locality"
GRPC_BACKEND = "grpc.lb.backend_service"
ROUTE = "proxyless.route"
SERVICE = "proxyless.service"
SUBSET = "proxyless.subset"
STATE = "proxyless.state"
REASON = "proxyless.reason"
DOCUMENT = "proxyless.document"
SOURCE = "proxyless.source"
ATTEMPTS = "proxyless.attempts"
PEER = "network.peer.address"
PEER_PORT = "network.peer.port"

OVERFLOW = {"otel.metric.overflow": True}
"""What is counted beyond the bound on sets of attributes ("cardinality limits", OpenTelemetry's metrics SDK)."""
OTHER = "other"
"""The method beyond the bound on methods (gRFC A66, for those that nobody registered)."""

STATUSES = tuple(
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED".split()
)
"""By number (`grpc:doc/statuscodes.md`)."""
BREAKER_STATES = ("CLOSED", "OPEN", "HALF_OPEN")


def target(service: str) -> str:
    """A service as gRPC names what a channel was made for ("canonicalized target URI" - gRFC A66)."""
    return f"proxyless:///{service}"


def version() -> str:
    """The package's own, for the scope of what it emits."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(SCOPE)
    except PackageNotFoundError:
        return ""
