"""The command line: one file a command, and the table of them in `app`.

Commands print what the library knows; they decide nothing. Exit codes are the same everywhere: 0 all is
well, 1 something was found, 2 the command was misused, 3 the source can't be reached.
"""

from __future__ import annotations


def main() -> None:
    """The console script."""
    from proxyless.cli.app import app, prepare

    prepare()
    app(prog_name="proxyless")
