"""Panic: where most endpoints fail, none is an outlier, and all are called.

Outlier detection takes the bad ones out and leaves the work to the rest. When all are overloaded that is the
wrong answer: half of them stand idle, the other half gets twice the calls, fails at them, and stays so long
after the cause has gone. So once most of those that the quota keeps in would have been ejected too, the
ejected are called like everybody else. Envoy panics by a share of healthy hosts (`healthy_panic_threshold`),
which `maxEjectionPercent` may keep from ever being reached, and one broken endpoint of two comes close to.

It ends when those in rotation do better by themselves, unless calls to the ejected mostly succeed: then all
go on until probes have readmitted them.
"""

from __future__ import annotations

from collections.abc import Hashable


class Panic:
    """Whether a destination is in it. One thread at a time; its owner sees to that."""

    __slots__ = ("_balance", "_kept", "on")

    def __init__(self) -> None:
        self.on = False
        self._kept: set[Hashable] = set()
        """Who failed since the last tick, and is in rotation only because no more may be ejected."""
        self._balance = 0
        """Of calls to the ejected since the last tick: successes less failures."""

    def kept(self, host: Hashable, inside: int, out: int) -> None:
        """`host` should have been ejected, but the quota kept it in, one of `inside`; `out` are ejected."""
        self._kept.add(host)
        if out and 2 * len(self._kept) > inside:
            self.on = True

    def called(self, ok: bool) -> None:
        """A call to one that is ejected ended."""
        self._balance += 1 if ok else -1

    def tick(self) -> None:
        """An interval of outlier detection is over."""
        self.on = self.on and (bool(self._kept) or self._balance > 0)
        self._kept.clear()
        self._balance = 0

    def __repr__(self) -> str:
        return f"<Panic {'on' if self.on else 'off'}: {len(self._kept)} kept in>"
