"""The last step: what brackets an attempt, where calls are kept away, and what if nobody is there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from proxyless.filters.balance import balance as last
from proxyless.model.codes import Code
from proxyless.model.snapshot import NodeState, PickInfo, Snapshot
from proxyless.script import OK, OPEN, Outcome, Rpc, Script
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, UNREACHABLE, Behaviour, InTurn, Reply, Simulation, Stream, play
from tests.worlds import WEB, Known, document, node, on_route, planned, rpc

OPENED = Reply(OPEN, after=0.1, end=OK, lasts=2.0)


def balance(call: Rpc) -> Script[Outcome]:
    """The filter by itself: nothing is below it."""
    return last(call, _nobody)


def _nobody(_rpc: Rpc) -> Script[Outcome]:
    raise AssertionError("balance is the last filter")


@pytest.mark.parametrize(
    ("answer", "effects", "failed"),
    [
        (OK, ["send a"], 0),
        (UNAVAILABLE, ["send a"], 1),
        (UNREACHABLE, ["send a"], 1),
        (OPENED, ["send a", "drain"], 0),
        (Reply(OPEN, end=UNAVAILABLE, lasts=1.0), ["send a", "drain"], 1),
    ],
    ids=["success", "failure", "no connection", "stream", "stream that breaks"],
)
def test_an_attempt_is_begun_and_done_once(answer: Behaviour, effects: list[str], failed: int) -> None:
    """In-flight counts are what balancers decide by: they must be right whatever happens."""
    target = node("a")
    did, _ = play(balance, on_route(planned(target)), a=answer)
    assert did == effects
    assert (target.calls, target.inflight, target.failures) == (1, 0, failed)


@pytest.mark.parametrize("when", [0.05, 1.0], ids=["before the answer", "in the stream"])
def test_an_abandoned_attempt_is_done_once_and_no_failure(when: float) -> None:
    """The driver closes the script; that the caller walked away says nothing of the node."""
    target = node("a")
    call = on_route(planned(target))
    simulation = Simulation(call.snapshot)
    simulation.behaviours["a"] = OPENED
    under_way = simulation.call(balance, call)
    simulation.at(START + when, lambda: simulation.abandon(under_way))
    simulation.run()
    assert (target.calls, target.inflight, target.failures) == (1, 0, 0)


def test_a_script_that_was_never_begun_leaves_no_trace() -> None:
    """A generator that is closed before its first step has done nothing to undo."""
    target = node("a")
    balance(on_route(planned(target))).close()
    assert (target.calls, target.inflight) == (0, 0)


def test_a_driver_that_throws_into_the_script_still_ends_the_attempt() -> None:
    """An interrupt in the middle of a blocking call."""
    target = node("a")
    script = balance(on_route(planned(target)))
    next(script)
    assert target.inflight == 1
    with pytest.raises(KeyboardInterrupt):
        script.throw(KeyboardInterrupt())
    assert (target.calls, target.inflight, target.failures) == (1, 0, 0)


def test_the_node_that_was_picked_is_what_the_call_says() -> None:
    """For retries, telemetry and `peer()`."""
    target = node("a")
    call = on_route(planned(target))
    play(balance, call)
    assert call.node is target


# --- wait_for_ready ---


def test_a_call_that_waits_for_ready_tries_again_while_nothing_can_be_connected() -> None:
    """ "wait_for_ready" of the mesh, not of the one node picked: other nodes are tried, later and later."""
    call = on_route(planned(node("a"), node("b")), wait_for_ready=True)
    did, outcome = play(balance, call, a=[UNREACHABLE, UNREACHABLE, OK], b=UNREACHABLE)
    assert {"send a", "send b"} == {effect for effect in did if effect.startswith("send")}
    assert did[1:4:2] == ["wait", "wait"]
    assert did[-1] == "send a"
    assert outcome is OK


def attempts(timeout: float) -> tuple[list[float], Outcome]:
    """When a call was tried that waits for the only node there is, and how it ended."""
    tried: list[float] = []

    def unreachable(attempt: Rpc) -> Outcome:
        tried.append(attempt.now - START)
        return UNREACHABLE

    _, outcome = play(balance, on_route(planned(node("a")), wait_for_ready=True, timeout=timeout), a=unreachable)
    return tried, outcome


def test_waiting_for_ready_ends_with_the_deadline() -> None:
    """The last pause is cut to what is left, and the refusal is the deadline's."""
    tried, outcome = attempts(timeout=0.05)
    assert tried == pytest.approx([0.0, 0.02])
    assert (outcome.code, outcome.refused) == (Code.DEADLINE_EXCEEDED, "deadline")


def test_pauses_double_up_to_a_second() -> None:
    """Quicker than a person, slower than a storm."""
    tried, _ = attempts(timeout=6.0)
    assert tried == pytest.approx([0.0, 0.02, 0.06, 0.14, 0.3, 0.62, 1.26, 2.26, 3.26, 4.26, 5.26])


def test_somebody_new_ends_the_pause_and_other_news_does_not() -> None:
    """Those whom the call knew may all be dead: a snapshot with another node is gone by at once."""
    world = Known().lives("web", "a:1")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = UNREACHABLE
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=9.0, wait_for_ready=True))
    simulation.at(START + 2.3, lambda: simulation.publish(world.lives("other", "c:1").snapshot("web", "other")))
    simulation.at(START + 2.5, lambda: simulation.publish(world.lives("web", "b:1").snapshot("web", "other")))
    simulation.run()
    assert call.effects[-4:] == ["send a", "wait", "wait", "send b"]
    assert call.ended_at == START + 2.5
    assert call.outcome is OK


def test_a_failure_that_was_sent_is_not_waited_away() -> None:
    """Only what never left this process may be sent again without a retry policy."""
    assert play(balance, on_route(planned(node("a")), wait_for_ready=True), a=UNAVAILABLE) == (
        ["send a"],
        UNAVAILABLE,
    )


# --- nodes that cannot be connected ---


def test_a_node_that_could_not_be_connected_is_passed_by() -> None:
    """For a while; then one call at a time finds out whether it is back."""
    down, up = node("a"), node("b")
    route = planned(down, up)
    play(balance, on_route(route), a=UNREACHABLE)
    assert [play(balance, on_route(route, now=START + 0.1))[0] for _ in range(3)] == [["send b"]] * 3
    probed = [play(balance, on_route(route, now=START + 0.3), a=UNREACHABLE)[0][0] for _ in range(4)]
    assert probed.count("send a") == 1
    assert down.reachable_at == START + 0.3 + 0.8 * 0.4, "as short as the jitter makes it: the dice show 0"


def test_a_node_that_answers_again_takes_part_again() -> None:
    """One answer of any kind shows that it can be connected."""
    target = node("a")
    target.unreachable(START - 10, 0.5)
    route = planned(target)
    assert play(balance, on_route(route), a=UNAVAILABLE)[0] == ["send a"]
    assert (target.reachable_at, target.refusals) == (0.0, 0)


def test_a_caller_who_walks_away_says_nothing_of_the_connection() -> None:
    """Neither that it works nor that it doesn't."""
    target = node("a")
    target.unreachable(START - 10, 0.5)
    script = balance(on_route(planned(target)))
    next(script)
    script.close()
    assert target.refusals == 1


def test_where_nothing_can_be_connected_any_node_is_better_than_none() -> None:
    """A call is sent all the same: what we believe of a node may be old."""
    members = [node(name) for name in "abc"]
    for member in members:
        member.unreachable(START, 0.5)
    did, outcome = play(balance, on_route(planned(*members), now=START + 0.01))
    assert len(did) == 1
    assert outcome is OK


class InOrder(InTurn):
    """Picks the first, and says who comes next: as a ring does."""

    def pick(self, _info: PickInfo) -> NodeState | None:
        return self._nodes[0]

    def others(self, _info: PickInfo) -> Iterator[NodeState]:
        return iter(self._nodes)


def test_a_picker_with_an_order_of_its_own_says_who_comes_next() -> None:
    """A key whose endpoint is gone must go to the next on the ring, for every caller and every time."""
    members = [node(name) for name in "abcdef"]
    members[0].unreachable(START, 0.5)
    members[1].unreachable(START, 0.5)
    route = planned(*members, picker=InOrder(*members))
    for _ in range(5):
        assert play(balance, on_route(route, now=START + 0.01))[0] == ["send c"]
    call = on_route(route, now=START + 0.01)
    call.tried = (members[2], members[3])
    assert play(balance, call)[0] == ["send e"]


def test_who_stands_before_the_place_that_was_drawn_is_looked_at_too() -> None:
    """Chance says where the search among all members begins, and it goes round: nobody is left out by where it does."""
    members = [node(name) for name in "abc"]
    route = planned(*members, picker=InTurn(members[2]))
    call = on_route(route, rng=lambda: 0.99)
    call.tried = (members[2],)
    assert play(balance, call)[0] == ["send a"]


def test_where_nobody_in_that_order_suits_the_best_of_them_is_taken() -> None:
    """A locality's picker names its own members only: all of them tried is no reason to leave it."""
    members = [node(name) for name in "abc"]
    route = planned(*members, picker=InOrder(*members[:2]))
    call = on_route(route)
    call.tried = (members[0], members[1])
    assert play(balance, call)[0] == ["send a"]


# --- nobody there ---


@pytest.mark.parametrize("wait_for_ready", [None, False])
def test_an_empty_destination_is_refused_at_once(wait_for_ready: bool | None) -> None:
    """UNAVAILABLE, with where it was looked for and how to look there."""
    did, outcome = play(balance, on_route(planned(), wait_for_ready=wait_for_ready, timeout=5.0))
    assert did == []
    assert (outcome.code, outcome.refused) == (Code.UNAVAILABLE, "no_endpoints")
    assert outcome.details == (
        "proxyless: no_endpoints: web has no endpoint that may be called (route r of web, watched as web); "
        "see `proxyless endpoints web`"
    )


def test_an_empty_destination_is_waited_for_if_the_caller_would() -> None:
    """Until there is a snapshot in which somebody is there; one that is as empty is waited through."""
    world = Known().lives("web")
    empty, filled = world.snapshot(), world.lives("web", "a:1").snapshot()
    still = Snapshot(2, {}, empty.clusters)
    simulation = Simulation(empty)
    call = simulation.call(balance, on_route(planned(), wait_for_ready=True, timeout=9.0))
    simulation.at(START + 1, lambda: simulation.publish(still))
    simulation.at(START + 2, lambda: simulation.publish(Snapshot(3, {}, filled.clusters)))
    simulation.run()
    assert call.effects == ["wait", "wait", "send a"]
    assert call.ended_at == START + 2


def test_waiting_for_somebody_to_appear_ends_with_the_deadline() -> None:
    """A call that asked to wait has waited: it is its deadline that passed."""
    did, outcome = play(balance, on_route(planned(), wait_for_ready=True, timeout=2.0))
    assert did == ["wait"]
    assert (outcome.code, outcome.refused) == (Code.DEADLINE_EXCEEDED, "deadline")


def test_a_destination_nobody_has_asked_about_yet_is_waited_for() -> None:
    """ "Not known" is not "empty": every call waits for the source's first word, until its deadline."""
    did, outcome = play(balance, on_route(planned(known=False), timeout=2.0))
    assert did == ["wait"]
    assert (outcome.code, outcome.refused) == (Code.UNAVAILABLE, "not_ready")
    assert outcome.details == ("proxyless: not_ready: the source has not said yet where web runs (asked by route r)")


def test_the_source_s_first_word_ends_the_wait() -> None:
    """Whatever it is: endpoints are called, none is a refusal."""
    for addresses, effects, refused in ((("a:1",), ["wait", "send a"], ""), ((), ["wait"], "no_endpoints")):
        world = Known()
        simulation = Simulation(world.snapshot())
        call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=9.0))
        simulation.at(START + 1, partial(simulation.publish, world.lives("web", *addresses).snapshot()))
        simulation.run()
        assert call.effects == effects
        assert call.outcome is not None
        assert call.outcome.refused == refused


UNSEEN = Outcome(Code.UNAVAILABLE, "Stream removed (GOAWAY received)", unseen=True)


@pytest.mark.parametrize(("answers", "sends"), [([UNSEEN, OK], 2), ([UNSEEN, UNSEEN, OK], 3), ([UNSEEN] * 12, 9)])
def test_what_no_server_has_taken_up_is_made_again_with_no_policy_asked(answers: list[Outcome], sends: int) -> None:
    """Transparent retries (gRFC A6): a server that ends its connections is not failing. The first is free."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document("routes: [{retry: {attempts: 0}}]")
    snapshot = world.snapshot()
    effects, outcome = play(ENTRY, rpc(snapshot), a=list(answers))
    assert effects == ["send a", *["send a", "wait"] * (sends - 2), "send a"]  # at once, then with a breath between
    (a,) = world.nodes.all()
    assert (a.calls, a.inflight, a.failures) == (sends, 0, 0 if outcome is OK else 1)
    assert snapshot.clusters[WEB].state.status(START)["retries"] == sends - 2


def test_only_the_first_repeat_is_free() -> None:
    """A server that answers in these words, its own or another's, is not called nine times by everybody: with a budget
    that is spent, once more each."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(
        "routes: [{retry: {attempts: 0}}]\ntrafficPolicy: {retryBudget: {ratio: 0.2, minRetriesPerSecond: 1, ttl: 10s}}"
    )
    snapshot = world.snapshot()
    sent = [len(play(ENTRY, rpc(snapshot), a=UNSEEN)[0]) for _ in range(20)]
    (a,) = world.nodes.all()
    assert a.calls == 20 * 2 + 10  # and the ten of the reserve
    assert sent[-1] == 2
    assert snapshot.clusters[WEB].state.status(START)["retries"] == 10


def test_it_goes_to_another_endpoint_where_there_is_one() -> None:
    """The one that it met was about to go."""
    world = Known().lives("web", "a:1", "b:1")
    effects, outcome = play(ENTRY, rpc(world.snapshot()), a=UNSEEN, b=OK)
    assert (effects, outcome) == (["send a", "send b"], OK)


def test_it_is_not_made_again_where_the_request_or_the_caller_has_gone() -> None:
    """A stream of requests that was read can't be sent twice; an answer that was begun can't be begun again."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document("routes: [{retry: {attempts: 0}}]")
    committed = Outcome(Code.UNAVAILABLE, "GOAWAY received", unseen=True, committed=True)
    assert play(ENTRY, rpc(world.snapshot()), a=committed)[0] == ["send a"]
    assert play(ENTRY, rpc(world.snapshot(), replay=Stream(whole=False)), a=UNSEEN)[0] == ["send a"]
