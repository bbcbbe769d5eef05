"""State has one home, and its books balance: whatever happens in whatever order, nobody counts for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxyless.model.codes import Code
from proxyless.model.snapshot import NOTHING, Snapshot
from proxyless.policy.breaker import Breaker
from proxyless.script import OK, OPEN, Drain, Outcome, Rpc, Script, Send, Sleep
from proxyless.stack import ENTRY
from proxyless.state import DestinationState, Node, SnapshotSlot
from tests.fakes import START, UNAVAILABLE, UNREACHABLE
from tests.worlds import WEB, Known, document, fail, rpc

EVERYTHING = """
routes:
- name: all
  timeout: 60s
  rateLimit: {requestsPerSecond: 1000000, burst: 1000000}
  fault: {delay: {percent: 50, fixed: 1s}}
  retry: {attempts: 2, perTryTimeout: 9s, on: [5xx], backoff: {base: 1s, max: 1s}}
trafficPolicy:
  limits: {maxRequests: 3, maxPendingRequests: 2, maxRetries: 1}
  circuitBreaker: {minimumRequests: 4, openFor: 2s, halfOpenRequests: 2}
  outlierDetection: {consecutive5xx: 2, baseEjectionTime: 1s}
  retryBudget: {minRetriesPerSecond: 1000}
"""


def at_rest(world: Known, state: DestinationState) -> None:
    """Nothing is under way, by any counter there is."""
    status = state.status(world.now)
    assert (status["requests"], status["pending"]) == (0, 0)
    assert state._limits.retries.used == 0
    assert [(node.inflight, node.outlier.ticket) for node in world.nodes.all()] == [(0, 0)] * len(world.nodes)


class Destination(RuleBasedStateMachine):
    """What filters do to a destination and its nodes, by many calls at once."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Known().lives("web", "a:1", "b:1", "c:1")
        self.world.services["web"] = document(EVERYTHING)
        self.state: Any = self.world.snapshot().clusters[WEB].state
        self.under_way: list[tuple[Node, int]] = []
        self.inside = self.held = self.queued = self.retrying = 0
        self.admitted: list[int] = []

    @property
    def now(self) -> float:
        return self.world.now

    @rule(seconds=st.sampled_from((0.1, 1.0, 10.0)))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(which=st.integers(0, 2))
    def begin(self, which: int) -> None:
        node = self.world.nodes.all()[which]
        ticket = self.state.probe(node, self.now)
        if ticket is None:
            return
        room = self.inside < 3
        assert self.state.begin(node) == room
        if room:
            self.inside += 1
            self.under_way.append((node, ticket))
        else:
            self.state.probed(node, ticket, None, self.now)

    @precondition(lambda self: self.under_way)
    @rule(
        which=st.integers(0, 99),
        code=st.sampled_from((None, Code.OK, Code.NOT_FOUND, Code.INTERNAL, Code.INTERNAL)),
    )
    def ended(self, which: int, code: int | None) -> None:
        node, ticket = self.under_way.pop(which % len(self.under_way))
        self.state.ended(node, code, False, self.now, ticket)
        self.inside -= 1

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 99))
    def ended_but_holds_its_place(self, which: int) -> None:
        node, ticket = self.under_way.pop(which % len(self.under_way))
        self.state.ended(node, Code.UNAVAILABLE, True, self.now, ticket, True)
        self.held += 1

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 2))
    def tries_another(self, which: int) -> None:
        node = self.world.nodes.all()[which]
        assert self.state.begin(node, True)
        self.held -= 1
        self.under_way.append((node, 0))

    @precondition(lambda self: self.held)
    @rule()
    def leave(self) -> None:
        self.state.leave()
        self.held -= 1
        self.inside -= 1

    @rule()
    def queue(self) -> None:
        room = self.queued < 2
        assert self.state.queue() == room
        self.queued += room

    @precondition(lambda self: self.queued)
    @rule()
    def unqueue(self) -> None:
        self.state.unqueue()
        self.queued -= 1

    @rule()
    def withdraw(self) -> None:
        granted = self.state.withdraw(self.now)
        assert granted == (not self.retrying)
        self.retrying += granted

    @precondition(lambda self: self.retrying)
    @rule()
    def retried(self) -> None:
        self.state.retried()
        self.retrying -= 1

    @rule()
    def admit(self) -> None:
        ticket = self.state.admit(self.now)
        if ticket:
            self.admitted.append(ticket)

    @precondition(lambda self: self.admitted)
    @rule(which=st.integers(0, 99), ok=st.sampled_from((True, False, None)))
    def judge(self, which: int, ok: bool | None) -> None:
        self.state.judge(self.admitted.pop(which % len(self.admitted)), ok, self.now)

    @rule()
    def another_snapshot(self) -> None:
        """Nothing is edited: everybody keeps his history."""
        before = self.world.nodes.all()
        self.world.services["web"] = document(EVERYTHING)
        snapshot = self.world.snapshot()
        self.world.nodes.adopt(snapshot)
        assert snapshot.clusters[WEB].state is self.state
        assert list(snapshot.clusters[WEB].nodes) == before

    @invariant()
    def the_books_agree(self) -> None:
        status = self.state.status(self.now)
        assert (status["requests"], status["pending"]) == (self.inside, self.queued)
        assert status["ejected"] == sum(node.outlier.out for node in self.world.nodes.all())
        for node in self.world.nodes.all():
            assert node.inflight == sum(one is node for one, _ in self.under_way) >= 0

    def teardown(self) -> None:
        """Everybody goes home."""
        while self.under_way:
            self.ended(0, None)
        while self.admitted:
            self.judge(0, None)
        for _ in range(self.held):
            self.state.leave()
        for _ in range(self.queued):
            self.state.unqueue()
        for _ in range(self.retrying):
            self.state.retried()
        at_rest(self.world, self.state)


Destination.TestCase.settings = settings(
    max_examples=100, stateful_step_count=60, deadline=None, derandomize=True, database=None
)
TestDestination = Destination.TestCase


# --- every way out of a call ---


def stories() -> Iterator[list[Outcome]]:
    """What the wire answers, attempt by attempt: streams are open first."""
    for first in (OK, UNAVAILABLE, UNREACHABLE, OPEN, Outcome(Code.NOT_FOUND)):
        for second in (OK, UNAVAILABLE, OPEN):
            yield [first, second, UNAVAILABLE, OK]


def drive(script: Script[Outcome], call: Rpc, answers: list[Outcome], steps: int) -> bool:
    """Perform `steps` effects; whether the script is still going on."""
    replies = iter(answers)
    reply: Any = None
    with suppress(StopIteration):
        for _ in range(steps):
            match script.send(reply):
                case Send():
                    reply = next(replies)
                case Drain():
                    reply = UNAVAILABLE
                case Sleep(seconds=seconds):
                    call.now += seconds
                    reply = None
                case _:
                    reply = None
        return True
    return False


def close(script: Script[Outcome]) -> None:
    script.close()


def throw(script: Script[Outcome]) -> None:
    with pytest.raises(KeyboardInterrupt):
        script.throw(KeyboardInterrupt())


@pytest.mark.parametrize("leave", [close, throw])
@pytest.mark.parametrize("lives", [("a:1", "b:1"), ()], ids=["two endpoints", "nobody there"])
def test_a_call_may_end_at_any_step_and_leaves_every_counter_at_zero(
    leave: Callable[[Script[Outcome]], None], lives: tuple[str, ...]
) -> None:
    """Never begun, abandoned or interrupted at each effect of a fully configured stack, or run to its end."""
    ended = 0
    longest = 0
    for dice in (0.0, 0.6):
        for answers in stories():
            for steps in range(12):
                world = Known().lives("web", *lives)
                world.services["web"] = document(EVERYTHING)
                snapshot = world.snapshot()
                call = rpc(snapshot, rng=partial(float, dice), wait_for_ready=not lives)
                script = ENTRY(call)
                goes_on = drive(script, call, answers, steps)
                if goes_on:
                    leave(script)
                    longest = max(longest, steps)
                ended += not goes_on
                at_rest(world, snapshot.clusters[WEB].state)  # type: ignore[arg-type]
    assert ended > 0
    assert longest >= (5 if lives else 2)


@pytest.mark.parametrize("leave", [close, throw])
def test_a_probe_and_a_half_open_call_may_end_at_any_step(leave: Callable[[Script[Outcome]], None]) -> None:
    """The places of which there is only one or two."""
    for steps in range(6):
        world = Known().lives("web", "a:1")
        world.services["web"] = document(EVERYTHING)
        snapshot = world.snapshot()
        state: Any = snapshot.clusters[WEB].state
        for _ in range(4):
            state.judge(state.admit(START), False, START)
            fail(state, world.nodes.all()[0])
        assert (state.status(START)["breaker"], state.status(START)["ejected"]) == ("OPEN", 1)
        for _ in range(5):
            call = rpc(snapshot, now=START + 5)
            script = ENTRY(call)
            if drive(script, call, [UNAVAILABLE] * 3, steps):
                leave(script)
            at_rest(world, state)
        assert state.admit(START + 60) > 0
        assert state.probe(world.nodes.all()[0], START + 60) == world.nodes.all()[0].outlier.issued


# --- edits, newcomers, forks ---


def test_survivors_keep_their_history_and_who_comes_back_begins_anew() -> None:
    """By address within a destination."""
    world = Known().lives("web", "a:1", "b:1")
    snapshot = world.snapshot()
    world.nodes.adopt(snapshot)
    a, b = snapshot.clusters[WEB].nodes
    state = snapshot.clusters[WEB].state
    assert state.begin(a)
    assert state.begin(b)
    fail(state, a, times=5)
    without = world.lives("web", "a:1", "c:1").snapshot()
    assert world.nodes.adopt(without) == [b]
    assert without.clusters[WEB].nodes[0] is a
    assert (a.inflight, a.outlier.state(START)) == (1, "ejected")
    again = world.lives("web", "a:1", "b:1").snapshot()
    world.nodes.adopt(again)
    assert again.clusters[WEB].nodes[1] is not b
    assert again.clusters[WEB].nodes[1].inflight == 0
    state.ended(b, Code.OK, False, START)
    assert b.inflight == 0


@pytest.mark.parametrize(
    "edit",
    [
        "circuitBreaker: {minimumRequests: 1, openFor: 20s}",
        "circuitBreaker: {minimumRequests: 2, window: 30s, openFor: 30s}, limits: {maxRequests: 7}",
        "circuitBreaker: {minimumRequests: 2}, outlierDetection: {maxEjectionPercent: 1}",
        "circuitBreaker: {minimumRequests: 2}, retryBudget: {ratio: 0.5}, loadBalancer: {policy: random}",
    ],
)
def test_an_edit_forgets_neither_an_open_breaker_nor_an_ejection(edit: str) -> None:
    """Saving a document is no reset button."""
    world = Known().lives("web", "a:1", "b:1")
    world.services["web"] = document("trafficPolicy: {circuitBreaker: {minimumRequests: 2}}")
    snapshot = world.snapshot()
    state: Any = snapshot.clusters[WEB].state
    fail(state, snapshot.clusters[WEB].nodes[0], times=5)
    for _ in range(2):
        state.judge(state.admit(START), False, START)
    world.now = START + 1
    world.services["web"] = document(f"trafficPolicy: {{{edit}}}")
    edited = world.snapshot().clusters[WEB]
    assert edited.state is state
    assert state.admit(world.now) == 0
    assert [node.outlier.state(world.now) for node in edited.nodes] == ["ejected", "healthy"]


def test_switching_outlier_detection_off_readmits_everybody() -> None:
    """The one edit that is meant to."""
    world = Known().lives("web", "a:1", "b:1")
    cluster = world.snapshot().clusters[WEB]
    fail(cluster.state, cluster.nodes[0], times=5)
    world.services["web"] = document("trafficPolicy: {outlierDetection: {maxEjectionPercent: 0}}")
    world.snapshot()
    assert [node.outlier.out for node in cluster.nodes] == [False, False]


def test_a_forked_child_keeps_what_is_known_and_forgets_what_was_under_way() -> None:
    """Calls, retries and probes of the parent end in the parent: nobody here gives back what they hold."""
    world = Known().lives("web", "a:1", "b:1")
    world.services["web"] = document(EVERYTHING)
    snapshot = world.snapshot()
    cluster = snapshot.clusters[WEB]
    state: Any = cluster.state
    a, b = world.nodes.all()
    fail(state, a, times=2)
    for _ in range(4):
        state.judge(state.admit(START), False, START)
    now = START + 5
    assert state.probe(a, now)
    assert [bool(state.admit(now)) for _ in range(3)] == [True, True, False]
    for taken in (*[lambda: state.begin(b)] * 3, state.queue, lambda: state.withdraw(now, True)):
        assert taken()
    assert not state.begin(b)
    assert state._lock is a.lock is b.lock
    state._lock.acquire()  # as by a thread that the child does not have
    world.nodes.renew()
    at_rest(world, state)
    assert not world.nodes.busy()
    status = state.status(now)
    assert [status[count] for count in ("retries", "hedges", "retries_denied", "refused")] == [0, 0, 0, 0]
    assert status["breaker"] == "HALF_OPEN"
    assert a.outlier.out
    assert state.probe(a, now)
    assert [bool(state.admit(now)) for _ in range(3)] == [True, True, False]
    assert state.begin(b)
    assert state.withdraw(now)


def test_who_is_no_longer_named_is_busy_as_long_as_calls_are_under_way_there() -> None:
    """An endpoint that leaves, and a destination that does, take their calls along; nobody may think all is quiet."""
    world = Known().lives("web", "a:1", "b:1")
    cluster = world.snapshot().clusters[WEB]
    state: Any = cluster.state
    a, b = world.nodes.all()
    assert not world.nodes.busy()
    assert state.begin(a)
    assert state.begin(b)
    world.lives("web", "b:1")
    world.nodes.adopt(world.snapshot())
    state.ended(b, 0, False, START)
    assert world.nodes.busy()
    world.nodes.adopt(Snapshot(9))
    assert world.nodes.busy()
    world.nodes.adopt(Snapshot(10))
    assert world.nodes.busy()
    state.ended(a, 0, False, START)
    assert not world.nodes.busy()


def test_copies_of_calls_are_busy_only_where_they_are_asked_for() -> None:
    """Whoever closes a mesh waits for calls; whoever forks, for all that is inside of gRPC."""
    world = Known().lives("web", "a:1").lives("twin", "t:1")
    world.services["web"] = document("routes: [{name: all, mirror: [{service: twin, percent: 100}]}]")
    snapshot = world.snapshot()
    (mirror,) = [cluster for key, cluster in snapshot.clusters.items() if key.mirrored]
    state: Any = mirror.state
    assert state.begin(mirror.nodes[0])
    assert (world.nodes.busy(), world.nodes.busy(copies=False)) == (True, False)


def test_the_collector_may_end_a_call_while_its_destination_is_being_counted() -> None:
    """A call in a reference cycle ends where the collector happens to run: in a thread that holds the lock, too."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(EVERYTHING)
    snapshot = world.snapshot()
    state: Any = snapshot.clusters[WEB].state
    call = rpc(snapshot, rng=lambda: 0.6)
    script = ENTRY(call)
    assert drive(script, call, [OPEN], 2)  # sent, and its stream is being read
    assert state.status(START)["requests"] == 1
    with state._lock:
        script.close()
    at_rest(world, state)


class Interrupted(Exception):
    """What a signal's handler raises."""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
def test_an_interrupt_leaves_no_lock_held() -> None:
    """Ctrl-C, or the time limit of a worker, at whichever instruction of a call: whoever comes after would wait for
    ever. Of a lock that is acquired before a `try`, one interrupt in nine hits the instant between the two."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(EVERYTHING)
    cluster = world.snapshot().clusters[WEB]
    state: Any = cluster.state
    (node,) = cluster.nodes

    def interrupt(*_: object) -> None:
        raise Interrupted

    def calls() -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005)
        while True:
            state.begin(node)
            state.ended(node, 0, False, START)
            state.deposit(START)
            state.judge(state.admit(START), True, START)

    free: list[bool] = []

    def look() -> None:
        free.append(state._lock.acquire(blocking=False))
        if free[-1]:
            state._lock.release()

    before = signal.signal(signal.SIGVTALRM, interrupt)
    try:
        for _ in range(300):
            with pytest.raises(Interrupted):
                calls()
            other = threading.Thread(target=look)
            other.start()
            other.join()
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert free == [True] * 300


def test_a_waiter_may_be_forgotten_while_a_snapshot_is_being_published() -> None:
    """The collector ends a coroutine that waits for news wherever it runs: in the publishing thread, too."""
    slot = SnapshotSlot()

    class Forgetful(set[Any]):
        def __iter__(self) -> Iterator[Any]:
            slot.unsubscribe(print)
            return super().__iter__()

    slot.subscribe(print)
    slot._waiters = Forgetful(slot._waiters)
    thread = threading.Thread(target=slot.publish, args=(NOTHING,), daemon=True)
    thread.start()
    thread.join(2.0)
    assert not thread.is_alive()


class Meddled(Breaker):
    """A breaker to which other threads do something just before and after somebody looks whether it is closed."""

    meddle: Callable[[], None] = staticmethod(lambda: None)
    _closed = True

    @property
    def closed(self) -> bool:
        self.meddle()
        closed = self._closed
        self.meddle()
        return closed

    @closed.setter
    def closed(self, closed: bool) -> None:
        self._closed = closed


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("between", range(7))
@pytest.mark.parametrize("after", range(7))
@pytest.mark.parametrize("ok", [True, False])
def test_who_is_let_in_without_the_lock_speaks_for_no_other_state(
    before: int, between: int, after: int, ok: bool
) -> None:
    """`admit` takes no lock while the breaker is closed. However often it opens, half opens and closes before, between
    and after its two looks: what comes of the call counts in the state that let it in, or nowhere."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document("trafficPolicy: {circuitBreaker: {minimumRequests: 1, halfOpenRequests: 2}}")
    state: Any = world.snapshot().clusters[WEB].state
    breaker = state._breaker = Meddled(state._policy.circuit_breaker)
    places: list[int] = []
    now = [START]
    turns = [before, between, after]

    def others() -> None:
        breaker.meddle = lambda: None
        for _ in range(turns.pop(0)):
            match breaker._state:
                case "CLOSED":
                    state.judge(state.admit(now[0]), False, now[0])
                case "OPEN":
                    now[0] += 60.0
                    places[:] = [state.admit(now[0]), state.admit(now[0])]
                case "HALF_OPEN":
                    state.judge(places.pop(), True, now[0])
                    state.judge(places.pop(), True, now[0])

        breaker.meddle = others if turns else lambda: None

    others()
    ticket = state.admit(now[0])
    if ticket:
        counted, stale = (breaker._total, breaker._under_way, breaker._state), ticket != breaker.generation
        state.judge(ticket, ok, now[0])
        assert stale or counted[2] == "CLOSED"
        assert not stale or (breaker._total, breaker._under_way, breaker._state) == counted
