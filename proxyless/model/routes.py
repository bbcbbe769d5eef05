"""What becomes of a request that a route matched (CONTRACT section 3)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from proxyless.model.codes import FAILURE_NAMES
from proxyless.model.localities import UNSET
from proxyless.model.matches import HEADER_NAME, HeaderName, Match
from proxyless.model.quantities import (
    HEAVIEST,
    STRICT,
    AtMost,
    Between,
    Checked,
    Duration,
    Long,
    Name,
    Percent,
    Weight,
    checked,
)

StatusName = Literal[
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]
assert StatusName.__args__ == FAILURE_NAMES  # type: ignore[attr-defined]

RetryOn = Literal[
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
    "5xx",
    "gateway-error",
    "reset",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
]
"""gRPC codes in lower case with hyphens, and Envoy's words for what gRPC has no code of its own for."""

LONGEST_DELAY = 3600
Delay = Annotated[Duration, Long(0, LONGEST_DELAY)]

RESERVED = frozenset(
    "te host connection keep-alive proxy-connection transfer-encoding upgrade content-type content-length "
    "content-encoding accept-encoding user-agent".split()
)
"""Keys that HTTP/2 or grpc owns: a value of ours there is lost at best and ends the connection at worst."""


BINARY = "must not end in -bin: such a value is bytes, and no text to go by"


@dataclass(frozen=True, slots=True)
class HeaderEdit:
    """Changes to the request metadata: `remove` first, then `set` (replaces), then `add` (appends)."""

    __pydantic_config__ = STRICT
    # Not in reprs, which end up in logs: a document may set a token.
    set: Annotated[Mapping[HeaderName, str], AtMost(64)] = field(default_factory=dict, hash=False, repr=False)
    add: Annotated[Mapping[HeaderName, str], AtMost(64)] = field(default_factory=dict, hash=False, repr=False)
    remove: Annotated[tuple[HeaderName, ...], AtMost(64)] = ()

    def __post_init__(self) -> None:
        problems = []
        for verb, pairs in (("set", self.set), ("add", self.add)):
            for name, value in pairs.items():
                if wrong := _name_problem(name) or _value_problem(name, value):
                    problems.append((f"{verb}.{name}", wrong))
        problems += [
            (f"remove[{index}]", wrong) for index, name in enumerate(self.remove) if (wrong := _name_problem(name))
        ]
        checked(self, *problems)


def _name_problem(name: str) -> str:
    try:
        HEADER_NAME.check(name)
    except ValueError as wrong:
        return str(wrong)
    if name in RESERVED or name.startswith("grpc-"):
        return "is reserved by gRPC or HTTP/2 and can't be changed by a document"
    return ""


def _value_problem(name: str, value: str) -> str:
    if name.endswith("-bin"):
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return "must be base64, because the key ends in -bin"
    elif not (value.isascii() and value.isprintable()):
        return "must be printable ASCII: a stray control character would end the connection for every caller"
    return "must have at most 4096 characters" if len(value) > 4096 else ""


@dataclass(frozen=True, slots=True)
class Split(Checked):
    """One destination of a route, with its share: `weight` over the sum of weights."""

    __pydantic_config__ = STRICT
    service: Name | None = None
    subset: Name | None = None
    weight: Weight = 1.0
    headers: HeaderEdit | None = None


@dataclass(frozen=True, slots=True)
class Sticky:
    """Makes the split a function of a header's hash, so that one user stays on one side."""

    __pydantic_config__ = STRICT
    header: HeaderName

    def __post_init__(self) -> None:
        checked(self, *([("header", BINARY)] if self.header.endswith("-bin") else []))


@dataclass(frozen=True, slots=True)
class DirectResponse(Checked):
    """Answer at once, without any endpoint."""

    __pydantic_config__ = STRICT
    status: StatusName
    message: Annotated[str, AtMost(1024)] = ""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: the n-th retry waits 0 to min(base * 2 ** (n - 1), max), as Envoy does.

    `max` left out is ten times `base`: "The default is 10 times the base_interval" (Envoy `RetryBackOff`).
    """

    __pydantic_config__ = STRICT
    base: Delay = Duration(0.025)
    max: Delay = UNSET

    def __post_init__(self) -> None:
        if self.max is None:
            object.__setattr__(self, "max", Duration(min(10 * self.base, LONGEST_DELAY)))
        checked(self, *([("max", f"must be at least base ({self.base})")] if self.max < self.base else []))


@dataclass(frozen=True, slots=True)
class RetryPolicy(Checked):
    """Whether a failed attempt is tried again. `attempts` counts retries after the first try; 0 is off.

    `per_try_timeout` bounds each attempt within the call's own time; `0s` is none, as for the call's (Envoy starts
    its timer only for more). `idempotent_only`: only methods whose .proto says `idempotency_level` NO_SIDE_EFFECTS
    or IDEMPOTENT, and what never reached a server. `previous_hosts`: a retry keeps away from endpoints that have
    failed this call, while there are others.
    """

    __pydantic_config__ = STRICT
    attempts: Annotated[int, Between(0, 10)] = 2
    per_try_timeout: Delay | None = None
    on: Annotated[tuple[RetryOn, ...], AtMost(32)] = ("connect-failure", "refused-stream", "unavailable")
    backoff: Backoff = Backoff()
    idempotent_only: bool = False
    remote_localities: bool = False
    previous_hosts: Literal["avoid", "allow"] = "avoid"

    @property
    def counts(self) -> bool:
        """Whether it has anything to say: without retries, a bound on the one try is still a bound."""
        return self.attempts > 0 or bool(self.per_try_timeout)


@dataclass(frozen=True, slots=True)
class Hedge(Checked):
    """Send again before an answer came; the first success wins (gRFC A6, which grpc in Python ignores)."""

    __pydantic_config__ = STRICT
    delay: Delay = Duration(0)
    attempts: Annotated[int, Between(1, 5)] = 1
    non_fatal: Annotated[tuple[RetryOn, ...], AtMost(32)] = ()


@dataclass(frozen=True, slots=True)
class FaultDelay(Checked):
    """Hold `percent` of the calls back for `fixed`."""

    __pydantic_config__ = STRICT
    percent: Percent
    fixed: Delay


@dataclass(frozen=True, slots=True)
class FaultAbort:
    """Fail `percent` of the calls, by a gRPC `status` or what an `httpStatus` maps to."""

    __pydantic_config__ = STRICT
    percent: Percent
    status: StatusName | None = None
    http_status: Annotated[int, Between(200, 599)] | None = None

    def __post_init__(self) -> None:
        both = (self.status is None) == (self.http_status is None)
        checked(self, *([("", "must have exactly one of status, httpStatus")] if both else []))


@dataclass(frozen=True, slots=True)
class Fault:
    """Faults on purpose, drawn independently, the delay first (Envoy fault filter, gRFC A33)."""

    __pydantic_config__ = STRICT
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None
    headers: bool = False


@dataclass(frozen=True, slots=True)
class Mirror(Checked):
    """Copy `percent` of the calls to another destination, fire and forget."""

    __pydantic_config__ = STRICT
    service: Name | None = None
    subset: Name | None = None
    percent: Percent = 100.0
    allow_headers: Annotated[tuple[HeaderName, ...], AtMost(64)] = ()


@dataclass(frozen=True, slots=True)
class Hash:
    """One source of the hash that consistent-hashing balancers use.

    `header` and `metadata_key` are the same to gRPC; the second may also name a key that ends in "-bin". `channel`
    keeps all calls of one channel together. `terminal`: if there is a hash by then, later sources are not asked.
    """

    __pydantic_config__ = STRICT
    header: HeaderName | None = None
    metadata_key: HeaderName | None = None
    channel: bool | None = None
    terminal: bool = False

    def __post_init__(self) -> None:
        ways = sum(way is not None for way in (self.header, self.metadata_key, self.channel))
        problems = [("", "must have exactly one of header, metadataKey, channel")] if ways != 1 else []
        if self.header is not None and self.header.endswith("-bin"):
            problems.append(("header", BINARY + "; metadataKey may"))
        checked(self, *problems)


@dataclass(frozen=True, slots=True)
class RateLimit(Checked):
    """A token bucket in this process; what it refuses ends RESOURCE_EXHAUSTED."""

    __pydantic_config__ = STRICT
    requests_per_second: Annotated[float, Between(0, 1e6)]
    burst: Annotated[int, Between(1, 1_000_000)] = 1


@dataclass(frozen=True, slots=True)
class Route:
    """One rule: which requests (`match`: any block), and what becomes of them.

    With neither `split` nor `directResponse` the call goes to the document's own service. `timeout` bounds
    the whole call, retries included; None inherits the mesh's default and `0s` is no timeout at all.
    """

    __pydantic_config__ = STRICT
    name: Name | None = None
    match: Annotated[tuple[Match, ...], AtMost(64)] = ()
    split: Annotated[tuple[Split, ...], AtMost(64)] = ()
    sticky: Sticky | None = None
    direct_response: DirectResponse | None = None
    timeout: Duration | None = None
    retry: RetryPolicy | None = None
    hedge: Hedge | None = None
    fault: Fault | None = None
    mirror: Annotated[tuple[Mirror, ...], AtMost(8)] = ()
    headers: HeaderEdit | None = None
    hash: Annotated[tuple[Hash, ...], AtMost(8)] = ()
    rate_limit: RateLimit | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.split and self.direct_response:
            problems.append(("directResponse", "can't stand beside split: a call is either sent or answered here"))
        if self.hedge and self.retry and self.retry.counts:
            problems.append(("hedge", "can't stand beside retry: hedging takes the place of retries (gRFC A6)"))
        if self.split and not sum(split.weight for split in self.split) > 0:
            problems.append(("split", "must have a weight above 0: all are 0, so no call could go anywhere"))
        if (together := sum(split.weight for split in self.split)) > HEAVIEST:
            problems.append(("split", f"must have weights of at most {HEAVIEST} together, has {together:.15g}"))
        seen = set()
        for index, split in enumerate(self.split):
            if (key := (split.service, split.subset)) in seen:
                problems.append((f"split[{index}]", "names a destination that this split already has"))
            seen.add(key)
        checked(self, *problems)


def ensure_unique_names(routes: tuple[Route, ...]) -> list[tuple[str, str]]:
    """Route names are what telemetry and `explain` say: two of the same would lie."""
    seen: dict[str, int] = {}
    problems = []
    for index, route in enumerate(routes):
        if route.name is not None:
            if route.name in seen:
                problems.append((f"routes[{index}].name", f"{route.name!r} is already routes[{seen[route.name]}]"))
            seen.setdefault(route.name, index)
    return problems
