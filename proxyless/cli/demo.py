"""`proxyless demo`: the whole story in one minute on this machine."""

from __future__ import annotations

import typer


def demo() -> None:
    """Real servers, a real Consul and real calls; ends with exit code 0 only if what it showed is true."""
    from rich.console import Console  # noqa: PLC0415 - commands load what they need when they run

    from proxyless.demo.story import Story  # noqa: PLC0415

    if not Story(Console()).play():
        raise typer.Exit(1)
