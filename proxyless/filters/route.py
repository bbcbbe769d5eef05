"""Which route a call follows, and which destination of it: decided once, before everything else.

Routing is the ConfigSelector's in gRPC: once per RPC, before load balancing and before retries (gRFC A31).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxyless.model.codes import Code
from proxyless.model.snapshot import PlannedRoute
from proxyless.policy.matcher import joined
from proxyless.script import MOVED, Outcome, Rpc, Script, refuse, wait


def route(rpc: Rpc) -> Script[Outcome]:
    """Follow the first route that matches. The head of every call: what comes next, the route itself knows."""
    table = rpc.snapshot.services.get(rpc.service)
    if table is None:
        return _first_snapshot(rpc)
    plan = table.plan(rpc.method, rpc.authority)
    if plan.usual is not None:
        asked = plan.asked
        for key, _ in rpc.metadata or ():
            if key in asked:
                break
        else:
            return _follow(rpc, plan.usual)
    headers = joined(rpc.metadata)
    for test, planned in plan.steps:
        if test is None or test(headers, rpc.rng):
            return _follow(rpc, planned)
    if table.rejected:
        return refuse(Code.UNAVAILABLE, "not_ready", table.rejected)
    return refuse(
        Code.UNAVAILABLE,
        "no_route",
        f"no route of {rpc.service} ({len(table.routes)} in its document, version {table.version}) matches "
        f"{rpc.method}; see `proxyless explain {rpc.service} {rpc.method}`",
    )


def _follow(rpc: Rpc, planned: PlannedRoute) -> Script[Outcome]:
    rpc.route = planned
    clusters = planned.clusters
    index = 0
    if len(clusters) > 1:
        index = planned.choose(rpc.rng()) if planned.sticky is None else _share(rpc, planned, planned.sticky)
    if clusters:
        rpc.cluster = cluster = clusters[index]
        if rpc.wait_for_ready or not cluster.known:
            return _may_wait(rpc, planned, index)
        edit = planned.edits[index]
        if edit is not None:
            rpc.metadata = edit(rpc.metadata)
    script: Script[Outcome] = planned.run(rpc)
    return script


def _share(rpc: Rpc, planned: PlannedRoute, sticky: Callable[[Any], int | None]) -> int:
    """Which destination of a split: the one that the request sticks to, or the one that is drawn."""
    index = sticky(rpc.metadata)
    return planned.choose(rpc.rng()) if index is None else index


def _may_wait(rpc: Rpc, planned: PlannedRoute, index: int) -> Script[Outcome]:
    """A call that may wait long, and if the documents lead elsewhere by then, goes there."""
    deadline, metadata = rpc.deadline, rpc.metadata
    edit = planned.edits[index]
    if edit is not None:
        rpc.metadata = edit(metadata)
    outcome: Outcome = yield from planned.run(rpc)
    if outcome is MOVED:
        rpc.deadline, rpc.metadata = deadline, metadata
        outcome = yield from route(rpc)
    return outcome


def _first_snapshot(rpc: Rpc) -> Script[Outcome]:
    """Nothing is known of this service yet: wait for it, as long as the caller would."""
    while rpc.service not in rpc.snapshot.services:
        newer = yield from wait(rpc.snapshot.version, rpc.deadline)
        if newer is None:
            refusal = yield from refuse(
                Code.UNAVAILABLE,
                "not_ready",
                f"nothing was heard of {rpc.service} before the call's deadline: its source has not answered yet "
                f"and no earlier state was found on disk; see `proxyless ps` and `Mesh.status()`",
            )
            return refusal
        rpc.snapshot = newer
    outcome = yield from route(rpc)
    return outcome
