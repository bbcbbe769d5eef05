"""`proxyless rollback`: put an earlier version of a document back, checked as any other change is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxyless.cli import screen
from proxyless.cli.failures import Failure
from proxyless.cli.options import DryRun, Format, Output, Source, Which, Why
from proxyless.cli.screen import GOOD, QUIET

if TYPE_CHECKING:
    from proxyless.cli.files import Draft
    from proxyless.control import RawDocument
    from proxyless.control.history import Version
    from proxyless.control.store import KvStore

To = Annotated[
    int | None,
    typer.Option("--to", metavar="N", help="The version to go back to; else the one before what is in effect."),
]


def rollback(
    which: Which,
    to: To = None,
    dry_run: DryRun = False,
    why: Why = "",
    source: Source = None,
    output: Output = Format.table,
) -> None:
    """Put an earlier version of a document back."""
    from proxyless.cli.apply import write
    from proxyless.cli.documents import kept, key_of, kv
    from proxyless.cli.review import beside, review
    from proxyless.control.store import NEW, Change

    with kv(source, "rolled back") as store:
        key, there = key_of(which), store.documents()
        now = kept(there.get(key))
        target = _target(store, which, to, there)
        assert target.text is not None
        draft = _draft(key, target)
        found = review([draft], there)
        if found.findings:
            raise Failure(
                f"version {target.number} of {key} is not valid any more; nothing was written:",
                *map(str, found.findings),
            )
        new, unrecorded = "", ""
        if not dry_run:
            version = there[key].version if key in there else NEW
            change = Change(key, target.text, version, now)
            done = write(store, [change], beside([key], there, found.values), why, restores=target.number)
            new, unrecorded = done.versions[key], done.unrecorded
        undo = "" if dry_run or unrecorded else _undo(store, which, now)
    if output is Format.json:
        screen.as_json(
            {
                "document": key,
                "action": "rolled back",
                "dry_run": dry_run,
                "to": target.number,
                "version": new or None,
                "unrecorded": unrecorded or None,
            }
        )
    else:
        action = "would be rolled back" if dry_run else "rolled back"
        whose = f" by {target.by}" if target.by else ""
        made = f" (version {new})" if new else ""
        screen.line(f"{key}   ", (action, GOOD), f" to {target.number} of {target.at}{whose}{made}")
        if undo:
            screen.line((undo, QUIET))


def _target(store: KvStore, which: str, to: int | None, there: Mapping[str, RawDocument]) -> Version:
    from proxyless.cli.documents import kept, key_of
    from proxyless.cli.history import version
    from proxyless.control.history import earlier

    key = key_of(which)
    now = kept(there.get(key))
    versions = store.history(key)
    look = f"proxyless history {which} lists what there is; proxyless history {which} N prints one"
    if not versions:
        raise Failure(
            f"no earlier version of {key} is recorded at {store.name}, so there is nothing to go back to",
            "write the earlier document again: proxyless apply -f FILE",
        )
    target = earlier(versions, now) if to is None else version(versions, to, which)
    if target is None:
        raise Failure(f"of {key} no version is recorded before the one in effect", look)
    if target.text is None:
        raise Failure(f"version {target.number} of {key} is a deletion", f"to delete it: proxyless delete {which}")
    if target.text == now:
        raise Failure(f"version {target.number} of {key} is in effect already; nothing was written", look)
    return target


def _draft(key: str, target: Version) -> Draft:
    from proxyless.cli.files import Draft
    from proxyless.control import RawDocument
    from proxyless.control.syntax import parse

    text = target.text or b""
    where = f"version {target.number}"
    parsed = parse(text, where=where)
    return Draft(Path(where), RawDocument(key, "", "", where, parsed.data, parsed.lines, tuple(parsed.findings)), text)


def _undo(store: KvStore, which: str, before: bytes | None) -> str:
    """How to take it back: the version that was in effect until now, which is recorded if it was not."""
    from proxyless.cli.documents import key_of

    if before is None:
        return f"to take that back: proxyless delete {which}"
    for one in reversed(store.history(key_of(which))):
        if one.text == before:
            return f"to take that back: proxyless rollback {which} --to {one.number}"
    return ""
