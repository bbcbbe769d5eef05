"""`proxyless delete`: take a document away, if no other one needs it and nobody has just changed it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from proxyless.cli import screen
from proxyless.cli.failures import Failure, Misuse
from proxyless.cli.options import Format, Output, Source, Which, Why
from proxyless.cli.screen import GOOD, QUIET

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def delete(which: Which, yes: Yes = False, why: Why = "", source: Source = None, output: Output = Format.table) -> None:
    """Delete a document; its service goes on with the defaults."""
    from proxyless.cli.apply import write
    from proxyless.cli.documents import kept, key_of, kv, missing
    from proxyless.cli.review import beside, broken_by_deleting
    from proxyless.control.store import Change

    key = key_of(which)
    with kv(source, "deleted") as store:
        there = store.documents()
        if key not in there:
            raise missing(which, store.name, there)
        broken = broken_by_deleting(key, there)
        if broken:
            needed = [*map(str, broken), "change these first"]
            raise Failure(f"{key} was not deleted, for others need it:", *needed)
        version = there[key].version
        if not yes:
            _ask(which, key, version, store.name)
        change = Change(key, None, version, kept(there[key]))
        written = write(store, [change], beside([key], there, {}), why)
    if output is Format.json:
        unrecorded = written.unrecorded or None
        screen.as_json({"document": key, "action": "deleted", "version": version, "unrecorded": unrecorded})
    else:
        screen.line(f"{key}   ", ("deleted", GOOD), f" (it was version {version})")
        if not written.unrecorded:
            screen.line((f"to take that back: proxyless rollback {which}", QUIET))


def _ask(which: str, key: str, version: str, name: str) -> None:
    if not sys.stdin.isatty():
        raise Misuse(f"{key} was not deleted: there is nobody to ask here", "say --yes if you mean it")
    screen.note(f"`proxyless get {which} > {which}.yaml` keeps a copy")
    if not typer.confirm(f"Delete {key} (version {version}) at {name}?", err=True):
        raise Failure("nothing was deleted")
