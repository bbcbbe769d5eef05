"""`proxyless history`: the earlier versions of a document: who changed it, when and why; or the text of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyless.cli import screen
from proxyless.cli.failures import Failure
from proxyless.cli.options import Format, Output, Source, Which
from proxyless.cli.screen import BAD, GOOD, NONE, Cell

if TYPE_CHECKING:
    from proxyless.control.history import Version

Number = Annotated[
    int | None, typer.Argument(metavar="[N]", help="Print the text of this version; without it, list them all.")
]


def history(which: Which, number: Number = None, source: Source = None, output: Output = Format.table) -> None:
    """The earlier versions of a document, or the text of one."""
    from proxyless.cli.documents import kept, key_of, kv

    with kv(source, "rolled back") as store:
        key = key_of(which)
        versions = store.history(key)
        now = kept(store.documents().get(key))
        name = store.name
    if not versions:
        raise Failure(
            f"no earlier version of {key} is recorded at {name}",
            "apply, delete and rollback record what they change; what other means wrote, the next of them records",
        )
    if number is not None:
        _print(version(versions, number, which), output)
    elif output is Format.json:
        screen.as_json({"document": key, "versions": [described(one, versions, now) for one in versions]})
    else:
        _table(versions, now)


def version(versions: Sequence[Version], number: int, which: str) -> Version:
    """The one with that number, or a Failure that says which there are."""
    for one in versions:
        if one.number == number:
            return one
    raise Failure(
        f"there is no version {number} of {which}",
        f"there are {versions[0].number} to {versions[-1].number}: proxyless history {which}",
    )


def described(one: Version, versions: Sequence[Version], now: bytes | None) -> dict[str, Any]:
    """For programs."""
    return {
        "number": one.number,
        "at": one.at,
        "by": one.by or None,
        "action": one.action,
        "restores": one.restores,
        "note": one.note or None,
        "bytes": None if one.text is None else len(one.text),
        "in_effect": one is versions[-1] and one.text == now,
    }


def _print(one: Version, output: Format) -> None:
    text = None if one.text is None else one.text.decode("utf-8", "backslashreplace")
    if output is Format.json:
        screen.as_json({**described(one, (), None), "in_effect": None, "text": text})
    elif text is None:
        raise Failure(f"version {one.number} is a deletion, at {one.at} by {one.by or 'somebody'}: it has no text")
    else:
        screen.raw(text)


def _table(versions: Sequence[Version], now: bytes | None) -> None:
    rows = [
        (
            str(one.number),
            one.at or NONE,
            one.by or "by other means",
            _action(one, versions, now),
            NONE if one.text is None else str(len(one.text)),
            one.note or NONE,
        )
        for one in reversed(versions)
    ]
    screen.table(("N", "WHEN", "WHO", "WHAT", "BYTES", "WHY"), rows)
    if versions[-1].text != now:
        what = "there is no document now" if now is None else "what is there now is none of these"
        screen.line()
        screen.line((f"NOT RECORDED YET: {what}; somebody used other means than these commands", BAD))


def _action(one: Version, versions: Sequence[Version], now: bytes | None) -> Cell:
    action = one.action if one.restores is None else f"{one.action} to {one.restores}"
    if one is versions[-1] and one.text == now and now is not None:
        return f"{action}; IN EFFECT", GOOD
    return action
