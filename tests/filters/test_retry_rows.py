"""The peers' table of retries (11): gRPC's sequences, commit points and pushback; Envoy's, Linkerd's and AWS's.

Each row is played through the whole stack in virtual time, or asked of the policy that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nextafter
from typing import Any

import pytest

from proxyless.channel.requests import Reader, Requests
from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import parse
from proxyless.model.codes import Code
from proxyless.model.documents import ServiceDocument
from proxyless.model.findings import Invalid
from proxyless.model.quantities import Duration
from proxyless.model.routes import Backoff
from proxyless.policy.backoff import next_delay
from proxyless.script import OK, Outcome, Rpc
from proxyless.stack import ENTRY
from tests.fakes import START, Reply, Simulation, play
from tests.policy.rows import rows
from tests.worlds import WEB, Known, document, rpc

LAST = nextafter(1.0, 0.0)
CAP = "gRPC caps attempts in the channel; a document of ours may say up to 10 retries, and no channel has another cap"
AWS_TOKENS = "AWS pays 5 tokens a retry out of a bucket; the contract's budget is Finagle's window"
REQUEUES = "Finagle's cap on one request's share of the budget; ours is `attempts`"

NOT_OURS = {
    "attempt-cap-service9-client7": CAP,
    "attempt-cap-service8-client-1": CAP,
    "transparent-refused-once": "a refused stream is tried again by the word refused-stream, under the budget; what "
    "a closing connection never took up, by `balance`, whatever the policy says",
    "validate-policy-1": "gRPC's maxAttempts counts the first try; our attempts counts retries, and 0 turns them off",
    "validate-policy-3": "a base of 0s is allowed: a retry at once",
    "validate-policy-5": "the contract has no multiplier: the range doubles, as Envoy's does",
    "validate-policy-7": "an empty list of words is allowed: nothing is tried again",
    "a44-0": "gRPC ignores words of HTTP; ours give them a meaning in gRPC codes (semantics.md section 0)",
    "a44-2": "our default is 2 retries, as Istio's (CONTRACT section 9)",
    "a44-6": "a base below 1 ms is taken as it is",
    "envoy-should-retry-7": "a list has no spaces to be trimmed",
    "aws-eventual-success": AWS_TOKENS,
    "aws-no-quota": AWS_TOKENS,
    "requeue-limit-per-request": REQUEUES,
    "requeue-balance-sequence": REQUEUES,
}
"""Rows of 11 that are left out."""

Asks = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


def failing(code: str, **more: Any) -> Outcome:
    return Outcome(Code[code], "said so", **more)


def on_one_server(retry: str, more: str = "", route: str = "") -> Known:
    """A service with one endpoint, whose only route tries again so, and at once."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(f"routes: [{{retry: {{backoff: {{base: 0s, max: 0s}}, {retry}}}{route}}}]\n{more}")
    return world


def sends(effects: list[str]) -> int:
    return sum(effect.startswith("send") for effect in effects)


def sequence(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    snapshot = on_one_server("attempts: 3, on: [already-exists]").snapshot()
    index, ended = -1, []

    def serve(_rpc: Rpc) -> Outcome:
        nonlocal index
        index += 1
        if index in given["server_ok_on"]:
            return OK
        return failing("INTERNAL" if index in given["server_internal_on"] else given["else"])

    for _ in range(given["rpcs"]):
        _, outcome = play(ENTRY, rpc(snapshot), a=serve)
        ended.append([Code(outcome.code).name, index])
    assert ended == expect["status_and_last_attempt_index"]


def counted(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    seen: list[Any] = []

    def serve(attempt: Rpc) -> Outcome:
        seen.append(dict(attempt.metadata or ()).get("grpc-previous-rpc-attempts"))
        return failing("UNAVAILABLE", trailers=(("n", str(len(seen))),))

    retries = given["max_attempts"] - 1
    _, outcome = play(ENTRY, rpc(on_one_server(f"attempts: {retries}").snapshot()), a=serve)
    assert seen == expect["grpc-previous-rpc-attempts_seen_by_server"]
    assert outcome.trailers == (("n", "4"),)


def never_again(outcome: Outcome) -> Asks:
    def ask(_given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
        effects, ended = play(ENTRY, rpc(on_one_server("attempts: 3, on: [5xx, reset]").snapshot()), a=outcome)
        assert (sends(effects), ended) == (1, outcome)

    return ask


def replayed(_given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    requests = Requests(iter([b"a", b"b"]), cap=100)
    requests.keep()
    first = list(Reader(requests, plain=True))  # to the end: the half-close
    assert requests.possible()
    assert list(Reader(requests, plain=True)) == first == [b"a", b"b"]


def seen_by_the_caller(_given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    requests = Requests(iter([b"a", b"b"]), cap=100)
    requests.keep()
    next(Reader(requests, plain=True))
    requests.commit()
    assert not requests.possible()


def pushed(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    trailers = (("grpc-retry-pushback-ms", given["grpc-retry-pushback-ms"]),)
    effects, _ = play(
        ENTRY, rpc(on_one_server("attempts: 1").snapshot()), a=[failing("UNAVAILABLE", trailers=trailers), OK]
    )
    again = expect["result"].startswith("retry after exactly 1000 ms")
    assert effects == (["send a", "sleep 1", "send a"] if again else ["send a"])


def reset_by_pushback(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    said = {"fail": (), "fail with pushback 123 ms": "123", "fail with pushback 4567 s": "4567000"}
    answers = [
        failing("UNAVAILABLE", trailers=(("grpc-retry-pushback-ms", said[what]),) if said[what] else ())
        for what in given["timeline"]
    ]
    world = Known().lives("web", "a:1")
    backoff = f"{{base: {given['initial_s']}s, max: {given['max_s']}s}}"
    world.services["web"] = document(f"routes: [{{retry: {{attempts: 5, backoff: {backoff}}}}}]")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = [*answers, OK]
    call = simulation.call(ENTRY, rpc(simulation.snapshot, rng=lambda: LAST))
    simulation.run()
    waits = [float(effect.removeprefix("sleep ")) for effect in call.effects if effect.startswith("sleep")]
    assert waits == [pytest.approx(float(wait.removesuffix(" s"))) for wait in expect["delays"]]


def cancelled(_given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    world = Known().lives("web", "a:1")
    world.services["web"] = document("routes: [{retry: {attempts: 3, backoff: {base: 1s, max: 1s}}}]")
    simulation = Simulation(world.snapshot())
    simulation.behaviours["a"] = failing("UNAVAILABLE")
    call = simulation.call(ENTRY, rpc(simulation.snapshot, rng=lambda: 0.5))
    simulation.at(START + 0.1, lambda: simulation.abandon(call))
    simulation.run()
    assert sends(call.effects) - 1 == expect["further_attempts"]
    assert call.outcome is not None
    assert Code(call.outcome.code).name == expect["status"]


def words(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    value, _ = DIALECTS["proxyless/v1"](
        parse(f"routes: [{{retry: {{on: [{', '.join(given['retryableStatusCodes'])}]}}}}]"), ServiceDocument
    )
    assert (value is not None) is bool(expect["valid"])


def by_policy(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    policy = given["route"] or given["virtual_host"]
    words = policy["retry_on"].replace(",", ", ")
    snapshot = on_one_server(f"attempts: {policy['num_retries']}, on: [{words}]").snapshot()
    answers = [failing(code) for code in given["server_errors_before_ok"]]
    _, outcome = play(ENTRY, rpc(snapshot), a=[*answers, OK])
    assert Code(outcome.code).name == expect["status"]


def default_backoff(_given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    assert (Backoff().base * 1000, Backoff().max * 1000) == (expect["initial_ms"], expect["max_ms"])


def backoff_upside_down(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    settings = given["retry_back_off"]
    with pytest.raises(Invalid):
        Backoff(Duration(settings["base_interval_ms"] / 1000), Duration(settings["max_interval_ms"] / 1000))


def until_the_fifth(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    def serve(attempt: Rpc) -> Outcome:
        before = dict(attempt.metadata or ()).get("grpc-previous-rpc-attempts")
        return OK if before == "4" else failing("UNAVAILABLE")

    _, outcome = play(ENTRY, rpc(on_one_server(f"attempts: {given['num_retries']}").snapshot()), a=serve)
    assert Code(outcome.code).name == expect["status"]


def drawn(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    """Envoy's draw modulo the range, as a part of it."""
    base, longest = given["base_ms"], given["max_ms"]
    delays = []
    for turn, draw in enumerate(given["random_draws"], 1):
        width = min(base * 2 ** (turn - 1), longest)
        delays.append(next_delay(base, longest, 9, turn, 0.0, lambda part=draw % width / width: part))  # type: ignore[misc]
    assert delays == [pytest.approx(delay) for delay in expect["delays_ms"]]


def retries_full(_given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    snapshot = on_one_server("attempts: 3, on: [5xx]", "trafficPolicy: {limits: {maxRetries: 1}}").snapshot()
    assert snapshot.clusters[WEB].state.withdraw(START)  # somebody else's retry is under way
    effects, _ = play(ENTRY, rpc(snapshot), a=failing("UNAVAILABLE"))
    assert sends(effects) == 1


def answered(retry: str, *answers: Outcome | Reply, route: str = "") -> Asks:
    def ask(_given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
        effects, outcome = play(ENTRY, rpc(on_one_server(retry, route=route).snapshot()), a=[*answers, OK])
        assert outcome is OK
        assert sends(effects) == expect.get("attempts", len(answers) + 1)

    return ask


def bounds(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    """AWS draws from the same ranges; here their upper ends."""
    longest = given["max_backoff_s"]
    waits = [next_delay(1, longest, given["max_attempts"] - 1, failed, 0.0, lambda: LAST) for failed in range(1, 6)]
    assert waits == [*(pytest.approx(delay) for delay in expect["delays_s"]), None]


def far_out(given: Mapping[str, Any], _expect: Mapping[str, Any]) -> None:
    attempt = given["attempt"]
    assert next_delay(0.025, 0.25, attempt + 1, attempt, 0.0, lambda: LAST) == pytest.approx(0.25)


SLOW = Reply(failing("NOT_FOUND"), after=1.0)
ASKS: dict[str, Asks] = {
    "go-unary-sequence": sequence,
    "prev-attempts-header": counted,
    "stream-commit-1": never_again(failing("UNAVAILABLE", committed=True)),
    "stream-commit-3": replayed,
    "stream-commit-5": seen_by_the_caller,
    "stream-commit-7": never_again(failing("NOT_FOUND")),
    "pushback-xxx": pushed,
    "pushback-1000": pushed,
    "pushback-2147483648": pushed,
    "java-pushback-resets-backoff": reset_by_pushback,
    "dropped-never-retried": never_again(failing("UNAVAILABLE", refused="limit")),
    "cancel-during-backoff": cancelled,
    "validate-policy-9": words,
    "validate-policy-11": words,
    "xds-retry-1": by_policy,
    "xds-retry-3": by_policy,
    "a44-4": default_backoff,
    "a44-8": backoff_upside_down,
    "psm-retry-3-fails": until_the_fifth,
    "envoy-backoff-0": drawn,
    "envoy-backoff-2": drawn,
    "envoy-should-retry-1": never_again(failing("UNAVAILABLE", refused="limit")),
    "envoy-should-retry-3": never_again(Outcome(Code.UNAVAILABLE, "Connection reset", committed=True)),
    "envoy-should-retry-5": retries_full,
    "linkerd-http_5xx": answered("attempts: 1, on: [5xx]", failing("INTERNAL")),
    "linkerd-http_timeout": answered("attempts: 1, perTryTimeout: 500ms, on: [reset]", SLOW, route=", timeout: 2s"),
    "linkerd-http_timeout_with_request_timeout": answered(
        "attempts: 2, perTryTimeout: 100ms, on: [reset]", SLOW, SLOW, route=", timeout: 500ms"
    ),
    "linkerd-grpc_internal": answered("attempts: 1, on: [internal]", failing("INTERNAL")),
    "aws-max-backoff-3": bounds,
    "aws-overflow-backoff-capped": far_out,
}


@pytest.mark.parametrize("row", rows("11_retry_policy.json", left_out=NOT_OURS))
def test_retries_are_the_peers_retries(row: Mapping[str, Any]) -> None:
    """A row that nothing here knows how to ask fails."""
    ASKS[row["id"]](row["given"], row["expect"])
