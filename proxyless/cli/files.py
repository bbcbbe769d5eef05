"""Files of documents, as they are given with -f: one service's document, the mesh's, or a bundle.

A bundle is read by the very source that would serve it (`control.file`), so what is found here is what a
client would find. A document of its own is kept as it was written, comments and all; the parts of a bundle as
canonical JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless.cli.failures import Misuse
from proxyless.control import MESH_KEY, SERVICES, RawDocument
from proxyless.control.file import OF_SERVICES, SUFFIXES, FileSource, content
from proxyless.control.syntax import Parsed, parse, render_path
from proxyless.model.findings import Finding
from proxyless.model.topology import Endpoint, Watched


@dataclass(frozen=True, slots=True)
class Draft:
    """One document of a file: where it stands there, and the text that would be kept.

    `within` is its path in the file, () where the file is the document. A draft that has findings of its own
    stands for what can't be read.
    """

    path: Path
    raw: RawDocument
    text: bytes
    within: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.raw.key


def drafts(paths: Sequence[Path]) -> list[Draft]:
    """Every document in `paths`; of a folder, in its files. Raises Misuse for one that can't be read."""
    return [draft for path in paths for file in _files(path) for draft in _read(file)]


def endpoint_names(path: Path) -> list[str]:
    """The services that a `file:` source has endpoints for."""
    names: set[str] = set()
    for file in _files(path):
        data = parse(_content(file)).data
        endpoints = data.get("endpoints") if isinstance(data, dict) else None
        if isinstance(endpoints, dict):
            names |= endpoints.keys()
    return sorted(names)


def canonical(data: Any) -> bytes:
    """The one way to write this: sorted keys, two blanks."""
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise Misuse(f"the folder {path} has no file that ends in {', '.join(SUFFIXES)}")
    return files


def _content(path: Path) -> bytes:
    try:
        return content(path)
    except OSError as error:
        raise Misuse(f"{path} can't be read: {error.strerror}") from None


def _read(path: Path) -> list[Draft]:
    text = _content(path)
    parsed = parse(text, where=path.name)
    data = parsed.data
    if parsed.findings or not isinstance(data, dict):
        return [_broken(path, *parsed.findings)]
    if "services" not in data and isinstance(data.get("service"), str):
        return [_whole(path, SERVICES + data["service"], text, parsed)]
    if not data.keys() & {"service", "services", "mesh", "endpoints"}:
        if "defaults" in data:
            return [_whole(path, MESH_KEY, text, parsed)]
        if not data.keys() & set(OF_SERVICES):
            return _bundle(path)  # a slip in a key of its top, which its reader names
        hint = "add `service: NAME` at its top; a bundle has `services:` or `mesh:`"
        return [_broken(path, Finding("", "does not say which service it is for", 1, hint))]
    return _bundle(path)


def _whole(path: Path, key: str, text: bytes, parsed: Parsed) -> Draft:
    return Draft(path, RawDocument(key, "", "", str(path), parsed.data, parsed.lines), text)


def _broken(path: Path, *findings: Finding) -> Draft:
    return Draft(path, RawDocument(f"file {path.name}", "", "", str(path), findings=findings), b"")


def _bundle(path: Path) -> list[Draft]:
    heard = _Heard()
    source = FileSource(path)
    source.start(heard)
    source.close()
    made = []
    for key, raw in heard.told.items():
        within = ("services", key.removeprefix(SERVICES)) if key.startswith(SERVICES) else (MESH_KEY,)
        made.append(Draft(path, raw, canonical(raw.data), within if raw.data is not None else ()))
    return made


class _Heard:
    """A Sink that remembers the documents."""

    def __init__(self) -> None:
        self.told: Mapping[str, RawDocument] = {}

    def documents(self, documents: Mapping[str, RawDocument]) -> None:
        self.told = dict(documents)

    def endpoints(self, watched: Watched, endpoints: Sequence[Endpoint]) -> None:
        """Nobody asked."""

    def dropped(self, watched: Watched, reasons: Sequence[str]) -> None:
        """Nobody asked."""

    def stale(self, watch: str, reason: str) -> None:
        """The file was read a moment ago; if it is gone now, there is nothing in it."""

    def fresh(self, watch: str) -> None:
        """As expected."""

    def suspicious(self, watch: str, reason: str) -> None:
        """A file has no doubts."""


@dataclass(frozen=True, slots=True)
class Located:
    """A finding, and where it is: a file, or a document that is kept elsewhere."""

    where: str
    line: int | None
    path: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        """`file:line: path: reason; hint`: as compilers say it, so that editors jump there."""
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        what = f"{self.path}: {self.reason}" if self.path else self.reason
        return f"{place}: {what}{f'; {self.hint}' if self.hint else ''}"


def located(draft: Draft, finding: Finding) -> Located:
    """`finding`, with its path from the top of the file, and its line even where only the path was known."""
    path = finding.path
    if draft.within:
        outer = render_path(draft.within)
        path = f"{outer}{'' if path.startswith('[') or not path else '.'}{path}"
    lines = {render_path(where): line for where, line in (draft.raw.lines or {}).items()}
    line = None if draft.within and not finding.path else finding.line  # of the whole: where it begins
    line = line or lines.get(finding.path) or lines.get("", 1)
    return Located(str(draft.path), line, path, finding.reason, finding.hint)
