"""Faults on purpose: a delay is felt as a real one, an abort tests the caller and not our retries.

As with Envoy and in gRPC (gRFC A33, A39) an abort is made above retry: it is never tried again.
"""

from __future__ import annotations

from proxyless.model.codes import Code
from proxyless.script import Outcome, Rpc, Script, Service, refuse, sleep


def fault(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Hold the call back, or fail it, or let it go on: as the dice say."""
    seconds = rpc.route.faults.delay(rpc.metadata, rpc.rng)
    return _delayed(rpc, next, seconds) if seconds > 0 else _aborted(rpc, next)


def _delayed(rpc: Rpc, next: Service, seconds: float) -> Script[Outcome]:
    left = None if rpc.deadline is None else rpc.deadline - rpc.now
    if left is not None and left <= seconds:
        yield from sleep(max(0.0, left))
        details = f"the deadline passed during an injected delay of {seconds:g} s (route {rpc.route.name})"
        return (yield from refuse(Code.DEADLINE_EXCEEDED, "deadline", details))
    yield from sleep(seconds)
    return (yield from _aborted(rpc, next))


def _aborted(rpc: Rpc, next: Service) -> Script[Outcome]:
    code = rpc.route.faults.abort(rpc.metadata, rpc.rng)
    if code:  # OK can't be injected: a call without an answer is no success
        return refuse(code, "fault", f"injected by route {rpc.route.name} of {rpc.service}")
    return next(rpc)
