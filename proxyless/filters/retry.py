"""Try again, while the policy, the budget and the deadline all allow it.

Below the deadline, so that no retry waits past it; above balance, so that each attempt picks anew, and away
from the nodes that have failed this call ("previous_hosts").
"""

from __future__ import annotations

from proxyless.model.codes import Code
from proxyless.policy.backoff import next_delay
from proxyless.policy.idempotent import is_idempotent
from proxyless.policy.pushback import pushback
from proxyless.script import Outcome, Rpc, Script, Service, sleep

EARLY = 0.1
"""Of a try's time: a server that was told of it may end the call a little before we do, and means the same."""


def retry(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Make the call, and make it again where it failed in a way that may be mended by that."""
    planned = rpc.route
    policy = planned.retry
    destination = rpc.cluster.state
    began, limit, metadata = rpc.now, rpc.deadline, rpc.metadata
    failed = told = 0
    retrying = False
    if rpc.replay is not None and policy.attempts:
        rpc.replay.keep()
    try:
        while True:
            bound = None
            if policy.per_try_timeout:
                bound = rpc.now + policy.per_try_timeout
                rpc.deadline = bound if limit is None else min(bound, limit)
            outcome = yield from next(rpc)
            if retrying:
                retrying = False
                destination.retried()
            if outcome.code == 0:
                destination.deposit(rpc.now)
                return outcome
            timed_out = (
                outcome.code == Code.DEADLINE_EXCEEDED
                and bound is not None
                and bound - rpc.now <= EARLY * (policy.per_try_timeout or 0.0)
                and (limit is None or rpc.now < limit)
            )
            if outcome.refused or not planned.may_retry(outcome, timed_out):
                destination.deposit(rpc.now)
                return outcome
            failed += 1
            # "when an RPC becomes committed, the client … will not make any subsequent attempts" - gRFC A6
            # Of a stream of requests all that was read must be there still, except where nothing of it was sent.
            if outcome.committed or not (outcome.unsent or rpc.replayable):
                return outcome
            if policy.idempotent_only and not _harmless(outcome, rpc.method):
                return outcome
            elapsed, backoff = rpc.now - began, policy.backoff
            delay = next_delay(backoff.base, backoff.max, policy.attempts, failed, elapsed, rpc.rng, told)
            pushed = pushback(outcome.trailers)
            if delay is None or (pushed is not None and pushed < 0):
                return outcome
            if pushed is not None:
                delay, told = pushed, failed
            # No time left for another attempt; the budget is asked last, so that nobody pays for nothing.
            if limit is not None and rpc.now + delay >= limit:
                return outcome
            if not destination.withdraw(rpc.now):
                return outcome
            retrying = True
            if policy.previous_hosts == "avoid" or policy.remote_localities:
                rpc.tried = (*(rpc.tried or ()), rpc.node)
            # "grpc-previous-rpc-attempts: N", absent on the first - gRFC A6
            rpc.metadata = (*(metadata or ()), ("grpc-previous-rpc-attempts", str(failed)))
            rpc.deadline = limit
            if delay > 0:
                yield from sleep(delay)
    finally:
        if retrying:
            destination.retried()


def _harmless(outcome: Outcome, method: str) -> bool:
    """Whether the method may be made twice, or was not made at all."""
    return outcome.unsent or outcome.unseen or is_idempotent(method)
