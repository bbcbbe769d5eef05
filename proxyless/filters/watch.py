"""Where calls are seen: outermost, around the whole call, and only while somebody watches.

`watched` makes the head of the stack from the usual one; with no watcher the usual one is the head, and a call
costs what it did. What is seen of attempts is told by `balance`, through `Rpc.watch`.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxyless.script import ABANDONED, Outcome, Rpc, Script, Service, Watch, Watcher


def watched(entry: Service, watchers: Sequence[Watcher]) -> Service:
    """`entry`, with every call shown to `watchers`: begun in its caller's thread, task and context, ended wherever it
    ends, exactly once, also where its caller walks away."""
    if not watchers:
        return entry
    begin = watchers[0] if len(watchers) == 1 else _all_of(watchers)

    def watch(rpc: Rpc) -> Script[Outcome]:
        rpc.watch = seen = begin(rpc)
        if seen is None:
            return (yield from entry(rpc))
        outcome: Outcome = ABANDONED
        try:
            outcome = yield from entry(rpc)
            return outcome
        finally:
            seen.ended(rpc, outcome)
            rpc.watch = None  # they know each other: apart, neither waits for the garbage collector

    return watch


def _all_of(watchers: Sequence[Watcher]) -> Watcher:
    several = tuple(watchers)

    def begin(rpc: Rpc) -> Watch | None:
        seen = [watch for watcher in several if (watch := watcher(rpc)) is not None]
        if len(seen) > 1:
            return _Several(seen)
        return seen[0] if seen else None

    return begin


class _Several:
    """One call, seen by more than one."""

    __slots__ = ("_all",)

    def __init__(self, watches: list[Watch]) -> None:
        self._all = watches

    def attempt(self, rpc: Rpc) -> None:
        for watch in self._all:
            watch.attempt(rpc)

    def attempted(self, rpc: Rpc, began: float, outcome: Outcome) -> None:
        for watch in self._all:
            watch.attempted(rpc, began, outcome)

    def ended(self, rpc: Rpc, outcome: Outcome) -> None:
        for watch in reversed(self._all):
            watch.ended(rpc, outcome)
