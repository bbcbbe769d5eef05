"""What many ask for at once is done once, a moment later, and by none of them."""

from __future__ import annotations

from collections.abc import Callable

MOMENT = 0.05
"""Seconds: a datacenter that goes down takes its endpoints in one burst; nobody notices so short a wait."""


class Soon:
    """Call it as often as you like, from anywhere: `function` runs a moment after the first of these calls."""

    def __init__(self, after: Callable[[float, Callable[[], None]], object], function: Callable[[], None]) -> None:
        self._after = after
        self._function = function
        self._asked = False

    def __call__(self) -> None:
        if not self._asked:
            self._asked = True
            self._after(MOMENT, self._run)

    def _run(self) -> None:
        self._asked = False  # first: what changes from here on asks anew
        self._function()

    def renew(self) -> None:
        """In a forked child: what the parent asked for is not asked for here."""
        self._asked = False
