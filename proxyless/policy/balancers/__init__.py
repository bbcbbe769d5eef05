"""The balancers: one file a policy, and the table of them. A new one is one file and one line here.

A balancer is a function `(nodes, weights, policy) -> Picker`, called at every swap; the picker is thrown away
with its snapshot, the nodes stay. `nodes` and `weights` are of one length, every weight is at least 1, and
both may be empty. `tests/contract/test_balancers.py` holds every entry to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from proxyless.model.snapshot import NodeState, Picker
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.least_request import least_request
from proxyless.policy.balancers.random import random
from proxyless.policy.balancers.round_robin import round_robin

Balancer: TypeAlias = Callable[[Sequence[NodeState], Sequence[int], LoadBalancer, Callable[[], float]], Picker]

BALANCERS: Mapping[str, Balancer] = {
    "least_request": least_request,
    "random": random,
    "round_robin": round_robin,
}
