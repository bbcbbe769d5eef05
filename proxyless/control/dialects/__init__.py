"""One file a document language, and the table of them: text that was read, made into values of `model/`.

A dialect is a function `(parsed, what, balancers) -> (value or None, findings)`. It never raises on any input and
never lets half a document through. A new one is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from proxyless.control import MESH_KEY, SERVICES, RawDocument
from proxyless.control.dialects import native
from proxyless.control.scanner import quoted
from proxyless.control.syntax import Parsed, parse, render_path
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.findings import Finding

DIALECTS: Mapping[str, native.Dialect] = {native.LANGUAGE: native.read}
"""By `apiVersion`."""

FOREIGN = "documents of another system are not read: say the same in this language (see `proxyless schema`)"


def decode(
    raw: RawDocument, balancers: Collection[str] | None = None
) -> tuple[ServiceDocument | MeshDocument | None, Sequence[Finding]]:
    """Read one document in whatever language it says it is in; `balancers` are those it may name (None: any)."""
    if raw.findings:
        return None, raw.findings
    parsed = _parsed(raw)
    kind = MeshDocument if raw.key == MESH_KEY else ServiceDocument
    if (wrong := other_language(parsed)) is not None:
        return None, [wrong]
    value, findings = DIALECTS[_language(parsed)](parsed, kind, balancers)
    named = getattr(value, "service", None)
    wanted = raw.key.removeprefix(SERVICES)
    if value is not None and named is not None and named != wanted:
        reason = f'says "{named}", but the document lies where "{wanted}" is expected'
        return None, [Finding("service", reason, parsed.lines.get(("service",)), "make both the same")]
    return value, findings


def other_language(parsed: Parsed) -> Finding | None:
    """That a document says it is in a language which is not in the table, or None."""
    language = _language(parsed)
    if language in DIALECTS:
        return None
    reason = f"must be {', '.join(sorted(DIALECTS))}, got {quoted(language)}"
    hint = FOREIGN if "/" in language and "proxyless" not in language else ""
    return Finding("apiVersion", reason, parsed.lines.get(("apiVersion",)), hint)


def _language(parsed: Parsed) -> str:
    data = parsed.data
    return str(data.get("apiVersion", native.LANGUAGE)) if isinstance(data, dict) else native.LANGUAGE


def placed(raw: RawDocument, findings: Sequence[Finding]) -> Sequence[Finding]:
    """`findings` about `raw` that were made without its text, each with its line."""
    lines = {render_path(path): line for path, line in _parsed(raw).lines.items()}
    return [one if one.line or not one.path else replace(one, line=lines.get(one.path)) for one in findings]


def _parsed(raw: RawDocument) -> Parsed:
    return Parsed(raw.data, raw.lines or {}, ()) if raw.data is not None else parse(raw.text, where=raw.origin)
