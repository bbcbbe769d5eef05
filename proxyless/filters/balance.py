"""The last step before the wire: choose a node of the destination, admit the attempt, and bracket it.

`begin` and `ended` stand around the attempt, so that in-flight counts are right whatever happens: success,
failure, cancellation, or a caller who lets go of a stream (the driver closes the script, `finally` runs).

`begin` is where `limits.maxRequests` is asked, for it and the in-flight counts stand behind one lock: where too many
are under way, "it will fail the call with status UNAVAILABLE. Such failed calls will not be retried" - gRFC A32. Each
attempt is admitted anew; a refused one has chosen a node and not touched it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

from proxyless.model.codes import Code
from proxyless.model.snapshot import DestinationState, Feedback, NodeState, Snapshot
from proxyless.script import ABANDONED, DRAIN, MOVED, OK, Outcome, Rpc, Script, Service, refuse, wait

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0
"""`wait_for_ready` looks again after 20 ms, then doubles up to 1 s: quicker than a person, slower than a storm."""
HOST_SELECTION_ATTEMPTS = 5
"""As Istio sets Envoy's `host_selection_retry_max_attempts`."""
REPEATS = 8
BREATH = 0.001
"""How often an attempt that met the end of its connection is made again before that is the call's failure. The first
time at once, and free; that may meet the same connection, which a busy C-core closes some milliseconds later, so those
after it wait for 1 ms, 2, 4 … 64, 0.13 s in all. These are paid for like retries: a server that takes nothing up, or
hands on what it was told by another that does not, must not be asked nine times by everybody who calls it."""
SMALL = 64
"""Nodes that are looked through when the draws found none: all of a small cluster, enough of a large one."""


def balance(rpc: Rpc, _next: Service) -> Script[Outcome]:
    """Pick, send, and say how it went."""
    # held: whether this call has a place among those under way, though no attempt of it is
    pause, held, repeats, destination = FIRST_PAUSE, False, 0, rpc.cluster.state
    try:
        while True:
            node, ticket = rpc.cluster.picker.pick(rpc), 0
            if node is not None and (node.outlier.out or node.reachable_at or rpc.tried is not None):
                node, ticket = _choose(rpc, node)
            if node is None:
                if (refusal := (yield from _no_endpoints(rpc))) is not None:
                    return refusal
                continue
            if rpc.deadline is not None and rpc.deadline <= rpc.now:
                return (yield from _expired(rpc, node, ticket))
            held = held and _still_held(rpc, destination)
            destination = rpc.cluster.state
            if not destination.begin(node, held):
                return (yield from _too_many(rpc, node, ticket))
            rpc.node = node
            began = rpc.now
            sent_at: float | None = began
            outcome: Outcome = ABANDONED
            try:
                if rpc.watch is not None:
                    rpc.watch.attempt(rpc)
                outcome = yield node.send
                if outcome.open:
                    ticket, sent_at = _opened(rpc, ticket, outcome, sent_at)
                    outcome = ABANDONED
                    outcome = yield DRAIN
            finally:
                if outcome is OK:
                    verdict, held = SUCCESS, False
                    destination.ended(node, 0, False, rpc.now, ticket)
                else:
                    verdict = _verdict(rpc, outcome, repeats)
                    held = verdict.holds
                    destination.ended(node, verdict.code, verdict.local, rpc.now, ticket, held)
                if node.feedback is not None and not (outcome.refused or outcome.homemade):
                    _tell(rpc, node.feedback, outcome, sent_at)
                if rpc.watch is not None:
                    rpc.watch.attempted(rpc, began, outcome)
            if outcome is OK and not node.reachable_at:
                return outcome
            _reached(rpc, node, outcome)
            if not (held or verdict.repeats):
                return outcome
            until = rpc.now + (pause if held else _breath(repeats))
            repeats += verdict.repeats
            if (moved := (yield from _look_again(rpc, until))) is not None:
                return moved
            pause = min(pause * 2, LONGEST_PAUSE)
    finally:
        if held:
            destination.leave()


class Verdict(NamedTuple):
    """What the end of an attempt says, beside what it says to the caller."""

    code: int | None
    """About the node; None: nothing."""
    local: bool = False
    """It was the transport that failed, or time that ran out, and not the server that said so."""
    repeats: bool = False
    """It is made again here and now, whatever the policy says."""
    holds: bool = False
    """The call keeps its place and waits for an endpoint that can be connected."""


SUCCESS = Verdict(0)


def _verdict(rpc: Rpc, outcome: Outcome, repeats: int) -> Verdict:
    # refusals of ours and attempts that their caller spoilt, or gave up, say nothing about the endpoint
    if outcome is ABANDONED or outcome.refused or outcome.homemade:
        return Verdict(None)
    if outcome.unseen and _may_repeat(rpc, outcome, repeats):
        rpc.tried = (*(rpc.tried or ()), rpc.node)
        return Verdict(None, repeats=True)  # nor does a server that ends its connections in turn: max_connection_age
    late = outcome.code == Code.DEADLINE_EXCEEDED and rpc.deadline is not None and rpc.now >= rpc.deadline
    # "wait_for_ready: queue while there is no usable endpoint" - of the mesh, not of the one node that happened to be
    # picked: forwarded to a single connection it would pin the call to a dead endpoint.
    return Verdict(outcome.code, outcome.unsent or late, holds=outcome.unsent and bool(rpc.wait_for_ready))


def _may_repeat(rpc: Rpc, outcome: Outcome, repeats: int) -> bool:
    """ "if the RPC reaches the gRPC server library, but has never been seen by the server application logic …, the
    client library will immediately retry it once" - gRFC A6, transparent retries: whatever policy and budget say. What
    was not even put on the wire is retried without limit there; C-core's words don't tell the two apart, nor from
    those of a server that hands on another's."""
    if repeats >= REPEATS or outcome.committed or not rpc.replayable:
        return False
    return not repeats or _pays(rpc)


def _pays(rpc: Rpc) -> bool:
    """Whether the retry budget pays for one more attempt. No place among the retries under way is kept for it: it is
    made within milliseconds, or not at all."""
    paid = rpc.cluster.state.withdraw(rpc.now)
    if paid:
        rpc.cluster.state.retried()
    return paid


def _breath(repeats: int) -> float:
    return BREATH * 2.0 ** (repeats - 1) if repeats else 0.0


def _reached(rpc: Rpc, node: NodeState, outcome: Outcome) -> None:
    """Whether the node could be connected, where that is news."""
    if outcome.unsent:
        node.unreachable(rpc.now, rpc.rng())
    elif node.reachable_at and outcome is not ABANDONED and not outcome.homemade:
        node.reached(rpc.now)


def _still_held(rpc: Rpc, destination: DestinationState) -> bool:
    """Whether a place among those under way to `destination` is one at the call's destination as it is now."""
    if destination is rpc.cluster.state:
        return True
    destination.leave()  # it was forgotten, and named again, meanwhile
    return False


def _opened(rpc: Rpc, ticket: int, outcome: Outcome, sent_at: float | None) -> tuple[int, None]:
    """A stream has begun: its node answers. One that lives for hours must not keep it on probation, nor waiting for
    a latency that is known now; there is no ticket and no time of sending to come back to."""
    if ticket:
        rpc.cluster.state.probed(rpc.node, ticket, 0, rpc.now)
    if rpc.node.feedback is not None:
        _tell(rpc, rpc.node.feedback, outcome, sent_at)
    return 0, None


def _tell(rpc: Rpc, feedback: Feedback, outcome: Outcome, sent_at: float | None) -> None:
    """What the destination's balancer asked to know: how long an answer took, and what it came to."""
    seconds = None if sent_at is None else rpc.now - sent_at
    rpc.cluster.state.observed(feedback, outcome, seconds, rpc.now)


def _look_again(rpc: Rpc, at: float) -> Script[Outcome | None]:
    """Wait until that instant, or until somebody else can be called: all whom the call knows may be dead."""
    until = at if rpc.deadline is None else min(at, rpc.deadline)
    if until <= rpc.now:
        return None
    while (newer := (yield from wait(rpc.snapshot.version, until))) is not None:
        known = rpc.cluster
        moved = _follow(rpc, newer)
        if moved is not None or rpc.cluster is not known:
            return moved
    return None


def _follow(rpc: Rpc, newer: Snapshot) -> Outcome | None:
    """Go by what a newer snapshot says of the destination; nobody will ever hear of one that it does not name."""
    rpc.snapshot = newer
    cluster = newer.clusters.get(rpc.cluster.key)
    if cluster is None:
        return MOVED
    rpc.cluster = cluster
    return None


def _suits(rpc: Rpc, node: NodeState) -> int | None:
    """None if the call should keep away from `node`; else 0, or the ticket of the probe that it is."""
    if rpc.tried is not None and node in rpc.tried:
        return None
    if node.reachable_at and not (node.reachable_at <= rpc.now and node.probe(rpc.now)):
        return None
    return rpc.cluster.state.probe(node, rpc.now) if node.outlier.out else 0


def _choose(rpc: Rpc, node: NodeState) -> tuple[NodeState | None, int]:
    """`node` if it suits, else one that does.

    Where none suits, one in rotation is better than one that is ejected (a retry on the node that has just failed
    may succeed), one that this call has not tried yet is better, and any is better than none; but where there is to
    be no panic, nobody who is ejected is called.
    """
    if rpc.tried is not None and rpc.route.retry.remote_localities:
        elsewhere = getattr(rpc.cluster.picker, "elsewhere", None)
        node = (elsewhere is not None and elsewhere(rpc, rpc.tried)) or node
    ticket = _suits(rpc, node)
    if ticket is not None:
        return node, ticket
    best, rank = node, _rank(rpc, node)
    for other in islice(_others(rpc), HOST_SELECTION_ATTEMPTS + SMALL):
        if other is None:
            continue
        ticket = _suits(rpc, other)
        if ticket is not None:
            return other, ticket
        if rank and (second := _rank(rpc, other)) < rank:
            best, rank = other, second
    if best.outlier.out and (locality := rpc.cluster.policy.locality) is not None and not locality.panic_threshold:
        return None, 0
    return best, 0


def _others(rpc: Rpc) -> Iterator[NodeState | None]:
    """Whom to look at instead: in the picker's own order, where it has one (the next on a ring, the rest of a
    locality); else more picks, then nodes from a random place on."""
    picker = rpc.cluster.picker
    if (ordered := getattr(picker, "others", None)) is not None:
        in_order: Iterator[NodeState] = ordered(rpc)
        return in_order
    nodes = rpc.cluster.nodes
    start = int(rpc.rng() * len(nodes))
    drawn = (picker.pick(rpc) for _ in range(HOST_SELECTION_ATTEMPTS))
    return chain(drawn, nodes[start : start + SMALL], nodes[: max(0, start + SMALL - len(nodes))])


def _rank(rpc: Rpc, node: NodeState) -> int:
    """How bad a choice a node is that does not suit: 0 to 7. One that can't be connected is the worst."""
    tried = rpc.tried is not None and node in rpc.tried
    return 4 * bool(node.reachable_at) + 2 * node.outlier.out + tried


def _expired(rpc: Rpc, node: NodeState | None = None, ticket: int = 0) -> Script[Outcome]:
    if node is not None:
        _give_back(rpc, node, ticket)
    return refuse(
        Code.DEADLINE_EXCEEDED,
        "deadline",
        f"the deadline of {rpc.method} had passed before it was sent to {rpc.cluster.key}; nothing was sent",
    )


def _give_back(rpc: Rpc, node: NodeState, ticket: int) -> None:
    """The probe that this attempt was to be is not made."""
    if ticket:
        rpc.cluster.state.probed(node, ticket, None, rpc.now)


def _too_many(rpc: Rpc, node: NodeState, ticket: int) -> Script[Outcome]:
    _give_back(rpc, node, ticket)
    most = rpc.cluster.policy.limits.max_requests
    details = f"{most} requests are under way to {rpc.cluster.key} already (maxRequests)"
    return refuse(Code.UNAVAILABLE, "limit", details)


def _no_endpoints(rpc: Rpc) -> Script[Outcome | None]:
    """Wait for a newer snapshot where that may help, and go by what it says of the cluster; else refuse."""
    cluster = rpc.cluster
    if cluster.known and not rpc.wait_for_ready:
        outcome = yield from refuse(Code.UNAVAILABLE, "no_endpoints", _why_none(rpc))
        return outcome
    if not cluster.state.queue():
        most = cluster.policy.limits.max_pending_requests
        details = f"{most} requests wait for an endpoint of {cluster.key} already (maxPendingRequests)"
        outcome = yield from refuse(Code.UNAVAILABLE, "limit", details)
        return outcome
    until = rpc.deadline
    if cluster.nodes:  # all are ejected, and each for a time
        until = rpc.now + LONGEST_PAUSE if until is None else min(until, rpc.now + LONGEST_PAUSE)
    try:
        newer = yield from wait(rpc.snapshot.version, until)
    finally:
        cluster.state.unqueue()
    if newer is None:
        if cluster.nodes and (rpc.deadline is None or rpc.now < rpc.deadline):
            return None
        if rpc.wait_for_ready and cluster.known:
            return (yield from _expired(rpc))
        outcome = yield from refuse(
            Code.UNAVAILABLE, "not_ready" if not cluster.known else "no_endpoints", _why_none(rpc)
        )
        return outcome
    return _follow(rpc, newer)


def _why_none(rpc: Rpc) -> str:
    cluster = rpc.cluster
    if not cluster.known:
        return f"the source has not said yet where {cluster.key} runs (asked by route {rpc.route.name})"
    if cluster.nodes:
        return (
            f"all {len(cluster.nodes)} endpoints of {cluster.key} are ejected or unreachable, and no panic is to call "
            f"them (locality.panicThreshold: 0); see `proxyless endpoints {cluster.key.service}`"
        )
    return (
        f"{cluster.key} has no endpoint that may be called (route {rpc.route.name} of {rpc.service}, "
        f"watched as {cluster.watched}); see `proxyless endpoints {cluster.key.service}`"
    )
