"""The balancers: one file a policy, and the table of them. A new one is one file and one line here.

A balancer is a function `(nodes, weights, policy, rng) -> Picker`, called at every swap; the picker is thrown away
with its snapshot, the nodes stay. `rng` draws from [0, 1), for what the picker begins with. `nodes` and `weights`
are of one length, every weight is at least 1, and both may be empty. `tests/contract/test_balancers.py` holds every
entry to that. One that has `prepare(nodes, weights, policy)` is long at work: it yields between steps, so that the
thread which builds can let callers run, and is quick afterwards. One that has `hashes = True` is given `info.hash`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from proxyless.model.snapshot import NodeState, Picker
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.least_request import least_request
from proxyless.policy.balancers.maglev import maglev
from proxyless.policy.balancers.peak_ewma import peak_ewma
from proxyless.policy.balancers.random import random
from proxyless.policy.balancers.ring_hash import ring_hash
from proxyless.policy.balancers.round_robin import round_robin
from proxyless.policy.balancers.weighted_round_robin import weighted_round_robin

Balancer: TypeAlias = Callable[[Sequence[NodeState], Sequence[int], LoadBalancer, Callable[[], float]], Picker]

BALANCERS: Mapping[str, Balancer] = {
    "least_request": least_request,
    "maglev": maglev,
    "peak_ewma": peak_ewma,
    "random": random,
    "ring_hash": ring_hash,
    "round_robin": round_robin,
    "weighted_round_robin": weighted_round_robin,
}
