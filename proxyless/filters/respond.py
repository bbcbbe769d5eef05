"""A route that answers by itself: `directResponse`."""

from __future__ import annotations

from proxyless.model.codes import Code
from proxyless.script import Outcome, Rpc, Script, Service, refuse


def respond(rpc: Rpc, _next: Service) -> Script[Outcome]:
    """End the call with the status that the route names; no endpoint is asked."""
    answer = rpc.route.route.direct_response
    assert answer is not None, "composed only for routes that have a directResponse"
    said = answer.message or f"route {rpc.route.name} of {rpc.service} answers so"
    return refuse(Code[answer.status], "direct_response", said)
