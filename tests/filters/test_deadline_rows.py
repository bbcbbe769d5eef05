"""The peers' table of timeouts and deadlines (14): the header's codec, what wins, and what is left of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import proxyless
from proxyless.model.codes import Code
from proxyless.script import OK, Outcome, Rpc
from proxyless.server.deadlines import FOREVER
from proxyless.server.http import grpc_timeout
from proxyless.stack import ENTRY
from tests.fakes import START, Reply, Simulation
from tests.policy.rows import rows
from tests.worlds import Known, document, rpc

ENCODED = "C-core writes grpc-timeout; we read it"
REJECTS = "Finagle refuses only a fraction of expired requests; ours drops all expired work, as the issue asks for"
PARTS = "gRPC has one deadline for the whole call, which is told to the server; there are no timers for parts of it"

NOT_OURS = {
    "encode-123456789n": ENCODED,
    "encode-123456789u": ENCODED,
    "encode-123456789m": ENCODED,
    "encode-123456789S": ENCODED,
    "encode-123456789M": ENCODED,
    "server-expired-stat": "the contract has no metric of how late expired work was",
    "server-reject-fraction-0": REJECTS,
    "server-reject-tokens-expire": REJECTS,
    "linkerd-response_timeout_response_headers": PARTS,
    "linkerd-response_timeout_ignores_request_body": PARTS,
}
"""Rows of 14 that are left out."""

Asks = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


def called(document_: str, answer: Any, timeout: float | None = None, method: str = "/t.T/UnaryCall") -> Any:
    """A call to a service with this document, to its end in virtual time."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(document_)
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = answer
    call = simulation.call(ENTRY, rpc(simulation.snapshot, timeout=timeout, method=method, rng=lambda: 0.999))
    simulation.run()
    assert call.outcome is not None
    return call


def decoded(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    """What is longer than anybody waits is no limit to us: Go's largest numbers are None here."""
    seconds = expect.get("ns", 0) / 1e9
    limit = seconds if expect["valid"] and seconds < FOREVER else None
    assert grpc_timeout(given["grpc-timeout"]) == (None if limit is None else pytest.approx(limit))


def combined(_given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    dice = random.Random(14)
    for _ in range(200):
        first, second = dice.uniform(0, 1000), dice.uniform(0, 1000)
        with proxyless.deadline(first), proxyless.deadline(second):
            left = proxyless.remaining()
        assert left is not None
        assert left <= min(first, second)


def effective(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    """A route's `timeout` is xDS's limit, by whichever of its two names; 0s is none."""
    limits = [given["grpc_timeout_header_max_s"], given["max_stream_duration_s"]]
    limit = next((limit for limit in limits if limit is not None), None)
    route = "routes: [{}]" if limit is None else f"routes: [{{timeout: {limit}s}}]"
    seen: list[float | None] = []

    def serve(attempt: Rpc) -> Outcome:
        seen.append(attempt.deadline)
        return OK

    called(route, serve, timeout=given["application_deadline_s"])
    wanted = expect["effective_timeout_s"]
    assert seen == [None if wanted is None else START + wanted]


def in_a_route(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    routes = f"routes: [{{match: [{{path: {{suffix: /UnaryCall}}}}], timeout: {given['route_timeout_s']}s}}, {{}}]"
    for method in ("UnaryCall", "EmptyCall"):
        if method in expect:
            answer = Reply(OK, after=given["server_sleep_s"])
            call = called(routes, answer, method=f"/t.T/{method}")
            assert Code(call.outcome.code).name == expect[method]


def covers_the_body(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    """It runs from the moment the call is made, whatever of the request is sent by then."""
    seconds = given["timeout_ms"] / 1000
    call = called(f"routes: [{{timeout: {given['timeout_ms']}ms}}]", Reply(OK, after=3600))
    assert (call.outcome.code, call.ended_at) == (Code.DEADLINE_EXCEEDED, START + seconds)


def per_try(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    left: list[float] = []

    def serve(attempt: Rpc) -> Reply:
        assert attempt.deadline is not None
        left.append(attempt.deadline - attempt.now)
        return Reply(Outcome(Code.UNAVAILABLE), after=given["elapsed_ms"] / 1000)

    retry = f"retry: {{attempts: 1, perTryTimeout: {given['per_try_timeout_ms']}ms, backoff: {{base: 0s, max: 0s}}}}"
    called(f"routes: [{{timeout: {given['global_timeout_ms']}ms, {retry}}}]", serve)
    assert left[given["attempt"] - 1] == pytest.approx(expect["expected_rq_timeout_ms"] / 1000)


def within(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    backoff = f"{{base: {given['backoff_ms']}ms, max: {given['backoff_ms']}ms}}"
    failed_at = given["first_attempt_failed_at_ms"] / 1000
    call = called(
        f"routes: [{{retry: {{attempts: 3, backoff: {backoff}}}}}]",
        Reply(Outcome(Code.UNAVAILABLE), after=failed_at),
        timeout=given["deadline_ms"] / 1000,
    )
    assert (call.effects, call.ended_at) == (["send a"], START + failed_at)


def asks(row: Mapping[str, Any]) -> Asks:
    for prefix, ask in (
        ("decode-", decoded),
        ("combine-property", combined),
        ("a31-timeout-", effective),
        ("psm-", in_a_route),
        ("linkerd-request_timeout_request_body", covers_the_body),
        ("envoy-per-try-expected", per_try),
        ("retry-within-deadline", within),
    ):
        if row["id"].startswith(prefix):
            return ask
    raise AssertionError(f"nothing here knows how to ask {row['id']}")


@pytest.mark.parametrize("row", rows("14_timeouts_deadline.json", left_out=NOT_OURS))
def test_deadlines_are_the_peers_deadlines(row: Mapping[str, Any]) -> None:
    """Each row of 14 that is ours."""
    asks(row)(row["given"], row["expect"])
