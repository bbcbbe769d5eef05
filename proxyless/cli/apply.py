"""`proxyless apply`: check documents, by themselves and beside what is there, and write all of them or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyless.cli import screen
from proxyless.cli.failures import Failure
from proxyless.cli.options import Files, Format, Output, Source
from proxyless.cli.screen import DOUBTFUL, GOOD, QUIET

if TYPE_CHECKING:
    from proxyless.cli.files import Draft
    from proxyless.control.store import Conflict

DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")]

_STYLES = {"created": GOOD, "changed": DOUBTFUL, "unchanged": QUIET}


def apply(
    files: Files,
    dry_run: DryRun = False,
    source: Source = None,
    output: Output = Format.table,
) -> None:
    """Check documents and write them to Consul, all of them or none."""
    from proxyless.cli.documents import kv
    from proxyless.cli.files import drafts, has_endpoints
    from proxyless.cli.review import related, review
    from proxyless.control.loop import decode
    from proxyless.control.store import NEW, Change, Conflict, TooMuch

    with kv(source, "applied") as store:
        given = drafts(files)
        there = store.documents()
        found = review(given, there)
        for assumed in found.assumed:
            screen.note(assumed)
        for path in [path for path in files if has_endpoints(path)]:
            screen.note(
                f"{path}: `endpoints` are for a file: source and are not written; Consul's come from its catalog"
            )
        if found.findings:
            raise Failure(f"nothing was written to {store.name}:", *found.findings)
        if not given:
            raise Failure("there is no document in these files, so nothing was written")
        versions = {key: raw.version for key, raw in there.items()}
        changes = [
            Change(draft.key, draft.text, versions.get(draft.key, NEW))
            for draft in given
            if not _same(draft, there)
        ]
        values = {
            key: value for key, raw in there.items() if (value := decode(raw)[0]) is not None
        } | found.values
        beside = related((change.key for change in changes), values)
        written: dict[str, str] = {}
        if changes and not dry_run:
            try:
                written = store.write(
                    changes, {key: versions[key] for key in sorted(beside) if key in versions}
                )
            except Conflict as conflict:
                raise _conflict(conflict) from None
            except TooMuch as much:
                raise Failure(str(much)) from None
        changed = {change.key: change.version for change in changes}
        _tell(
            [
                {
                    "document": draft.key,
                    "file": str(draft.path),
                    "action": _action(draft.key, changed),
                    "version": written.get(draft.key)
                    or (None if draft.key in changed else versions.get(draft.key)),
                }
                for draft in given
            ],
            dry_run=dry_run,
            output=output,
        )


def _same(draft: Draft, there: Any) -> bool:
    raw = there.get(draft.key)
    if raw is None:
        return False
    text = raw.text.encode() if isinstance(raw.text, str) else raw.text
    return bool(text == draft.text)


def _action(key: str, changed: dict[str, str]) -> str:
    if key not in changed:
        return "unchanged"
    return "created" if changed[key] == "0" else "changed"


def _tell(results: list[dict[str, Any]], *, dry_run: bool, output: Format) -> None:
    if output is Format.json:
        screen.as_json({"dry_run": dry_run, "documents": results})
        return
    for one in results:
        version = f" (version {one['version']})" if one["version"] else ""
        would = "would be " if dry_run and one["action"] != "unchanged" else ""
        screen.line(f"{one['document']:<32}  ", (f"{would}{one['action']}", _STYLES[one["action"]]), version)
    if dry_run:
        screen.note("a dry run: all is valid, and nothing was written")


def _conflict(conflict: Conflict) -> Failure:
    keys = " and ".join(conflict.keys) or "one of the documents"
    return Failure(
        f"{keys} was changed by somebody else in this very moment; nothing was written",
        "look at what is there now: proxyless diff -f FILE",
        "then apply again",
    )
