"""Which connections are still made as somebody wants them: by the documents, or by the calls under way.

A call ends on the snapshot that it began with, and so by the `connection` that this has. For a while after an edit
there are two connections to an endpoint, therefore, as there are where subsets with different settings share it. Who
goes by earlier ones is seen from the destinations that calls hold: the garbage collector knows of each for how long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from weakref import ReferenceType, ref

from proxyless.model.snapshot import Cluster, ClusterKey, Snapshot
from proxyless.model.traffic import Connection


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

    def outdated(self, channels: Iterable[tuple[str, Connection]]) -> tuple[set[tuple[str, Connection]], bool]:
        """Which connections to endpoints that are named are wanted by nobody; and whether others will be once calls
        have ended.

        Connections to endpoints that are not named any more are none of them: these linger, for they may be again.
        """
        named = _by_settings(self._latest.values(), busy=False)
        addresses = {address for named_so in named.values() for address in named_so}
        earlier = [(a, c) for a, c in channels if a in addresses and a not in named.get(c, ())]
        if not earlier:
            return set(), False
        held = (told() for told in self._told)
        used = _by_settings((cluster for cluster in held if cluster is not None), busy=True)
        outdated = {(address, connection) for address, connection in earlier if address not in used.get(connection, ())}
        return outdated, len(outdated) < len(set(earlier))

    def renew(self) -> None:
        """In a forked child: what its parent's calls hold is held for ever, and nobody waits for it."""
        self._told = [ref(cluster) for cluster in self._latest.values()]


def _by_settings(clusters: Iterable[Cluster], busy: bool) -> dict[Connection, set[str]]:
    """The addresses of their members; with `busy`, of those where calls are under way."""
    found: defaultdict[Connection, set[str]] = defaultdict(set)
    for cluster in clusters:
        found[cluster.connection].update(node.address for node in cluster.nodes if node.inflight or not busy)
    return found
