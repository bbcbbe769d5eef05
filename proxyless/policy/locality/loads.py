"""How much each priority and each locality gets for its health: Envoy's arithmetic, in whole percent.

A priority keeps all of its calls while its health, times the overprovisioning, is 100 %; what it can't hold
spills over to the next. So at 1.4 two of seven endpoints may fail before the first call goes elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Level(NamedTuple):
    """The endpoints of one priority, counted."""

    total: int
    """All that are registered there, failed health checks or not."""
    healthy: int
    members: int
    """Those that may be called in a panic: all but what the registrar itself calls dead."""


class Loads(NamedTuple):
    """Percent of the calls for each priority, and which of them are in a panic: they use all their members."""

    percent: tuple[int, ...]
    panic: tuple[bool, ...]


def health(healthy: int, total: int, overprovisioning: int = 140) -> int:
    """ "health(P_X) = min(100, 1.4 * 100 * healthy_P_X_backends / total_P_X_backends)" - Envoy priority.rst

    `overprovisioning` is in percent, and the result is rounded down, as in the code behind that sentence.
    """
    return min(100, overprovisioning * healthy // total) if total else 0


def priority_loads(levels: Sequence[Level], overprovisioning: int = 140, panic_threshold: float = 50.0) -> Loads:
    """Spread 100 percent over the priorities (Envoy `LoadBalancerBase::recalculatePerPriorityState`).

    "Never set panic mode if normalized total health is 100%": only when all priorities together can't hold is a
    priority under the threshold in a panic. When all of them are, calls are spread by the number of members. With
    a threshold of 0 there is no panic, and where nobody is healthy no load is anybody's.
    """
    scores = [health(level.healthy, level.total, overprovisioning) for level in levels]
    together = min(100, sum(scores))
    panic = tuple(together < 100 and _below(level, panic_threshold) for level in levels)
    if levels and all(panic):
        sizes = [level.members for level in levels]
        everybody = sum(sizes)
        return Loads(_filled([100 * size // everybody for size in sizes] if everybody else [0] * len(sizes)), panic)
    percent, left = [], 100
    for score in scores:
        percent.append(min(left, score * 100 // together) if together else 0)
        left -= percent[-1]
    return Loads(_filled(percent), panic)


def effective_weight(weight: float, healthy: int, total: int, overprovisioning: int = 140) -> float:
    """ "effective_weight(L_X) = weight(L_X) * min(100, 1.4 * 100 * healthy/total)" - Envoy locality_weight.rst"""
    return weight * health(healthy, total, overprovisioning)


def _below(level: Level, threshold: float) -> bool:
    share = 100.0 * level.healthy / level.total if level.total else 0.0
    return share < threshold


def _filled(percent: list[int]) -> tuple[int, ...]:
    """What rounding left over goes to the first priority that has something."""
    first = next((index for index, share in enumerate(percent) if share), None)
    if first is not None:
        percent[first] += 100 - sum(percent)
    return tuple(percent)
