"""Several attempts of one call at once: when they are sent, who wins, who pays, and what is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.model.codes import Code
from proxyless.model.documents import ServiceDocument
from proxyless.model.quantities import Duration
from proxyless.model.routes import Hedge, Route
from proxyless.model.traffic import Limits, LoadBalancer, RetryBudget, TrafficPolicy
from proxyless.script import OK, OPEN, Outcome, Rpc
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Call, Reply, Simulation, Stream, play
from tests.worlds import WEB, Known, rpc

NEVER = Reply(OK, after=3600.0)
FATAL = Outcome(Code.INVALID_ARGUMENT, "nobody can mend that")


def hedging(
    names: str = "abc",
    *,
    balancer: str = "round_robin",
    delay: float = 0.1,
    attempts: int = 2,
    non_fatal: Sequence[Any] = ("unavailable",),
    policy: TrafficPolicy | None = None,
    disabled: Sequence[str] = (),
) -> Known:
    """A service on these endpoints, picked in turn unless told otherwise, whose calls are hedged."""
    world = Known(disabled=disabled).lives("web", *(f"{name}:1" for name in names))
    turns = policy or TrafficPolicy()
    policy = TrafficPolicy(LoadBalancer(balancer), limits=turns.limits, retry_budget=turns.retry_budget)
    route = Route(hedge=Hedge(Duration(delay), attempts, tuple(non_fatal)))
    world.services["web"] = ServiceDocument(routes=(route,), traffic_policy=policy)
    return world


def called(world: Known, timeout: float | None = None, replay: Stream | None = None, **answers: Any) -> Call:
    """A call to its end."""
    simulation = Simulation(world.snapshot())
    simulation.behaviours.update(answers)
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=timeout, replay=replay))
    simulation.run()
    assert call.outcome is not None
    assert_at_rest(world)
    return call


def assert_at_rest(world: Known) -> None:
    """Nothing is under way any more: not on a node, not under a limit."""
    assert [node.inflight for node in world.nodes.all()] == [0] * len(world.nodes)
    cluster = world.snapshot().clusters[WEB]
    status = cluster.state.status(world.now)
    assert (status["requests"], status["pending"]) == (0, 0)
    assert cluster.state._limits.retries.used == 0  # type: ignore[attr-defined]


def test_an_answer_before_the_delay_is_a_call_like_any_other() -> None:
    """Nothing more is sent."""
    world = hedging()
    call = called(world, a=Reply(OK, after=0.05))
    assert call.effects == ["send a"]
    assert (call.outcome, call.ended_at) == (OK, START + 0.05)


def test_the_second_attempt_goes_elsewhere_after_the_delay_and_the_first_answer_wins() -> None:
    """The slow one is cancelled when the fast one has answered."""
    call = called(hedging(), a=NEVER, b=Reply(OK, after=0.02))
    assert call.effects == ["send a", "send b", "cancel a"]
    assert (call.outcome, call.ended_at) == (OK, START + 0.12)
    assert call.rpc.node.address == "b:1"


def test_the_first_may_still_win() -> None:
    """Who was sent first and who answers first are two questions."""
    call = called(hedging(), a=Reply(OK, after=0.15), b=NEVER)
    assert call.effects == ["send a", "send b", "cancel b"]
    assert call.ended_at == START + 0.15


def test_a_failure_that_is_not_fatal_sends_the_next_at_once() -> None:
    """ "Immediately send next scheduled hedged request, if any." - gRFC A6"""
    call = called(hedging(delay=10), a=Reply(UNAVAILABLE, after=0.01), b=OK)
    assert call.effects == ["send a", "send b"]
    assert (call.outcome, call.ended_at) == (OK, START + 0.01)


def test_a_fatal_failure_ends_all() -> None:
    """ "Cancel previous and pending hedges" - gRFC A6"""
    call = called(hedging(), a=NEVER, b=FATAL)
    assert call.effects == ["send a", "send b", "cancel a"]
    assert call.outcome is FATAL


def test_without_non_fatal_every_answer_that_fails_is_fatal() -> None:
    """But for what never left this process."""
    assert called(hedging(non_fatal=()), a=UNAVAILABLE).outcome is UNAVAILABLE
    assert called(hedging(non_fatal=()), a=UNREACHABLE, b=OK).effects == ["send a", "send b"]


def test_where_all_fail_the_last_failure_is_the_call_s() -> None:
    """Unchanged, as with retries."""
    last = Outcome(Code.UNAVAILABLE, "the third")
    call = called(hedging(), a=UNAVAILABLE, b=UNAVAILABLE, c=last)
    assert call.effects == ["send a", "send b", "send c"]
    assert call.outcome is last


def test_a_delay_of_zero_sends_all_at_once() -> None:
    """There is nothing to wait for."""
    call = called(hedging(delay=0), a=NEVER, b=NEVER, c=Reply(OK, after=0.01))
    assert call.effects == ["send a", "send b", "send c", "cancel a", "cancel b"]


def test_attempts_carry_how_many_went_before() -> None:
    """Each its own metadata, the first none."""
    seen: list[tuple[Any, ...]] = []

    def told(attempt: Rpc) -> Reply:
        seen.append(tuple(attempt.metadata or ()))
        return NEVER if len(seen) < 3 else Reply(OK)

    called(hedging(), a=told, b=told, c=told)
    key = "grpc-previous-rpc-attempts"
    assert seen == [(), ((key, "1"),), ((key, "2"),)]


def test_nobody_is_tried_twice_while_there_is_somebody_else() -> None:
    """With two endpoints and three attempts, the third has no choice."""
    call = called(hedging("ab"), a=NEVER, b=NEVER, timeout=1.0)
    assert call.effects == ["send a", "send b", "send a"]
    # Dice that always fall on the same endpoint: it is not chance that sends the next attempt elsewhere.
    call = called(hedging("ab", balancer="random", attempts=1), a=NEVER, b=Reply(OK, after=0.02))
    assert call.effects == ["send a", "send b", "cancel a"]


def test_the_deadline_is_the_call_s_and_nothing_is_sent_at_its_end() -> None:
    """All attempts share it; one that could only be sent too late is not."""
    call = called(hedging(delay=0.4), timeout=0.8, a=NEVER, b=NEVER)
    assert [effect for effect in call.effects if effect.startswith("send")] == ["send a", "send b"]
    assert call.outcome is not None
    assert call.outcome.code == Code.DEADLINE_EXCEEDED
    assert call.ended_at == START + 0.8


def test_a_server_may_ask_for_later_or_for_never() -> None:
    """A pushback postpones the next; a negative one forbids all."""
    later = Outcome(Code.UNAVAILABLE, trailers=(("grpc-retry-pushback-ms", "300"),))
    call = called(hedging(delay=10), a=later, b=OK)
    assert (call.effects, call.ended_at) == (["send a", "send b"], START + 0.3)
    never = Outcome(Code.UNAVAILABLE, trailers=(("grpc-retry-pushback-ms", "-1"),))
    call = called(hedging(), a=never, b=OK)
    assert (call.effects, call.outcome) == (["send a"], never)


def test_no_more_are_sent_after_a_refusal_to_pay_and_those_under_way_go_on() -> None:
    """A budget of one: the second attempt has it, there is no third, and the first still answers."""
    policy = TrafficPolicy(retry_budget=RetryBudget(0.0, 1, Duration(1)))
    world = hedging(attempts=5, policy=policy)
    call = called(world, a=Reply(OK, after=5), b=NEVER, c=NEVER)
    assert call.effects == ["send a", "send b", "cancel b"]
    status = world.snapshot().clusters[WEB].state.status(world.now)
    assert (status["hedges"], status["retries_denied"], status["retries"]) == (1, 1, 0)


def test_hedges_are_under_the_limit_of_retries() -> None:
    """`maxRetries: 1`: one attempt beside the first at a time, whoever makes it."""
    world = hedging(delay=0, attempts=3, policy=TrafficPolicy(limits=Limits(max_retries=1)))
    call = called(world, a=Reply(OK, after=1), b=NEVER, c=NEVER)
    assert call.effects == ["send a", "send b", "cancel b"]


def test_a_hedge_that_is_refused_by_a_limit_leaves_the_first_alone() -> None:
    """Our own refusal of the second attempt is not the end of the first."""
    world = hedging(policy=TrafficPolicy(limits=Limits(max_requests=1)))
    call = called(world, a=Reply(OK, after=0.5))
    assert (call.effects, call.outcome) == (["send a"], OK)


def test_a_refusal_of_the_first_is_the_call_s() -> None:
    """With no endpoint there is nothing to hedge."""
    call = called(hedging(""))
    assert call.outcome is not None
    assert call.outcome.refused == "no_endpoints"


def test_a_stream_that_has_begun_is_the_answer() -> None:
    """ "committed": the others are cancelled, and the call ends as that stream ends."""
    broke = Outcome(Code.UNAVAILABLE, "broke", committed=True)
    call = called(hedging(), a=NEVER, b=Reply(OPEN, after=0.05, end=broke, lasts=30))
    assert call.effects == ["send a", "send b", "drain", "cancel a"]
    assert (call.outcome, call.ended_at) == (broke, START + 30.15)


def test_a_stream_of_requests_is_sent_by_one_attempt_after_the_other() -> None:
    """Another follows where nothing of it was sent, or where all that was read of it is there still."""
    whole, gone = Stream(True), Stream(False)
    call = called(hedging(), replay=whole, a=Reply(OK, after=5))
    assert call.effects == ["send a"]
    assert whole.kept
    assert called(hedging(), replay=gone, a=UNREACHABLE, b=OK).effects == ["send a", "send b"]
    assert called(hedging(), replay=whole, a=UNAVAILABLE, b=OK).effects == ["send a", "send b"]
    assert called(hedging(), replay=gone, a=UNAVAILABLE, b=OK).outcome is UNAVAILABLE
    assert called(hedging(), replay=whole, a=FATAL, b=OK).outcome is FATAL


def test_hedging_can_be_switched_off_in_a_process() -> None:
    """`PROXYLESS_DISABLE=hedge`: the route has its retries then."""
    world = hedging(disabled=["hedge"])
    effects, outcome = play(ENTRY, rpc(world.snapshot()), a=Reply(UNAVAILABLE, after=1.0), b=OK)
    assert [effect for effect in effects if "send" in effect] == ["send a", "send b"]
    assert outcome is OK


def test_success_pays_in_and_a_failure_that_hedging_mends_does_not() -> None:
    """Linkerd's rule for deposits, as with retries."""

    def left(**answers: Any) -> int:
        world = hedging("a", attempts=1, policy=TrafficPolicy(retry_budget=RetryBudget(1.0, 10, Duration(10))))
        called(world, **answers)
        return int(world.snapshot().clusters[WEB].state.status(world.now)["retries_left"])

    assert left(a=OK) == 101
    assert left(a=FATAL) == 101
    assert left(a=UNAVAILABLE) == 99  # the hedge was paid for, and nothing came of it
    assert left(a=[UNAVAILABLE, OK]) == 100


@pytest.mark.parametrize("after", [0.0, 0.05, 0.15, 0.25])
def test_a_caller_who_walks_away_leaves_nothing_running(after: float) -> None:
    """Whichever attempts were under way."""
    world = hedging()
    simulation = Simulation(world.snapshot())
    simulation.behaviours.update(a=NEVER, b=NEVER, c=NEVER)
    call = simulation.call(ENTRY, rpc(simulation.snapshot))
    simulation.at(START + after, lambda: simulation.abandon(call))
    simulation.run()
    assert_at_rest(world)


ANSWERS = st.sampled_from(
    [OK, UNAVAILABLE, UNREACHABLE, FATAL, Reply(OPEN, end=OK, lasts=1), Reply(OPEN, end=UNAVAILABLE, lasts=1)]
)
REPLIES = st.builds(
    lambda answer, after: (
        Reply(answer.outcome, after, answer.end, answer.lasts) if isinstance(answer, Reply) else Reply(answer, after)
    ),
    ANSWERS,
    st.sampled_from([0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 5.0]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(REPLIES, min_size=3, max_size=3),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(1, 5),
    st.sampled_from([None, 0.1, 0.25]),
    st.sampled_from([None, 0.0, 0.1, 0.2, 0.26]),
)
def test_whatever_happens_nothing_is_left_and_no_more_is_sent_than_allowed(
    replies: list[Reply], delay: float, attempts: int, timeout: float | None, gone: float | None
) -> None:
    """Any answers in any order, a deadline anywhere, a caller who leaves at any time."""
    world = hedging(delay=delay, attempts=attempts)
    simulation = Simulation(world.snapshot())
    simulation.behaviours.update(dict(zip("abc", replies, strict=True)))
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=timeout))
    if gone is not None:
        simulation.at(START + gone, lambda: simulation.abandon(call))
    simulation.run()
    assert call.outcome is not None
    assert sum(effect.startswith("send") for effect in call.effects) <= 1 + attempts
    assert timeout is None or call.ended_at <= START + timeout
    assert_at_rest(world)
