"""How much may be under way to the destination at one time: each attempt is admitted anew.

"If a request exceeds the maximum number of concurrent requests, it is failed with UNAVAILABLE. Such failed
calls will not be retried." - gRFC A32. A refused attempt touches no node.
"""

from __future__ import annotations

from proxyless.model.codes import Code
from proxyless.script import Outcome, Rpc, Script, Service, refuse


def limits(rpc: Rpc, next: Service) -> Script[Outcome]:
    """Let the attempt in, or refuse it. Entered when the script begins: one that never does is not counted."""
    state = rpc.cluster.state
    if not state.enter():
        most = rpc.cluster.policy.limits.max_requests
        details = f"{most} requests are under way to {rpc.cluster.key} already (maxRequests)"
        return (yield from refuse(Code.UNAVAILABLE, "limit", details))
    try:
        return (yield from next(rpc))
    finally:
        state.leave()
