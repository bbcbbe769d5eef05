"""Merge, compile, publish: what sources say becomes the snapshot that calls read, or a finding.

The loop is a monitor, not a thread: whoever brings news (a watch thread of the source) carries it through to
the published snapshot, so that an edit is in effect without a hand-over in between. An invalid document is
set aside and what held before goes on holding; a document that is valid alone but breaks another is set aside
likewise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxyless.control import MESH_KEY, SERVICES, RawDocument, Source
from proxyless.control.compiler import Compiler, World
from proxyless.control.dialects import decode, placed
from proxyless.control.verdicts import Accepted, Rejected, differs, needed
from proxyless.control.warming import same, warmed
from proxyless.events import (
    ConfigApplied,
    ConfigRejected,
    EndpointsDropped,
    Observer,
    SourceRecovered,
    SourceStale,
    Suspicious,
)
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.snapshot import Snapshot
from proxyless.model.topology import Endpoint, Watched

__all__ = ["Loop", "decode"]


class Loop:
    """A `Sink` that turns what it is told into snapshots."""

    def __init__(
        self,
        source: Source,
        compiler: Compiler,
        publish: Callable[[Snapshot], None],
        emit: Observer,
        now: Callable[[], float],
        version: int = 0,
    ) -> None:
        self._source = source
        self._compiler = compiler
        self._publish = publish
        self._emit = emit
        self._now = now
        self._lock = threading.RLock()
        self._wanted: frozenset[str] = frozenset()
        self._raw: Mapping[str, RawDocument] | None = None
        self._accepted: dict[str, Accepted] = {}
        self._rejected: dict[str, Rejected] = {}
        self._endpoints: dict[Watched, Sequence[Endpoint]] = {}
        self._watching: set[Watched] = set()
        self._stale: dict[str, tuple[float, str]] = {}
        self._suspicions: dict[str, str] = {}
        self._dropped: dict[str, tuple[str, ...]] = {}
        self._restored: set[str] = set()
        self._version = version
        self._warming: tuple[str, ...] = ()
        """Services whose new routes wait for endpoints that the source has not named yet."""
        self._last: Snapshot | None = None
        self._closed = False
        self.on_silence: Callable[[], None] = lambda: None
        """Called when a watch has gone unanswered: the moment to ask the disk."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each publication: the moment to write to the disk."""
        self.recall: Callable[[], Mapping[str, RawDocument] | None] = lambda: None
        """The documents that an earlier process wrote to the disk, if they are to be believed."""

    # -- what the mesh asks

    def begin(self, parent: Loop | None = None, current: Snapshot | None = None) -> None:
        """Listen to the source; in a forked child, with what the `parent` process knows and the snapshot of its calls.

        A child whose source is silent, slow or in doubt serves on by that. The parent's lock is not asked for: the
        thread that holds it is not here.
        """
        if parent is not None and parent._raw is not None:
            self._inherit(parent, current)
            self._assume()
        self._source.start(self)
        with self._lock:
            self._rebuild(["parent"])

    def _inherit(self, parent: Loop, current: Snapshot | None) -> None:
        self._wanted, self._accepted, self._rejected = parent._wanted, dict(parent._accepted), dict(parent._rejected)
        self._endpoints = {watched: parent._endpoints[watched] for watched in parent._watching & {*parent._endpoints}}
        if self._compiler.compile(self._world(), self._version).findings:  # it was about to look at something new
            self._wanted, self._accepted, self._rejected, self._endpoints = frozenset(), {}, {}, {}
            return
        self._raw = {key: a.raw for key, a in self._accepted.items()} | {k: r.raw for k, r in self._rejected.items()}
        self._restored = {"documents", *map(str, self._endpoints)}
        self._last = current

    def want(self, service: str) -> None:
        """Calls to `service` will be made: follow it from now on."""
        with self._lock:
            self._wanted |= {service}
            self._rebuild([service])

    def reconsider(self, why: str = "health") -> None:
        """Who is well has changed, or where we are, and with it perhaps what is needed."""
        with self._lock:
            self._rebuild([why])

    def close(self) -> None:
        """Publish nothing more."""
        self._closed = True

    # -- Sink: what the source tells

    def documents(self, documents: Mapping[str, RawDocument]) -> None:
        with self._lock:
            self._confirmed("documents")
            self._take(documents)

    def endpoints(self, watched: Watched, endpoints: Sequence[Endpoint]) -> None:
        with self._lock:
            self._confirmed(str(watched))
            if self._endpoints.get(watched) == endpoints:
                return
            self._endpoints[watched] = endpoints
            self._rebuild([str(watched)])

    def dropped(self, watched: Watched, reasons: Sequence[str]) -> None:
        with self._lock:
            before = self._dropped.get(str(watched), ())
            self._dropped[str(watched)] = tuple(reasons)
        if reasons and tuple(reasons) != before:
            self._emit(EndpointsDropped(str(watched), len(reasons), tuple(dict.fromkeys(reasons))))

    def stale(self, watch: str, reason: str) -> None:
        with self._lock:
            if watch in self._stale:
                return
            self._stale[watch] = (self._now(), reason)
        self._emit(SourceStale(self._source.name, watch, reason))
        self.on_silence()

    def fresh(self, watch: str) -> None:
        with self._lock:
            since = self._stale.pop(watch, None)
            doubted = self._suspicions.pop(watch, None) is not None
            if since is not None or doubted:
                self.on_change()  # what changed meanwhile was not written to disk
        if since is not None:
            self._emit(SourceRecovered(self._source.name, watch, self._now() - since[0]))

    def suspicious(self, watch: str, reason: str) -> None:
        with self._lock:
            known = self._suspicions.get(watch) == reason
            self._suspicions[watch] = reason
        if not known:
            self._emit(Suspicious(self._source.name, watch, reason))

    # -- restoring from disk

    def restore(self, documents: Mapping[str, RawDocument], endpoints: Mapping[Watched, Sequence[Endpoint]]) -> None:
        """Begin with the last good state of an earlier process, wherever the source has not spoken yet."""
        with self._lock:
            if self._raw is None:
                self._restored.add("documents")
                self._take(documents)
            # Of those alone that are asked for: what is asked for later the source may tell by then.
            for watched in (self._watching & endpoints.keys()) - self._endpoints.keys():
                self._restored.add(str(watched))
                self._endpoints[watched] = endpoints[watched]
            self._rebuild(["disk"])
        self._assume()

    def _assume(self) -> None:
        """What the source says first is to be doubted as if it had said this before."""
        if (assume := getattr(self._source, "assume", None)) and (known := self.known()):
            assume(*known)

    def _confirmed(self, watch: str) -> None:
        """The source itself has spoken: what came from the disk is to be written anew, or it would grow old there."""
        if watch in self._restored:
            self._restored.discard(watch)
            self.on_change()

    @property
    def silent(self) -> bool:
        """Whether something that is wanted has not been heard of yet."""
        with self._lock:
            return self._raw is None or not self._watching <= self._endpoints.keys()

    def known(self) -> tuple[Mapping[str, RawDocument], Mapping[Watched, Sequence[Endpoint]]] | None:
        """Documents in effect, or the invalid one (lest its service be called by the defaults), and endpoints."""
        with self._lock:
            if self._raw is None:
                return None
            documents = {k: r.raw for k, r in self._rejected.items()} | {k: a.raw for k, a in self._accepted.items()}
            return documents, dict(self._endpoints)

    def believed(self) -> tuple[Mapping[str, RawDocument], Mapping[Watched, Sequence[Endpoint]]] | None:
        """For the disk: of what is known, what the source itself said and nothing makes doubtful."""
        with self._lock:
            known = self.known()
            if known is None or "documents" in (doubted := {*self._stale, *self._suspicions, *self._restored}):
                return None
            return known[0], {w: e for w, e in known[1].items() if str(w) not in doubted}

    # -- merging

    def _take(self, documents: Mapping[str, RawDocument]) -> None:
        """Go by `documents`, as far as they are valid, and tell of those that are not."""
        told, first = dict(self._rejected), self._raw is None
        changed = self._judge(documents)
        if first and self._rejected and "documents" not in self._restored and (known := self.recall()):
            # As if the process that wrote these down had lived on: they are what was good last.
            self._raw, self._accepted, self._rejected = None, {}, {}
            self._judge(known)
            self._judge(documents)
        if changed or self._last is None:
            self._rebuild(changed or ["documents"])
        for key, rejected in self._rejected.items():
            if told.get(key) != rejected:  # once a version, however often it is told
                self._emit(ConfigRejected(rejected.raw.origin, rejected.findings, key in self._accepted))

    def _judge(self, documents: Mapping[str, RawDocument]) -> list[str]:
        """Decode what is new among `documents`; forget what is gone; set aside what is wrong. Returns what differs."""
        before = self._raw or {}
        self._raw = dict(documents)
        changed = [key for key in documents if key not in before or differs(before[key], documents[key])]
        gone = [key for key in {**self._accepted, **self._rejected} if key not in documents]
        last_good = dict(self._accepted)
        for key in gone:
            self._accepted.pop(key, None)
            self._rejected.pop(key, None)
        for key in changed:
            value, findings = decode(documents[key], self._compiler.balancers)
            if value is None:
                self._rejected[key] = Rejected(documents[key], tuple(findings))
            else:
                self._accepted[key] = Accepted(value, documents[key])
                self._rejected.pop(key, None)
        again = [key for key, set_aside in self._rejected.items() if set_aside.value and (changed or gone)]
        for key in again:  # what it missed may be there now
            value = self._rejected.pop(key).value
            assert value is not None
            self._accepted[key] = Accepted(value, documents[key])
        self._settle([*changed, *again, *gone], last_good)
        return [*changed, *gone]

    def _settle(self, keys: Sequence[str], last_good: Mapping[str, Accepted]) -> None:
        """Take back, one by one, the documents among `keys` that can't stand beside the others."""
        suspects = [key for key in keys if self._accepted.get(key) is not last_good.get(key)]
        while True:
            compiled = self._compiler.compile(self._world(), self._version)
            if not compiled.findings:
                return
            # Those that name what is not there if they are new, else the new ones that took it away.
            at_fault = [key for key in suspects if key in compiled.findings]
            at_fault = at_fault or [key for key in suspects if key in compiled.missed]
            assert at_fault, f"the last good documents don't stand beside each other: {compiled.findings}"
            for key in at_fault:
                suspects.remove(key)
                tried = self._accepted.pop(key, None)
                if key in last_good:
                    self._accepted[key] = last_good[key]
                raw = tried.raw if tried else last_good[key].raw
                findings = compiled.findings.get(key) or [needed(*compiled.missed[key], gone=tried is None)]
                self._rejected[key] = Rejected(raw, tuple(placed(raw, findings)), tried.value if tried else None)

    def _world(self) -> World:
        services: dict[str, ServiceDocument] = {}
        mesh = MeshDocument()
        for key, accepted in self._accepted.items():
            if isinstance(accepted.value, MeshDocument):
                mesh = accepted.value
            else:
                services[key.removeprefix(SERVICES)] = accepted.value
        rejected = {
            key.removeprefix(SERVICES): rejected.why
            for key, rejected in self._rejected.items()
            if key not in self._accepted
        }
        # A file that can't be read at all may be where a service would have been told of.
        unread = [r.why for key, r in self._rejected.items() if key != MESH_KEY and not key.startswith(SERVICES)]
        if unread:
            lost = (name for name in self._wanted if not self._endpoints.get(Watched(name)))
            rejected = {**{name: unread[0] for name in lost if name not in services}, **rejected}
        versions = {key: accepted.raw.version for key, accepted in self._accepted.items()}
        return World(self._wanted, services, mesh, self._endpoints, versions, rejected)

    def _rebuild(self, changed: Sequence[str]) -> None:
        """Compile what is known, publish it if it is new, and ask the source for what it leads to."""
        if self._raw is None or self._closed:
            return
        compiled = self._compiler.compile(self._world(), self._version + 1)
        assert compiled.snapshot is not None, compiled.findings
        snapshot, self._warming = warmed(compiled.snapshot, self._last)
        wanted = compiled.watched | {watched for cluster in snapshot.clusters.values() for watched in cluster.watches}
        if self._last is None or not same(self._last, snapshot):
            self._version += 1
            self._last = snapshot
            self._publish(snapshot)
            self._emit(ConfigApplied(self._version, tuple(changed)))
            self.on_change()
        for watched in wanted - self._watching:
            if watched in self._watching:
                continue  # the source told of another while it was asked, and this was asked for then
            self._watching.add(watched)
            try:
                self._source.watch(watched)
            except BaseException:  # no more threads, say: it is asked again with the next news
                self._watching.discard(watched)
                raise
        for watched in self._watching - wanted:
            self._watching.discard(watched)
            self._endpoints.pop(watched, None)
            self._source.unwatch(watched)
            for told in (self._stale, self._suspicions, self._dropped):
                told.pop(str(watched), None)
            self._restored.discard(str(watched))

    # -- looking in

    def status(self) -> dict[str, Any]:
        """Documents with their origin and verdict, and how fresh all of it is."""
        with self._lock:
            now = self._now()
            documents = [
                {
                    "document": raw.key,
                    "origin": raw.origin,
                    "version": raw.version,
                    "accepted": key not in self._rejected,
                    "in_effect": self._accepted[key].raw.version if key in self._accepted else None,
                    "errors": [str(f) for f in self._rejected[key].findings] if key in self._rejected else [],
                }
                for key, raw in sorted({**{k: r.raw for k, r in self._rejected.items()}, **(self._raw or {})}.items())
            ]
            return {
                "version": self._version,
                "warming": list(self._warming),
                "documents": documents,
                "stale": {w: {"seconds": now - at, "reason": why} for w, (at, why) in self._stale.items()},
                "suspicious": dict(self._suspicions),
                "dropped": {w: list(reasons) for w, reasons in self._dropped.items() if reasons},
                "from_disk": sorted(self._restored),
                "source": {"name": self._source.name, **self._source.status()},
            }
