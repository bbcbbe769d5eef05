"""What the consistent-hashing balancers share: tables that are laid out in steps and kept, and the bound on load.

A table says to which endpoint a 64-bit hash belongs. It depends on addresses, weights and sizes alone, never on
the order in which a source lists them, so every process agrees on it. Laying out a large one takes tens of
milliseconds of pure Python, so it is done in steps between which the thread that builds lets callers run
(`prepare`), and the last few are kept: an endpoint that comes back finds its table ready.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from math import ceil
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from proxyless.model.snapshot import NodeState, Picker, PickInfo
from proxyless.model.traffic import LoadBalancer

SPAN = 1 << 64
"""Hashes are whole numbers below this."""

STEP = 1024
"""Entries laid out between two yields: about half a millisecond, a tenth of what a caller may be held up."""

KEPT = 8
"""Tables kept for a policy. The largest takes 1.3 MB; what comes back is an endpoint or two, not an older world."""

T = TypeVar("T")

Members: TypeAlias = tuple[tuple[str, ...], tuple[int, ...]]
"""Addresses in order, and the weight of each."""

Lay: TypeAlias = Callable[[Members, LoadBalancer], Generator[None, None, T]]
_Key: TypeAlias = tuple[Members, LoadBalancer]


class Placing(Picker, Protocol):
    """A picker that has a place for every hash."""

    def at(self, key: int) -> NodeState:
        """To whom `key` belongs; only asked where somebody is there."""

    def others(self, info: PickInfo) -> Iterator[NodeState]:
        """Whom to ask instead, in order."""


class Consistent(Generic[T]):
    """A balancer that lays out a table; `lay` makes it, `picker` reads it."""

    hashes = True
    """It needs the call's hash, which routes make only where somebody does."""

    def __init__(self, lay: Lay[T], picker: Callable[[Sequence[NodeState], T], Placing]) -> None:
        self._lay = lay
        self._picker = picker
        self._kept: dict[_Key, T] = {}

    def prepare(self, nodes: Sequence[NodeState], weights: Sequence[int], policy: LoadBalancer) -> Iterator[None]:
        """Lay the table out, a step at a time; the balancer finds it ready afterwards."""
        key = (_members(nodes, weights)[0], policy)
        table = self._kept.pop(key, None)
        if table is None:
            table = yield from self._lay(*key)
        self._kept[key] = table
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept)), None)

    def __call__(
        self, nodes: Sequence[NodeState], weights: Sequence[int], policy: LoadBalancer, _rng: Callable[[], float]
    ) -> Picker:
        """Build the picker, in one go where nobody has prepared it."""
        for _ in self.prepare(nodes, weights, policy):
            pass
        members, ordered = _members(nodes, weights)
        picker = self._picker(ordered, self._kept[members, policy])
        if policy.hash_balance_factor:
            return Bounded(picker, ordered, members[1], policy.hash_balance_factor)
        return picker


def _members(nodes: Sequence[NodeState], weights: Sequence[int]) -> tuple[Members, Sequence[NodeState]]:
    """By address: sources list endpoints as they like, and a table must not depend on that."""
    pairs = sorted(zip(nodes, weights, strict=True), key=lambda pair: pair[0].address)
    ordered = [node for node, _ in pairs]
    return (tuple(node.address for node in ordered), tuple(weight for _, weight in pairs)), ordered


def key_of(info: PickInfo) -> int:
    """The call's hash. "If there is no hash in the context, just choose a random value" - Envoy, and gRFC A42."""
    key = info.hash
    return int(info.rng() * SPAN) if key is None else key


class Bounded:
    """Consistent hashing with bounded loads: nobody gets more than `factor` percent of the mean at one time.

    "requests to any upstream host are capped at hash_balance_factor/100 times the average number of requests across
    the cluster", each by its weight; what is above that jumps to places that follow from the hash alone ("the
    random jump avoids the cascading overflow effect", arXiv 1908.08762), so that a hot key spills to the same few.
    """

    __slots__ = ("_due", "_factor", "_nodes", "_parts", "_picker", "_refresh", "_slots")

    def __init__(self, picker: Placing, nodes: Sequence[NodeState], weights: Sequence[int], factor: float) -> None:
        self._picker = picker
        self._nodes = nodes
        total = sum(weights)
        self._parts = {node: weight / total for node, weight in zip(nodes, weights, strict=True)}
        self._factor = factor
        self._refresh = max(4, len(nodes) // 16)
        """Picks between two counts of what is under way: a count costs as much as there are nodes, and in between
        the mean can be wrong by a sixteenth of a call (with few nodes, by four calls in all)."""
        self._due = 0
        self._slots = 0.0

    def pick(self, info: PickInfo) -> NodeState | None:
        if not self._nodes:
            return None
        key = info.hash
        if key is None:
            key = int(info.rng() * SPAN)
        node = self._picker.at(key)
        self._due -= 1
        if self._due < 0:
            self._due = self._refresh
            under_way = sum(map(attrgetter("inflight"), self._nodes))
            self._slots = ((under_way + 1) * self._factor + 99) // 100
        # One call has room everywhere. Else "active <= ceil(slots * weight)", which needs no rounding up to be asked.
        if node.inflight <= 1 or node.inflight < self._slots * self._parts[node] + 1.0:
            return node
        best, load = node, self._load(node)
        for other in self._jumps(key):
            at_other = self._load(other)
            if at_other <= 1.0:
                return other
            if at_other < load:
                best, load = other, at_other
        return best

    def _load(self, node: NodeState) -> float:
        """Calls under way there as a part of those allowed there (`hostOverloadFactor`)."""
        return node.inflight / max(1, ceil(self._slots * self._parts[node]))

    def _jumps(self, key: int) -> Iterator[NodeState]:
        """Places that follow from `key`: as many as leave a chance of 1e-6 to find nobody below the cap."""
        for _ in range(min(len(self._nodes) * 4, 64)):
            key = mixed(key)
            yield self._picker.at(key)

    def others(self, info: PickInfo) -> Iterator[NodeState]:
        """As without a bound: who is asked because another can't answer has been found already."""
        return self._picker.others(info)


def mixed(key: int) -> int:
    """Another hash that follows from `key` (the finalizer of SplitMix64: every bit depends on all)."""
    key = (key + 0x9E3779B97F4A7C15) % SPAN
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 % SPAN
    key = (key ^ key >> 27) * 0x94D049BB133111EB % SPAN
    return key ^ key >> 31


def distinct(nodes: Iterator[NodeState], most: int) -> Iterator[NodeState]:
    """Each node once, in the order of its first place, until `most` have been named."""
    seen: set[Any] = set()
    return islice((node for node in nodes if not (node in seen or seen.add(node))), most)  # type: ignore[func-returns-value]
