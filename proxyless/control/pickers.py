"""What chooses among the members of a destination, made of balancers: one a place, and the ladder over several.

Balancers may be somebody else's. What one of them does wrong stays with the destinations that go by it: it must not
keep the documents of all services from taking effect, now and ever after.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxyless.control.scanner import quoted
from proxyless.control.standing import Spot
from proxyless.model.snapshot import DestinationState, Picker
from proxyless.model.traffic import DEFAULTS, LOCALITY, LoadBalancer, TrafficPolicy
from proxyless.policy.balancers import BALANCERS, Balancer
from proxyless.policy.balancers.slow_start import slow_start
from proxyless.policy.locality import Ladder, Rung

BREATH = 0.0002
"""Seconds of sleep between two steps of long work. Only a thread that sleeps is sure to let another have the
interpreter: one that merely offers it, by sleeping 0, has it back before the other has woken up."""

FALLBACK = DEFAULTS.load_balancer.policy
"""Whom a destination goes by whose own balancer can't be built."""

log = logging.getLogger("proxyless")


class Pickers:
    """Makes pickers of these balancers, which draw from `rng`."""

    def __init__(self, balancers: Mapping[str, Balancer], rng: Callable[[], float]) -> None:
        self.balancers = balancers
        self._rng = rng
        self._failing: dict[str, str] = {}
        """Balancers that can't be built, each with the reason: told once."""

    def made(
        self, spots: Sequence[Spot], places: Sequence[Sequence[Any]], policy: TrafficPolicy, state: DestinationState
    ) -> Picker:
        """The balancer's picker; where there are several places, one for each and the ladder over them."""
        rungs = []
        for spot, nodes in zip(spots, places, strict=True):
            weights = [endpoint.effective_weight for endpoint in spot.members]
            picker = self.balanced(nodes, weights, policy.load_balancer)
            picker = slow_start(picker, nodes, policy.load_balancer.slow_start)
            place = spot.place
            rungs.append(Rung(place.priority, place.weight, place.name, nodes, weights, picker, spot.absent))
        if len(rungs) == 1:
            return rungs[0].picker
        locality = policy.locality or LOCALITY
        ladder = Ladder(rungs, round(100 * locality.overprovisioning), locality.panic_threshold)
        state.watch(ladder)
        return ladder

    def balanced(self, nodes: Sequence[Any], weights: Sequence[int], policy: LoadBalancer) -> Picker:
        """How one of `nodes` is chosen: by the balancer of that name, or where it fails by the default one."""
        name = policy.policy
        try:
            picker = self._built(self.balancers[name], nodes, weights, policy)
        except Exception as failed:
            why = f"{type(failed).__name__}: {failed}"
            if self._failing.get(name) != why:
                self._failing[name] = why
                told = "the balancer %s can't be built (%s): its destinations go by %s"
                log.error(told, quoted(name), quoted(why), FALLBACK)
            return BALANCERS[FALLBACK](nodes, weights, policy, self._rng)
        self._failing.pop(name, None)
        return picker

    def hashes(self, policy: LoadBalancer) -> bool:
        """Whether calls are placed by their hash."""
        return getattr(self.balancers[policy.policy], "hashes", False)

    def _built(self, balancer: Balancer, nodes: Sequence[Any], weights: Sequence[int], policy: LoadBalancer) -> Picker:
        """Long work is done in steps, and callers let run in between."""
        prepare = getattr(balancer, "prepare", None)
        for _ in prepare(nodes, weights, policy) if prepare is not None else ():
            time.sleep(BREATH)
        return balancer(nodes, weights, policy, self._rng)
