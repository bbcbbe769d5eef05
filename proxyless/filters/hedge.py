"""Hedging: send the call again before its answer has come, and take the first that does (gRFC A6).

In the place of retry and never beside it: "An individual RPC may be governed by a retry policy or a hedge policy,
but not both." What is hedged must be harmless to do several times at once, and only whoever writes the document can
know that.

Each attempt but the first is paid for like a retry, from the same budget and under the same `limits.maxRetries`.
Where payment is refused, no more are sent for this call: "The hedged request is cancelled, and if there are no other
already-sent hedged RPCs the failure is returned".
"""

from __future__ import annotations

from proxyless.model.snapshot import DestinationState
from proxyless.policy.pushback import pushback
from proxyless.script import Adopt, Branch, Outcome, Race, Replay, Rpc, Script, Service, Spawn

ATTEMPTS = "grpc-previous-rpc-attempts"
"""How many attempts were sent before this one; absent on the first (gRFC A6)."""


def hedge(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Make the call, more than once where the request can be sent more than once."""
    return _at_once(rpc, next) if rpc.replay is None else _in_turn(rpc, rpc.replay, next)


def _at_once(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Make attempts, each `delay` after the one before, until one of them is answered."""
    planned = rpc.route
    policy = planned.hedge
    assert policy is not None, "the stack puts hedge on routes that have it"
    destination = rpc.cluster.state
    running: list[Branch] = []
    last: Branch | None = None
    left = policy.attempts
    sent = 0
    next_at: float | None = rpc.now
    while True:
        while next_at is not None and next_at <= rpc.now:
            next_at = None
            service = next
            if sent:
                if not destination.withdraw(rpc.now, True):
                    left = 0
                    break
                left -= 1
                service = _paid(next, destination)
            branch: Branch = yield Spawn(service, _attempt(rpc, sent))
            running.append(branch)
            sent += 1
            _avoid(rpc, branch)
            if left:
                next_at = _within(rpc, rpc.now + policy.delay)
        if not running and next_at is None:
            assert last is not None
            return (yield from _adopt(rpc, last))
        branch = yield Race(running, next_at)
        if branch is None:
            continue  # it is time for the next
        running.remove(branch)
        outcome = branch.outcome
        assert outcome is not None
        if outcome.code == 0:
            ended = yield from _adopt(rpc, branch)
            if ended.code == 0 or not planned.non_fatal(ended, False):
                destination.deposit(rpc.now)
            return ended
        if outcome.refused:
            # Our own refusal of one attempt: no reason to give the others up, and none to add to them.
            next_at, left, last = None, 0, last or branch
            continue
        # What was never sent is sent again, whatever `nonFatal` says: A6 has such retries transparent.
        if outcome.committed or not (outcome.unsent or planned.non_fatal(outcome, False)):
            # "Fatal Status Code: … Cancel previous and pending hedges" - gRFC A6
            destination.deposit(rpc.now)
            return (yield from _adopt(rpc, branch))
        last = branch
        pushed = pushback(outcome.trailers)
        if pushed is not None and pushed < 0:
            next_at, left = None, 0
        elif left:
            # "Immediately send next scheduled hedged request, if any. Subsequent hedged requests will resume at
            # `hedgingDelay`", or when the server says.
            next_at = _within(rpc, rpc.now + (pushed or 0.0))


def _in_turn(rpc: Rpc, replay: Replay, next: Service) -> Script[Outcome]:
    """A stream of requests: another attempt follows one that has failed, while all that was read is there still."""
    replay.keep()
    policy = rpc.route.hedge
    assert policy is not None
    destination, metadata = rpc.cluster.state, rpc.metadata
    failed = 0
    paid = False
    try:
        while True:
            outcome = yield from next(rpc)
            if paid:
                paid = False
                destination.retried()
            if outcome.code == 0 or outcome.refused or not (outcome.unsent or rpc.route.non_fatal(outcome, False)):
                destination.deposit(rpc.now)
                return outcome
            failed += 1
            if outcome.committed or not (outcome.unsent or replay.possible()):
                return outcome
            if failed > policy.attempts or not destination.withdraw(rpc.now, True):
                return outcome
            paid = True
            rpc.tried = (*(rpc.tried or ()), rpc.node)
            rpc.metadata = (*(metadata or ()), (ATTEMPTS, str(failed)))
    finally:
        if paid:
            destination.retried()


def _attempt(rpc: Rpc, sent: int) -> Rpc:
    attempt = rpc.twin()
    if sent:
        attempt.metadata = (*(rpc.metadata or ()), (ATTEMPTS, str(sent)))
    return attempt


def _avoid(rpc: Rpc, branch: Branch) -> None:
    """Keep the attempts that follow away from where this one went."""
    node = getattr(branch.rpc, "node", None)
    if node is not None:
        rpc.tried = (*(rpc.tried or ()), node)


def _within(rpc: Rpc, at: float) -> float | None:
    """That instant, if the call still has time then."""
    return at if rpc.deadline is None or at < rpc.deadline else None


def _paid(next: Service, destination: DestinationState) -> Service:
    """`next`, which counts as a retry for as long as it is under way, however it ends."""

    def paid(rpc: Rpc) -> Script[Outcome]:
        try:
            return (yield from next(rpc))
        finally:
            destination.retried()

    return paid


def _adopt(rpc: Rpc, branch: Branch) -> Script[Outcome]:
    """The call is what this attempt is, from now on."""
    for name in ("node", "cluster", "snapshot"):
        if hasattr(branch.rpc, name):
            setattr(rpc, name, getattr(branch.rpc, name))
    outcome: Outcome = yield Adopt(branch)
    return outcome
