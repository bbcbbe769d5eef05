"""The circuit breaker: a destination that fails most of its calls is left alone for a while.

Above retry, so that it judges calls and not attempts: what a retry mended is a success.
"""

from __future__ import annotations

from math import ceil

from proxyless.model.codes import SERVER_ERRORS, Code
from proxyless.script import ABANDONED, OK, Outcome, Rpc, Script, Service, refuse


def breaker(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Let the call in if the breaker is closed, or half open with a place left; say how it ended.

    Admitted when the script begins: one that never does would hold its place for ever.
    """
    state = rpc.cluster.state
    ticket = state.admit(rpc.now)
    if not ticket:
        return (yield from refuse(Code.UNAVAILABLE, "circuit_open", _why(rpc)))
    ok: bool | None = None
    try:
        outcome = yield from next(rpc)
        # A refusal of our own is no verdict on the destination, and nor is a caller who spoilt his call or gave it up.
        if outcome is OK:
            ok = True
        elif not (outcome.refused or outcome.homemade) and outcome is not ABANDONED:
            ok = outcome.code not in SERVER_ERRORS
        return outcome
    finally:
        state.judge(ticket, ok, rpc.now)


def _why(rpc: Rpc) -> str:
    left = rpc.cluster.state.retry_in(rpc.now)
    again = f"it is tried again in {ceil(left)} s" if left else "it is being tried again just now"
    return f"the circuit breaker of {rpc.cluster.key} is open: too many of its calls failed; {again}"
