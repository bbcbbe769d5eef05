"""`proxyless demo`: the whole story in one minute on this machine."""

from __future__ import annotations


def demo() -> int:
    """Play it; the exit code says whether everything that was shown is true."""
    from rich.console import Console  # noqa: PLC0415 - commands load what they need when they run

    from proxyless.demo.story import Story  # noqa: PLC0415

    return 0 if Story(Console()).play() else 1
