"""The embedded source: a YAML or JSON file, or a folder of them, watched. No server needed.

A file is either a bundle (`mesh:`, `services:`, `endpoints:`) or one service's document. A change takes
effect as a whole: files are read again when one of them changed, and what they say together is told at once.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from proxyless.control import MESH_KEY, SERVICES, RawDocument, Sink
from proxyless.control.syntax import Parsed, parse, render_path
from proxyless.model.documents import FileEndpoint
from proxyless.model.findings import Finding, Invalid
from proxyless.model.topology import NOWHERE, Endpoint, Locality, Watched

LOOK = 0.1
"""Seconds between looks: a `stat` of each file. Quick enough for a person, cheap enough for a laptop."""
SUFFIXES = (".yaml", ".yml", ".json")
_BUNDLE = ("apiVersion", "mesh", "services", "endpoints")


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

    def status(self) -> Mapping[str, Any]:
        with self._lock:
            return {"files": sorted(self._documents), "error": self._error}

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            self._look()

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
            texts = {file.name: file.read_bytes() for file in files}
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
        """Take what one file says; if its text is broken, what it said before stays."""
        parsed = parse(text, where=name)
        if parsed.findings or not isinstance(parsed.data, dict):
            broken = RawDocument(f"file {name}", "", "", name, findings=parsed.findings)
            self._documents[name] = {**self._documents.get(name, {}), broken.key: broken}
            self._endpoints.setdefault(name, {})
            return
        if "service" in parsed.data and "services" not in parsed.data:
            service = str(parsed.data["service"])
            raw = RawDocument(SERVICES + service, "", _version(parsed.data), name, parsed.data, parsed.lines)
            self._documents[name] = {raw.key: raw}
            self._endpoints[name] = {}
            return
        findings: list[Finding] = [
            Finding(key, "is not a key that is known here", parsed.lines.get((key,)), f"the keys here are {', '.join(_BUNDLE)}")
            for key in parsed.data
            if key not in _BUNDLE
        ]
        documents = self._parts(name, parsed, findings)
        endpoints = _endpoints(parsed, findings)
        if findings:
            wrong = RawDocument(f"file {name}", "", "", name, findings=tuple(findings))
            documents[wrong.key] = wrong
        self._documents[name] = documents
        if endpoints is not None:
            self._endpoints[name] = endpoints
        else:
            self._endpoints.setdefault(name, {})

    def _parts(self, name: str, parsed: Parsed, findings: list[Finding]) -> dict[str, RawDocument]:
        documents = {}
        services = parsed.data.get("services") or {}
        if not isinstance(services, dict):
            findings.append(Finding("services", "must be a mapping of names to documents", parsed.lines.get(("services",))))
            services = {}
        for service in services:
            path = ("services", service)
            data = services[service] if services[service] is not None else {}
            raw = RawDocument(
                SERVICES + service, "", _version(data), f"{name}#services.{service}", data, _below(parsed, path)
            )
            documents[raw.key] = raw
        if parsed.data.get("mesh") is not None:
            data = parsed.data["mesh"]
            documents[MESH_KEY] = RawDocument(
                MESH_KEY, "", _version(data), f"{name}#mesh", data, _below(parsed, ("mesh",))
            )
        return documents


def _twice(one: RawDocument, other: RawDocument) -> RawDocument:
    """Two files say something of one service: neither is obeyed, for nobody can know which is meant."""
    finding = Finding("", f"stands in two files: {one.origin} and {other.origin}", hint="keep one of them")
    return RawDocument(one.key, "", "", other.origin, findings=(finding,))


def _endpoints(parsed: Parsed, findings: list[Finding]) -> dict[str, list[Endpoint]] | None:
    """The endpoints written down by hand; None if they can't be believed, and then the earlier ones stay."""
    before = len(findings)
    made: dict[str, list[Endpoint]] = {}
    given = parsed.data.get("endpoints") or {}
    try:
        listed = _adapter().validate_json(json.dumps(given), strict=True)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            path = ("endpoints", *(part for part in error["loc"] if part != "[key]"))
            findings.append(Finding(render_path(path), error["msg"][:1].lower() + error["msg"][1:], parsed.lines.get(path)))
        return None
    for service, entries in listed.items():
        for index, entry in enumerate(entries):
            path = ("endpoints", service, index)
            try:
                made.setdefault(service, []).append(_endpoint(service, entry))
            except Invalid as invalid:
                for field, reason in invalid.problems:
                    findings.append(Finding(render_path((*path, field) if field else path), reason, parsed.lines.get(path)))
    return made if len(findings) == before else None


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
    return Endpoint(entry.address, entry.weight, entry.weight, locality, dict(entry.labels), entry=json.dumps(record))


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Mapping[str, tuple[FileEndpoint, ...]]]:
    return TypeAdapter(Mapping[str, tuple[FileEndpoint, ...]])


def _below(parsed: Parsed, path: tuple[str | int, ...]) -> dict[tuple[str | int, ...], int]:
    depth = len(path)
    return {where[depth:]: line for where, line in parsed.lines.items() if where[:depth] == path}


def _version(data: Any) -> str:
    """A document in a file has no version but its content."""
    return f"{zlib.crc32(json.dumps(data, sort_keys=True, default=str).encode()):08x}"
