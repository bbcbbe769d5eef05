"""The table of commands, and what is the same for all of them: lazy loading, and how a failure is told.

A command is loaded when it is called: `proxyless --help` needs nothing but this table. A new one is one file
that has a function of its own name, and one line here.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import logging
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from proxyless.cli.failures import Failure


class Entry(NamedTuple):
    """The file in this folder whose function has the command's name, and what `--help` says of it."""

    module: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "demo": Entry("demo", "The whole story in one minute, on this machine."),
    "explain": Entry("explain", "Which way one request would go, and why."),
    "services": Entry("services", "The services that the source knows."),
    "routes": Entry("routes", "The routes in effect, and where they lead."),
    "endpoints": Entry("endpoints", "Where calls can go, and in which state that is."),
    "status": Entry("status", "What a client would see now, or a running one does: documents, endpoints, doubts."),
    "ps": Entry("ps", "The running processes of yours that have a mesh."),
    "tap": Entry("tap", "Live calls of running processes."),
    "get": Entry("get", "Print a document as it is kept, or list all of them."),
    "apply": Entry("apply", "Check documents and write them to Consul, all of them or none."),
    "delete": Entry("delete", "Delete a document; its service goes on with the defaults."),
    "history": Entry("history", "The earlier versions of a document: who changed it, when and why."),
    "rollback": Entry("rollback", "Put an earlier version of a document back."),
    "diff": Entry("diff", "What apply would change."),
    "validate": Entry("validate", "Check documents without any server; all findings at once."),
    "schema": Entry("schema", "The JSON Schema of the documents, for editors."),
    "run": Entry("run", "Run an unmodified program with its gRPC channels in the mesh."),
}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""A disk that takes no more of what a command writes."""

_PLAIN: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,  # help without rich costs 0.1 s less
    "pretty_exceptions_enable": False,  # they print local variables, a token among them
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Table(TyperGroup):
    """Loads a command when it is asked for; tells a failure in words and turns it into its exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"proxyless.cli.{COMMANDS[cmd_name].module}")
        alone = typer.Typer(**_PLAIN)
        alone.command(cmd_name, context_settings=getattr(module, "CONTEXT", None))(getattr(module, cmd_name))
        return typer.main.get_command(alone)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """`--source URL` may stand before the command, too."""
        taken = 2 if args[:1] == ["--source"] else int(bool(args) and args[0].startswith("--source="))
        if taken and len(args) > taken:
            args = [args[taken], *args[:taken], *args[taken + 1 :]]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(COMMANDS)}."
            ctx.fail(f'there is no command "{args[0][:40]}"; {hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                code = super().invoke(ctx)
                sys.stdout.flush()
            except OSError as lost:
                if lost.errno not in _FULL:  # of a broken pipe typer knows what to make
                    raise
                with contextlib.suppress(OSError):
                    sys.stdout.close()  # or the interpreter would try again when it ends
                raise Failure(f"the result can't be written: {lost.strerror}") from None
        except Failure as failure:
            from proxyless.cli import screen

            screen.failed(str(failure), failure.advice)
            raise typer.Exit(failure.code) from None
        if isinstance(code, int):  # what a command returns is its exit code; typer would drop it
            raise typer.Exit(code)
        return code


app = typer.Typer(cls=_Table, no_args_is_help=True, **_PLAIN)


def _version(wanted: bool) -> None:
    if wanted:
        from proxyless import __version__

        typer.echo(f"proxyless {__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 all is well, 1 something was found, 2 misused, 3 the source can't be reached.")
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """The service mesh inside the process: see what it does, and tell it what to do."""
    # What the library would log, the commands say in their own words.
    if ctx.invoked_subcommand != "run":  # a program's log is its own
        logging.getLogger("proxyless").addHandler(logging.NullHandler())


def prepare() -> None:
    """For a process of our own: a terminal that lacks a character gets its escape, not a traceback, and a stream
    that is closed takes everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # how python says that it is closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
