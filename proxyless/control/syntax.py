"""The text of a document, YAML or JSON, turned into plain data with the line of every path; it never raises.

Whoever may write the KV prefix may write anything there, so a text is read as a stream of events, and depth
and number are checked on each event before anything is built from it. Scalars follow the core schema of YAML
1.2 (section 10.3.2), not PyYAML's YAML 1.1, in which `on` and `NO` are booleans, `1:30` is 90 and `0777` is
511. Of YAML's features only those are left that JSON has too: an anchor, an alias or a tag is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from proxyless.control.scanner import CLIP, Event, Malformed, forbid, json_events, quoted, yaml_events
from proxyless.model.findings import Finding

__all__ = ["Parsed", "Path", "parse", "render_path"]

Path = tuple[str | int, ...]  # where a value stands: ("routes", 2, "retry", "attempts")

MAX_BYTES = 512 * 1024  # Consul stores no larger value
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_DIGITS = 30
MAX_FINDINGS = 100  # a text of nothing but mistakes must not make a report of fifty thousand lines

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

# YAML 1.2, 10.3.2, less octal, hexadecimal and leading zeros: `0o17`, `0x1F` and `007` are text.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a text says. Without `findings` the text is good; with them `data` may be None or partial.

    `data` is made of dict (with str keys), list, str, int, float, bool and None. `lines` has the 1-based line
    of every key and every item, and 1 for the document itself, `()`.
    """

    data: Any
    lines: Mapping[Path, int]
    findings: tuple[Finding, ...]


def parse(text: str | bytes, *, where: str = "") -> Parsed:
    """Read one document. Every mistake in it is a finding; nothing is read past a break of the grammar.

    `where` names the document in findings about the whole of it; without it they say "the document".
    """
    noun = where or "the document"
    faults: list[tuple[Malformed, _Tree]] = []
    source = _decoded(text, noun)
    if isinstance(source, Finding):
        return Parsed(None, {(): 1}, (source,))
    # `{a: 1}` looks like JSON and is YAML.
    looks_like_json = source.lstrip(" \t\r\n").startswith(("{", "["))
    for events in (json_events, yaml_events) if looks_like_json else (yaml_events,):
        tree = _Tree(noun)
        try:
            return tree.grow(events(source))
        except Malformed as fault:
            faults.append((fault, tree))
    # Neither takes it. What JSON could read beyond the first word was meant as JSON.
    last, tree = faults[0] if faults[0][1].nodes > 1 else faults[-1]
    return Parsed(None, tree.lines, (*tree.findings, last.finding))


def render_path(path: Path) -> str:
    """The path as people write it: `routes[2].retry.attempts`, `headers["x-a"]`; very long keys are clipped.

    Clipped, because a hundred findings below a key of 400 KB would be a report of 40 MB.
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and len(part) <= CLIP:
            text += f".{part}" if text else part
        else:
            text += f"[{quoted(part)}]"
    return text


def _decoded(text: str | bytes, noun: str) -> str | Finding:
    """The text without its BOM, or why it isn't read at all."""
    # No text has fewer bytes than characters, so what is far too large isn't even encoded.
    whole = text if len(text) > MAX_BYTES or isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(whole) > MAX_BYTES:
        hint = "Consul stores no larger value; give every service its own document"
        return Finding("", f"{noun} is larger than {MAX_BYTES} bytes", hint=hint)
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            return Finding("", f"{noun} is not UTF-8: {error.reason}", line, "save it as UTF-8")
    text = text.removeprefix("\ufeff")
    try:
        forbid(_CONTROL, text)
    except Malformed as fault:
        return fault.finding
    return text.replace("\r\n", "\n").replace("\r", "\n")  # one kind of line, as in every scalar of YAML


class _Refused(Exception):
    """A limit is reached, and its finding recorded; the rest of the text isn't read."""


@dataclass(slots=True)
class _Open:
    """A mapping or a list that is being filled."""

    path: Path
    value: dict[str, Any] | list[Any]
    slot: Path | None = None  # of a mapping: where the value that comes next belongs; None: a key comes next
    kept: bool = True  # False: the key before that value was refused, and the value goes with it


class _Tree:
    """Grows the data from events. Its stack is a list of at most `MAX_DEPTH`, never Python's own."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.data: Any = None
        self.lines: dict[Path, int] = {(): 1}
        self.findings: list[Finding] = []
        self.stack: list[_Open] = []
        self.documents = 0
        self.nodes = 0

    def grow(self, events: Iterable[Event]) -> Parsed:
        """Take all events; `Malformed` passes through."""
        try:
            for event in events:
                self._take(event)
        except _Refused:
            return Parsed(None, self.lines, tuple(self.findings))
        if self.data is None and not self.findings:
            self.findings.append(Finding("", f"{self.noun} is empty"))
        elif self.data is not None and not isinstance(self.data, dict):
            reason = f"{self.noun} must be a mapping (key: value), got {_kind(self.data)}"
            self.findings.append(Finding("", reason, 1))
            self.data = None
        return Parsed(self.data, self.lines, tuple(self.findings))

    def _take(self, event: Event) -> None:
        if event.kind == "end":
            self.stack.pop()
        elif event.kind == "document":
            self.documents += 1
            if self.documents > 1:
                self._stop((), event.line, "a second document begins here", "keep one, and no further ---")
        elif event.kind == "refused":
            self._find(self._next_path(), event.line, event.text, event.hint)
        else:
            self.nodes += 1
            if self.nodes > MAX_NODES:
                self._stop(self._next_path(), event.line, f"more than {MAX_NODES} keys and values")
            if event.kind == "scalar":
                self._scalar(event)
            else:
                self._collection(event)

    def _scalar(self, event: Event) -> None:
        top = self.stack[-1] if self.stack else None
        path = self._next_path()
        if not event.text.isascii() and _SURROGATE.search(event.text):
            # An escape may say so, but no encoder will take it: it would break whoever prints or sends it.
            self._find(path, event.line, "half a surrogate pair", "write the whole pair")
        if top is not None and isinstance(top.value, dict) and top.slot is None:
            top.slot = (*top.path, event.text)
            top.kept = event.text not in top.value
            if not top.kept:
                reason = f"this key is given twice, first on line {self.lines[top.slot]}"
                self._find(top.slot, event.line, reason, "keep one of them")
            self.lines.setdefault(top.slot, event.line)
            top.value.setdefault(event.text, None)
        elif event.plain:
            self._place(self._plain(event.text, path, event.line), event.line)
        else:
            self._place(event.text, event.line)

    def _collection(self, event: Event) -> None:
        path = self._next_path()
        if len(self.stack) >= MAX_DEPTH:
            self._stop(path, event.line, f"nested deeper than {MAX_DEPTH} levels")
        value: dict[str, Any] | list[Any] = {} if event.kind == "map" else []
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.value, dict) and top.slot is None:
            hint = "put text that begins with { or [ in quotes"
            self._find(path, event.line, f"a key must be text, got {_kind(value)}", hint)
            path = top.slot = (*path, "?")  # YAML's own sign for such a key
            top.kept = False
        else:
            self._place(value, event.line)
        self.stack.append(_Open(path, value))

    def _next_path(self) -> Path:
        """Of the node that comes next; a key has the path of its mapping."""
        if not self.stack:
            return ()
        top = self.stack[-1]
        return (*top.path, len(top.value)) if isinstance(top.value, list) else top.slot or top.path

    def _place(self, value: Any, line: int) -> None:
        if not self.stack:
            self.data = value
            return
        top = self.stack[-1]
        if isinstance(top.value, list):
            self.lines.setdefault((*top.path, len(top.value)), line)
            top.value.append(value)
        elif top.slot is not None:
            if top.kept:
                top.value[str(top.slot[-1])] = value
            top.slot = None

    def _plain(self, text: str, path: Path, line: int) -> Any:
        """What a scalar without quotes means."""
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            digits = len(text.lstrip("+-"))
            if digits > MAX_DIGITS:
                reason = f"an integer of {digits} digits, more than {MAX_DIGITS}"
                self._find(path, line, reason, "quote it if it is text")
                return None
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _find(self, path: Path, line: int, reason: str, hint: str = "") -> None:
        self.findings.append(Finding(render_path(path), reason, line, hint))
        if len(self.findings) >= MAX_FINDINGS:
            self._stop((), line, f"{MAX_FINDINGS} mistakes up to here; the rest is not read")

    def _stop(self, path: Path, line: int, reason: str, hint: str = "") -> NoReturn:
        self.findings.append(Finding(render_path(path), reason, line, hint))
        raise _Refused


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "a boolean"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a number"
