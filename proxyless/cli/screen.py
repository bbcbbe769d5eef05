"""What a person sees: tables, lines and notes, coloured on a terminal and nowhere else.

Names come from whoever may register an instance, so nothing that a terminal would obey is ever printed. Into
a pipe a line is never broken, so that `grep` finds what it looks for.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

Cell: TypeAlias = str | tuple[str, str]
"""A text, or a text and its style."""

GOOD, BAD, DOUBTFUL, QUIET, TITLE = "green", "bold red", "yellow", "dim", "bold"

NONE = "-"
"""What stands in a table where there is nothing."""

_ENDLESS = 10_000


def plain(text: str) -> str:
    """`text` without what a terminal would obey: control characters are written as their escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]], indent: int = 0) -> None:
    """Columns, as wide as what is in them; on a terminal a cell that is too wide is folded, never cut."""
    made = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style=TITLE)
    for number, header in enumerate(headers):
        made.add_column(" " * indent * (not number) + header, overflow="fold", no_wrap=False)
    for row in rows:
        made.add_row(*(_text(cell, indent * (not number)) for number, cell in enumerate(row)))
    screen = console()
    with screen.capture() as captured:
        screen.print(made)
    _out("\n".join(line.rstrip() for line in captured.get().splitlines()))


def line(*cells: Cell) -> None:
    """One line, its parts one after another."""
    screen = console()
    with screen.capture() as captured:
        screen.print(Text.assemble(*(_text(cell) for cell in cells)), soft_wrap=True)
    _out(captured.get().rstrip("\n"))


def note(text: str) -> None:
    """Beside the result: on standard error, so that a program that reads the result doesn't read it."""
    sys.stdout.flush()
    console(stderr=True).print(Text(f"note: {plain(text)}", style=DOUBTFUL), soft_wrap=True)


def failed(message: str, advice: Iterable[str] = ()) -> None:
    """Why the command ends here, and what to do about it."""
    with contextlib.suppress(OSError, ValueError):  # a full disk may be the reason
        sys.stdout.flush()
    screen = console(stderr=True)
    screen.print(Text.assemble(("proxyless: ", BAD), plain(message)), soft_wrap=True)
    for one in advice:
        screen.print(Text(f"  {plain(one)}"), soft_wrap=True)


def as_json(value: Any) -> None:
    """For programs."""
    _out(json.dumps(value, indent=2))


def raw(text: str) -> None:
    """A text as it is kept; only on a terminal without what that would obey."""
    if sys.stdout.isatty():
        text = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def console(*, stderr: bool = False) -> Console:
    """Made anew each time: tests and pipes replace the streams."""
    stream = sys.stderr if stderr else sys.stdout
    # rich asks the stream whether it is a terminal, and NO_COLOR whether colours are wanted.
    width = None if stream.isatty() else _ENDLESS
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _text(cell: Cell, indent: int = 0) -> Text:
    text, style = cell if isinstance(cell, tuple) else (cell, "")
    return Text(" " * indent + plain(text), style=style)


def _out(text: str) -> None:
    sys.stdout.write(f"{text}\n")
