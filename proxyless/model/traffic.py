"""How traffic to a destination is handled: the `trafficPolicy` block (CONTRACT section 5).

Every block may leave fields out, and what is left out is inherited: subset over service over mesh over
`DEFAULTS`, field by field. `UNSET` is the value of a field left out; after `overlay(DEFAULTS, …)` no field
holds it any more, which is why the types do not speak of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar

from proxyless.model.localities import UNSET, LocalityPolicy
from proxyless.model.quantities import STRICT, Between, Checked, Duration, Long, Name, Percent, Prime

T = TypeVar("T")

Count = Annotated[int, Between(0, 1_000_000)]
Positive = Annotated[int, Between(1, 1_000_000)]
Short = Annotated[Duration, Long(0, 3600)]

PolicyName = Name
"""A balancer's name. Plug-ins add balancers, so that the name is known is for the compiler to say."""


@dataclass(frozen=True, slots=True)
class SlowStart(Checked):
    """A new endpoint's weight grows over `window` (Envoy: slow start)."""

    __pydantic_config__ = STRICT
    window: Short = UNSET
    aggression: Annotated[float, Between(0.01, 100)] = UNSET
    min_weight_percent: Percent = UNSET


@dataclass(frozen=True, slots=True)
class LoadBalancer(Checked):
    """Which endpoint of the destination serves a call."""

    __pydantic_config__ = STRICT
    policy: PolicyName = UNSET
    choices: Annotated[int, Between(2, 10)] = UNSET
    """least_request: how many endpoints are looked at. "If choice_count < 2, the config will be rejected." - A48"""
    active_request_bias: Annotated[float, Between(0, 10)] = UNSET
    """least_request over unequal weights: weight / (active + 1) ** bias, as Envoy has it."""
    slow_start: SlowStart = UNSET
    minimum_ring_size: Annotated[int, Between(1, 65536)] = UNSET
    maximum_ring_size: Annotated[int, Between(1, 65536)] = UNSET
    """ring_hash: entries on the ring. More of them share better, at 12 bytes and half a microsecond a change each."""
    entries_per_endpoint: Annotated[int, Between(1, 65536)] = UNSET
    """ring_hash: instead of a minimum size, entries for the lightest endpoint, however many endpoints there are. So
    one that comes or goes moves its own keys only; with a size for all, as the peers have it, the others' entries
    get fewer or more as well. Envoy and gRPC have no such setting: a ring shared with them must go without."""
    table_size: Annotated[int, Between(2, 655_373), Prime()] = UNSET
    """maglev: slots; at least a hundred times the endpoints keeps shares within 1 %. Envoy allows 5,000,011, which
    would take this process ten seconds at every change."""
    hash_balance_factor: Annotated[float, Between(100, 1_000_000)] = UNSET
    """ring_hash, maglev: percent of the mean load that one endpoint may have; left out, a hot key may have all."""
    decay_time: Annotated[Duration, Long(0.001, 3600)] = UNSET
    """peak_ewma: the mean lifetime of what was learnt of a latency (half of it is forgotten in 0.69 of this)."""
    failure_penalty: Short = UNSET
    """peak_ewma: what a failure is taken to have lasted, at least."""
    blackout_period: Short = UNSET
    """weighted_round_robin: how long an endpoint must have reported before its reports count."""
    weight_expiration_period: Short = UNSET
    """weighted_round_robin: how long its last report counts."""
    weight_update_period: Annotated[Duration, Long(0.1, 3600)] = UNSET
    """weighted_round_robin: how often weights are computed. gRFC A58 allows no less than 100 ms."""
    error_utilization_penalty: Annotated[float, Between(0, 1000)] = UNSET
    """weighted_round_robin: how much a rate of errors counts as utilization."""


@dataclass(frozen=True, slots=True)
class SuccessRate(Checked):
    """Eject what succeeds less often than its peers by `stdev_factor` standard deviations."""

    __pydantic_config__ = STRICT
    minimum_hosts: Count = UNSET
    request_volume: Count = UNSET
    stdev_factor: Annotated[float, Between(0, 100)] = UNSET


@dataclass(frozen=True, slots=True)
class FailurePercentage(Checked):
    """Eject what fails `threshold` percent of its calls or more."""

    __pydantic_config__ = STRICT
    threshold: Percent = UNSET
    minimum_hosts: Count = UNSET
    request_volume: Count = UNSET


@dataclass(frozen=True, slots=True)
class Probation(Checked):
    """Half-open: how many live requests must succeed before an ejected endpoint gets its full share."""

    __pydantic_config__ = STRICT
    requests: Positive = UNSET


@dataclass(frozen=True, slots=True)
class OutlierDetection(Checked):
    """When an endpoint is ejected, and for how long (Envoy outlier detection, plus probation)."""

    __pydantic_config__ = STRICT
    interval: Annotated[Duration, Long(0.01, 3600)] = UNSET
    consecutive5xx: Count = UNSET
    consecutive_gateway_errors: Count = UNSET
    consecutive_local_origin_failures: Count = UNSET
    split_external_local_origin_errors: bool = UNSET
    base_ejection_time: Short = UNSET
    max_ejection_time: Annotated[Duration, Long(0, 24 * 3600)] = UNSET
    max_ejection_percent: Percent = UNSET
    min_health_percent: Percent = UNSET
    success_rate: SuccessRate = UNSET
    failure_percentage: FailurePercentage = UNSET
    probation: Probation = UNSET


@dataclass(frozen=True, slots=True)
class CircuitBreaker(Checked):
    """CLOSED, OPEN, HALF_OPEN for a destination as a whole."""

    __pydantic_config__ = STRICT
    failure_rate: Percent = UNSET
    minimum_requests: Positive = UNSET
    window: Annotated[Duration, Long(0.1, 3600)] = UNSET
    open_for: Annotated[Duration, Long(0.01, 3600)] = UNSET
    half_open_requests: Positive = UNSET


@dataclass(frozen=True, slots=True)
class Limits(Checked):
    """Caps on what is under way to a destination at one time (Envoy circuit breakers, gRFC A32)."""

    __pydantic_config__ = STRICT
    max_requests: Count = UNSET
    max_pending_requests: Count = UNSET
    max_retries: Count = UNSET


@dataclass(frozen=True, slots=True)
class RetryBudget(Checked):
    """Retries as a share of calls (Finagle's window, Linkerd's rule for deposits)."""

    __pydantic_config__ = STRICT
    ratio: Annotated[float, Between(0, 1000)] = UNSET
    min_retries_per_second: Annotated[float, Between(0, 100_000)] = UNSET
    ttl: Annotated[Duration, Long(1, 60)] = UNSET


@dataclass(frozen=True, slots=True)
class Connection(Checked):
    """How endpoints are connected. Keepalive is off (0s) unless asked for: servers answer pings that come
    more often than every 5 minutes with GOAWAY ENHANCE_YOUR_CALM."""

    __pydantic_config__ = STRICT
    connect_timeout: Annotated[Duration, Long(0.01, 300)] = UNSET
    idle_timeout: Annotated[Duration, Long(0, 30 * 24 * 3600)] = UNSET
    keepalive_time: Annotated[Duration, Long(0, 24 * 3600)] = UNSET
    keepalive_timeout: Annotated[Duration, Long(0.01, 3600)] = UNSET
    max_endpoints: Count = UNSET


@dataclass(frozen=True, slots=True)
class Tls:
    """Transport security towards the endpoints, where the channel was not given credentials."""

    __pydantic_config__ = STRICT
    mode: Literal["DISABLE"] = UNSET


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """Everything about how calls to a destination are handled; see the blocks."""

    __pydantic_config__ = STRICT
    load_balancer: LoadBalancer = UNSET
    locality: LocalityPolicy = UNSET
    outlier_detection: OutlierDetection = UNSET
    circuit_breaker: CircuitBreaker = UNSET
    limits: Limits = UNSET
    retry_budget: RetryBudget = UNSET
    connection: Connection = UNSET
    tls: Tls = UNSET


DEFAULTS = TrafficPolicy(
    load_balancer=LoadBalancer(policy="least_request", choices=2, active_request_bias=1.0),
    connection=Connection(
        connect_timeout=Duration(1),
        idle_timeout=Duration(1800),
        keepalive_time=Duration(0),
        keepalive_timeout=Duration(20),
        max_endpoints=0,
    ),
    retry_budget=RetryBudget(ratio=0.2, min_retries_per_second=10, ttl=Duration(10)),
    limits=Limits(max_requests=1024, max_pending_requests=1024, max_retries=0),
    outlier_detection=OutlierDetection(
        interval=Duration(10),
        consecutive5xx=5,
        consecutive_gateway_errors=0,
        consecutive_local_origin_failures=5,
        split_external_local_origin_errors=False,
        base_ejection_time=Duration(30),
        max_ejection_percent=50.0,
        min_health_percent=0.0,
        probation=Probation(requests=1),
    ),
    tls=Tls(mode="DISABLE"),
)
"""What holds where no document says otherwise (CONTRACT section 9)."""


MAX_EJECTION_TIME = Duration(300)
"""Where no document says: "the default value (300000ms or 300s) or base_ejection_time value is applied, whatever is
larger" - Envoy `outlier_detection.proto`, gRFC A50. A cap that is said holds, also below the base."""
SUCCESS_RATE = SuccessRate(minimum_hosts=5, request_volume=100, stdev_factor=1.9)
FAILURE_PERCENTAGE = FailurePercentage(threshold=85.0, minimum_hosts=5, request_volume=50)
LOCALITY = LocalityPolicy(
    enabled=True, distribute=(), failover=(), failover_priority=(), overprovisioning=1.4, panic_threshold=50.0
)
SLOW_START = SlowStart(window=Duration(0), aggression=1.0, min_weight_percent=10.0)
CIRCUIT_BREAKER = CircuitBreaker(
    failure_rate=50.0,
    minimum_requests=20,
    window=Duration(10),
    open_for=Duration(30),
    half_open_requests=3,
)
"""What is off unless a document has the block, and what its fields are then when they are left out."""


OF_POLICY = {
    "ring_hash": LoadBalancer(minimum_ring_size=1024, maximum_ring_size=65536),
    "maglev": LoadBalancer(table_size=65537),
    "peak_ewma": LoadBalancer(decay_time=Duration(10), failure_penalty=Duration(5)),
    "weighted_round_robin": LoadBalancer(
        blackout_period=Duration(10),
        weight_expiration_period=Duration(180),
        weight_update_period=Duration(1),
        error_utilization_penalty=1.0,
    ),
}
"""What fields of one balancer are where they are left out: Envoy's, Finagle's with Linkerd's penalty, gRFC A58's. The
largest ring is ours: Envoy's 8 Mi entries would be 0.1 GB of Python and seconds of work, gRPC's 4096 would leave most
of ten thousand endpoints without a place."""


def settled(policy: TrafficPolicy) -> TrafficPolicy:
    """`policy`, laid over the defaults already, with the blocks that are off by default completed where they are on."""
    outliers = policy.outlier_detection
    rate, percentage, breaker = outliers.success_rate, outliers.failure_percentage, policy.circuit_breaker
    longest: Duration | None = outliers.max_ejection_time
    outliers = overlay(
        outliers,
        OutlierDetection(
            max_ejection_time=longest if longest is not None else max(MAX_EJECTION_TIME, outliers.base_ejection_time),
            success_rate=overlay(SUCCESS_RATE, rate) if rate is not None else None,
            failure_percentage=overlay(FAILURE_PERCENTAGE, percentage) if percentage is not None else None,
        ),
    )
    completed = overlay(CIRCUIT_BREAKER, breaker) if breaker is not None else None
    locality, slow = policy.locality, policy.load_balancer.slow_start
    balancer = overlay(
        OF_POLICY.get(policy.load_balancer.policy, LoadBalancer()),
        policy.load_balancer,
        LoadBalancer(slow_start=overlay(SLOW_START, slow) if slow is not None else None),
    )
    return overlay(
        policy,
        TrafficPolicy(
            load_balancer=balancer,
            locality=overlay(LOCALITY, locality) if locality is not None else None,
            outlier_detection=outliers,
            circuit_breaker=completed,
        ),
    )


def overlay(base: T, *over: T | None) -> T:
    """`base` with each of `over` laid on it in turn, field by field; what is left out shines through."""
    for upper in over:
        if upper is not None:
            base = _overlaid(base, upper)
    return base


def _overlaid(base: Any, upper: Any) -> Any:
    if base is None or not is_dataclass(base) or type(base) is not type(upper):
        return upper
    kind: Any = type(base)
    merged = {
        f.name: getattr(base, f.name)
        if getattr(upper, f.name) is None
        else _overlaid(getattr(base, f.name), getattr(upper, f.name))
        for f in fields(base)
    }
    return kind(**merged)
