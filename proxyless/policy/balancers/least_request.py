"""Least request: look at a few endpoints at random, take the one with the fewest calls under way.

Two choices are enough: "The Power of Two Choices in Randomized Load Balancing" (Mitzenmacher) - the longest
queue shrinks exponentially with the second choice and hardly with the third. Equal weights: `choices` draws
with replacement, the first of the least loaded wins (Envoy, gRFC A48). Unequal weights: Envoy's schedule by
weight / (active + 1) ** bias, looked up anew at each pick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxyless.model.snapshot import NodeState, Picker, PickInfo
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.schedule import Schedule


def least_request(
    nodes: Sequence[NodeState], weights: Sequence[int], policy: LoadBalancer, rng: Callable[[], float]
) -> Picker:
    """Build the picker that suits the weights."""
    if len(set(weights)) > 1:
        return _Weighted(nodes, weights, policy.active_request_bias, rng)
    return _Two(nodes) if policy.choices == 2 else _Several(nodes, policy.choices)


def effective_weight(weight: float, active: int, bias: float) -> float:
    """ "weight = load_balancing_weight / (active_requests + 1)^active_request_bias" - Envoy load_balancers.rst"""
    return weight / (active + 1) if bias == 1.0 else weight / (active + 1.0) ** bias


class _Two:
    """The default, unrolled: this is the pick of nearly every call."""

    __slots__ = ("_nodes", "_size")

    def __init__(self, nodes: Sequence[NodeState]) -> None:
        self._nodes = nodes
        self._size = len(nodes)

    def pick(self, info: PickInfo) -> NodeState | None:
        size = self._size
        if not size:
            return None
        rng = info.rng
        first = self._nodes[int(rng() * size)]
        second = self._nodes[int(rng() * size)]
        return second if second.inflight < first.inflight else first


class _Several:
    """More choices, for those who want fewer surprises at the price of a few more draws."""

    __slots__ = ("_choices", "_nodes", "_size")

    def __init__(self, nodes: Sequence[NodeState], choices: int) -> None:
        self._nodes = nodes
        self._size = len(nodes)
        self._choices = choices

    def pick(self, info: PickInfo) -> NodeState | None:
        if not self._size:
            return None
        best = self._nodes[int(info.rng() * self._size)]
        for _ in range(self._choices - 1):
            other = self._nodes[int(info.rng() * self._size)]
            if other.inflight < best.inflight:
                best = other
        return best


class _Weighted:
    """Unequal weights: due in proportion to weight, and later the more is under way."""

    __slots__ = ("_bias", "_nodes", "_schedule", "_weights")

    def __init__(
        self, nodes: Sequence[NodeState], weights: Sequence[int], bias: float, rng: Callable[[], float]
    ) -> None:
        self._nodes = nodes
        self._weights = weights
        self._bias = bias
        self._schedule = Schedule(weights, rng)

    def _weight(self, index: int) -> float:
        return effective_weight(self._weights[index], self._nodes[index].inflight, self._bias)

    def pick(self, info: PickInfo) -> NodeState | None:
        try:
            return self._nodes[self._schedule.next(self._weight)]
        except IndexError:  # every member is just being put back by another thread
            return self._nodes[int(info.rng() * len(self._nodes))]
