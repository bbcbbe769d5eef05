"""Balancers that somebody else wrote: what they do wrong stays theirs."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless.policy.balancers import BALANCERS
from proxyless.stack import ENTRY
from tests.fakes import play
from tests.worlds import Known, document, rpc


def _broken(_nodes: Any, _weights: Any, _policy: Any, _rng: Any) -> Any:
    raise RuntimeError("boom")


def _unprepared(_nodes: Any, _weights: Any, _policy: Any, _rng: Any) -> Any:
    raise AssertionError("it is not built before it is prepared")


def _prepare(_nodes: Any, _weights: Any, _policy: Any) -> Any:
    yield
    raise ValueError("too few")


_unprepared.prepare = _prepare  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("balancer", "why"),
    [
        (_broken, "RuntimeError: boom"),
        (_unprepared, "ValueError: too few"),
        (7, "TypeError: 'int' object is not callable"),
    ],
)
def test_a_plug_in_that_fails_is_told_once_and_keeps_nobody_from_an_edit(
    balancer: Any, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its destinations go by the default balancer. What it raised went through the compiler, and no document of any
    service took effect any more, though the status said that they had."""
    world = Known().lives("web", "a:1", "b:1").lives("rec", "c:1")
    monkeypatch.setattr(world._compiler._pickers, "balancers", {**BALANCERS, "mine": balancer})
    world.services["web"] = document("trafficPolicy: {loadBalancer: {policy: mine}}")
    snapshot = world.snapshot("web", "rec")
    assert play(ENTRY, rpc(snapshot))[0] == ["send a"]
    world.lives("web", "a:1", "b:1", "d:1").snapshot("web", "rec")
    (told,) = caplog.messages
    assert told == f'the balancer "mine" can\'t be built ("{why}"): its destinations go by least_request'
    monkeypatch.setattr(world._compiler._pickers, "balancers", {**BALANCERS, "mine": BALANCERS["random"]})
    world.lives("web", "a:1").snapshot("web", "rec")
    monkeypatch.setattr(world._compiler._pickers, "balancers", {**BALANCERS, "mine": balancer})
    world.lives("web", "b:1").snapshot("web", "rec")
    assert len(caplog.messages) == 2  # it is news again
