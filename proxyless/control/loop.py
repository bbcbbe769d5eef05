"""Merge, compile, publish: what sources say becomes the snapshot that calls read, or a finding.

The loop is a monitor, not a thread: whoever brings news (a watch thread of the source) carries it through to
the published snapshot, so that an edit is in effect without a hand-over in between. An invalid document is
set aside and what held before goes on holding; a document that is valid alone but breaks another is set aside
likewise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxyless.control import MESH_KEY, SERVICES, RawDocument, Source
from proxyless.control.compiler import Compiler, World
from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import Parsed, parse
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
from proxyless.model.findings import Finding
from proxyless.model.snapshot import Snapshot
from proxyless.model.topology import Endpoint, Watched


@dataclass(frozen=True, slots=True)
class Accepted:
    """A document in effect."""

    value: ServiceDocument | MeshDocument
    raw: RawDocument


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that has no effect, and why."""

    raw: RawDocument
    findings: tuple[Finding, ...]


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
        self._last: Snapshot | None = None
        self._closed = False
        self.on_silence: Callable[[], None] = lambda: None
        """Called when a watch has gone unanswered: the moment to ask the disk."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each publication: the moment to write to the disk."""

    # -- what the mesh asks

    def want(self, service: str) -> None:
        """Calls to `service` will be made: follow it from now on."""
        if service in self._wanted:
            return
        with self._lock:
            self._wanted |= {service}
            self._rebuild([service])

    def close(self) -> None:
        """Publish nothing more."""
        self._closed = True

    # -- Sink: what the source tells

    def documents(self, documents: Mapping[str, RawDocument]) -> None:
        with self._lock:
            self._restored.discard("documents")
            self._take(documents)

    def endpoints(self, watched: Watched, endpoints: Sequence[Endpoint]) -> None:
        with self._lock:
            self._restored.discard(str(watched))
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
            self._suspicions.pop(watch, None)
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
            for watched, known in endpoints.items():
                if watched not in self._endpoints:
                    self._restored.add(str(watched))
                    self._endpoints[watched] = known
            self._rebuild(["disk"])

    @property
    def silent(self) -> bool:
        """Whether something that is wanted has not been heard of yet."""
        with self._lock:
            return self._raw is None or not self._watching <= self._endpoints.keys()

    def believed(self) -> tuple[Mapping[str, RawDocument], Mapping[Watched, Sequence[Endpoint]]] | None:
        """The last good state, for the disk: documents in effect, and endpoints that the source itself named."""
        with self._lock:
            if self._stale or self._suspicions:
                return None  # never from a state that is in doubt
            documents = {key: accepted.raw for key, accepted in self._accepted.items()}
            endpoints = {w: e for w, e in self._endpoints.items() if str(w) not in self._restored}
            return documents, endpoints

    # -- merging

    def _take(self, documents: Mapping[str, RawDocument]) -> None:
        """Decode what is new among `documents`; forget what is gone; set aside what is wrong."""
        before = self._raw or {}
        self._raw = dict(documents)
        changed = [key for key in documents if key not in before or _differs(before[key], documents[key])]
        gone = [key for key in (*self._accepted, *self._rejected) if key not in documents]
        last_good = dict(self._accepted)
        told = dict(self._rejected)
        for key in gone:
            self._accepted.pop(key, None)
            self._rejected.pop(key, None)
        news: dict[str, ConfigRejected] = {}
        for key in changed:
            value, findings = decode(documents[key])
            if value is None:
                self._reject(documents[key], findings, news)
            else:
                self._accepted[key] = Accepted(value, documents[key])
                self._rejected.pop(key, None)
        self._settle(changed, gone, last_good, news)
        if changed or gone or self._last is None:
            self._rebuild([*changed, *gone] or ["documents"])
        for key, event in news.items():
            if told.get(key) != self._rejected.get(key):  # once a version, however often it is told
                self._emit(event)

    def _settle(
        self, changed: Sequence[str], gone: Sequence[str], last_good: Mapping[str, Accepted], news: dict[str, ConfigRejected]
    ) -> None:
        """Take back, one by one, the documents that can't stand beside the others."""
        suspects = [key for key in (*changed, *gone) if self._accepted.get(key) is not last_good.get(key)]
        for _ in range(len(suspects) + 1):
            findings = self._compiler.compile(self._world(), self._version).findings
            if not findings:
                return
            # The one that names what is not there if it is new, else the new one that took it away.
            at_fault = [key for key in findings if key in suspects] or suspects[:1]
            if not at_fault:
                at_fault = list(findings)
            for key in at_fault:
                raw = (self._raw or {}).get(key)
                wrong = findings.get(key) or next(iter(findings.values()))
                if key in last_good:
                    self._accepted[key] = last_good[key]
                else:
                    self._accepted.pop(key, None)
                if raw is not None:
                    self._reject(raw, tuple(wrong), news)
                elif key in last_good:
                    needed = f"was deleted, but {next(iter(findings))} needs it: {wrong[0]}"
                    hint = "it stays in effect; change the other document first"
                    self._reject(last_good[key].raw, (Finding("", needed, hint=hint),), news)
                if key in suspects:
                    suspects.remove(key)

    def _reject(self, raw: RawDocument, findings: Sequence[Finding], news: dict[str, ConfigRejected]) -> None:
        self._rejected[raw.key] = Rejected(raw, tuple(findings))
        news[raw.key] = ConfigRejected(raw.origin, tuple(findings), raw.key in self._accepted)

    def _world(self) -> World:
        services: dict[str, ServiceDocument] = {}
        mesh = MeshDocument()
        for key, accepted in self._accepted.items():
            if isinstance(accepted.value, MeshDocument):
                mesh = accepted.value
            else:
                services[key.removeprefix(SERVICES)] = accepted.value
        rejected = {
            key.removeprefix(SERVICES): _why(rejected)
            for key, rejected in self._rejected.items()
            if key not in self._accepted
        }
        versions = {key: accepted.raw.version for key, accepted in self._accepted.items()}
        return World(self._wanted, services, mesh, self._endpoints, versions, rejected)

    def _rebuild(self, changed: Sequence[str]) -> None:
        """Compile what is known, publish it if it is new, and ask the source for what it leads to."""
        if self._raw is None or self._closed:
            return
        compiled = self._compiler.compile(self._world(), self._version + 1)
        snapshot = compiled.snapshot
        assert snapshot is not None, compiled.findings
        if self._last is None or not _same(self._last, snapshot):
            self._version += 1
            self._last = snapshot
            self._publish(snapshot)
            self._emit(ConfigApplied(self._version, tuple(changed)))
            self.on_change()
        for watched in compiled.watched - self._watching:
            self._watching.add(watched)
            self._source.watch(watched)
        for watched in self._watching - compiled.watched:
            self._watching.discard(watched)
            self._endpoints.pop(watched, None)
            self._source.unwatch(watched)

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
                "documents": documents,
                "stale": {w: {"seconds": now - at, "reason": why} for w, (at, why) in self._stale.items()},
                "suspicious": dict(self._suspicions),
                "dropped": {w: list(reasons) for w, reasons in self._dropped.items() if reasons},
                "from_disk": sorted(self._restored),
                "source": {"name": self._source.name, **self._source.status()},
            }


def decode(raw: RawDocument) -> tuple[ServiceDocument | MeshDocument | None, Sequence[Finding]]:
    """Read one document in whatever language it says it is in."""
    if raw.findings:
        return None, raw.findings
    parsed = Parsed(raw.data, raw.lines or {}, ()) if raw.data is not None else parse(raw.text, where=raw.origin)
    kind = MeshDocument if raw.key == MESH_KEY else ServiceDocument
    language = parsed.data.get("apiVersion", "proxyless/v1") if isinstance(parsed.data, dict) else "proxyless/v1"
    dialect = DIALECTS.get(language) if isinstance(language, str) else None
    if dialect is None:
        known = ", ".join(sorted(DIALECTS))
        return None, [Finding("apiVersion", f"names no language that is known here; known: {known}", 1)]
    value, findings = dialect(parsed, kind)
    named = getattr(value, "service", None)
    wanted = raw.key.removeprefix(SERVICES)
    if value is not None and named is not None and named != wanted:
        reason = f'says "{named}", but the document lies where "{wanted}" is expected'
        return None, [Finding("service", reason, parsed.lines.get(("service",)), "make both the same")]
    return value, findings


def _differs(one: RawDocument, other: RawDocument) -> bool:
    return (one.text, one.data, one.findings) != (other.text, other.data, other.findings)


def _same(one: Snapshot, other: Snapshot) -> bool:
    """Whether nothing was made anew: the compiler hands on what is unchanged as the same objects."""
    return (
        one.services.keys() == other.services.keys()
        and one.clusters.keys() == other.clusters.keys()
        and all(one.services[name] is other.services[name] for name in one.services)
        and all(one.clusters[key] is other.clusters[key] for key in one.clusters)
    )


def _why(rejected: Rejected) -> str:
    first = str(rejected.findings[0]) if rejected.findings else "invalid"
    return f"{rejected.raw.origin} is invalid and no earlier version of it is known: {first}"
