"""One life of a source: started with its loop, remembered on disk and restored from there, closed.

A process has one at a time; a forked child begins another, for threads and connections stay with the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from proxyless.control import Source
from proxyless.control.cache import Cache, Saver
from proxyless.control.compiler import Compiler
from proxyless.control.loop import Loop
from proxyless.control.standing import Here
from proxyless.events import Observer, Suspicious
from proxyless.model.snapshot import Cluster, Snapshot
from proxyless.model.topology import NOWHERE, Locality

PATIENCE = 1.0
"""Seconds a source is given to speak before the disk is asked: a hung agent refuses nothing, it is only silent."""


class Feed:
    """A source, the loop that it tells, and what is kept of both. `after` calls a function in so many seconds."""

    def __init__(
        self,
        source: Source,
        cache: Cache | None,
        compiler: Compiler,
        publish: Callable[[Snapshot], None],
        emit: Observer,
        now: Callable[[], float],
        after: Callable[[float, Callable[[], None]], None],
        version: int,
    ) -> None:
        self.source = source
        self._compiler = compiler
        self._publish = publish
        self._located = False
        self.loop = loop = Loop(source, compiler, self._published, emit, now, version)
        self._after = after
        self._cache = cache
        self._saver: Saver | None = None
        if cache is not None:
            self._saver = Saver(cache, loop.believed, lambda why: emit(Suspicious(source.name, "disk", why)))
            loop.on_change = self._saver.changed
            loop.on_silence = self.restore
            loop.recall = cache.documents

    def start(self, services: Iterable[str], parent: Feed | None = None, current: Snapshot | None = None) -> None:
        """Listen to the source, and follow these services first. In a forked child: with what its parent's feed knows
        and the snapshot that calls go by."""
        self.loop.begin(parent.loop if parent is not None else None, current)
        for service in sorted(services):
            self.follow(service)

    @property
    def here(self) -> Here:
        """Where this process runs, as far as it is known by now."""
        return self._compiler.here

    def _published(self, snapshot: Snapshot) -> None:
        self._publish(snapshot)
        if self._located or self.here.locality != NOWHERE:
            return
        locate: Any = getattr(self.source, "locate", None)
        if locate is not None and any(map(_wants_place, snapshot.clusters.values())):
            self._located = True
            locate(self._place)

    def _place(self, locality: Locality) -> None:
        """The source knows where we are."""
        self._compiler.here = replace(self.here, locality=locality)
        self.loop.reconsider("locality")

    def follow(self, service: str) -> None:
        """Want to know of `service`; what the disk knows of it will do where the source says nothing."""
        self.loop.want(service)
        if self._cache is not None:
            self._after(PATIENCE, lambda: self.restore() if self.loop.silent else None)

    def restore(self) -> None:
        """While the source is silent: begin with what an earlier process wrote down."""
        state = self._cache.load() if self._cache is not None and self.loop.silent else None
        if state is not None:
            self.loop.restore(*state)

    def forked(self) -> None:
        """In a forked child: this life is the parent's, and the child's own begins when it is needed.

        As a rule its threads are gone. But to gevent they are greenlets, and those go on in a child: they are to
        publish nothing here, and to take nothing away from the parent. No lock is taken: its holder may be gone.
        """
        self.loop.close()
        forked: Any = getattr(self.source, "forked", None)
        if forked is not None:
            forked()

    def close(self) -> None:
        """Stop listening at once; what is to be written down is."""
        self.loop.close()
        self.source.close()
        if self._saver is not None:
            self._saver.close()


def _wants_place(cluster: Cluster) -> bool:
    """Whether it matters for this destination where we are."""
    return cluster.policy.locality is not None and cluster.policy.locality.enabled
