"""How often the watcher asks: at once when there is news, and never in a loop, whatever the agent does."""

from __future__ import annotations

import pytest

from proxyless.control.watcher import Answer, News, TokenBucket, Unanswered, backoff
from tests.control.watching import WAIT, Agent, Stage, history, said, script


def test_the_first_retries_come_within_a_second_and_later_ones_within_fifteen() -> None:
    """Full jitter between 50 ms and a cap that doubles."""
    longest = [backoff(n, lambda: 1.0) for n in range(1, 9)]
    assert longest == [0.4, 0.8, 1.0, 1.0, 1.0, 12.8, 15.0, 15.0]
    assert [backoff(n, lambda: 0.0) for n in (1, 5, 50)] == [0.05, 0.05, 0.05]
    assert backoff(5000, lambda: 0.5) == 7.5


def test_an_agent_that_is_down_is_asked_ever_less() -> None:
    """Ten minutes of refusal are some 80 attempts, not thousands."""
    stage = Stage(script((Unanswered("connection refused"), 0.0))).run(600)
    assert 75 <= stage.queries() <= 95
    assert stage.queries(0, 3) >= 5


@pytest.mark.parametrize(("status", "floor"), [(403, 5.0), (429, 1.0), (503, 1.0)])
def test_a_refusal_is_given_time(status: int, floor: float) -> None:
    """Neither an unknown token nor a busy agent is helped by haste, however the dice fall."""
    stage = Stage(script((said(1, status=status), 0.0)), chance=0.0).run(60)
    gaps = [b[0] - a[0] for a, b in zip(stage.asked, stage.asked[1:], strict=False)]
    assert min(gaps) >= floor


def test_a_success_makes_the_next_failure_the_first_again() -> None:
    """The backoff starts over."""
    down = [(Unanswered("down"), 0.0)] * 8
    stage = Stage(script(*down, (said(5, "a"), 0), (Unanswered("down"), 0.0)), chance=1.0).run(60)
    up = next(at for at, _ in stage.told)
    again = [at for at, _ in stage.failed if at > up]
    assert again[1] - again[0] == pytest.approx(0.8)
    assert stage.watcher.failures == len(again) + 1


def test_two_hundred_edits_in_a_row_are_each_seen_at_once() -> None:
    """A burst of changes is what a rollout looks like: nothing holds it back."""
    edits = [(1 + i * 0.02, 10 + i, f"v{i}") for i in range(200)]
    stage = Stage(history((0, 9, ""), *edits)).run(10)
    assert stage.bodies[1:] == [body for _, _, body in edits]
    lags = [told - at for (told, _), (at, _, _) in zip(stage.told[1:], edits, strict=True)]
    assert max(lags) < 0.005


def test_a_write_storm_settles_at_two_queries_a_second() -> None:
    """A hundred changes a second for two minutes: the burst is spent, the last one is seen in a second."""
    writes = [(i * 0.01, 10 + i, f"v{i}") for i in range(12_000)]
    at, index, body = 0, 0, ""

    def agent(now: float, params: dict[str, str]) -> tuple[Answer, float]:
        nonlocal at, index, body
        while at < len(writes) and writes[at][0] <= now:
            _, index, body = writes[at]
            at += 1
        if "index" not in params or index > int(params["index"]):
            return said(index, body), 0.001
        if at == len(writes):
            return said(index, body), WAIT * 1.01
        took = writes[at][0] - now + 0.001
        _, index, body = writes[at]
        at += 1
        return said(index, body), took

    stage = Stage(agent).run(200)
    assert stage.queries(60, 120) <= 121
    assert stage.queries() < 512 + 250
    assert stage.bodies[-1] == "v11999"
    assert stage.told[-1][0] < 121


def test_waking_for_nothing_is_paid_from_a_smaller_purse() -> None:
    """A prefix with no key wakes on every write anywhere: three at once, then one a second."""
    steps = [(i * 0.01, 10 + i, "same") for i in range(6000)]
    stage = Stage(history(*steps)).run(60)
    assert stage.queries() <= 65
    assert stage.bodies == ["same"]


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(lambda _at, _params: (said(0, "a"), 0.001), id="pinned at 0"),
        pytest.param(lambda _at, _params: (said(1, "a"), 0.001), id="pinned at 1, never blocking"),
        pytest.param(lambda _at, _params: (said(1 << 63, "a"), 0.001), id="pinned at 2^63, never blocking"),
        pytest.param(lambda at, _params: (said(50 if at % 0.02 < 0.01 else 100, "a"), 0.003), id="back and forth"),
        pytest.param(lambda _at, params: (said(int(params.get("index", 9)) - 1, "a"), 0.001), id="ever backwards"),
        pytest.param(lambda _at, params: (said(int(params.get("index", 9)) + 1, "a"), 0.001), id="ever forwards"),
        pytest.param(lambda _at, _params: (said("", "a"), 0.001), id="none"),
    ],
)
def test_no_index_makes_the_watch_spin(agent: Agent) -> None:
    """Whatever an agent or a proxy makes of the index, a minute is at most 65 queries."""
    assert Stage(agent).run(60).queries() <= 65


def test_a_body_that_flips_with_every_answer_settles_too() -> None:
    """Two servers that disagree: 512 at once, then two a second."""
    turn = iter(range(10**9))
    stage = Stage(lambda _at, _params: (said(next(turn), f"{next(turn)}"), 0.001)).run(300)
    assert stage.queries() <= 512 + 2 * 300
    assert stage.queries(280, 300) <= 41


def test_a_large_answer_is_followed_by_a_pause_as_long_as_it_took_to_handle() -> None:
    """However large the service and however fast it changes, half a core is left; a second is the most."""
    stage = Stage(lambda at, _params: (said(int(at * 1000) + 1, str(at), transfer=0.1), 0.1))

    def handle(_: News) -> None:
        stage.now += 0.3 if len(stage.told) < 5 else 7.0

    stage.deliver = handle
    stage.run(30)
    starts = [at for at, _, _ in stage.asked]
    assert starts[1] - starts[0] == pytest.approx(0.1 + 0.3 + 0.4)
    assert starts[6] - starts[5] == pytest.approx(0.1 + 7.0 + 1.0)


def test_a_bucket_gives_credit_and_wants_it_back() -> None:
    """Three at once, then one a second; an hour of rest is not saved up beyond the burst."""
    bucket = TokenBucket(3, 1.0)
    assert [bucket.pay(0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 1.0, 2.0]
    assert [bucket.pay(3600.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]
