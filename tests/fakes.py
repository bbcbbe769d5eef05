"""The mesh without a world: a clock that stands still, nodes that do as they are told, the fourth driver.

The driver performs the effects of scripts (`proxyless/script.py`) in virtual time. `play` is one call,
answered as the test says: a conversation. `Simulation` is any number of calls at once on one heap of events:
time goes from event to event, so an hour of a retry storm costs what its events cost. Neither knows a filter;
they drive whatever service they are given. `tests/worlds.py` makes what calls are made on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeAlias

from proxyless.events import Event
from proxyless.model.codes import Code
from proxyless.model.snapshot import NOTHING, NodeState, PickInfo, Snapshot
from proxyless.script import (
    ABANDONED,
    OK,
    OPEN,
    Adopt,
    Drain,
    Effect,
    Outcome,
    Race,
    Rpc,
    Script,
    Send,
    Service,
    Shadow,
    Sleep,
    Spawn,
    Wait,
    Watch,
)

START = 1000.0
"""When every story begins: not at 0, which would hide whoever takes an instant for a duration."""

UNAVAILABLE = Outcome(Code.UNAVAILABLE, "said so")
UNREACHABLE = Outcome(Code.UNAVAILABLE, "failed to connect to all addresses", unsent=True)


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


class Told:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


class Watching:
    """A watcher that writes down what it sees of every call, a line each: `begin`, `attempt`, `attempted`, `ended`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.threads: list[int] = []

    def __call__(self, rpc: Rpc) -> Watch:
        self.threads.append(threading.get_ident())
        self.lines.append(f"begin {rpc.method}")
        return _Watched(self.lines, rpc.now)


class _Watched:
    def __init__(self, lines: list[str], began: float) -> None:
        self._lines, self._began = lines, began

    def attempt(self, rpc: Rpc) -> None:
        self._lines.append(f"attempt {rpc.node.address.removesuffix(':1')}")

    def attempted(self, rpc: Rpc, began: float, outcome: Outcome) -> None:
        self._lines.append(f"attempted {rpc.node.address.removesuffix(':1')} {_how(outcome)} {rpc.now - began:.2g}")

    def ended(self, rpc: Rpc, outcome: Outcome) -> None:
        route = rpc.route.name if hasattr(rpc, "route") else "-"
        self._lines.append(f"ended {route} {_how(outcome)} {rpc.now - self._began:.2g}")


def _how(outcome: Outcome) -> str:
    return outcome.refused or ("ABANDONED" if outcome is ABANDONED else Code(outcome.code).name)


@dataclass(frozen=True)
class Asks:
    """A call as a picker sees it."""

    rng: Callable[[], float]
    now: float = START
    hash: int | None = None


class Stream:
    """The requests of a call that are a stream: all that was read of it is there still, or not (`whole`)."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.kept = False

    def keep(self) -> None:
        self.kept = True

    def possible(self) -> bool:
        return self.whole

    def commit(self) -> None:
        self.whole = False


class InTurn:
    """A picker that goes round `nodes` in the order given; None for none."""

    def __init__(self, *nodes: NodeState) -> None:
        self._nodes = nodes
        self._next = count()

    def pick(self, _info: PickInfo) -> NodeState | None:
        return self._nodes[next(self._next) % len(self._nodes)] if self._nodes else None


@dataclass(frozen=True)
class Reply:
    """What a node does with an attempt: `outcome` after `after` seconds; with `end`, a stream that ends so
    `lasts` seconds after it began."""

    outcome: Outcome = OK
    after: float = 0.0
    end: Outcome | None = None
    lasts: float = 0.0


Answer: TypeAlias = Outcome | Reply
Behaviour: TypeAlias = Answer | Sequence[Answer] | Callable[[Rpc], Answer]
"""One answer for every attempt, or one after the other (the last one stays), or a function of the attempt."""


class Call:
    """A call that is under way in a simulation, or over: then it has an `outcome`."""

    def __init__(self, rpc: Rpc, service: Service) -> None:
        self.rpc = rpc
        self.service = service
        self.script: Script[Outcome] | None = None
        self.effects: list[str] = []
        self.outcome: Outcome | None = None
        self.began_at = self.ended_at = rpc.now
        self.turn = 0
        self.ends: Reply | None = None
        self.parent: Call | None = None
        self.branches: list[Call] = []
        self.racing: Sequence[Any] = ()
        self.adopted: Call | None = None


class Simulation:
    """The driver in virtual time. What happens is decided by the nodes' behaviours and the seed alone."""

    def __init__(self, snapshot: Snapshot = NOTHING, *, now: float = START, seed: int = 1) -> None:
        self.clock = FakeClock(now)
        self.snapshot = snapshot
        self.rng = random.Random(seed).random
        self.behaviours: dict[str, Behaviour] = {}
        self.calls: list[Call] = []
        self.shadows: list[Call] = []
        """The copies that calls have sent."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._waiting: dict[Call, int] = {}

    def at(self, when: float, happens: Callable[[], None]) -> None:
        """Have something happen at an instant; of what happens at the same one, first come first served."""
        heappush(self._heap, (max(when, self.clock.now), next(self._serial), happens))

    def call(self, service: Service, rpc: Rpc) -> Call:
        """Begin a call at its `rpc.now`, on the snapshot that is known then (its own, where none is)."""
        call = Call(rpc, service)
        self.calls.append(call)
        self.at(rpc.now, lambda: self._begin(call))
        return call

    def publish(self, snapshot: Snapshot) -> None:
        """A newer snapshot is known from now on: whoever waits for one goes on."""
        self.snapshot = snapshot
        for call, version in list(self._waiting.items()):
            if snapshot.version > version:
                self._resume(call, snapshot)

    def abandon(self, call: Call) -> None:
        """The caller walks away."""
        if call.script is not None and (call.outcome is None or call.outcome.open):
            call.rpc.now = self.clock.now
            call.script.close()
            call.parent = None  # who cancels it need not be told
            self._end(call, ABANDONED)

    def run(self, until: float | None = None) -> None:
        """Let time pass until nothing is left to happen, or until an instant."""
        while self._heap and (until is None or self._heap[0][0] <= until):
            when, _, happens = heappop(self._heap)
            self.clock.now = when
            happens()
        self.clock.now = max(self.clock.now, until or 0.0)

    def outcomes(self) -> Iterable[Outcome]:
        """How the calls ended that are over."""
        return (call.outcome for call in self.calls if call.outcome is not None)

    def _begin(self, call: Call) -> None:
        if self.snapshot.version > call.rpc.snapshot.version:
            call.rpc.snapshot = self.snapshot
        call.script = call.service(call.rpc)
        self._resume(call, None)

    def _resume(self, call: Call, reply: object) -> None:
        assert call.script is not None
        self._waiting.pop(call, None)
        call.racing = ()
        call.turn += 1
        call.rpc.now = self.clock.now
        try:
            effect = call.script.send(reply)
        except StopIteration as stop:
            self._end(call, stop.value)
        else:
            self._perform(call, effect)

    def _end(self, call: Call, outcome: Outcome) -> None:
        call.turn += 1
        self._waiting.pop(call, None)
        call.outcome, call.ended_at = outcome, self.clock.now
        for branch in call.branches:
            self.abandon(branch)
        self._news(call)

    def _news(self, branch: Call) -> None:
        """A branch has something to say: whoever races it, or has adopted it, goes on."""
        parent = branch.parent
        if parent is None:
            return
        if branch in parent.racing:
            parent.racing = ()
            self._later(parent, self.clock.now, branch)
        elif parent.adopted is branch and branch.outcome is not None and not branch.outcome.open:
            self._later(parent, self.clock.now, branch.outcome)

    @staticmethod
    def _beside(effect: Spawn | Shadow) -> Call:
        """Another script that begins now."""
        call = Call(effect.rpc, effect.service)
        call.script = effect.service(effect.rpc)
        return call

    def _later(self, call: Call, when: float, reply: object) -> None:
        turn = call.turn
        self.at(when, lambda: self._resume(call, reply) if call.turn == turn else None)

    def _perform(self, call: Call, effect: Effect) -> None:
        now = self.clock.now
        match effect:
            case Send(node=chosen):
                call.effects.append(f"send {chosen.address.removesuffix(':1')}")
                reply = self._answer(chosen.address, call.rpc)
                call.ends = reply
                self._bounded(call, reply.outcome, now + reply.after)
            case Drain():
                call.effects.append("drain")
                assert call.ends is not None, "a drain follows a send that was answered with an open stream"
                if call.parent is not None:
                    call.outcome = OPEN
                    self._news(call)
                self._bounded(call, call.ends.end or OK, now + call.ends.lasts)
            case Sleep(seconds=seconds):
                call.effects.append(f"sleep {seconds:g}")
                self._later(call, now + seconds, None)
            case Wait(version=version, until=until):
                call.effects.append("wait")
                if self.snapshot.version > version:
                    self._later(call, now, self.snapshot)
                else:
                    self._waiting[call] = version
                    if until is not None:
                        self._later(call, until, None)
            case Spawn() | Race() | Adopt() | Shadow():
                self._several(call, effect)

    def _several(self, call: Call, effect: Spawn | Race | Adopt | Shadow) -> None:
        """What has to do with several scripts at once."""
        now = self.clock.now
        match effect:
            case Spawn():
                branch = self._beside(effect)
                branch.parent, branch.effects = call, call.effects
                call.branches.append(branch)
                self._resume(branch, None)
                self._resume(call, branch)
            case Race(branches=branches, until=until):
                call.racing = branches
                for said in branches:
                    if said.outcome is not None:
                        self._later(call, now, said)
                if until is not None:
                    self._later(call, until, None)
            case Adopt(branch=chosen):
                assert isinstance(chosen, Call)
                assert chosen.outcome is not None, "what has no outcome yet can't be adopted"
                call.adopted = chosen
                for other in call.branches:
                    if other is not chosen and (other.outcome is None or other.outcome.open):
                        node = getattr(other.rpc, "node", None)  # none yet, where it waits for one
                        call.effects.append(f"cancel {node.address.removesuffix(':1') if node else 'nobody'}")
                        self.abandon(other)
                if not chosen.outcome.open:
                    self._later(call, now, chosen.outcome)
            case Shadow():
                shadow = self._beside(effect)
                self.shadows.append(shadow)
                call.effects.append("shadow")
                self._resume(shadow, None)
                self._resume(call, None)

    def _bounded(self, call: Call, outcome: Outcome, when: float) -> None:
        """The wire's own deadline ends what takes longer."""
        deadline = call.rpc.deadline
        if deadline is not None and when > deadline:
            when, outcome = deadline, Outcome(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._later(call, when, outcome)

    def _answer(self, address: str, rpc: Rpc) -> Reply:
        behaviour = self.behaviours.get(address, self.behaviours.get(address.removesuffix(":1"), OK))
        if isinstance(behaviour, list):
            answer: Any = behaviour.pop(0) if len(behaviour) > 1 else behaviour[0]
        else:
            answer = behaviour(rpc) if callable(behaviour) else behaviour
        return answer if isinstance(answer, Reply) else Reply(answer)


def play(service: Service, rpc: Rpc, **answers: Any) -> tuple[list[str], Outcome]:
    """One call to its end: `play(service, rpc, a=UNAVAILABLE, b=OK)` -> (what it did, how it ended)."""
    simulation = Simulation(rpc.snapshot, now=rpc.now)
    simulation.behaviours.update(answers)
    call = simulation.call(service, rpc)
    simulation.run()
    assert call.outcome is not None, f"the call waits for ever, after {call.effects}"
    return call.effects, call.outcome
