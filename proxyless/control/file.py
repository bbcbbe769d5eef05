"""The embedded source: a YAML or JSON file, or a folder of them, watched. No server needed.

A file is either a bundle (`mesh:`, `services:`, `endpoints:`) or one service's document. A change takes
effect as a whole: files are read again when one of them changed, and what they say together is told at once.
"""

from __future__ import annotations

import difflib
import json
import logging
import threading
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from proxyless.control import MESH_KEY, SERVICES, RawDocument, Sink
from proxyless.control.dialects import decode, other_language
from proxyless.control.scanner import quoted
from proxyless.control.syntax import MAX_BYTES, Parsed, parse
from proxyless.control.watcher import over
from proxyless.control.wording import MOST, decoded, finding
from proxyless.model.documents import FileEndpoint
from proxyless.model.findings import Finding
from proxyless.model.quantities import NAME
from proxyless.model.topology import NOWHERE, Endpoint, Locality, Watched

LOOK = 0.1
"""Seconds between looks: a `stat` of each file. Quick enough for a person, cheap enough for a laptop."""
LATER = 10.0
"""Seconds until the next look after one that failed in whoever was told: each has a traceback in the log."""
SUFFIXES = (".yaml", ".yml", ".json")
_BUNDLE = ("apiVersion", "mesh", "services", "endpoints")
OF_SERVICES = ("discovery", "subsets", "routes", "trafficPolicy")

log = logging.getLogger("proxyless")

_Place: TypeAlias = tuple[str | int, ...]


class FileSource:
    """Watches `path` and keeps a sink told."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = f"file:{path}"
        self._sink: Sink | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._watching: set[Watched] = set()
        self._signature: object = None
        self._turn = 0
        self._documents: dict[str, dict[str, RawDocument]] = {}
        self._endpoints: dict[str, dict[str, list[Endpoint]]] = {}
        self._error = ""
        self._thread: threading.Thread | None = None

    def start(self, sink: Sink) -> None:
        self._sink = sink
        self._look()
        self._thread = threading.Thread(target=self._run, name="proxyless-file", daemon=True)
        self._thread.start()

    def watch(self, watched: Watched) -> None:
        with self._lock:
            self._watching.add(watched)
        self._tell()

    def unwatch(self, watched: Watched) -> None:
        with self._lock:
            self._watching.discard(watched)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(0.5)

    def forked(self) -> None:
        """See `Feed.forked`."""
        self._stop = over()

    def status(self) -> Mapping[str, Any]:
        with self._lock:
            return {"files": sorted(self._documents), "error": self._error}

    def _run(self) -> None:
        pause = LOOK
        while not self._stop.wait(pause):
            pause = LOOK
            try:
                self._look()
            except Exception:
                # Of whoever was told, for nothing else is left: no reason to be blind from now on.
                log.exception("what %s says could not be taken in; it is read again in %g s", self.name, LATER)
                self._signature, pause = None, LATER

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            return sorted(p for p in self._path.iterdir() if p.suffix in SUFFIXES and p.is_file())
        return [self._path]

    def _look(self) -> None:
        """Read the files again if one of them changed, and tell what they say now."""
        assert self._sink is not None
        try:
            files = self._files()
            signature = [(str(f), (stat := f.stat()).st_mtime_ns, stat.st_size, stat.st_ino) for f in files]
            if signature == self._signature:
                return
            texts = {file.name: content(file) for file in files}
        except OSError as error:
            self._fail(f"can't be read: {error.strerror}")
            return
        with self._lock:
            self._signature = signature
            self._error = ""
            self._turn += 1
            for name in [name for name in self._documents if name not in texts]:
                del self._documents[name], self._endpoints[name]
            for name, text in texts.items():
                self._read(name, text)
        self._sink.fresh("documents")
        self._tell()

    def _fail(self, reason: str) -> None:
        assert self._sink is not None
        with self._lock:
            self._error = reason
            self._signature = None
        self._sink.stale("documents", reason)

    def _tell(self) -> None:
        """Tell all there is, until what was told is still so: two threads may be telling at a time."""
        assert self._sink is not None
        while True:
            with self._lock:
                turn = self._turn
                endpoints = {watched: self._of(watched) for watched in sorted(self._watching, key=str)}
                together: dict[str, RawDocument] = {}
                for documents in self._documents.values():
                    for key, raw in documents.items():
                        together[key] = _twice(together[key], raw) if key in together else raw
            # Endpoints first, so that a subset that a document names is not empty for a moment.
            for watched, known in endpoints.items():
                self._sink.endpoints(watched, known)
            if self._error == "":
                self._sink.documents(together)
            with self._lock:
                if turn == self._turn:
                    return

    def _of(self, watched: Watched) -> tuple[Endpoint, ...]:
        named = [e for endpoints in self._endpoints.values() for e in endpoints.get(watched.service, ())]
        return tuple({endpoint.address: endpoint for endpoint in named}.values())

    def _read(self, name: str, text: bytes) -> None:
        """Take what one file says as a whole; if it can't be read as a whole, what it said before stays."""
        parsed = parse(text, where=name)
        findings = list(parsed.findings)
        if not findings and "service" in parsed.data and "services" not in parsed.data:
            service = parsed.data["service"]
            if isinstance(service, str) and service:
                raw = RawDocument(SERVICES + service, "", _version(parsed.data), name, parsed.data, parsed.lines)
                self._documents[name] = {raw.key: raw}
                self._endpoints[name] = {}
                return
            findings.append(finding(parsed.lines, ("service",), "must be the name of a service"))
        elif not findings:
            problems = _bundle_problems(parsed)
            endpoints = _endpoints(parsed, problems)
            documents = _parts(name, parsed)
            if not problems:
                self._documents[name] = documents
                self._endpoints[name] = endpoints
                return
            findings = [*_findings_in(documents), *problems]
        broken = RawDocument(f"file {name}", "", "", name, findings=tuple(findings[:MOST]))
        self._documents[name] = {**self._documents.get(name, {}), broken.key: broken}
        self._endpoints.setdefault(name, {})


def _bundle_problems(parsed: Parsed) -> list[Finding]:
    """What keeps a file from being a bundle; its documents are judged one by one, and not here."""
    problems = [
        finding(parsed.lines, (key,), "is not a key that is known here", _meant(key))
        for key in parsed.data
        if key not in _BUNDLE
    ]
    if (wrong := other_language(parsed)) is not None:
        problems.append(wrong)
    if not isinstance(parsed.data.get("services") or {}, dict):
        problems.append(finding(parsed.lines, ("services",), "must be a mapping of names to documents"))
    return problems


def _meant(key: str) -> str:
    """What to write instead of `key` at the top of a bundle."""
    known = f"the keys here are {', '.join(_BUNDLE)}"
    if key in OF_SERVICES:
        return f"{known}; a file for one service alone says which: service: NAME"
    near = difflib.get_close_matches(key[:60], _BUNDLE, n=1)
    return f"did you mean {quoted(near[0])}?" if near else known


def _parts(file: str, parsed: Parsed) -> dict[str, RawDocument]:
    """The documents of a bundle, each with the lines of its own paths."""
    lines: dict[_Place, dict[_Place, int]] = {}
    for path, line in parsed.lines.items():
        depth = 1 if path[:1] == ("mesh",) else 2
        lines.setdefault(path[:depth], {})[path[depth:]] = line
    parts: list[tuple[str, tuple[str, ...]]]
    services = parsed.data.get("services")
    parts = [(SERVICES + name, ("services", name)) for name in (services if isinstance(services, dict) else ())]
    if parsed.data.get("mesh") is not None:
        parts.append((MESH_KEY, ("mesh",)))
    documents = {}
    for key, path in parts:
        data = parsed.data["mesh"] if key == MESH_KEY else services[path[1]]
        data = {} if data is None else data  # `web:` with nothing below it is a service with no rules
        origin = f"{file}#{'.'.join(path)}"
        wrong = () if key == MESH_KEY else _misnamed(path[1], parsed.lines.get(path))
        documents[key] = RawDocument(key, "", _version(data), origin, data, lines.get(path, {}), wrong)
    return documents


def _misnamed(service: str, line: int | None) -> tuple[Finding, ...]:
    """What is wrong with the name of a bundle's document: no split could name it, and out of KV none would read it."""
    try:
        NAME.check(service)
    except ValueError as wrong:
        return (Finding("", f"the name of a service {wrong}", line),)
    return ()


def _findings_in(documents: Mapping[str, RawDocument]) -> list[Finding]:
    """What is wrong with the documents of a bundle that can't be one: all of it is to be mended at once."""
    found = []
    for raw in documents.values():
        within = raw.origin.partition("#")[2]
        found += [replace(one, path=f"{within}.{one.path}".rstrip(".")) for one in decode(raw)[1]]
    return found


def _twice(one: RawDocument, other: RawDocument) -> RawDocument:
    """Two files say something of one service: neither is obeyed, for nobody can know which is meant."""
    both = Finding("", f"stands in two files: {one.origin} and {other.origin}", hint="keep one of them")
    return RawDocument(one.key, "", "", other.origin, findings=(both,))


def _endpoints(parsed: Parsed, findings: list[Finding]) -> dict[str, list[Endpoint]]:
    """The endpoints written down by hand; what is wrong with them goes to `findings`."""
    made: dict[str, list[Endpoint]] = {}
    given = parsed.data.get("endpoints") or {}
    entries, wrong = decoded(given, Mapping[str, tuple[FileEndpoint, ...]], parsed.lines, ("endpoints",))
    findings.extend(wrong)
    for service, written in (entries or {}).items():
        made[service] = [_endpoint(service, entry) for entry in written]
    return made


def _endpoint(service: str, entry: FileEndpoint) -> Endpoint:
    locality = Locality.parse(entry.locality) if entry.locality else NOWHERE
    host, _, port = entry.address.rpartition(":")
    # What a filter sees: as if Consul had the instance, with the labels for its meta.
    record = {
        "Service": {
            "ID": entry.address,
            "Service": service,
            "Address": host.strip("[]"),
            "Port": int(port) if port.isdecimal() else 0,
            "Meta": dict(entry.labels),
            "Tags": [],
        }
    }
    labels = dict(entry.labels)
    return Endpoint(entry.address, entry.weight, locality=locality, labels=labels, entry=json.dumps(record))


def _version(data: Any) -> str:
    """A document in a file has no version but its content."""
    return f"{zlib.crc32(json.dumps(data, sort_keys=True, default=str).encode()):08x}"


def content(path: Path) -> bytes:
    """The file's bytes; of one that is too large, or has no end, enough to see that. Raises OSError."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)
