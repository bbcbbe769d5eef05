"""Hashes of requests: what consistent hashing places by, and what a sticky split draws by.

Both are functions of the request alone, so that every process decides alike: XXH64, as Envoy and gRPC use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import log
from typing import Any, TypeAlias

from proxyless.model.routes import Hash

_BITS = (1 << 64) - 1

Pairs: TypeAlias = Iterable[tuple[str, Any]] | None
Hasher: TypeAlias = Callable[[Pairs, int], int | None]
"""(metadata, the channel's identity) -> 64 bits, or None where no policy finds anything to hash."""


def hasher(policies: Sequence[Hash]) -> Hasher | None:
    """All of `policies` combined; None where there are none.

    "hash = rotate_left(hash, 1) ^ new_hash" for every policy that finds something, in order, and `terminal` ends it
    as soon as there is a hash (Envoy `HashPolicyImpl::generateHash`, gRFC A42).
    """
    if not policies:
        return None
    from xxhash import xxh64_intdigest  # where something is hashed: in most processes nothing is

    steps = [(_source(policy, xxh64_intdigest), policy.terminal) for policy in policies]

    def combined(metadata: Pairs, channel: int) -> int | None:
        found: int | None = None
        for source, terminal in steps:
            new = source(metadata, channel)
            if new is not None:
                found = new if found is None else ((found << 1 | found >> 63) & _BITS) ^ new
            if terminal and found is not None:
                break
        return found

    return combined


def _source(policy: Hash, digest: Callable[[bytes], int]) -> Hasher:
    if policy.channel is not None:
        return (lambda _metadata, channel: channel) if policy.channel else (lambda _metadata, _channel: None)
    name = policy.header if policy.header is not None else policy.metadata_key
    assert name is not None, "a hash policy says what it hashes"

    def of_metadata(metadata: Pairs, _channel: int) -> int | None:
        value = value_of(name, metadata)
        return None if value is None else digest(value)

    return of_metadata


def value_of(name: str, metadata: Pairs) -> bytes | None:
    """The values of a key, joined with "," in order (gRFC A42, A76); None if it is not there."""
    values = [value for key, value in metadata or () if key == name]
    if not values:
        return None
    return b",".join(value if isinstance(value, bytes) else value.encode() for value in values)


def sticky(header: str, names: Sequence[str], weights: Sequence[float]) -> Callable[[Pairs], int | None]:
    """A function from metadata to the index of a destination: always the same for the same value of `header`.

    Weighted rendezvous hashing: each destination draws its own number for the value, and the best one wins, in
    proportion to the weights. So a change of weights, or of which destinations there are, moves only as many users
    as it must, and in no particular order; intervals of one hash would move bystanders. None without the header.
    """
    from xxhash import xxh64_intdigest

    largest = max(weights)  # divided out: a logarithm over the smallest of floats would be infinite, for all alike
    places = [
        (index, xxh64_intdigest(name.encode()), weight / largest)
        for index, (name, weight) in enumerate(zip(names, weights, strict=True))
        if weight / largest > 0
    ]

    def choose(metadata: Pairs) -> int | None:
        value = value_of(header, metadata)
        if value is None:
            return None
        # The largest of u ** (1 / weight): 53 bits of the hash, never 0, whose logarithm there is none of.
        _, best = max(
            (log(((xxh64_intdigest(value, seed) >> 11) + 0.5) / (1 << 53)) / weight, -index)
            for index, seed, weight in places
        )
        return -best

    return choose
