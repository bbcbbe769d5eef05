"""Where calls go among places: near while it holds, spilling over as it fails, by shares where a document says so.

First the priority is chosen, then the locality, then the endpoint (Envoy, Istio): `places` says who belongs
where, `loads` how much each may get for its health, `ladder` is the picker that lives by both. Never put here:
what chooses among equals, which is a balancer's, and anything that a call has to compute anew.
"""

from proxyless.policy.locality.ladder import Ladder, Rung
from proxyless.policy.locality.loads import health
from proxyless.policy.locality.places import Place, arrange

__all__ = ["Ladder", "Place", "Rung", "arrange", "health"]
