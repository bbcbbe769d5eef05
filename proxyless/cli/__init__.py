"""The command line: one file a command, and the table of them in `app`.

Commands print what the library knows; they decide nothing. Exit codes are the same everywhere: 0 all is
well, 1 something was found, 2 the command was misused, 3 the source can't be reached.
"""

from __future__ import annotations

from typing import Any


def main() -> None:
    """The console script."""
    import sys

    try:
        from proxyless.cli.app import app, prepare

        if sys.argv[1:2] != ["run"]:  # a program that is run has its streams as python gives them
            prepare()
        app(prog_name="proxyless")
    except KeyboardInterrupt:  # while it was being loaded; later the machinery answers it with the same
        sys.exit(130)
    except SystemExit as end:
        run: Any = sys.modules.get("proxyless.cli.run")
        if end.code or run is None or run.pending is None:
            raise
    # Not inside of the machinery for commands, which has its own ideas of Ctrl-C and of broken pipes.
    run.pending()
