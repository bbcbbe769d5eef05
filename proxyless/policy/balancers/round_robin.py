"""Weighted round robin: every turn serves each member as often as its weight, spread as evenly as can be.

The turn is laid out when the picker is built, so a pick is one step of a counter, however many members there
are. It starts at a random place: many short-lived clients must not all begin with the same endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from proxyless.model.snapshot import NodeState, Picker, PickInfo
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.schedule import Schedule, table


def round_robin(
    nodes: Sequence[NodeState], weights: Sequence[int], _policy: LoadBalancer, rng: Callable[[], float]
) -> Picker:
    """Build the picker; `rng` decides where its first turn starts."""
    order = table(weights)
    if order is None:
        return _LongTurn(nodes, weights, rng)
    return _Turn([nodes[index] for index in order], int(rng() * len(order)))


class _Turn:
    """A turn laid out beforehand. `next` on a counter is atomic, so threads share it without a lock."""

    __slots__ = ("_next", "_order", "_size")

    def __init__(self, order: Sequence[NodeState], start: int) -> None:
        self._order = order
        self._size = len(order)
        self._next = count(start).__next__

    def pick(self, _info: PickInfo) -> NodeState | None:
        return self._order[self._next() % self._size] if self._size else None


class _LongTurn:
    """A turn too long to lay out: weights that are large and share no divisor, over thousands of members."""

    __slots__ = ("_nodes", "_schedule", "_weights")

    def __init__(self, nodes: Sequence[NodeState], weights: Sequence[int], rng: Callable[[], float]) -> None:
        self._nodes = nodes
        self._weights = weights
        self._schedule = Schedule(weights, rng)

    def pick(self, info: PickInfo) -> NodeState | None:
        try:
            return self._nodes[self._schedule.next(self._weights.__getitem__)]
        except IndexError:  # every member is just being put back by another thread
            return self._nodes[int(info.rng() * len(self._nodes))]
