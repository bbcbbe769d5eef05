"""Earliest deadline first: the order in which weighted members are due, as smooth as their weights allow.

Envoy's scheduler: a member of weight w is due every 1/w, "current time" is the last deadline served, and
ties go to whoever was put in first (`source/common/upstream/edf_scheduler.h`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import reduce
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate, count
from math import gcd

LONGEST = 65536
"""A table longer than this would cost more to make at each swap (about 30 ms) than it saves."""


def table(weights: Sequence[int]) -> list[int] | None:
    """One full turn of the schedule as indexes, in which each stands as often as its weight; None if too long.

    Weights count in their smallest whole numbers: 300/300/600 is a turn of four.
    """
    if len(set(weights)) <= 1:
        return list(range(len(weights)))
    divisor = reduce(gcd, weights)
    weights = [weight // divisor for weight in weights]
    turn = sum(weights)
    if turn > LONGEST:
        return None
    # Multiples of 1/w, not sums of it: the error of repeated addition would break ties at random.
    heap = [(1.0 / weight, index, 1) for index, weight in enumerate(weights)]
    heapify(heap)
    order = []
    for _ in range(turn):
        _, index, served = heap[0]
        order.append(index)
        heapreplace(heap, ((served + 1) / weights[index], index, served + 1))
    return order


class Schedule:
    """The same order, made as it goes along: for weights that change, or turns too long for a table.

    Taking out and putting back are each one C call on tuples of numbers, so threads can't tear the heap, and
    no lock is needed: a member that another thread has just taken out is put back by it.
    """

    __slots__ = ("_heap", "_serial")

    def __init__(self, weights: Sequence[float], rng: Callable[[], float]) -> None:
        # As if it had run for ever: one member is due just now, each with the chance of its weight, and the
        # others are anywhere in their own turn. Random phases alone would begin with 1/4 at only 1/6.
        first = bisect_right(list(accumulate(weights)), rng() * sum(weights))
        self._heap = [(0.0 if index == first else rng() / weight, index, index) for index, weight in enumerate(weights)]
        heapify(self._heap)
        self._serial = count(len(self._heap))

    def next(self, weight: Callable[[int], float]) -> int:
        """The member that is due; `weight` says how much it weighs now. Raises IndexError when all are taken."""
        due, _, index = heappop(self._heap)
        heappush(self._heap, (due + 1.0 / weight(index), next(self._serial), index))
        return index
