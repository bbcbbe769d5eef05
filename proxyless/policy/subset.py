"""Subsetting: which few of many endpoints this process opens connections to (`connection.maxEndpoints`).

Rendezvous hashing as in gRFC A68: each endpoint has a place of its own on a circle, by XXH64 of its address;
the first so many from 0 on are taken. When an endpoint goes, only those who had it take one other.

For client 0 that is A68 to the letter. For the others A68 hashes with a random seed, so that the clients of one
endpoint are as many as chance has it: 1,000 clients with 20 of 1,000 endpoints each give some endpoint 35, some 6.
Here each endpoint moves round the circle by a stride of its own from one client to the next. The strides are noble
numbers, the worst that fractions can come near to, so that any run of consecutive clients finds each endpoint among
its first about equally often: 14 to 26. Clients that are numbered at random are served as A68 serves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest

CIRCLE = 1 << 64


def _strides(digits: int) -> tuple[int, ...]:
    """Numbers whose continued fraction has `digits` terms of 1 to 3 and then ones for ever, as shares of the circle.

    One stride for all would keep neighbours neighbours; 3**4 = 81 make every client's order another.
    """
    found = []
    for choice in range(3**digits):
        value = (1 + 5**0.5) / 2
        for digit in range(digits):
            value = choice // 3**digit % 3 + 1 + 1 / value
        found.append(int(CIRCLE / value))
    return tuple(found)


STRIDES = _strides(4)


def closest(addresses: Sequence[str], most: int, client: int) -> list[int]:
    """The indexes of the `most` endpoints that belong to the client of this number; all, in order, where they fit."""
    if len(addresses) <= most:
        return list(range(len(addresses)))
    places = [(_place(address.encode(), client), index) for index, address in enumerate(addresses)]
    return [index for _, index in nsmallest(most, places)]


def _place(address: bytes, client: int) -> int:
    """Where an endpoint stands on the circle when this client looks."""
    from xxhash import xxh64_intdigest  # when there is a subset to draw: most processes have none

    return (xxh64_intdigest(address) + client * STRIDES[xxh64_intdigest(address, 1) % len(STRIDES)]) % CIRCLE
