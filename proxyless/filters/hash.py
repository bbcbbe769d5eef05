"""What the request hashes to, for the balancers that place calls by it: once a call, so every attempt has its place."""

from __future__ import annotations

from proxyless.script import Outcome, Rpc, Script, Service


def hash(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Leave the hash in `rpc.hash`; None where the request has nothing to hash, and chance decides."""
    rpc.hash = rpc.route.hash(rpc.metadata, rpc.channel)
    return next(rpc)
