"""The local rate limit of a route: what it refuses, it refuses before anything else is spent on it."""

from __future__ import annotations

from proxyless.model.codes import Code
from proxyless.script import Outcome, Rpc, Script, Service, refuse


def rate_limit(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Take a token, or refuse the call."""
    take = rpc.route.rate
    if take is not None and not take(rpc.now):
        limit = rpc.route.route.rate_limit
        rate = f"{limit.requests_per_second:g} a second" if limit is not None else "its rate"
        details = f"route {rpc.route.name} of {rpc.service} is limited to {rate} in this process"
        return refuse(Code.RESOURCE_EXHAUSTED, "rate_limit", details)
    return next(rpc)
