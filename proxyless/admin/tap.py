"""Live calls for somebody who looks on: which way they went, how often they were tried, how they ended.

A `Tap` is a watcher of calls (`script.Watcher`) with a queue. A call that ends puts a line there and goes on: it never
waits. Where more end than are let through or read, the rest is counted and forgotten. What is kept of a call are
names of ours (service, route, subset, endpoint), codes and times: no metadata, no message, no text of a server's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from proxyless.model.codes import Code
from proxyless.script import ABANDONED, Outcome, Rpc, Watch

MOST_WAITING = 1000
"""Calls that wait to be read: a megabyte, and a second of what the quickest tap lets through."""

USUAL_RATE, HIGHEST_RATE = 200.0, 1000.0
"""Calls a second. Nobody reads more; at the highest the reader's thread takes about 2 % of a core from the program."""


class Wanted:
    """Which calls somebody wants to see. Raises ValueError for what can't be meant."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.service = _pattern(asked, "service")
        self.method = _pattern(asked, "method")
        statuses = asked.get("status") or ()
        if not isinstance(statuses, (list, tuple)) or len(statuses) > 20:
            raise ValueError("status must be a list of codes")
        self.codes = frozenset().union(*(_codes(status) for status in statuses)) if statuses else None
        rate = asked.get("rate", USUAL_RATE)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= HIGHEST_RATE:
            raise ValueError(f"rate must be more than 0 and at most {HIGHEST_RATE:g} calls a second")
        self.rate = float(rate)

    def begun(self, service: str, method: str) -> bool:
        """Whether a call to this method may be one of them."""
        return _fits(self.service, service) and (_fits(self.method, method) or _fits(self.method, method[1:]))

    def ended(self, code: int) -> bool:
        """Whether one that ended like this is."""
        return self.codes is None or code in self.codes


def _pattern(asked: Mapping[str, Any], name: str) -> str:
    pattern = asked.get(name) or ""
    if not isinstance(pattern, str) or len(pattern) > 200 or pattern.count("*") > 5:
        raise ValueError(f"{name} must be a name, with * for any text")
    return pattern


def _fits(pattern: str, name: str) -> bool:
    return not pattern or fnmatchcase(name, pattern) or name.rpartition("/")[2] == pattern


def _codes(status: Any) -> frozenset[int]:
    word = str(status).upper().replace("-", "_")
    if word == "ERROR":
        return frozenset(code for code in Code if code)
    if word not in Code.__members__:
        raise ValueError(f"{str(status)[:40]!r} is no status; there are error, {', '.join(Code.__members__)}")
    return frozenset((Code[word],))


class Tap:
    """One reader's calls. `watcher` is given to each mesh."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._lock = threading.RLock()  # the collector may end a call in the middle of this, in this thread
        self._queue: deque[tuple[float, dict[str, Any]]] = deque()
        self._tokens = wanted.rate
        self._at = 0.0
        self._lost = 0
        self._known: dict[tuple[str, str], bool] = {}

    def watcher(self, rpc: Rpc) -> Watch:
        """A call begins."""
        key = (rpc.service, rpc.method)
        interesting = self._known.get(key)
        if interesting is None:
            if len(self._known) >= 4096:  # more methods than there are: an attack on our memory
                self._known.clear()
            interesting = self._known[key] = self._wanted.begun(*key)
        return _Seen(self._ended, rpc.now) if interesting else _UNSEEN

    def read(self) -> tuple[list[tuple[float, dict[str, Any]]], int]:
        """The calls that ended since, each with the instant it did, and how many more there were."""
        with self._lock:
            calls, self._queue = self._queue, deque()
            lost, self._lost = self._lost, 0
        return list(calls), lost

    def _ended(self, seen: _Seen, rpc: Rpc, outcome: Outcome) -> None:
        if not self._wanted.ended(outcome.code):
            return
        now = rpc.now
        with self._lock:
            rate = self._wanted.rate
            self._tokens = min(rate, self._tokens + max(0.0, now - self._at) * rate)
            self._at = max(self._at, now)
            if self._tokens < 1.0 or len(self._queue) >= MOST_WAITING:
                self._lost += 1
                return
            self._tokens -= 1.0
            self._queue.append((now, told(rpc, outcome, now - seen.began, seen.attempts)))


def told(rpc: Rpc, outcome: Outcome, seconds: float, attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is said of a call. The attempt that was the call's stands last, whatever others were beside it."""
    route, cluster, node = (getattr(rpc, name, None) for name in ("route", "cluster", "node"))
    attempts = _answer_last(attempts, node.address if node is not None else "")
    return {
        "service": rpc.service,
        "method": rpc.method,
        "route": None if route is None else route.name,
        "destination": None if cluster is None else cluster.key.service,
        "subset": None if cluster is None else cluster.key.subset or None,
        "endpoint": attempts[-1]["endpoint"] if attempts else None,
        "status": Code(outcome.code).name,
        "refused": outcome.refused or None,
        "seconds": round(seconds, 6),
        "attempts": attempts,
    }


def _answer_last(attempts: Sequence[Mapping[str, Any]], address: str) -> list[Mapping[str, Any]]:
    """Of a hedged call, which went by `address` in the end, attempts end in any order, those given up after it."""
    last = max(
        range(len(attempts)),
        key=lambda at: (attempts[at]["endpoint"] == address, "given_up" not in attempts[at], at),
        default=0,
    )
    return [*attempts[:last], *attempts[last + 1 :], *attempts[last : last + 1]]


class _Seen:
    """One call that may be told."""

    __slots__ = ("_done", "attempts", "began")

    def __init__(self, done: Callable[[_Seen, Rpc, Outcome], None], began: float) -> None:
        self._done = done
        self.began = began
        self.attempts: list[dict[str, Any]] = []

    def attempt(self, rpc: Rpc) -> None:
        """It is told when it has ended."""

    def attempted(self, rpc: Rpc, began: float, outcome: Outcome) -> None:
        seconds = round(rpc.now - began, 6)
        made = {"endpoint": rpc.node.address, "status": Code(outcome.code).name, "seconds": seconds}
        if outcome is ABANDONED:
            made["given_up"] = True
        self.attempts.append(made)

    def ended(self, rpc: Rpc, outcome: Outcome) -> None:
        self._done(self, rpc, outcome)


class _Unseen:
    """Every call that nobody wants to see."""

    __slots__ = ()

    def attempt(self, rpc: Rpc) -> None:
        """Not of interest."""

    def attempted(self, rpc: Rpc, began: float, outcome: Outcome) -> None:
        """Not of interest."""

    def ended(self, rpc: Rpc, outcome: Outcome) -> None:
        """Not of interest."""


_UNSEEN = _Unseen()
