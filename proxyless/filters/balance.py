"""The last step before the wire: choose a node of the destination, and bracket the attempt on it.

`begin` and `done` stand around the attempt, so that in-flight counts are right whatever happens: success,
failure, cancellation, or a caller who lets go of a stream (the driver closes the script, `finally` runs).
"""

from __future__ import annotations

from proxyless.model.codes import Code
from proxyless.model.snapshot import NodeState, Snapshot
from proxyless.script import ABANDONED, DRAIN, Outcome, Rpc, Script, Service, refuse, wait

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0
"""`wait_for_ready` looks again after 20 ms, then doubles up to 1 s: quicker than a person, slower than a storm."""
HOST_SELECTION_ATTEMPTS = 5
"""As Istio sets Envoy's `host_selection_retry_max_attempts`."""
SMALL = 64
"""In a small cluster five draws may all fall on the same few nodes: there we look through it."""


def balance(rpc: Rpc, _next: Service) -> Script[Outcome]:
    """Pick, send, and tell the node how it went."""
    pause = FIRST_PAUSE
    while True:
        node = rpc.cluster.picker.pick(rpc.rng)
        if node is not None and (node.reachable_at or rpc.tried is not None) and not _suits(rpc, node):
            node = _another(rpc, node)
        if node is None:
            refusal = yield from _no_endpoints(rpc)
            if refusal is not None:
                return refusal
            continue
        if rpc.deadline is not None and rpc.deadline <= rpc.now:
            return (yield from _expired(rpc))
        rpc.node = node
        outcome: Outcome = ABANDONED
        node.begin()
        try:
            outcome = yield node.send
            if outcome.open:
                outcome = ABANDONED
                outcome = yield DRAIN
        finally:
            node.done(outcome.code != 0 and outcome is not ABANDONED)
        if outcome.unsent:
            node.unreachable(rpc.now)
        elif node.reachable_at and outcome is not ABANDONED:
            node.reached()
        if not (outcome.unsent and rpc.wait_for_ready):
            return outcome
        # "wait_for_ready: queue while there is no usable endpoint" - of the mesh, not of the one node that
        # happened to be picked: forwarded to a single connection it would pin the call to a dead endpoint.
        yield from _look_again(rpc, rpc.now + pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _look_again(rpc: Rpc, at: float) -> Script[None]:
    """Wait until that instant, or until somebody else can be called: all whom the call knows may be dead."""
    until = at if rpc.deadline is None else min(at, rpc.deadline)
    while (newer := (yield from wait(rpc.snapshot.version, until))) is not None:
        known = rpc.cluster
        _follow(rpc, newer)
        if rpc.cluster is not known:
            return


def _follow(rpc: Rpc, newer: Snapshot) -> None:
    """Go by what a newer snapshot says of the destination."""
    rpc.snapshot = newer
    rpc.cluster = newer.clusters.get(rpc.cluster.key, rpc.cluster)


def _suits(rpc: Rpc, node: NodeState) -> bool:
    """Whether this call has not failed there yet, and it can be connected as far as we know."""
    if rpc.tried is not None and node in rpc.tried:
        return False
    return not node.reachable_at or (node.reachable_at <= rpc.now and node.probe(rpc.now))


def _another(rpc: Rpc, node: NodeState) -> NodeState:
    """Pick again until one suits; where none does, one that was not tried yet is better, and any than none."""
    untried = None
    for _ in range(HOST_SELECTION_ATTEMPTS):
        other = rpc.cluster.picker.pick(rpc.rng)
        if other is None:
            break
        if _suits(rpc, other):
            return other
        if other not in (rpc.tried or ()):
            untried = other
    for other in rpc.cluster.nodes[:SMALL]:
        if _suits(rpc, other):
            return other
        if untried is None and other not in (rpc.tried or ()):
            untried = other
    return untried or node


def _expired(rpc: Rpc) -> Script[Outcome]:
    return refuse(
        Code.DEADLINE_EXCEEDED,
        "deadline",
        f"the deadline of {rpc.method} had passed before it was sent to {rpc.cluster.key}; nothing was sent",
    )


def _no_endpoints(rpc: Rpc) -> Script[Outcome | None]:
    """Wait for a newer snapshot where that may help, and go by what it says of the cluster; else refuse."""
    cluster = rpc.cluster
    if cluster.known and not rpc.wait_for_ready:
        outcome = yield from refuse(Code.UNAVAILABLE, "no_endpoints", _why_none(rpc))
        return outcome
    newer = yield from wait(rpc.snapshot.version, rpc.deadline)
    if newer is None:
        if rpc.wait_for_ready and cluster.known:
            return (yield from _expired(rpc))
        outcome = yield from refuse(Code.UNAVAILABLE, "not_ready" if not cluster.known else "no_endpoints", _why_none(rpc))
        return outcome
    _follow(rpc, newer)
    return None


def _why_none(rpc: Rpc) -> str:
    cluster = rpc.cluster
    if not cluster.known:
        return f"the source has not said yet where {cluster.key} runs (asked by route {rpc.route.name})"
    return (
        f"{cluster.key} has no endpoint that may be called (route {rpc.route.name} of {rpc.service}, "
        f"watched as {cluster.watched}); see `proxyless endpoints {cluster.key.service}`"
    )
