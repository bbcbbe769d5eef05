"""What a mirrored request carries: a name of its own, and none of the caller's credentials.

The name ends in `-shadow`, as with Envoy's `request_mirror_policies`, so that whoever reads logs can tell. A shadow
runs what nobody has released yet, often with more logging than it should have: whatever lets it act as the caller
stays behind, unless the document allows it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from proxyless.model.matches import carries_credential

Pairs: TypeAlias = tuple[tuple[str, Any], ...]

LONGEST = 15.0
"""Seconds that a copy may take where its call has no deadline: Envoy's route timeout, which its shadows have too."""
MOST = 100
"""Copies under way to one mirror destination. Ours to choose (Envoy has the cluster's limits alone): a black hole
then holds at most this many requests in memory, and a shadow that answers in 100 ms still gets 1,000 a second."""

ATTEMPTS = "grpc-previous-rpc-attempts"


def shadow_authority(authority: str) -> str:
    """`shop.example:443` -> `shop.example-shadow:443`: before the port, as Envoy does."""
    host, colon, port = authority.rpartition(":")
    if colon and port.isdecimal() and not host.endswith(":"):
        return f"{host}-shadow:{port}"
    return f"{authority}-shadow"


def stripper(allowed: Iterable[str]) -> Callable[[Iterable[tuple[str, Any]] | None], Pairs]:
    """What leaves the credentials out of a call's metadata, but for the keys that are `allowed`."""
    named = frozenset(allowed)

    def strip(metadata: Iterable[tuple[str, Any]] | None) -> Pairs:
        return tuple(
            (key, value)
            for key, value in metadata or ()
            if key in named or not (carries_credential(key) or key == ATTEMPTS)
        )

    return strip
