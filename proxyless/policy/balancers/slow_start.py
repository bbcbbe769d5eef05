"""Slow start: an endpoint that has just come, or come back, gets its share little by little.

Envoy's formula. It is laid over any balancer that chooses freely: a pick of a node that is still warming up is
taken with the chance of its factor, else there is another pick, so that shares are as if its weight were so much
less. Whoever goes by a key's place is left alone: a key does not wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxyless.model.snapshot import NodeState, Picker, PickInfo
from proxyless.model.traffic import SlowStart

TRIES = 8
"""Picks a call at the most: enough for shares to be right within a percent while a tenth of the nodes are warm."""


def slow_start(picker: Picker, nodes: Sequence[NodeState], settings: SlowStart | None) -> Picker:
    """`picker`, or one that spares those of `nodes` that are new."""
    if settings is None or not settings.window or hasattr(picker, "others") or len(nodes) < 2:
        return picker
    return _Warming(picker, nodes, settings)


def factor(age: float, window: float, aggression: float = 1.0, least: float = 0.1) -> float:
    """ "new_weight = weight * max(min_weight_percent, time_factor ^ (1 / aggression))", where "time_factor =
    max(time_since_start_seconds, 1) / slow_start_time_seconds" - Envoy slow_start.rst"""
    if age >= window:
        return 1.0
    share = min(1.0, max(age, 1.0) / window)
    return max(least, share if aggression == 1.0 else share ** (1.0 / aggression))


class _Warming:
    """Another pick where the first is of one who is not warm yet, as often as its factor says."""

    __slots__ = ("_aggression", "_eldest", "_least", "_picker", "_window")

    def __init__(self, picker: Picker, nodes: Sequence[NodeState], settings: SlowStart) -> None:
        self._picker = picker
        self._window = float(settings.window)
        self._aggression = settings.aggression
        self._least = settings.min_weight_percent / 100.0
        self._eldest = min(node.since for node in nodes)

    def pick(self, info: PickInfo) -> NodeState | None:
        node = self._picker.pick(info)
        if node is None or info.now - node.since >= self._window:
            return node
        # Where all are young, as in a process that has just begun, they are only so to each other.
        warmest = self._factor(info.now - self._eldest)
        for _ in range(TRIES):
            if node is None or info.rng() * warmest < self._factor(info.now - node.since):
                break
            node = self._picker.pick(info)
        return node

    def _factor(self, age: float) -> float:
        return factor(age, self._window, self._aggression, self._least)
