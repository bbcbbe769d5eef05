"""The order, said once: every filter from the caller to the wire, each with the reason for its place.

`route` is the head of every call; the rest is composed per route when a snapshot is made, and only of what
that route needs: what is not configured costs nothing. See `script.py` for what a filter is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from proxyless.filters.balance import balance
from proxyless.filters.breaker import breaker
from proxyless.filters.deadline import deadline
from proxyless.filters.fault import fault
from proxyless.filters.hash import hash
from proxyless.filters.hedge import hedge
from proxyless.filters.mirror import mirror
from proxyless.filters.rate_limit import rate_limit
from proxyless.filters.respond import respond
from proxyless.filters.retry import retry
from proxyless.filters.route import route
from proxyless.filters.watch import watched
from proxyless.model.snapshot import PlannedRoute
from proxyless.script import Filter, Outcome, Rpc, Script, Service

__all__ = ["ENTRY", "STACK", "Stage", "compose", "watched"]

ENTRY: Service = route
"""First: every later filter reads the route and the destination that it finds. Only who watches calls stands
before it, as long as somebody does: `watched(ENTRY, watchers)`."""


class Stage(NamedTuple):
    """A filter in its place, and which routes need it."""

    filter: Filter
    needed: Callable[[PlannedRoute], bool]


def _sends(planned: PlannedRoute) -> bool:
    return planned.route.direct_response is None


STACK: tuple[Stage, ...] = (
    # first of all: a refused call costs nothing else
    Stage(rate_limit, lambda planned: planned.rate is not None),
    # above all that may wait or try again: it owns the call's timeout
    Stage(deadline, lambda planned: planned.timeout is not None),
    # below deadline: an injected delay is felt as a real one; above breaker and retry: an abort tests the caller
    Stage(fault, lambda planned: planned.faults is not None),
    # instead of all that sends: a route that answers by itself needs no endpoint
    Stage(respond, lambda planned: planned.route.direct_response is not None),
    # above mirror and retry: a call has one hash, whatever the attempt; below route, which may have changed what is
    # hashed
    Stage(hash, lambda planned: planned.hash is not None),
    # above retry: one shadow a call, not one an attempt; below fault: an aborted call casts none
    Stage(mirror, lambda planned: _sends(planned) and bool(planned.mirrors)),
    # above retry: it judges calls, not attempts
    Stage(breaker, lambda planned: _sends(planned) and any(c.policy.circuit_breaker for c in planned.clusters)),
    # below deadline: never waits past it; above balance: each attempt is admitted and picked anew
    Stage(retry, lambda planned: _sends(planned) and planned.retry.counts and planned.hedge is None),
    # where retry would stand, and instead of it: a call has "a retry policy or a hedge policy, but not both" (gRFC A6)
    Stage(hedge, lambda planned: _sends(planned) and planned.hedge is not None),
    # last: chooses the node, and brackets the attempt, which `limits` admit or refuse where it begins
    Stage(balance, _sends),
)


def compose(planned: PlannedRoute) -> Service:
    """The filters that `planned` needs, nested in the order of `STACK`."""
    service: Service = _nothing_below
    for stage in reversed(STACK):
        if stage.needed(planned):
            service = _nest(stage.filter, service)
    return service


def _nest(this: Filter, below: Service) -> Service:
    return lambda rpc: this(rpc, below)


def _nothing_below(rpc: Rpc) -> Script[Outcome]:
    raise AssertionError(f"the last filter of route {rpc.route.name} must not call its neighbour: there is none")
