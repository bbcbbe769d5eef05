"""The peers' table of hedging (13): gRFC A6 as grpc-java does it; Finagle's backup requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from proxyless.model.codes import Code
from proxyless.model.findings import Invalid
from proxyless.model.quantities import Duration
from proxyless.model.routes import Hedge
from proxyless.script import OK, OPEN, Outcome
from proxyless.stack import ENTRY
from tests.fakes import START, UNAVAILABLE, Reply, Simulation, Stream
from tests.filters.test_hedge import NEVER, assert_at_rest, called, hedging
from tests.policy.rows import rows
from tests.worlds import document, rpc

NOT_OURS = {
    "hedge-throttled-by-other": "tokens of gRPC's retryThrottling, which our budget is not; where it refuses, the "
    "next is not sent (A6), while Java lets one that is scheduled go: "
    "test_no_more_are_sent_after_a_refusal_to_pay_and_those_under_way_go_on",
    "backup-own-budget": "Finagle's backup requests have a budget of their own; ours pay from the destination's",
    "backup-percentile-1pct": "the contract's delay is a duration, not a percentile",
    "backup-min-1ms": "the contract's delay is a duration, not a percentile",
    "backup-extra-load-bound-0": "the contract has no maxExtraLoad: the retry budget bounds the extra load",
    "backup-before-warm": "the contract's delay is known from the first call on",
}
"""Rows of 13 that are left out."""

Given = Mapping[str, Any]


def at_most(given: Given, expect: Given) -> None:
    world = hedging("abcdef", delay=given["hedging_delay_s"], attempts=given["max_attempts"] - 1)
    sent: list[float] = []
    simulation = Simulation(world.snapshot())

    def silent(attempt: Any) -> Reply:
        sent.append(attempt.now - START)
        return NEVER

    simulation.behaviours.update(dict.fromkeys("abcdef", silent))
    simulation.call(ENTRY, rpc(simulation.snapshot))
    simulation.run(START + 3000)
    assert sent == expect["sends_at_s"]


def at_once(given: Given, expect: Given) -> None:
    world = hedging(delay=given["hedging_delay_ms"] / 1000, attempts=given["max_attempts"] - 1)
    second = expect["second_sent_at_ms"] / 1000
    call = called(world, a=Reply(UNAVAILABLE, after=second), b=OK)
    assert call.effects == ["send a", "send b"]
    assert call.ended_at == START + second


def headers_commit(given: Given, expect: Given) -> None:
    outstanding = given["outstanding"]
    call = called(hedging(delay=1, attempts=5, names="abcdef"), a=Reply(OPEN, after=2.5, lasts=9), b=NEVER, c=NEVER)
    assert outstanding == 3
    assert [e for e in call.effects if "send" in e] == ["send a", "send b", "send c"]
    assert [e for e in call.effects if "cancel" in e] == ["cancel b", "cancel c"]
    assert (call.outcome, call.ended_at) == (OK, START + 11.5)


def pushback(given: Given, expect: Given) -> None:
    sent: list[float] = []

    def answering(*answers: Any) -> Any:
        def answer(attempt: Any) -> Any:
            sent.append(attempt.now - START)
            return answers[0]

        return answer

    def pushed(milliseconds: int, after: float) -> Reply:
        return Reply(Outcome(Code.UNAVAILABLE, trailers=(("grpc-retry-pushback-ms", str(milliseconds)),)), after)

    # "attempt 1 … at t=100 s", when the second is sent; "attempt 2 … right after the third is sent at t=201 s"
    world = hedging("abcd", delay=given["hedging_delay_s"], attempts=5)
    called(
        world,
        a=answering(pushed(101_000, 100.0)),
        b=answering(pushed(99_000, 101.0)),
        c=answering(NEVER),
        d=answering(OK),
    )
    assert sent[0] == 0
    assert sent[-2:] == [expect["third_sent_at_s"], expect["fourth_sent_at_s"]]


def race(given: Given, expect: Given) -> None:
    call = called(hedging(delay=0, attempts=1), a=Reply(OPEN, after=1, lasts=2), b=Reply(OPEN, after=1, lasts=2))
    assert sum("cancel" in effect for effect in call.effects) == 1
    assert (call.outcome, call.ended_at) == (OK, START + 3)


def one_at_a_time(given: Given, expect: Given) -> None:
    # What is over the buffer can't be sent again: it is as good as committed, and nothing is sent beside it.
    call = called(hedging(delay=0, attempts=3), replay=Stream(False), a=Reply(OK, after=1))
    assert call.effects == ["send a"]


def valid(given: Given, expect: Given) -> None:
    codes = [code.lower() for code in given.get("nonFatalStatusCodes", [])]
    delay = given.get("hedgingDelay", "1s")
    text = f"{{delay: {delay}, attempts: {given['maxAttempts'] - 1}, nonFatal: {codes}}}"
    if expect["valid"]:
        (route,) = document(f"routes: [{{hedge: {text}}}]").routes
        assert route.hedge == Hedge(Duration(0), 1, ())
    else:
        with pytest.raises((Invalid, AssertionError)):
            document(f"routes: [{{hedge: {text}}}]")


def in_time(given: Given, expect: Given) -> None:
    assert called(hedging(), a=Reply(OK, after=0.05)).effects == ["send a"]


def backup_first(given: Given, expect: Given) -> None:
    call = called(hedging(), a=NEVER, b=OK)
    assert call.effects == ["send a", "send b", "cancel a"]
    assert call.outcome is OK


def original_fails(given: Given, expect: Given) -> None:
    call = called(hedging(attempts=1), a=Reply(UNAVAILABLE, after=0.2), b=Reply(OK, after=0.4))
    assert (call.outcome, call.ended_at) == (OK, START + 0.5)


ASKS: Mapping[str, Callable[[Given, Given], None]] = {
    "hedge-max-attempts": at_most,
    "hedge-nonfatal-sends-next-at-once": at_once,
    "hedge-headers-commit": headers_commit,
    "hedge-pushback-positive": pushback,
    "hedge-buffer-limit-commits": one_at_a_time,
    "hedge-deadlock-race": race,
    "hedge-validate-1": valid,
    "hedge-validate-3": valid,
    "hedge-validate-5": valid,
    "backup-race-0": in_time,
    "backup-race-2": backup_first,
    "backup-race-4": original_fails,
}


@pytest.mark.parametrize("row", rows("13_hedging.json", left_out=NOT_OURS))
def test_row(row: Mapping[str, Any]) -> None:
    """Each row as the table has it."""
    ASKS[row["id"]](row["given"], row["expect"])


def test_nothing_is_left_after_a_hedged_call() -> None:
    """What the rows' helper asks of every call: that a world at rest is told from one that is not."""
    world = hedging()
    node = world.snapshot().clusters[next(iter(world.snapshot().clusters))].nodes[0]
    node.inflight = 1
    with pytest.raises(AssertionError):
        assert_at_rest(world)
