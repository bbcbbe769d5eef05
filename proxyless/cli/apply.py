"""`proxyless apply`: check documents, alone and beside what is there, and write all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyless.cli import screen
from proxyless.cli.failures import Failure
from proxyless.cli.options import Files, Format, Output, Source
from proxyless.cli.screen import DOUBTFUL, GOOD, QUIET

if TYPE_CHECKING:
    from proxyless.control import RawDocument
    from proxyless.control.store import Change, KvStore

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
    from proxyless.cli.files import drafts, endpoint_names
    from proxyless.cli.review import beside, review
    from proxyless.control.store import NEW, Change

    with kv(source, "applied") as store:
        given = drafts(files)
        there = store.documents()
        found = review(given, there)
        for assumed in found.assumed:
            screen.note(assumed)
        for path in files:
            if endpoint_names(path):
                screen.note(f"{path}: `endpoints` are for a file: source and not written; Consul has a catalog")
        if found.findings:
            raise Failure(f"nothing was written to {store.name}:", *map(str, found.findings))
        if not given:
            raise Failure("there is no document in these files, so nothing was written")
        changes = [
            Change(draft.key, draft.text, there[draft.key].version if draft.key in there else NEW)
            for draft in given
            if draft.text != _kept(there.get(draft.key))
        ]
        written: Mapping[str, str] = {}
        if changes and not dry_run:
            written = write(store, changes, beside([change.key for change in changes], there, found.values))
        before = {change.key: change.version for change in changes}
        results = [
            {
                "document": draft.key,
                "file": str(draft.path),
                "action": {None: "unchanged", NEW: "created"}.get(before.get(draft.key), "changed"),
                "version": written.get(draft.key) if draft.key in before else there[draft.key].version,
            }
            for draft in given
        ]
    _tell(results, dry_run=dry_run, output=output)


def write(store: KvStore, changes: Sequence[Change], beside: Mapping[str, str]) -> Mapping[str, str]:
    """Write; what Consul has against it becomes a Failure that says what to do."""
    from proxyless.control.store import Conflict, TooMuch

    try:
        return store.write(changes, beside)
    except Conflict as conflict:
        raise Failure(
            f"{' and '.join(conflict.keys) or 'one of the documents'} was changed by somebody else "
            "in this very moment; nothing was written",
            "look at what is there now (proxyless get, proxyless diff -f FILE), then do it again",
        ) from None
    except TooMuch as much:
        raise Failure(str(much)) from None


def _kept(raw: RawDocument | None) -> bytes | None:
    if raw is None:
        return None
    return raw.text.encode() if isinstance(raw.text, str) else raw.text


def _tell(results: list[dict[str, Any]], *, dry_run: bool, output: Format) -> None:
    if output is Format.json:
        screen.as_json({"dry_run": dry_run, "documents": results})
        return
    width = max(len(one["document"]) for one in results)
    for one in results:
        version = f" (version {one['version']})" if one["version"] else ""
        would = "would be " if dry_run and one["action"] != "unchanged" else ""
        screen.line(f"{one['document']:<{width}}   ", (f"{would}{one['action']}", _STYLES[one["action"]]), version)
    if dry_run:
        screen.note("a dry run: all is valid, and nothing was written")
