"""Weighted random choice: it "generally performs better than round robin if no health checking policy is configured"
(Envoy), and needs no memory at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxyless.model.snapshot import NodeState, Picker, PickInfo
from proxyless.model.traffic import LoadBalancer


def random(
    nodes: Sequence[NodeState], weights: Sequence[int], _policy: LoadBalancer, _rng: Callable[[], float]
) -> Picker:
    """Build the picker: Walker's alias table, in which a draw costs the same whatever the weights are."""
    return _Alias(nodes, weights)


class _Alias:
    """One draw chooses a column and a height in it: below its mark the column's own node, above it the alias."""

    __slots__ = ("_alias", "_mark", "_nodes", "_size")

    def __init__(self, nodes: Sequence[NodeState], weights: Sequence[int]) -> None:
        self._nodes = nodes
        self._size = len(nodes)
        mean = sum(weights) / self._size if self._size else 1.0
        mark = [weight / mean for weight in weights]
        alias = list(range(self._size))
        poor = [index for index, share in enumerate(mark) if share < 1.0]
        rich = [index for index, share in enumerate(mark) if share >= 1.0]
        while poor and rich:
            needs, gives = poor.pop(), rich[-1]
            alias[needs] = gives
            mark[gives] -= 1.0 - mark[needs]
            if mark[gives] < 1.0:
                poor.append(rich.pop())
        for index in (*poor, *rich):  # what rounding left over is a full column
            mark[index] = 1.0
        self._mark = mark
        self._alias = alias

    def pick(self, info: PickInfo) -> NodeState | None:
        if not self._size:
            return None
        draw = info.rng() * self._size
        column = int(draw)
        return self._nodes[column if draw - column < self._mark[column] else self._alias[column]]
