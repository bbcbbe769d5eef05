"""The picker that climbs down: a priority by its load, a locality by its share, a node by the balancer.

Who is well is told when it changes (`changed`), and the loads are computed then; a pick draws one number. The
sick are not left alone: where calls go elsewhere nobody would ever find out that they are back, so each is
offered to one live call when its time comes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from math import inf
from typing import Any, TypeAlias

from proxyless.model.snapshot import NodeState, Picker, PickInfo
from proxyless.policy.locality.loads import Level, effective_weight, priority_loads

AGAIN = 0.01
"""Seconds between two calls that are sent to one of the sick: 100 a second find thousands who are back in a minute."""
EACH = 2e-5
"""Seconds for each of the sick between two looks through them. A look takes 0.2 us for each, so a hundredth of that."""
DRAWS = 5
"""Picks for a node that is well, before the members are looked through. As Istio sets Envoy's
`host_selection_retry_max_attempts`."""
SMALL = 64
"""Members that are looked through then."""

_Table: TypeAlias = tuple[Sequence[float], Sequence[int]]
"""Bounds in [0, 1) between rungs that have a share, and these rungs' indexes."""


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """The nodes of one place, with the balancer's picker over them."""

    priority: int
    weight: float
    name: str
    nodes: Sequence[NodeState]
    weights: Sequence[int]
    picker: Picker
    absent: int = 0
    """Endpoints of this place that the registrar knows and calls unhealthy: capacity that is missing."""


class Ladder:
    """A picker over rungs. `changed` is called by one thread at a time; its owner sees to that."""

    __slots__ = (
        "__weakref__",
        "_due",
        "_look_at",
        "_panic",
        "_reach",
        "_ready",
        "_rung_of",
        "_sick",
        "_table",
        "_turn",
        "_well",
        "overprovisioning",
        "panic_threshold",
        "percent",
        "rungs",
    )

    def __init__(self, rungs: Sequence[Rung], overprovisioning: int, panic_threshold: float) -> None:
        """`rungs` in the order of their priorities, which count from 0 without a gap."""
        self.rungs = tuple(rungs)
        self.overprovisioning = overprovisioning
        self.panic_threshold = panic_threshold
        self.percent: tuple[float, ...] = ()
        """Of the calls, for each rung."""
        self._rung_of = {node: index for index, rung in enumerate(rungs) for node in rung.nodes}
        self._sick: set[NodeState] = set()
        self._well = [len(rung.nodes) for rung in rungs]
        self._panic: tuple[bool, ...] = ()
        self._reach = 0
        """The last priority that has calls."""
        self._due = inf
        """When to see to the sick."""
        self._ready: list[NodeState] = []
        """Those who may be well, as of the last look."""
        self._look_at = 0.0
        self._turn = 0
        self._table: _Table = ((), ())
        self.settle(())

    # -- what its owner tells

    def changed(self, node: NodeState, sick: bool) -> bool:
        """A node fell sick or got well; returns whether anybody's share of the calls changed by that."""
        index = self._rung_of.get(node)
        if index is None:
            return False
        known = node in self._sick
        if sick:
            self._sick.add(node)
            self._turn += 1
            self._due = min(self._due, _due_at(node))
        else:
            self._sick.discard(node)
        if sick == known:
            return False
        self._well[index] += -1 if sick else 1
        return self._weigh()

    def settle(self, sick: Iterable[NodeState]) -> None:
        """Begin with these being sick."""
        self._sick = {node for node in sick if node in self._rung_of}
        self._well = [len(rung.nodes) for rung in self.rungs]
        for node in self._sick:
            self._well[self._rung_of[node]] -= 1
        self._ready.clear()
        self._due, self._look_at = (0.0 if self._sick else inf), 0.0
        self._weigh()

    def _weigh(self) -> bool:
        levels = [Level(0, 0, 0)] * (self.rungs[-1].priority + 1 if self.rungs else 0)
        for rung, well in zip(self.rungs, self._well, strict=True):
            total, healthy, members = levels[rung.priority]
            size = len(rung.nodes)
            levels[rung.priority] = Level(total + size + rung.absent, healthy + well, members + size)
        loads = priority_loads(levels, self.overprovisioning, self.panic_threshold)
        heft = [
            # "If the selected host set has insufficient healthy hosts, return all hosts" - Envoy: of all localities.
            float(sum(rung.weights))
            if loads.panic[rung.priority]
            else effective_weight(rung.weight or 1, well, len(rung.nodes) + rung.absent, self.overprovisioning)
            for rung, well in zip(self.rungs, self._well, strict=True)
        ]
        sums = [0.0] * len(levels)
        for rung, weight in zip(self.rungs, heft, strict=True):
            sums[rung.priority] += weight
        percent = tuple(
            loads.percent[rung.priority] * weight / sums[rung.priority] if weight else 0.0
            for rung, weight in zip(self.rungs, heft, strict=True)
        )
        same = percent == self.percent and loads.panic == self._panic
        self.percent, self._panic = percent, loads.panic
        served = [index for index, share in enumerate(percent) if share]
        reach, self._reach = self._reach, max((self.rungs[i].priority for i in served), default=len(levels))
        if self._reach > reach and self._sick:
            self._due = 0.0  # there are more who would be called if they were well
        bounds = [bound / 100.0 for bound in accumulate(percent[index] for index in served)]
        self._table = (bounds[:-1], served)
        return not same

    # -- picking

    def pick(self, info: PickInfo) -> NodeState | None:
        """A node that is well where the loads send this call, or one that may be well again."""
        if self._due <= info.now:
            node = self._returning(info.now)
            if node is not None:
                return node
        bounds, served = self._table
        if bounds:
            key = info.hash
            index = served[bisect_right(bounds, info.rng() if key is None else scattered(key))]
        elif served:
            index = served[0]
        else:
            return None
        rung = self.rungs[index]
        node = rung.picker.pick(info)
        if node is not None and (node.outlier.out or node.reachable_at) and self._avoided(node, rung):
            return _well(rung, info) or node
        return node

    def _avoided(self, node: NodeState, rung: Rung) -> bool:
        """Whether a node that is not well is to be kept away from: not in a panic, nor where nobody is any better."""
        return node in self._sick and not self._panic[rung.priority]

    def others(self, info: PickInfo) -> Iterator[NodeState]:
        """Who comes next where a pick does not suit: place by place, those that have calls before the rest."""
        for index in sorted(range(len(self.rungs)), key=lambda index: (not self.percent[index], index)):
            yield from _alternatives(self.rungs[index], info)

    def elsewhere(self, info: PickInfo, tried: Iterable[NodeState]) -> NodeState | None:
        """A node that is well in a place where none of `tried` is, the nearest first; None where there is none.

        As Envoy's `previous_priorities`, by which "other priorities will be targeted in subsequent retry attempts".
        """
        been = {self._rung_of.get(node) for node in tried}
        left = [index for index, well in enumerate(self._well) if well > 0 and index not in been]
        if not left:
            return None
        nearest = [index for index in left if self.rungs[index].priority == self.rungs[left[0]].priority]
        bounds = list(accumulate((self.rungs[index].weight or 1) for index in nearest))
        rung = self.rungs[nearest[bisect_right(bounds[:-1], info.rng() * bounds[-1])]]
        return _well(rung, info)

    def panics(self, node: NodeState) -> bool:
        """Whether this node is to be called though it is ejected, for too few of its priority are well."""
        index = self._rung_of.get(node)
        return index is not None and self._panic[self.rungs[index].priority]

    @property
    def panicking(self) -> bool:
        """Whether any who is not well is called like the others."""
        return any(
            self._panic[rung.priority] and well < len(rung.nodes)
            for rung, well in zip(self.rungs, self._well, strict=True)
        )

    def _returning(self, now: float) -> NodeState | None:
        """One of the sick who may be well by now, for this call to find out."""
        ready = self._ready
        if not ready and now >= self._look_at:
            self._look(now)
        while ready:
            try:
                node = ready.pop()
            except IndexError:  # another thread has the last one
                break
            if node in self._sick and not node.outlier.ticket and _due_at(node) <= now:
                self._due = now + AGAIN
                return node
        self._due = max(self._due, self._look_at)
        return None

    def _look(self, now: float) -> None:
        """See who is due, and when somebody will be next. Thousands of sick are looked through less often."""
        turn, soonest = self._turn, inf
        sick = tuple(self._sick)
        for node in sick:
            if self.rungs[self._rung_of[node]].priority > self._reach:
                continue  # nobody would be sent there if it were well
            at = _due_at(node)
            if at > now:
                soonest = min(soonest, at)
            elif node.outlier.ticket:
                soonest = min(soonest, now + AGAIN)
            else:
                self._ready.append(node)
        self._look_at = now + EACH * len(sick)
        self._due = soonest if self._turn == turn else now  # somebody fell sick while we looked

    # -- looking in

    def spill(self) -> str:
        """Who holds what and where the rest goes, while the first priority can't hold all; else ""."""
        first = sum(share for rung, share in zip(self.rungs, self.percent, strict=True) if not rung.priority)
        if first > 99.9 or not self.rungs:  # what is left over of 100 by the last bit is nobody's
            return ""
        shares = [f"{rung.name} {share:.3g} %" for rung, share in zip(self.rungs, self.percent, strict=True) if share]
        return ", ".join(shares) or "nobody is well"

    def view(self) -> list[dict[str, Any]]:
        """The rungs as they stand, JSON-able: `percent` is of the calls."""
        return [
            {
                "priority": rung.priority,
                "locality": rung.name,
                "weight": rung.weight or None,
                "endpoints": len(rung.nodes) + rung.absent,
                "healthy": well,
                "percent": round(share, 3),
                "panic": self._panic[rung.priority],
            }
            for rung, well, share in zip(self.rungs, self._well, self.percent, strict=True)
        ]

    def rebuilt(self, build: Callable[[Sequence[NodeState], Sequence[int]], Picker]) -> Ladder:
        """The same ladder over other pickers: for who wants to draw from it without moving it."""
        rungs = [replace(rung, picker=build(rung.nodes, rung.weights)) for rung in self.rungs]
        made = Ladder(rungs, self.overprovisioning, self.panic_threshold)
        made.settle(self._sick)
        return made

    def place(self, node: NodeState) -> tuple[int, float]:
        """A node's priority, and the percentage of the calls that its place gets."""
        index = self._rung_of[node]
        return self.rungs[index].priority, self.percent[index]

    def __repr__(self) -> str:
        steps = ", ".join(f"{rung.name} {share:g} %" for rung, share in zip(self.rungs, self.percent, strict=True))
        return f"<Ladder {steps}>"


def scattered(key: int) -> float:
    """A hash as a draw from [0, 1) that is independent of where the same hash lies on a ring (Fibonacci hashing)."""
    return (key * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) / 2.0**64


def _alternatives(rung: Rung, info: PickInfo) -> Iterator[NodeState]:
    """Its nodes in the order in which its picker would rather have them."""
    ordered = getattr(rung.picker, "others", None)
    if ordered is not None:
        yield from islice(ordered(info), SMALL)
        return
    for _ in range(DRAWS):
        drawn = rung.picker.pick(info)
        if drawn is not None:
            yield drawn
    nodes = rung.nodes
    start = int(info.rng() * len(nodes))
    yield from nodes[start : start + SMALL]
    yield from nodes[: max(0, min(start, start + SMALL - len(nodes)))]


def _well(rung: Rung, info: PickInfo) -> NodeState | None:
    """A node of this rung that is well; None if none was found."""
    if not hasattr(rung.picker, "others"):  # then any pick is as good as the first, and is cheaper than to look through
        pick = rung.picker.pick
        for _ in range(DRAWS):
            node = pick(info)
            if node is not None and not node.outlier.out and not node.reachable_at:
                return node
    return next((other for other in _alternatives(rung, info) if _is_well(other)), None)


def _is_well(node: NodeState) -> bool:
    return not node.outlier.out and not node.reachable_at


def _due_at(node: NodeState) -> float:
    return max(node.outlier.ejected_until if node.outlier.out else 0.0, node.reachable_at)
