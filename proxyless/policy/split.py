"""Weighted split: a number drawn once per call decides which destination it goes to.

Routing is the ConfigSelector's in gRPC: once per RPC, before load balancing and before retries (gRFC A31). So every
attempt of a call stays with the destination that was drawn. Weights are relative; shares of 0.01 % and less hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import inf


def shares(weights: Sequence[float]) -> tuple[float, ...]:
    """Each weight as a part of 1. The largest is divided out first: two weights of 1e308 must not overflow."""
    largest = max(weights)
    scaled = [weight / largest for weight in weights]
    total = sum(scaled)
    return tuple(weight / total for weight in scaled)


def splitter(weights: Sequence[float]) -> Callable[[float], int]:
    """A function from [0, 1) to the index of a destination, in proportion to `weights` (at least one above 0)."""
    parts = shares(weights)
    last = max(index for index, part in enumerate(parts) if part > 0)
    if parts[last] == 1.0:
        return lambda _draw: last  # all traffic goes one way: nothing to draw
    bounds = list(accumulate(parts))
    # Rounding must lose no draw beyond the last bound, and give none to what weighs nothing behind it.
    bounds[last:] = [inf] * (len(bounds) - last)

    def choose(draw: float) -> int:
        return bisect_right(bounds, draw)

    return choose
