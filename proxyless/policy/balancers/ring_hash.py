"""Ring hash (ketama): endpoints stand on a ring, a hash belongs to the first at or after it.

When an endpoint leaves, its keys go to its neighbours and nobody else's move; when one comes, it takes from its
neighbours only. The ring is, entry for entry, that of Envoy's `ring_hash` and of gRPC's (gRFC A42): entry i of an
endpoint stands at XXH64("<address>_<i>"), seed 0.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from math import ceil
from typing import NamedTuple

from proxyless.model.snapshot import NodeState, PickInfo
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.hashed import SPAN, STEP, Consistent, Members, distinct, key_of

TOGETHER = 3
"""A bucket holds 2 ** 3 entries on average: few enough to be found at once, and to sort at next to no cost."""


class Ring(NamedTuple):
    """Where entries stand, in order, and whose each is; one more owner than places: after the last comes the first.

    Hashes are evenly spread, so the first bits of one say nearly where to look: bucket b, of those whose hash
    begins with b (`hash >> shift`), is `starts[b]` to `starts[b + 1]`.
    """

    places: array[int]
    owners: array[int]
    starts: array[int]
    shift: int

    def first(self, key: int) -> int:
        """Of the first entry at or after `key`."""
        bucket = key >> self.shift
        return bisect_left(self.places, key, self.starts[bucket], self.starts[bucket + 1])


def lay(members: Members, policy: LoadBalancer) -> Generator[None, None, Ring]:
    """Lay out the ring of `members`, yielding between steps."""
    addresses, weights = members
    places, owners, starts = array("Q"), array("I"), array("I", [0])
    if not addresses:
        return Ring(places, owners, starts, 64)
    from xxhash import xxh64_intdigest  # by whoever lays a ring, and nobody else

    # A smaller maximum may have been laid over a larger minimum by another document: the cap on memory wins.
    most = policy.maximum_ring_size
    total = sum(weights)
    lightest = min(weights) / total
    # "Scale up the number of hashes per host such that the least-weighted host gets a whole number of hashes on the
    # ring. […] In the case where this number exceeds the max_ring_size, it's scaled back down to fit." - Envoy
    each = policy.entries_per_endpoint or ceil(lightest * min(policy.minimum_ring_size, most))
    scale = min(each / lightest, float(most))
    # Sorted in buckets by their first bits: one sort of 65,536 would hold every other thread up for 20 ms.
    bits = max(0, ceil(scale).bit_length() - 1 - TOGETHER)
    buckets: list[list[int]] = [[] for _ in range(1 << bits)]
    shift = 64 - bits
    owner_of: dict[int, int] = {}
    suffixes: list[bytes] = []
    laid, since, wanted = 0, 0, 0.0
    for owner, (address, weight) in enumerate(zip(addresses, weights, strict=True)):
        # Running sums, so that parts of an entry are not lost - and a float's rounding falls as it does in Envoy.
        wanted += scale * (weight / total)
        count, laid = max(0, ceil(wanted) - laid), max(laid, ceil(wanted))
        suffixes += [b"_%d" % entry for entry in range(len(suffixes), count)]
        name = address.encode()
        for start in range(0, count, STEP):
            mine = [xxh64_intdigest(name + suffix) for suffix in suffixes[start : min(start + STEP, count)]]
            owner_of.update(dict.fromkeys(mine, owner))
            for place in mine:
                buckets[place >> shift].append(place)
            since += len(mine)
            if since >= STEP:
                since = 0
                yield
    for number, bucket in enumerate(buckets, 1):
        bucket.sort()
        places.extend(bucket)
        owners.extend(map(owner_of.__getitem__, bucket))
        starts.append(len(places))
        if not number % (STEP >> TOGETHER):
            yield
    owners.append(owners[0])
    return Ring(places, owners, starts, shift)


class RingPicker:
    """Reads the ring. Some endpoints may have no entry on it, where there are more of them than `maximumRingSize`."""

    __slots__ = ("_nodes", "_owners", "_places", "_ring", "_shift", "_starts")

    def __init__(self, nodes: Sequence[NodeState], ring: Ring) -> None:
        self._nodes = nodes
        self._ring = ring
        self._places, self._owners, self._starts, self._shift = ring

    def at(self, key: int) -> NodeState:
        """The owner of the first entry at or after `key`, and after the last entry the first's."""
        return self._nodes[self._owners[self._ring.first(key)]]

    def pick(self, info: PickInfo) -> NodeState | None:
        if not self._nodes:
            return None
        key = info.hash
        if key is None:
            key = int(info.rng() * SPAN)
        bucket, starts = key >> self._shift, self._starts  # `at`, unrolled
        return self._nodes[self._owners[bisect_left(self._places, key, starts[bucket], starts[bucket + 1])]]

    def others(self, info: PickInfo) -> Iterator[NodeState]:
        """Clockwise, each endpoint once: "behave as if this host was not in the ring" (Envoy), as gRFC A42 walks on."""
        if not self._nodes:
            return iter(())
        start = self._ring.first(key_of(info))
        owners, nodes = self._owners, self._nodes
        around = chain(range(start, len(owners) - 1), range(start))
        return distinct((nodes[owners[place]] for place in around), len(nodes))


ring_hash = Consistent(lay, RingPicker)
