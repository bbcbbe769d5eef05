"""`proxyless diff`: what apply would change, line by line. Like diff, it ends with 1 if that is anything."""

from __future__ import annotations

import difflib
from typing import Any

from proxyless.cli import screen
from proxyless.cli.failures import Failure
from proxyless.cli.options import Files, Format, Output, Source
from proxyless.cli.screen import QUIET, TITLE

_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def diff(files: Files, source: Source = None, output: Output = Format.table) -> int:
    """What apply would change; exit code 1 if anything."""
    from proxyless.cli.documents import stored
    from proxyless.cli.files import drafts

    name, there = stored(source)
    given = drafts(files)
    broken = [draft for draft in given if draft.raw.findings]
    if broken:
        from proxyless.cli.files import located

        raise Failure(
            "these files can't be read:",
            *(str(located(draft, found)) for draft in broken for found in draft.raw.findings),
        )
    results = []
    for draft in given:
        raw = there.get(draft.key)
        before = None if raw is None else _decoded(raw.text)
        lines = _lines(before, _decoded(draft.text), f"{name}/{draft.key}", str(draft.path))
        results.append({"document": draft.key, "file": str(draft.path), "new": raw is None, "diff": lines})
    if output is Format.json:
        screen.as_json(results)
    else:
        for one in results:
            _show(one)
    return int(any(one["diff"] for one in results))


def _decoded(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")


def _lines(before: str | None, after: str, from_: str, to: str) -> list[str]:
    """A unified diff. If one text is JSON and the other YAML, both are compared as canonical JSON."""
    if before == after:
        return []
    if before is not None and _is_json(before) != _is_json(after):
        before, after = _canonical(before), _canonical(after)
    lines = difflib.unified_diff((before or "").splitlines(), after.splitlines(), from_, to, lineterm="")
    return list(lines) or [f"--- {from_}", f"+++ {to}", "  (the same, written differently)"]


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


def _canonical(text: str) -> str:
    from proxyless.cli.files import canonical
    from proxyless.control.syntax import parse

    parsed = parse(text)
    return text if parsed.findings else canonical(parsed.data).decode()


def _show(one: dict[str, Any]) -> None:
    if not one["diff"]:
        screen.line((f"{one['document']}: no difference", QUIET))
    for text in one["diff"]:
        style = TITLE if text.startswith(("---", "+++")) else _STYLES.get(text[:1], "")
        screen.line((text, style))
