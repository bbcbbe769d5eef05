"""A route that answers by itself."""

from __future__ import annotations

import pytest

from proxyless.model.codes import FAILURE_NAMES, Code
from proxyless.stack import ENTRY
from tests.fakes import play
from tests.worlds import Known, document, rpc


@pytest.mark.parametrize("status", FAILURE_NAMES)
def test_the_call_ends_as_the_document_says(status: str) -> None:
    """Any code but OK, its message for people and `direct_response` for programs; nothing is sent."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(f"routes: [{{name: gone, directResponse: {{status: {status}, message: moved}}}}]")
    effects, outcome = play(ENTRY, rpc(world.snapshot()))
    assert effects == []
    assert (outcome.code, outcome.refused) == (Code[status], "direct_response")
    assert outcome.details == "proxyless: direct_response: moved"


def test_without_a_message_it_says_who_answered() -> None:
    """The route, so that it can be found."""
    world = Known()
    world.services["web"] = document("routes: [{name: gone, directResponse: {status: NOT_FOUND}}]")
    _, outcome = play(ENTRY, rpc(world.snapshot()))
    assert outcome.details == "proxyless: direct_response: route gone of web answers so"


def test_it_answers_even_where_the_service_runs_nowhere() -> None:
    """No endpoint is asked, none is watched, none is needed."""
    world = Known()
    world.services["web"] = document("routes: [{directResponse: {status: NOT_FOUND}}]")
    compiled = world.compiled()
    assert compiled.watched == frozenset()
    assert compiled.snapshot is not None
    assert play(ENTRY, rpc(compiled.snapshot, timeout=0.0))[1].code == Code.NOT_FOUND
