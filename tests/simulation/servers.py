"""Servers for storms: what stands behind an address, and a driver that sends there.

A server answers when it can, which for a queue depends on who came before: so it is given the attempt and a
way to answer, and answers in its own time. The wire keeps the attempt's deadline; an answer after it is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heapify
from typing import Any, TypeAlias

from proxyless.model.codes import Code
from proxyless.model.snapshot import Snapshot
from proxyless.script import ABANDONED, OK, Effect, Outcome, Rpc, Send
from proxyless.stack import ENTRY
from tests.fakes import START, Call, Simulation
from tests.worlds import Known, document, rpc

Answered: TypeAlias = Callable[[Outcome], None]
Server: TypeAlias = Callable[[Rpc, Answered], None]
"""Called when an attempt arrives; to answer is up to it."""

FAILS = Outcome(Code.UNAVAILABLE, "said so")
LATE = Outcome(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")


class Internet(Simulation):
    """Calls to servers. Every attempt is written down: (when, address)."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.servers: dict[str, Server] = {}
        self.attempts: list[tuple[float, str]] = []
        self._end_of: dict[Call, Callable[[Outcome], None]] = {}

    def begin(self, snapshot: Snapshot, service: str = "web", timeout: float | None = None, **fields: Any) -> Call:
        """A call begins now."""
        made = rpc(snapshot, service=service, timeout=timeout, now=self.clock.now, rng=self.rng, **fields)
        return self.call(ENTRY, made)

    def nested(self, snapshot: Snapshot, service: str, deadline: float | None, then: Answered) -> None:
        """A call that a server makes on behalf of its caller, within the deadline it was given."""
        left = None if deadline is None else deadline - self.clock.now
        self._end_of[self.begin(snapshot, service, left)] = then

    def steadily(self, rate: float, start: float, seconds: float, begin: Callable[[], object]) -> None:
        """`rate` calls a second from `start` seconds after the story began."""

        def happens() -> None:
            begin()

        for number in range(round(rate * seconds)):
            self.at(START + start + number / rate, happens)

    def stall(self, at: float, seconds: float, in_order: bool = True) -> None:
        """The process is not run for a while (a held GIL, a collection): what was due then happens at once.

        `in_order`: as the wire's own threads wrote it down. Else what was due last is seen first.
        """
        begin, end = START + at, START + at + seconds

        def late() -> None:
            self._heap = [
                (end + (when - begin if in_order else end - when) * 1e-6, serial, happens)
                if when < end
                else (when, serial, happens)
                for when, serial, happens in self._heap
            ]
            heapify(self._heap)

        self.at(begin, late)

    def sent(self, since: float, until: float, *addresses: str) -> int:
        """Attempts between two instants after the start, at some addresses or at all."""
        return sum(
            START + since <= when < START + until and (not addresses or address in addresses)
            for when, address in self.attempts
        )

    def begun(self, since: float, until: float) -> list[Call]:
        """Calls that were begun between two instants after the start."""
        return [call for call in self.calls if START + since <= call.began_at < START + until]

    def _perform(self, call: Call, effect: Effect) -> None:
        if not isinstance(effect, Send):
            super()._perform(call, effect)
            return
        address, turn, now = effect.node.address, call.turn, self.clock.now
        self.attempts.append((now, address))
        if call.rpc.deadline is not None:
            self._later(call, call.rpc.deadline, LATE)
        self.servers[address](call.rpc, lambda outcome: self._resume(call, outcome) if call.turn == turn else None)

    def _end(self, call: Call, outcome: Outcome) -> None:
        super()._end(call, outcome)
        then = self._end_of.pop(call, None)
        if then is not None and outcome is not ABANDONED:
            then(outcome)


class Steady:
    """Answers with `outcome` after `seconds`, however many ask; None never does."""

    def __init__(self, net: Internet, seconds: float = 0.01) -> None:
        self.net = net
        self.seconds = seconds
        self.outcome: Outcome | None = OK

    def __call__(self, _rpc: Rpc, answered: Answered) -> None:
        outcome = self.outcome
        if outcome is not None:
            self.net.at(self.net.clock.now + self.seconds, lambda: answered(outcome))


class Queue:
    """One at a time, `rate` a second, first come first served. What it begins it ends, wanted or not.

    `drops`: what has expired in the queue is not begun, as `server_interceptor()` sees to.
    """

    def __init__(self, net: Internet, rate: float, drops: bool) -> None:
        self.net, self.rate, self.drops = net, rate, drops
        self._queue: deque[tuple[float | None, Answered]] = deque()
        self._busy = False

    def __call__(self, rpc: Rpc, answered: Answered) -> None:
        self._queue.append((rpc.deadline, answered))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = False
        while self._queue:
            deadline, answered = self._queue.popleft()
            if not (self.drops and deadline is not None and deadline <= self.net.clock.now):
                self._busy = True
                self.net.at(self.net.clock.now + 1 / self.rate, partial(self._done, answered))
                return

    def _done(self, answered: Answered) -> None:
        answered(OK)
        self._next()


class Fleet:
    """One caller's mesh, the service `web` that it calls, and steady servers behind it, numbered."""

    def __init__(self, seed: int, size: int, text: str = "", seconds: float = 0.01) -> None:
        self.net = Internet(seed)
        self.world = Known(seed=seed)
        self.addresses = [f"n{number}:1" for number in range(size)]
        self.servers = [Steady(self.net, seconds) for _ in self.addresses]
        self.net.servers.update(zip(self.addresses, self.servers, strict=True))
        if text:
            self.world.services["web"] = document(text)
        self.net.snapshot = self.world.lives("web", *self.addresses).snapshot()

    def calls(self, rate: float, start: float, seconds: float, timeout: float | None = None) -> None:
        """Steady traffic."""
        self.net.steadily(rate, start, seconds, lambda: self.net.begin(self.net.snapshot, timeout=timeout))

    def during(self, since: float, until: float, outcome: Outcome | None, *which: int) -> None:
        """Some servers (or all) answer with `outcome` between two instants after the start."""

        def become(new: Outcome | None) -> None:
            for number in which or range(len(self.servers)):
                self.servers[number].outcome = new

        self.net.at(START + since, lambda: become(outcome))
        self.net.at(START + until, lambda: become(OK))

    def told(self, what: str) -> list[tuple[str, str]]:
        """(address, why) of each event of a kind, in order."""
        return [(address, why) for kind, address, why in self.world.told if kind == what]

    def at_rest(self) -> bool:
        """Whether no counter remembers a call."""
        return all(node.inflight == 0 for node in self.world.nodes.all())


def seconds_of(calls: Sequence[Call], since: float, until: float) -> Iterator[tuple[int, int]]:
    """For each second: how many calls were begun in it, and how many of these succeeded."""
    begun: Counter[int] = Counter()
    succeeded: Counter[int] = Counter()
    for call in calls:
        second = int(call.began_at - START)
        begun[second] += 1
        succeeded[second] += call.outcome is not None and call.outcome.ok
    return ((begun[second], succeeded[second]) for second in range(int(since), int(until)))
