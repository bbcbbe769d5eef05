"""The options that several commands have, written once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from proxyless.cli.failures import Misuse


class Format(str, Enum):
    """How the result is written."""

    table = "table"
    json = "json"


Source: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="URL",
        help="Where the mesh is kept: consul://HOST:PORT, file:PATH. Else PROXYLESS_SOURCE, else Consul at "
        "CONSUL_HTTP_ADDR.",
    ),
]
Output: TypeAlias = Annotated[Format, typer.Option("--output", "-o", help="For people, or for programs.")]
Files: TypeAlias = Annotated[
    list[Path],
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A service's document, the mesh's, or a bundle (mesh:, services:); also a folder. Repeatable.",
    ),
]
Labels: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="A label of the client, for sourceLabels. Repeatable."),
]
OneService: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[SERVICE]", help="Only this one; else every one that has a document.")
]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")]
Why: TypeAlias = Annotated[
    str, typer.Option("--message", "-m", metavar="WHY", help="Why, for whoever reads the history later.")
]
Which: TypeAlias = Annotated[str, typer.Argument(metavar="SERVICE|mesh", help="Whose document.")]


def pairs(given: list[str] | None, option: str) -> list[tuple[str, str]]:
    """`KEY=VALUE` as given, or a Misuse that doesn't repeat the value: it may be a secret."""
    made = []
    for one in given or ():
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise Misuse(f"{option} takes KEY=VALUE; one of them has no = or no key")
        made.append((key, value))
    return made
