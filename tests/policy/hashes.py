"""What tests of consistent hashing need: a table of given size, and who holds a key in it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

from xxhash import xxh64_intdigest

from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.balancers.hashed import Placing
from proxyless.policy.balancers.maglev import lay as lay_table
from proxyless.policy.balancers.ring_hash import Ring
from proxyless.policy.balancers.ring_hash import lay as lay_ring
from proxyless.state import Node
from tests.worlds import balancing, node

T = TypeVar("T")


def laid(steps: Generator[None, None, T]) -> T:
    """The table, in one go."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            made: T = stop.value
            return made


def ring(hosts: Mapping[str, int], minimum: int = 1024, maximum: int = 65536) -> Ring:
    """A ring of addresses with their weights, in the order given."""
    sizes = LoadBalancer(minimum_ring_size=minimum, maximum_ring_size=maximum)
    return laid(lay_ring((tuple(hosts), tuple(hosts.values())), sizes))


def entries(hosts: Mapping[str, int], made: Ring) -> list[tuple[str, int]]:
    """(address, place) of every entry, around the ring."""
    names = list(hosts)
    return [(names[owner], place) for place, owner in zip(made.places, made.owners, strict=False)]


def slots(hosts: Mapping[str, int], size: int) -> list[str]:
    """Whose each slot of a maglev table is; `hosts` in order of address."""
    names = list(hosts)
    table = laid(lay_table((tuple(hosts), tuple(hosts.values())), LoadBalancer(table_size=size)))
    return [names[owner] for owner in table]


def picker(policy: str, members: Sequence[Node], **fields: Any) -> Placing:
    """A picker over `members` by their own weights."""
    fields = {"minimum_ring_size": 1024} | fields
    weights = [member.endpoint.weight for member in members]
    made: Any = BALANCERS[policy](members, weights, balancing(policy, **fields), lambda: 0.0)
    return made  # type: ignore[no-any-return]


def fleet(count: int, weight: int = 1) -> list[Node]:
    """10.0.0.0:50051 and so on."""
    return [node(f"10.0.{n // 256}.{n % 256}:50051", weight) for n in range(count)]


def users(count: int) -> list[int]:
    """The hashes of user-0 and so on."""
    return [xxh64_intdigest(f"user-{n}".encode()) for n in range(count)]


def holders(made: Placing, keys: Sequence[int]) -> list[str]:
    """Who holds each key, by address."""
    return [made.at(key).address for key in keys]


def moved(before: Sequence[str], after: Sequence[str]) -> int:
    """How many keys have another holder."""
    return sum(a != b for a, b in zip(before, after, strict=True))
