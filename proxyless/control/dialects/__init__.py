"""One file a document language, and the table of them: text that was read, made into values of `model/`.

A dialect is a function `(parsed, what) -> (value or None, findings)`. It never raises on any input and never
lets half a document through. A new one is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proxyless.control import MESH_KEY, SERVICES, RawDocument
from proxyless.control.dialects import native
from proxyless.control.scanner import quoted
from proxyless.control.syntax import Parsed, parse
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.findings import Finding

DIALECTS: Mapping[str, native.Dialect] = {native.LANGUAGE: native.read}
"""By `apiVersion`."""


def decode(raw: RawDocument) -> tuple[ServiceDocument | MeshDocument | None, Sequence[Finding]]:
    """Read one document in whatever language it says it is in."""
    if raw.findings:
        return None, raw.findings
    parsed = Parsed(raw.data, raw.lines or {}, ()) if raw.data is not None else parse(raw.text, where=raw.origin)
    kind = MeshDocument if raw.key == MESH_KEY else ServiceDocument
    language = parsed.data.get("apiVersion", native.LANGUAGE) if isinstance(parsed.data, dict) else native.LANGUAGE
    dialect = DIALECTS.get(language) if isinstance(language, str) else None
    if dialect is None:
        known = ", ".join(sorted(DIALECTS))
        reason = f"must be {known}, got {quoted(str(language))}"
        return None, [Finding("apiVersion", reason, parsed.lines.get(("apiVersion",)))]
    value, findings = dialect(parsed, kind)
    named = getattr(value, "service", None)
    wanted = raw.key.removeprefix(SERVICES)
    if value is not None and named is not None and named != wanted:
        reason = f'says "{named}", but the document lies where "{wanted}" is expected'
        return None, [Finding("service", reason, parsed.lines.get(("service",)), "make both the same")]
    return value, findings
