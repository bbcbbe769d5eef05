"""The route's own timeout: it bounds the whole call, and can only ever shorten what the caller allows."""

from __future__ import annotations

from proxyless.script import Outcome, Rpc, Script, Service


def deadline(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Take the earlier of what the caller and the route allow: a route's timeout extends nobody's (as in gRFC A31)."""
    timeout = rpc.route.timeout
    if timeout is not None:
        at = rpc.now + timeout
        if rpc.deadline is None or at < rpc.deadline:
            rpc.deadline = at
    return next(rpc)
