"""`proxyless demo`: the whole story in one minute on this machine."""

from __future__ import annotations

import typer


def demo() -> None:
    """Real servers, a real Consul and real calls; ends with exit code 0 only if what it showed is true."""
    from rich.console import Console

    from proxyless.demo.story import Story

    if not Story(Console()).play():
        raise typer.Exit(1)
