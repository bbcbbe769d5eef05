"""A copy of the request to somebody who is only to be watched: it never delays, retries or fails the call.

Above retry, so that one call casts one shadow, and below fault, so that an aborted call casts none. The copy goes
out when the first attempt does, and not where a breaker, a limit or an empty destination keeps the call from being
sent at all.

A copy runs under its own destination, with limits, outliers and endpoints' state of its own, has no retries, and
is not sent where its own cap is reached, or to where nobody is well: a dead shadow is tried now and then, and costs
nothing in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from proxyless.model.snapshot import NodeState, PlannedMirror
from proxyless.policy.mirror import LONGEST, shadow_authority
from proxyless.policy.outlier import EJECTED
from proxyless.script import Outcome, Rpc, Script, Send, Service, Shadow, Spawn

SMALL = 64
"""Nodes that are looked through: one that is well is nearly always the first."""


def mirror(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Draw for each mirror by itself whether it gets a copy, as Envoy does."""
    drawn = [
        one
        for one in rpc.route.mirrors
        if (one.percent >= 100 or 100 * rpc.rng() < one.percent) and _is_there(one.cluster.nodes, rpc.now)
    ]
    return _mirrored(rpc, next, drawn) if drawn else next(rpc)


def _is_there(nodes: Sequence[NodeState], now: float) -> bool:
    """Whether some endpoint may be called: it can be connected as far as is known, and is not ejected."""
    return any(node.reachable_at <= now and node.outlier.state(now) != EJECTED for node in islice(nodes, SMALL))


def _mirrored(rpc: Rpc, next: Service, drawn: Sequence[PlannedMirror]) -> Script[Outcome]:
    """Pass everything on, and cast the shadows just before the first attempt is sent."""
    script = next(rpc)
    reply: Any = None
    cast = False
    try:
        while True:
            effect = script.send(reply)
            if not cast and isinstance(effect, (Send, Spawn)):
                cast = True
                for one in drawn:
                    one.state.mirrored()
                    yield Shadow(one.route.run, _copy(rpc, one))
            reply = yield effect
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    finally:
        script.close()


def _copy(rpc: Rpc, mirror: PlannedMirror) -> Rpc:
    copy = rpc.twin()
    copy.route = mirror.route
    copy.cluster = mirror.cluster
    copy.metadata = mirror.strip(rpc.metadata)
    copy.authority = shadow_authority(rpc.authority)
    copy.deadline = rpc.now + LONGEST if rpc.deadline is None else rpc.deadline
    copy.wait_for_ready = None  # a shadow that can't be reached is missed, not waited for
    copy.tried = None
    copy.watch = None  # it is no attempt of this call
    return copy
