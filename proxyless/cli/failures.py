"""How a command ends that can't do what it was asked: a sentence, what to do about it, an exit code."""

from __future__ import annotations

OK, FINDINGS, USAGE, UNREACHABLE = 0, 1, 2, 3


class Failure(Exception):
    """Something was found: exit code 1. `advice` is told below it: what to look at, what to type."""

    code = FINDINGS

    def __init__(self, message: str, *advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class Misuse(Failure):
    """The command was not asked for anything that it could do: exit code 2."""

    code = USAGE


class Unreachable(Failure):
    """The source gives no answer, or none that helps: exit code 3."""

    code = UNREACHABLE
