"""Trying again: what is, what is not, when, and who pays for it."""

from __future__ import annotations

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, OPEN, Metadata, Outcome, Rpc
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Reply, Simulation, Stream, play
from tests.worlds import WEB, Known, document, fail, rpc

NEVER = Reply(OK, after=3600.0)


def retrying(retry: str, more: str = "", names: str = "abc") -> Known:
    """A service on these endpoints whose route has this retry policy."""
    world = Known().lives("web", *(f"{name}:1" for name in names))
    world.services["web"] = document(f"routes: [{{retry: {{{retry}}}}}]\n{more}")
    return world


def test_a_failed_call_is_made_again_on_somebody_else() -> None:
    """The first pick of all would be a each time: the dice show 0."""
    effects, outcome = play(ENTRY, rpc(retrying("attempts: 2").snapshot()), a=UNAVAILABLE, b=UNAVAILABLE)
    assert [effect for effect in effects if effect.startswith("send")] == ["send a", "send b", "send c"]
    assert outcome is OK


def test_attempts_counts_retries_and_the_last_failure_is_the_call_s() -> None:
    """`attempts: 2` is three tries at most, and the error passes unchanged."""
    last = Outcome(Code.UNAVAILABLE, "the third")
    effects, outcome = play(
        ENTRY, rpc(retrying("attempts: 2", names="a").snapshot()), a=[UNAVAILABLE, UNAVAILABLE, last, OK]
    )
    assert effects.count("send a") == 3
    assert outcome is last


@pytest.mark.parametrize(
    ("on", "answer", "tries"),
    [
        ("[unavailable]", UNAVAILABLE, 2),
        ("[unavailable]", Outcome(Code.INTERNAL), 1),
        ("[internal]", Outcome(Code.INTERNAL), 2),
        ("[5xx]", Outcome(Code.DATA_LOSS), 2),
        ("[5xx]", Outcome(Code.NOT_FOUND), 1),
        ("[connect-failure]", UNREACHABLE, 2),
        ("[connect-failure]", UNAVAILABLE, 1),
        (
            "[reset]",
            Outcome(Code.INTERNAL, "Internal error from Core"),
            2,
        ),  # grpcio on asyncio: it could not be written
        ("[unavailable]", Outcome(Code.INTERNAL, "Internal error from Core"), 1),
    ],
)
def test_what_is_tried_again_is_what_the_policy_names(on: str, answer: Outcome, tries: int) -> None:
    """gRPC codes and Envoy's words."""
    effects, _ = play(ENTRY, rpc(retrying(f"attempts: 1, on: {on}", names="a").snapshot()), a=answer)
    assert effects.count("send a") == tries


def test_what_is_committed_is_never_tried_again() -> None:
    """A stream that has begun: "when an RPC becomes committed … no subsequent attempts" - gRFC A6"""
    broken = Outcome(Code.UNAVAILABLE, "broke", committed=True)
    effects, outcome = play(ENTRY, rpc(retrying("attempts: 2").snapshot()), a=Reply(OPEN, end=broken, lasts=1.0))
    assert (effects, outcome) == (["send a", "drain"], broken)


@pytest.mark.parametrize(
    ("whole", "answer", "outcome"),
    [(True, UNAVAILABLE, OK), (False, UNAVAILABLE, UNAVAILABLE), (False, UNREACHABLE, OK)],
)
def test_a_stream_of_requests_is_tried_again_while_it_can_be_sent_again(
    whole: bool, answer: Outcome, outcome: Outcome
) -> None:
    """All that was read of it is there still, or nothing was sent; asked when the attempt has failed."""

    snapshot = retrying("attempts: 1, on: [unavailable, connect-failure]").snapshot()
    assert play(ENTRY, rpc(snapshot, replay=Stream(whole)), a=answer)[1] is outcome


def test_what_will_not_be_tried_again_is_not_kept() -> None:
    """A route without retries never asks for it."""

    stream = Stream(whole=True)
    assert play(ENTRY, rpc(retrying("attempts: 0").snapshot(), replay=stream), a=UNAVAILABLE)[1] is UNAVAILABLE
    assert not stream.kept


def test_each_attempt_has_its_own_time_within_the_call_s() -> None:
    """A per-try timeout is tried again where the policy says so; the call's own is the end."""
    world = retrying("attempts: 3, perTryTimeout: 250ms, on: [deadline-exceeded], backoff: {base: 1ms, max: 1ms}")
    simulation = Simulation(world.snapshot())
    simulation.behaviours.update(a=NEVER, b=NEVER, c=NEVER)
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=0.6))
    simulation.run()
    assert call.effects == ["send a", "send b", "send c"]
    assert call.outcome is not None
    assert (call.outcome.code, call.ended_at) == (Code.DEADLINE_EXCEEDED, START + 0.6)


def test_without_retries_the_one_try_has_its_time_all_the_same() -> None:
    """`attempts: 0` turns retries off, and not what bounds a try: the call was under way for ever."""
    simulation = Simulation(retrying("attempts: 0, perTryTimeout: 250ms").snapshot())
    simulation.behaviours.update(a=NEVER)
    stream = Stream(whole=True)
    call = simulation.call(ENTRY, rpc(simulation.snapshot, replay=stream))
    simulation.run(until=START + 1)
    assert call.effects == ["send a"]
    assert call.outcome is not None
    assert (call.outcome.code, call.ended_at, stream.kept) == (Code.DEADLINE_EXCEEDED, START + 0.25, False)


def test_a_per_try_timeout_of_0s_is_none() -> None:
    """As `timeout: 0s` is none: it is not that every attempt has run out of time before it is sent."""
    effects, outcome = play(ENTRY, rpc(retrying("attempts: 1, perTryTimeout: 0s").snapshot()), a=UNAVAILABLE, b=OK)
    assert [effect for effect in effects if effect.startswith("send")] == ["send a", "send b"]
    assert outcome is OK
    _, late = play(ENTRY, rpc(retrying("attempts: 1, perTryTimeout: 0s").snapshot(), timeout=5.0), a=NEVER)
    assert late.code == Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("on", "after", "tries"),
    [
        ("[reset]", 0.1, 1),  # the server's own word: its callee was late, or its clock is its own
        ("[reset]", 0.95, 2),  # it was told of our time, and was quicker to say so
        ("[5xx]", 0.1, 2),
        ("[gateway-error]", 0.1, 2),
        ("[deadline-exceeded]", 0.1, 2),
        ("[unavailable]", 0.95, 1),
    ],
)
def test_a_server_that_says_it_was_too_late_is_no_per_try_timeout(on: str, after: float, tries: int) -> None:
    """ "gateway-error: … DEADLINE_EXCEEDED (server-sent) or reset", and `reset` is what no server has said."""
    simulation = Simulation(retrying(f"attempts: 1, perTryTimeout: 1s, on: {on}", names="a").snapshot())
    simulation.behaviours["a"] = Reply(Outcome(Code.DEADLINE_EXCEEDED, "too late"), after=after)
    call = simulation.call(ENTRY, rpc(simulation.snapshot))
    simulation.run()
    assert call.effects.count("send a") == tries


def test_a_per_try_timeout_is_not_tried_again_where_the_policy_names_none() -> None:
    """By default only what is known not to have been done is tried again."""
    effects, outcome = play(ENTRY, rpc(retrying("attempts: 3, perTryTimeout: 250ms").snapshot()), a=NEVER)
    assert (effects, outcome.code) == (["send a"], Code.DEADLINE_EXCEEDED)


def test_no_retry_waits_past_the_deadline() -> None:
    """Without time for another attempt the failure is told at once (vector no-retry-when-deadline-spent)."""
    world = retrying("attempts: 3, backoff: {base: 100ms, max: 100ms}")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = Reply(UNAVAILABLE, after=0.15)
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=0.2, rng=iter([0.0, 0.0, 0.9]).__next__))
    simulation.run()
    assert (call.effects, call.outcome, call.ended_at) == (["send a"], UNAVAILABLE, START + 0.15)


def test_the_server_may_say_when_or_never() -> None:
    """`grpc-retry-pushback-ms` replaces the backoff; a negative one ends it (gRFC A6)."""

    def says(milliseconds: str) -> Outcome:
        return Outcome(Code.UNAVAILABLE, "busy", trailers=(("grpc-retry-pushback-ms", milliseconds),))

    snapshot = retrying("attempts: 2").snapshot()
    assert play(ENTRY, rpc(snapshot), a=says("1500"))[0] == ["send a", "sleep 1.5", "send b"]
    assert play(ENTRY, rpc(snapshot), a=says("-1"))[0] == ["send a"]


def test_attempts_are_counted_in_their_metadata() -> None:
    """ "grpc-previous-rpc-attempts: N", absent on the first; the caller's own metadata stays (gRFC A6)."""
    seen: list[Metadata | None] = []

    def answers(attempt: Rpc) -> Outcome:
        seen.append(attempt.metadata)
        return UNAVAILABLE

    play(ENTRY, rpc(retrying("attempts: 2", names="a").snapshot(), metadata=(("k", "v"),)), a=answers)
    count = "grpc-previous-rpc-attempts"
    assert seen == [(("k", "v"),), (("k", "v"), (count, "1")), (("k", "v"), (count, "2"))]


def test_the_budget_pays_for_retries_and_only_what_needs_none_pays_in() -> None:
    """A total outage starves retries: after the reserve of 1/s over 10 s there is none left."""
    world = retrying("attempts: 3", "trafficPolicy: {retryBudget: {ratio: 0.2, minRetriesPerSecond: 1, ttl: 10s}}", "a")
    snapshot = world.snapshot()
    state = snapshot.clusters[WEB].state
    for _ in range(50):
        play(ENTRY, rpc(snapshot), a=UNAVAILABLE)
    assert (state.status(START)["retries"], state.status(START)["retries_left"]) == (10, 0)
    assert state.status(START)["retries_denied"] == 50 - 3  # three calls had three retries, the fourth had one
    for _ in range(5):
        play(ENTRY, rpc(snapshot), a=OK)
    assert state.status(START)["retries_left"] == 1


def test_so_many_retries_at_a_time_and_no_more() -> None:
    """`limits.maxRetries`: a retry that waits for its turn is one."""
    world = retrying("attempts: 1, backoff: {base: 1s, max: 1s}", "trafficPolicy: {limits: {maxRetries: 1}}", "a")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = [UNAVAILABLE, UNAVAILABLE, OK]
    first, second = (simulation.call(ENTRY, rpc(simulation.snapshot, rng=lambda: 0.5)) for _ in range(2))
    third = simulation.call(ENTRY, rpc(simulation.snapshot, now=START + 1))
    simulation.run()
    assert first.effects == ["send a", "sleep 0.5", "send a"]
    assert (second.effects, second.outcome) == (["send a"], UNAVAILABLE)
    assert third.outcome is OK


@pytest.mark.parametrize("when", [0.0, 0.25, 0.75], ids=["first attempt", "backoff", "second attempt"])
def test_a_caller_who_walks_away_frees_the_place_of_its_retry(when: float) -> None:
    """Whatever it was doing; else `maxRetries` would fill up with the dead."""
    world = retrying("attempts: 1, backoff: {base: 1s, max: 1s}", "trafficPolicy: {limits: {maxRetries: 1}}", "a")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = [UNAVAILABLE, NEVER, UNAVAILABLE, OK]
    gone = simulation.call(ENTRY, rpc(simulation.snapshot, rng=lambda: 0.5))
    simulation.at(START + when, lambda: simulation.abandon(gone))
    simulation.run(until=START + 0.9)
    simulation.behaviours["a"] = [UNAVAILABLE, OK]
    call = simulation.call(ENTRY, rpc(simulation.snapshot, rng=lambda: 0.5, now=START + 1))
    simulation.run()
    assert call.effects == ["send a", "sleep 0.5", "send a"]
    assert call.outcome is OK


def test_a_retry_keeps_away_from_an_ejected_node_even_where_it_has_tried_the_other() -> None:
    """The one in rotation may have failed by accident; of the other it is known."""
    world = retrying("attempts: 1, backoff: {base: 1ms, max: 1ms}", names="ab")
    snapshot = world.snapshot()
    fail(snapshot.clusters[WEB].state, world.nodes.all()[0], times=5)
    assert [told[:2] for told in world.told] == [("ejected", "a:1")]
    effects, outcome = play(ENTRY, rpc(snapshot), b=[UNAVAILABLE, OK])
    assert [effect for effect in effects if effect.startswith("send")] == ["send b", "send b"]
    assert outcome is OK


def test_a_server_may_say_when_in_the_details_of_its_status() -> None:
    """`google.rpc.RetryInfo`, as protobuf serializes it: a Status with one detail, whose delay is 1.5 s."""
    delay = b"\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01"
    detail = b"\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x0a" + delay
    busy = Outcome(Code.UNAVAILABLE, trailers=(("grpc-status-details-bin", b"\x08\x0e\x1a\x36" + detail),))
    assert play(ENTRY, rpc(retrying("attempts: 2").snapshot()), a=busy)[0] == ["send a", "sleep 1.5", "send b"]


def test_with_idempotent_only_what_may_have_been_done_is_not_made_twice() -> None:
    """A method that promises nothing is tried again where no server saw it, and nowhere else."""
    unseen = Outcome(Code.UNAVAILABLE, "GOAWAY received", unseen=True)
    for method, answer, tries in (
        ("/shop.Products/Buy", UNAVAILABLE, 1),
        ("/shop.Products/Buy", UNREACHABLE, 2),
        ("/shop.Products/Buy", unseen, 2),
        (declared("Look", 1), UNAVAILABLE, 2),
        (declared("Put", 2), UNAVAILABLE, 2),
        (declared("Buy", 0), UNAVAILABLE, 1),
    ):
        snapshot = retrying("attempts: 1, on: [unavailable, connect-failure], idempotentOnly: true").snapshot()
        effects, _ = play(ENTRY, rpc(snapshot, method=method), a=answer)
        assert sum(effect.startswith("send") for effect in effects) == tries, method


def declared(name: str, level: int) -> str:
    """A method whose .proto says `option idempotency_level`, as generated code makes it known."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name=f"retry_{name}.proto", package=f"retry_{name.lower()}")
    file.message_type.add(name="Nothing")
    message = f".retry_{name.lower()}.Nothing"
    method = file.service.add(name="S").method.add(name=name, input_type=message, output_type=message)
    method.options.idempotency_level = level
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return f"/retry_{name.lower()}.S/{name}"
