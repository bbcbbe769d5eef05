"""The head of every call: which route, which destination of it, and the wait for the first snapshot."""

from __future__ import annotations

import pytest

from proxyless.model.codes import Code
from proxyless.script import OK, Outcome, Rpc
from proxyless.stack import ENTRY
from tests.fakes import START, Simulation, play
from tests.worlds import Known, document, rpc


def known(text: str, *addresses: str) -> Known:
    """A mesh with one document, for the service web."""
    world = Known()
    world.services["web"] = document(text)
    return world.lives("web", *(addresses or ("a:1",)))


ROUTES = """
routes:
- {name: ui, match: [{headers: {x-user-tier: {exact: premium}}}], split: [{service: ui}]}
- {name: rec, match: [{path: {prefix: /shop.Recommendations/}}], split: [{service: rec}]}
- {name: rest, match: [{grpc: {service: shop.Products}}]}
"""


@pytest.mark.parametrize(
    ("method", "metadata", "sent"),
    [
        ("/shop.Recommendations/List", [("x-user-tier", "premium")], ["send ui"]),
        ("/shop.Recommendations/List", [("x-user-tier", "basic")], ["send rec"]),
        ("/shop.Recommendations/List", None, ["send rec"]),
        ("/shop.Products/Get", [], ["send a"]),
    ],
)
def test_the_first_route_that_matches_is_followed(
    method: str, metadata: list[tuple[str, str]] | None, sent: list[str]
) -> None:
    """In the order of the document, even where a later one is more specific (gRFC A28)."""
    world = known(ROUTES).lives("ui", "ui:1").lives("rec", "rec:1")
    effects, outcome = play(ENTRY, rpc(world.snapshot(), method=method, metadata=metadata))
    assert (effects, outcome) == (sent, OK)


def test_a_call_that_no_route_matches_is_refused() -> None:
    """UNAVAILABLE, with what was asked, how many routes there were, and what to do to see why."""
    world = known(ROUTES).lives("ui").lives("rec")
    effects, outcome = play(ENTRY, rpc(world.snapshot(), method="/shop.Carts/Get"))
    assert effects == []
    assert (outcome.code, outcome.refused, outcome.unsent) == (Code.UNAVAILABLE, "no_route", True)
    assert outcome.details == (
        "proxyless: no_route: no route of web (3 in its document, version none) matches /shop.Carts/Get; "
        "see `proxyless explain web /shop.Carts/Get`"
    )


def test_a_service_without_a_document_gets_all_endpoints() -> None:
    """One catch-all: every passing instance (CONTRACT section 2)."""
    world = Known().lives("web", "a:1", "b:1")
    sent = {play(ENTRY, rpc(world.snapshot(), rng=lambda d=draw: d))[0][0] for draw in (0.0, 0.9)}  # type: ignore[misc]
    assert sent == {"send a", "send b"}


@pytest.mark.parametrize(("draw", "sent"), [(0.0, "a"), (0.89, "a"), (0.91, "b"), (0.99, "b")])
def test_one_draw_chooses_the_destination(draw: float, sent: str) -> None:
    """Once per call, before balancing (gRFC A31)."""
    world = known(
        "subsets: {v1: {labels: {v: '1'}}, v2: {labels: {v: '2'}}}\n"
        "routes: [{split: [{service: one, weight: 90}, {service: two, weight: 10}]}]"
    )
    world.lives("one", "a:1").lives("two", "b:1")
    assert play(ENTRY, rpc(world.snapshot(), rng=lambda: draw))[0] == [f"send {sent}"]


def test_edits_are_made_to_what_is_sent_and_not_seen_by_the_match() -> None:
    """The route's own edits and its destination's, on the metadata of the call alone."""
    world = known(
        "routes: [{match: [{headers: {leg: {exact: caller}}}], headers: {set: {leg: route}, add: {x: '1'}}, "
        "split: [{headers: {remove: [x], set: {y: '2'}}}]}]"
    )
    call = rpc(world.snapshot(), metadata=[("leg", "caller")])
    assert play(ENTRY, call)[0] == ["send a"]
    assert call.metadata == (("leg", "route"), ("y", "2"))


def test_a_route_without_edits_sends_the_caller_s_own_metadata() -> None:
    """Not even a copy of it."""
    sent = [("a", "1")]
    call = rpc(known("routes: []").snapshot(), metadata=sent)
    play(ENTRY, call)
    assert call.metadata is sent


def test_a_call_before_the_first_snapshot_waits_for_it() -> None:
    """And goes on at once when it comes."""
    simulation = Simulation()
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=5.0))
    snapshot = Known().lives("web", "a:1").snapshot()
    simulation.at(START + 1.5, lambda: simulation.publish(snapshot))
    simulation.run()
    assert call.effects == ["wait", "send a"]
    assert (call.outcome, call.ended_at) == (OK, START + 1.5)


def test_a_snapshot_without_the_service_is_not_the_one_it_waits_for() -> None:
    """News of others doesn't end the wait."""
    simulation = Simulation()
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=5.0))
    world = Known().lives("web", "a:1").lives("other", "b:1")
    other, both = world.snapshot("other"), world.snapshot("other", "web")
    simulation.at(START + 1, lambda: simulation.publish(other))
    simulation.at(START + 2, lambda: simulation.publish(both))
    simulation.run()
    assert call.effects == ["wait", "wait", "send a"]


def test_a_call_that_waited_in_vain_says_so_at_its_deadline() -> None:
    """`not_ready`, and what it was waiting for."""
    effects, outcome = play(ENTRY, rpc(Simulation().snapshot, timeout=2.0))
    assert effects == ["wait"]
    assert (outcome.code, outcome.refused) == (Code.UNAVAILABLE, "not_ready")
    assert outcome.details == (
        "proxyless: not_ready: nothing was heard of web before the call's deadline: its source has not "
        "answered yet and no earlier state was found on disk; see `proxyless ps` and `Mesh.status()`"
    )


def test_a_caller_who_gives_up_waiting_leaves_nothing_behind() -> None:
    """The script is closed where it waits, and a later snapshot doesn't wake it."""
    simulation = Simulation()
    call = simulation.call(ENTRY, rpc(simulation.snapshot))
    snapshot = Known().lives("web", "a:1").snapshot()
    simulation.at(START + 1, lambda: simulation.abandon(call))
    simulation.at(START + 2, lambda: simulation.publish(snapshot))
    simulation.run()
    assert call.effects == ["wait"]
    assert call.outcome is not None
    assert (call.outcome.code, call.ended_at) == (Code.CANCELLED, START + 1)


def test_a_call_holds_on_to_the_snapshot_it_began_with() -> None:
    """An edit in its middle doesn't move it (DESIGN section 6): it was routed when it began."""
    world = known("routes: [{split: [{service: one}]}]").lives("one", "a:1").lives("two", "b:1")
    simulation = Simulation(world.snapshot())
    world.services["web"] = document("routes: [{split: [{service: two}]}]")
    later = world.snapshot()

    def answers_after_an_edit(_attempt: Rpc) -> Outcome:
        simulation.publish(later)
        return OK

    simulation.behaviours["a"] = answers_after_an_edit
    first = simulation.call(ENTRY, rpc(simulation.snapshot))
    second = simulation.call(ENTRY, rpc(simulation.snapshot, now=START + 1))
    simulation.run()
    assert (first.effects, second.effects) == (["send a"], ["send b"])


@pytest.mark.parametrize("wait_for_ready", [None, True])
def test_a_call_that_waits_for_its_destination_goes_where_the_documents_lead_by_then(
    wait_for_ready: bool | None,
) -> None:
    """Nobody will ever hear of a destination that no route names any more; edits are made once, to what is sent."""
    world = Known()
    world.services["web"] = document("routes: [{timeout: 5s, headers: {add: {x-way: first}}}]")
    simulation = Simulation(world.snapshot())
    sent: list[object] = []

    def answer(attempt: Rpc) -> Outcome:
        sent.append(attempt.metadata)
        return OK

    simulation.behaviours["b"] = answer
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=60.0, wait_for_ready=wait_for_ready))
    elsewhere = document("routes: [{split: [{service: other}], timeout: 0s, headers: {add: {x-way: second}}}]")

    def move() -> None:
        world.services["web"] = elsewhere
        simulation.publish(world.snapshot())

    simulation.at(START + 1, move)
    simulation.at(START + 30, lambda: simulation.publish(world.lives("other", "b:1").snapshot()))
    simulation.run()
    assert call.effects == ["wait", "wait", "send b"]
    assert call.ended_at == START + 30
    assert sent == [(("x-way", "second"),)]
