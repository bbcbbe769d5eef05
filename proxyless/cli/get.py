"""`proxyless get`: a document as it is kept, to be edited and applied again; or a list of them all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyless.cli import screen
from proxyless.cli.options import Format, Output, Source
from proxyless.cli.screen import BAD, GOOD, NONE

if TYPE_CHECKING:
    from proxyless.control import RawDocument

Wanted = Annotated[
    str | None,
    typer.Argument(metavar="[SERVICE|mesh]", help="Whose document to print; without it, list them all."),
]


def get(which: Wanted = None, source: Source = None, output: Output = Format.table) -> None:
    """Print a document as it is kept, or list all of them."""
    from proxyless.cli.documents import key_of, missing, stored
    from proxyless.cli.review import known_balancers

    key = key_of(which) if which is not None else ""
    name, documents = stored(source)
    known = known_balancers()
    if which is None:
        _list(name, [_described(raw, known) for _, raw in sorted(documents.items())], output)
        return
    raw = documents.get(key)
    if raw is None:
        raise missing(which, name, documents)
    if output is Format.json:
        screen.as_json({**_described(raw, known), "text": _text(raw)})
    else:
        screen.raw(_text(raw))


def _list(name: str, described: Sequence[Mapping[str, Any]], output: Format) -> None:
    if output is Format.json:
        screen.as_json(described)
    elif described:
        rows = [
            (
                one["document"],
                one["version"] or NONE,
                str(one["bytes"]),
                ("valid", GOOD) if not one["errors"] else (f"INVALID: {one['errors'][0]}", BAD),
            )
            for one in described
        ]
        screen.table(("DOCUMENT", "VERSION", "BYTES", "STATE"), rows)
    else:
        screen.line(f"there is no document at {name}; every service has the defaults")


def _described(raw: RawDocument, balancers: Collection[str]) -> dict[str, Any]:
    from proxyless.control.dialects import decode

    _, findings = decode(raw, balancers)
    size = len(raw.text.encode() if isinstance(raw.text, str) else raw.text)
    return {
        "document": raw.key,
        "version": raw.version,
        "origin": raw.origin,
        "bytes": size,
        "errors": [str(finding) for finding in findings],
    }


def _text(raw: RawDocument) -> str:
    return raw.text if isinstance(raw.text, str) else raw.text.decode("utf-8", "backslashreplace")
