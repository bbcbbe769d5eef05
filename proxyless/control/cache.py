"""The last good state on disk, so that a process that starts while its source is down can still serve.

One folder a source (its identity hashed, so that nothing of it shows), with a file for the documents and one
for each watched service: processes that use different services share a folder without undoing each other's
files. Files are replaced whole, are readable by their owner alone, and are not believed when they are older
than a day. Written one second after a change, and never with what is stale or in doubt.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxyless.control import RawDocument
from proxyless.model.findings import Invalid
from proxyless.model.topology import Endpoint, Locality, Watched

FORMAT = "proxyless-cache/1"
OLDEST = 24 * 3600.0
"""Seconds after which a file is history: endpoints of yesterday may be somebody else's addresses today."""
DEBOUNCE = 1.0
REFRESH = 3600.0
"""Seconds after which files are written again though nothing changed, lest a true state look old."""

_NO_TEXT = "\ufffd"

State = tuple[Mapping[str, RawDocument], Mapping[Watched, Sequence[Endpoint]]]


def default_folder() -> Path | None:
    """Where caches belong by the XDG rules; never a folder that others can write. None for a user that has no
    home: a container may run under a number that no passwd file knows, without HOME."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "proxyless"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "proxyless" if os.path.isabs(home) else None


class Cache:
    """Reads and writes the last good state of one source."""

    def __init__(self, folder: Path, identity: str, wall: Callable[[], float] = time.time) -> None:
        self.folder = folder / hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
        self._wall = wall
        self._written: dict[str, object] = {}

    def load(self) -> State | None:
        """What an earlier process knew; None where nothing is there or it can't be believed.

        Without its documents nothing is: endpoints alone would be called as if no document forbade it.
        """
        documents = self.documents()
        if documents is None:
            return None
        endpoints = {}
        for path in sorted(self.folder.glob("endpoints-*.jsonl")):
            try:
                head, *rest = self._records(path.name) or ({},)
                watched = Watched(*map(_text, head["watched"]))
            except (KeyError, TypeError, ValueError):
                continue
            endpoints[watched] = [e for e in map(_endpoint, rest) if e is not None]
        return documents, endpoints

    def documents(self) -> Mapping[str, RawDocument] | None:
        """The documents alone: those that were in effect; None where nothing is there or it can't be believed."""
        records = self._records("documents.jsonl")
        if records is None:
            return None
        try:
            return {raw.key: raw for raw in map(_raw, records)}
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def save(self, state: State) -> None:
        """Write what has changed since the last time. Raises OSError."""
        documents, endpoints = state
        if self._written.get("documents") != documents:
            self._replace("documents.jsonl", map(_document, documents.values()))
            self._written["documents"] = documents
        for watched, known in endpoints.items():
            if self._written.get(str(watched)) is not known:
                name = hashlib.blake2b(str(watched).encode(), digest_size=12).hexdigest()
                head = {"watched": [watched.service, watched.datacenter]}
                self._replace(f"endpoints-{name}.jsonl", _chain(head, map(_record, known)))
                self._written[str(watched)] = known

    def forget(self) -> None:
        """Have the next `save` write everything."""
        self._written.clear()

    def _records(self, name: str) -> list[dict[str, Any]] | None:
        """The records of a file; None of one that is not there, old, foreign or broken."""
        path = self.folder / name
        try:
            if not path.is_file():  # a pipe would keep whoever reads it waiting
                return None
            with path.open(encoding="utf-8") as file:
                head = json.loads(file.readline())
                age = self._wall() - float(head["saved_at"])
                if head.get("format") != FORMAT or not -3600 < age < OLDEST:
                    return None
                records = [json.loads(line) for line in file]
                return records if len(records) == head["records"] else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    def _replace(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Line by line: one dump of ten thousand endpoints would hold the interpreter for a tenth of a second.
        lines = [json.dumps(record) for record in records]
        head = json.dumps({"format": FORMAT, "saved_at": self._wall(), "records": len(lines)})
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{name}-")  # made with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(head + "\n")
                for line in lines:
                    file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class Saver:
    """Writes the cache from a thread of its own, a second after something changed."""

    def __init__(self, cache: Cache, state: Callable[[], State | None], failed: Callable[[str], None]) -> None:
        self._cache = cache
        self._state = state
        self._failed = failed
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._dirty = threading.Event()

    def changed(self) -> None:
        """Something changed; returns at once."""
        self._dirty.set()
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._run, name="proxyless-cache", daemon=True)
                try:
                    thread.start()
                except RuntimeError as failure:  # no more threads: the next change may find one
                    self._failed(f"the state can't be written to disk: {failure}")
                else:
                    self._thread = thread

    def close(self) -> None:
        """Write no more, but for what is waiting to be written."""
        self._stop.set()
        self._dirty.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(0.05)

    def _run(self) -> None:
        failed = ""
        while True:
            if not self._dirty.wait(REFRESH):
                self._cache.forget()
            self._stop.wait(DEBOUNCE)
            self._dirty.clear()
            state = self._state()
            if state is not None:
                try:
                    self._cache.save(state)
                    failed = ""
                except OSError as error:
                    if failed != str(error.strerror):
                        failed = str(error.strerror)
                        self._failed(f"the state can't be written to disk: {failed}")
            if self._stop.is_set():
                return


def _document(raw: RawDocument) -> dict[str, Any]:
    # Bytes are what is no UTF-8, and was refused for it: nothing that can be written here may be taken for valid.
    text = _NO_TEXT if isinstance(raw.text, bytes) else raw.text
    lines = [[list(path), line] for path, line in (raw.lines or {}).items()]
    return {
        "key": raw.key,
        "text": text,
        "version": raw.version,
        "origin": raw.origin,
        "data": raw.data,
        "lines": lines,
    }


def _raw(record: Mapping[str, Any]) -> RawDocument:
    key, text, version, origin = (_text(record[name]) for name in ("key", "text", "version", "origin"))
    lines = {tuple(path): int(line) for path, line in record["lines"]}
    return RawDocument(key, text, version, origin, record["data"], lines)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text was written here")
    return value


def _record(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "address": endpoint.address,
        "weight": endpoint.weight,
        "warning_weight": endpoint.warning_weight,
        "locality": str(endpoint.locality),
        "labels": dict(endpoint.labels),
        "status": endpoint.status,
        "entry": endpoint.entry,
    }


def _endpoint(record: Mapping[str, Any]) -> Endpoint | None:
    try:
        for name in ("address", "status", "entry"):
            _text(record[name])
        return Endpoint(**{**record, "locality": Locality.parse(record["locality"])})
    except (Invalid, TypeError, KeyError, AttributeError):
        return None


def _chain(head: dict[str, Any], rest: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield head
    yield from rest
