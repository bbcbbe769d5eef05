"""Maglev: a table of prime size in which every endpoint has its share of the slots, to within one.

Each endpoint goes through the slots in an order of its own and takes the next free one when it is its turn
("Maglev: A Fast and Reliable Software Network Load Balancer", listing 1, as Envoy lays it out with weights).
Shares are exact and a lookup is one remainder; when endpoints change, about twice as many keys move as on a ring.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator, Sequence
from heapq import heapreplace
from itertools import chain, cycle, islice

from proxyless.model.snapshot import NodeState, PickInfo
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.hashed import SPAN, STEP, Consistent, Members, distinct, key_of

JUMPS = 8
"""Places asked before the rest of the table is walked: nearly always one of the first few suits."""


def lay(members: Members, policy: LoadBalancer) -> Generator[None, None, array[int]]:
    """Lay out the table of `members`, yielding between steps; empty where nobody is there."""
    addresses, weights = members
    if not addresses:
        return array("I")
    size = policy.table_size
    from xxhash import xxh64_intdigest  # by whoever lays a table, and nobody else

    names = [address.encode() for address in addresses]
    slots = [xxh64_intdigest(name) % size for name in names]
    skips = [xxh64_intdigest(name, 1) % (size - 1) + 1 for name in names]
    free = bytearray(b"\1") * size
    table = array("I", [0]) * size
    pause = STEP
    for filled, member in enumerate(islice(_turns(weights), size), 1):
        slot, skip = slots[member], skips[member]
        while not free[slot]:
            slot = (slot + skip) % size
        free[slot] = 0
        table[slot] = member
        slots[member] = (slot + skip) % size
        if filled == pause:
            yield
            # The fuller the table, the longer the search for a free slot: 1 / (free part) steps of it on average.
            left = size - filled
            pause += max(1, 4 * STEP * left // (3 * left + size))
    return table


def _turns(weights: Sequence[int]) -> Iterator[int]:
    """Whose turn it is, for ever: "a host with weight equal to max_normalized_weight […] would be picked on every
    single iteration. If it had weight equal to max_normalized_weight / 3, then it would only be picked every 3
    iterations" - Envoy. A heap instead of its iterations: they cost as many steps as there are endpoints, each."""
    if len(set(weights)) == 1:
        yield from cycle(range(len(weights)))
    total, heaviest = sum(weights), max(weights) / sum(weights)
    shares = [weight / total for weight in weights]
    targets = [0.0] * len(weights)
    due = [(1, member) for member in range(len(weights))]  # in order, so it is a heap
    while True:
        turn, member = due[0]
        yield member
        targets[member] += heaviest
        share, target = shares[member], targets[member]
        turn = max(turn + 1, int(target / share))
        while turn * share < target:  # the division was rounded: what counts is Envoy's comparison
            turn += 1
        heapreplace(due, (turn, member))


class MaglevPicker:
    """Reads the table."""

    __slots__ = ("_nodes", "_size", "_table")

    def __init__(self, nodes: Sequence[NodeState], table: array[int]) -> None:
        self._nodes = nodes
        self._table = table
        self._size = len(table)

    def at(self, key: int) -> NodeState:
        """Whose slot it is."""
        return self._nodes[self._table[key % self._size]]

    def pick(self, info: PickInfo) -> NodeState | None:
        if not self._nodes:
            return None
        return self._nodes[self._table[key_of(info) % self._size]]

    def others(self, info: PickInfo) -> Iterator[NodeState]:
        """Envoy's next attempts, "by using value with most bits set for the retry attempts, we achieve a larger change
        in the hash"; then whoever is left, from the call's own slot on."""
        if not self._nodes:
            return iter(())
        key, size = key_of(info), self._size
        jumps = ((key ^ (SPAN - attempt)) % size for attempt in range(1, JUMPS + 1))
        slots = chain(jumps, range(key % size, size), range(key % size))
        return distinct((self._nodes[self._table[slot]] for slot in slots), len(self._nodes))


maglev = Consistent(lay, MaglevPicker)
