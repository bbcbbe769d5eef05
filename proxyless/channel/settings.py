"""Which connections somebody wants: by the documents, by the channels that are open, or by the calls under way.

A call ends on the snapshot that it began with, and so by the `connection` that this has. For a while after an edit
there are two connections to an endpoint, therefore, as there are where subsets with different settings share it. Who
goes by earlier ones is seen from the destinations that calls hold: the garbage collector knows of each for how long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias
from weakref import ReferenceType, ref

from proxyless.model.snapshot import Cluster, ClusterKey, Snapshot
from proxyless.model.traffic import Connection

Key: TypeAlias = tuple[Any, str, Connection, Any]
"""Of an endpoint's channel: the loop (None: threads), the address, how it is connected, and the `Profile`."""


class User(Protocol):
    """A channel of the mesh."""

    @property
    def profile(self) -> Any:
        """What it asks of its endpoints' channels."""

    @property
    def closed(self) -> bool:
        """Whether no call will be made on it any more."""


class Settings:
    """What the latest snapshot says of connections, and what earlier ones say that calls still hold."""

    def __init__(self) -> None:
        self._latest: Mapping[ClusterKey, Cluster] = {}
        self._told: Sequence[ReferenceType[Cluster]] = ()
        """Every destination that there was and that is still held. Replaced, never changed: it needs no lock."""

    def follow(self, snapshot: Snapshot) -> bool:
        """Go by `snapshot` from now on. Returns whether some destination is connected in another way from now on."""
        before, latest = self._latest, snapshot.clusters
        new = [ref(cluster) for key, cluster in latest.items() if before.get(key) is not cluster]
        self._told = [*(told for told in self._told if told() is not None), *new]
        self._latest = latest
        return any(key in latest and latest[key].connection != earlier.connection for key, earlier in before.items())

    def are_current(self, cluster: Cluster) -> bool:
        """Whether a call that begins now would be connected as one that goes by `cluster`."""
        latest = self._latest.get(cluster.key)
        return latest is not None and latest.connection == cluster.connection

    def unwanted(self, keys: Collection[Key], users: Collection[User] | None) -> tuple[set[Key], bool]:
        """Which of these channels nobody wants any more; and whether others will be unwanted once calls have ended.

        Nobody wants one to an endpoint that the snapshot connects in another way; but where it names that endpoint no
        more, it lingers, for it may be named again. Nor one of a profile that no open channel of the mesh has: `users`
        are those that are held, and whose calls may be under way, closed or not; None: nobody knows.
        """
        named = _by_settings(self._latest.values(), busy=False)
        addresses = {address for named_so in named.values() for address in named_so}
        roots = {key[3].root for key in keys} if users is None else ()
        held = {*roots, *(user.profile for user in users or ())}
        opened = {*roots, *(user.profile for user in users or () if not user.closed)}
        leaving = [
            key
            for key in keys
            if key[3].root not in opened or (key[1] in addresses and key[1] not in named.get(key[2], ()))
        ]
        if not leaving:
            return set(), False
        told = (told() for told in self._told)
        used = _by_settings((cluster for cluster in told if cluster is not None), busy=True)
        unwanted = {key for key in leaving if key[3].root not in held or key[1] not in used.get(key[2], ())}
        return unwanted, len(unwanted) < len(leaving)

    def renew(self) -> None:
        """In a forked child: what its parent's calls hold is held for ever, and nobody waits for it."""
        self._told = [ref(cluster) for cluster in self._latest.values()]


def _by_settings(clusters: Iterable[Cluster], busy: bool) -> dict[Connection, set[str]]:
    """The addresses of their members; with `busy`, of those where calls are under way."""
    found: defaultdict[Connection, set[str]] = defaultdict(set)
    for cluster in clusters:
        found[cluster.connection].update(node.address for node in cluster.nodes if node.inflight or not busy)
    return found
