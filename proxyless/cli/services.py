"""`proxyless services`: every service that has a document, and every one that could be called without."""

from __future__ import annotations

from proxyless.cli import screen
from proxyless.cli.names import registered
from proxyless.cli.options import Format, Output, Source
from proxyless.cli.screen import BAD, NONE, QUIET, Cell
from proxyless.cli.session import look


def services(source: Source = None, output: Output = Format.table) -> int:
    """The services that have a document, and those that are registered."""
    view = look(source)
    there = {} if view.trouble else registered(view.source)
    documents = {document["document"]: document for document in view.status["documents"]}
    listed = [
        {
            "service": name,
            "document": documents.get(f"services/{name}", {}).get("version"),
            "accepted": documents.get(f"services/{name}", {}).get("accepted"),
            "registered": name in there,
            "tags": list(there.get(name, ())),
        }
        for name in sorted({*view.services, *there})
    ]
    if output is Format.json:
        screen.as_json(listed)
    elif listed:
        screen.table(("SERVICE", "DOCUMENT", "REGISTERED", "TAGS"), [_row(one) for one in listed])
    else:
        screen.line(f"{view.name} knows no service: no document, and no instance")
    return view.end(any(one["accepted"] is False for one in listed))


def _row(one: dict[str, object]) -> tuple[Cell, ...]:
    tags = one["tags"]
    assert isinstance(tags, list)
    document: Cell = f"version {one['document']}"
    if one["document"] is None:
        document = ("none: defaults", QUIET)
    elif not one["accepted"]:
        document = (f"version {one['document']} is INVALID", BAD)
    return (
        str(one["service"]),
        document,
        "yes" if one["registered"] else ("no instance", BAD),
        ", ".join(tags) or NONE,
    )
