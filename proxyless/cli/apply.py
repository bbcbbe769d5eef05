"""`proxyless apply`: check documents, alone and beside what is there, and write all of them or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from proxyless.cli import screen
from proxyless.cli.failures import Failure
from proxyless.cli.options import DryRun, Files, Format, Output, Source, Why
from proxyless.cli.screen import DOUBTFUL, GOOD, QUIET

if TYPE_CHECKING:
    from proxyless.control.store import Change, KvStore, Written

_STYLES = {"created": GOOD, "changed": DOUBTFUL, "unchanged": QUIET}


def apply(
    files: Files,
    dry_run: DryRun = False,
    why: Why = "",
    source: Source = None,
    output: Output = Format.table,
) -> None:
    """Check documents and write them to Consul, all of them or none."""
    from proxyless.cli.documents import kept, kv
    from proxyless.cli.files import drafts, endpoint_names
    from proxyless.cli.review import beside, review
    from proxyless.control.store import NEW, Change, Written

    with kv(source, "applied") as store:
        given = drafts(files)
        there = store.documents()
        found = review(given, there)
        for told in (*found.assumed, *map(str, found.idle)):
            screen.note(told)
        for path in files:
            if endpoint_names(path):
                screen.note(f"{path}: `endpoints` are for a file: source and not written; Consul has a catalog")
        if found.findings:
            raise Failure(f"nothing was written to {store.name}:", *map(str, found.findings))
        if not given:
            raise Failure("there is no document in these files, so nothing was written")
        changes = [
            Change(draft.key, draft.text, there[draft.key].version if draft.key in there else NEW, before)
            for draft in given
            if draft.text != (before := kept(there.get(draft.key)))
        ]
        done = Written({})
        if changes and not dry_run:
            done = write(store, changes, beside([change.key for change in changes], there, found.values), why)
        changed = {change.key: change.version for change in changes}
        results = [
            {
                "document": draft.key,
                "file": str(draft.path),
                "action": {None: "unchanged", NEW: "created"}.get(changed.get(draft.key), "changed"),
                "version": done.versions.get(draft.key) if draft.key in changed else there[draft.key].version,
            }
            for draft in given
        ]
    _tell(results, done.unrecorded, dry_run=dry_run, output=output)


def write(
    store: KvStore,
    changes: Sequence[Change],
    beside: Mapping[str, str],
    why: str = "",
    restores: int | None = None,
) -> Written:
    """Write and record; what Consul has against it becomes a Failure that says what to do."""
    from proxyless.cli.signature import signature
    from proxyless.control.store import Conflict, TooMuch

    try:
        written = store.write(changes, beside, signature(why, restores))
    except Conflict as conflict:
        raise Failure(
            f"{' and '.join(conflict.keys) or 'one of the documents'} was changed by somebody else "
            "in this very moment; nothing was written",
            "look at what is there now (proxyless get, proxyless diff -f FILE), then do it again",
        ) from None
    except TooMuch as much:
        raise Failure(str(much)) from None
    if written.unrecorded:
        screen.note(f"it is done, but not in the history: {written.unrecorded}")
    return written


def _tell(results: list[dict[str, Any]], unrecorded: str, *, dry_run: bool, output: Format) -> None:
    if output is Format.json:
        screen.as_json({"dry_run": dry_run, "documents": results, "unrecorded": unrecorded or None})
        return
    width = max(len(one["document"]) for one in results)
    for one in results:
        version = f" (version {one['version']})" if one["version"] else ""
        would = "would be " if dry_run and one["action"] != "unchanged" else ""
        screen.line(f"{one['document']:<{width}}   ", (f"{would}{one['action']}", _STYLES[one["action"]]), version)
    if dry_run:
        screen.note("a dry run: all is valid, and nothing was written")
