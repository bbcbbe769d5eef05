"""The watcher's rules, each on a virtual clock, in front of agents that restart, lie and storm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import pytest

from proxyless.control.watcher import Answer, News, TokenBucket, Unanswered, Watcher, backoff

Agent: TypeAlias = "Callable[[float, dict[str, str]], tuple[Answer | Exception, float]]"
"""What an agent says to these parameters at this instant, and how long it takes to."""

WAIT = 30.0


def said(
    index: object, body: str = "", *, status: int = 200, transfer: float = 0.0, **headers: str
) -> Answer:
    return Answer(status, {"x-consul-index": str(index), **headers}, body.encode(), transfer)


class Stage:
    """A watcher in virtual time, and all that it asks, tells and reports."""

    def __init__(
        self, agent: Agent, *, deliver: Callable[[News], float | None] = lambda _: None, chance: float = 0.5
    ) -> None:
        self.now = 0.0
        self.until = math.inf
        self.agent = agent
        self.deliver = deliver
        self.asked: list[tuple[float, dict[str, str], float]] = []
        self.told: list[tuple[float, News]] = []
        self.failed: list[tuple[float, str]] = []
        self.answered = 0
        self.watcher = Watcher(
            self._get,
            self._deliver,
            wait=WAIT,
            now=lambda: self.now,
            sleep=self._sleep,
            rng=lambda: chance,
            answered=self._count,
            failed=lambda reason: self.failed.append((self.now, reason)),
        )

    def run(self, until: float) -> Stage:
        self.until = until
        self.watcher.run()
        return self

    @property
    def bodies(self) -> list[str]:
        return [news.answer.body.decode() for _, news in self.told]

    def queries(self, start: float = 0.0, end: float = math.inf) -> int:
        return sum(start <= at < end for at, _, _ in self.asked)

    def _get(self, params: object, timeout: float) -> Answer:
        asked = dict(params)  # type: ignore[call-overload]
        self.asked.append((self.now, asked, timeout))
        answer, took = self.agent(self.now, asked)
        self.now += took
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _deliver(self, news: News) -> float | None:
        self.told.append((self.now, news))
        return self.deliver(news)

    def _count(self, _: Answer) -> None:
        self.answered += 1

    def _sleep(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self.until


def script(*answers: tuple[Answer | Exception, float]) -> Agent:
    """An agent that says these things in turn, and the last one for ever."""
    left = list(answers)
    return lambda _at, _params: left.pop(0) if len(left) > 1 else left[0]


def history(*steps: tuple[float, int, str]) -> Agent:
    """An honest agent: from each instant on it has this index and this body. It answers in a millisecond."""

    def agent(at: float, params: dict[str, str]) -> tuple[Answer, float]:
        now = [step for step in steps if step[0] <= at][-1]
        if "index" not in params or now[1] > int(params["index"]):
            return said(now[1], now[2]), 0.001
        wait = float(params["wait"].removesuffix("ms")) / 1000
        wakes = (step for step in steps if at < step[0] <= at + wait and step[1] > int(params["index"]))
        woken = next(wakes, None)
        if woken is not None:
            return said(woken[1], woken[2]), woken[0] - at + 0.001
        then = [step for step in steps if step[0] <= at + wait][-1]
        return said(then[1], then[2]), wait * (1 + 1 / 32)

    return agent


def test_the_first_query_is_plain_and_the_next_one_waits_for_something_newer() -> None:
    """Without an index Consul answers at once; with one it holds the query for the wait."""
    stage = Stage(history((0, 7, "a"))).run(30)
    assert [params for _, params, _ in stage.asked] == [{}, {"index": "7", "wait": "30000ms"}]
    assert stage.bodies == ["a"]


def test_a_query_is_given_a_sixteenth_more_than_its_wait_and_some_slack() -> None:
    """Consul adds up to wait/16 of jitter; 5 s beyond that is a hung agent."""
    stage = Stage(history((0, 7, "a"))).run(30)
    assert [timeout for _, _, timeout in stage.asked] == [10.0, 5.0 + 30.0 * 17 / 16]


def test_a_change_is_told_the_moment_it_happens() -> None:
    """The blocked query returns with it."""
    stage = Stage(history((0, 7, "a"), (3.0, 9, "b"))).run(10)
    assert [(round(at, 2), news.index) for at, news in stage.told] == [(0.0, 7), (3.0, 9)]


def test_a_missing_key_is_an_answer_too() -> None:
    """404 is delivered, for what it means depends on what was known."""
    stage = Stage(script((said(5, status=404), 0.001))).run(0.01)
    assert [news.answer.status for _, news in stage.told] == [404]


def test_after_an_error_the_index_is_forgotten() -> None:
    """An agent that was restarted has a lower one, and would leave us blind for a whole wait."""
    agent = script((said(70, "a"), 0), (Unanswered("reset"), 1), (said(8, "b"), 0), (said(8, "b"), WAIT))
    stage = Stage(agent).run(20)
    assert [params.get("index") for _, params, _ in stage.asked] == [None, "70", None, "8"]
    assert stage.bodies == ["a", "b"]


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503, 301])
def test_the_index_of_an_error_is_never_adopted(status: int) -> None:
    """Errors carry X-Consul-Index: 1 and mean nothing by it."""
    agent = script(
        (said(70, "a"), 0), (said(1, "oops", status=status), 0), (said(70, "a"), 0), (said(70, "a"), 31)
    )
    stage = Stage(agent).run(30)
    assert [params.get("index") for _, params, _ in stage.asked] == [None, "70", None, "70"]
    assert [f"{status} 'oops'" in reason for _, reason in stage.failed] == [True]


def test_an_index_that_went_backwards_is_dropped_with_its_answer() -> None:
    """What came with it is read again without an index, at once: it may be half of a restored snapshot."""
    agent = script((said(38, "new"), 0), (said(8, "half"), 0), (said(8, "old"), 0), (said(8, "old"), WAIT))
    stage = Stage(agent).run(5)
    assert stage.bodies == ["new", "old"]
    assert [params.get("index") for _, params, _ in stage.asked] == [None, "38", None, "8"]
    assert stage.told[-1][0] < 0.1


def test_an_early_answer_with_the_same_index_is_read_again_without_one() -> None:
    """A restored snapshot answers the watch so, with the old data: measured, the next such watch was
    blind."""
    agent = script(
        (said(38, "new"), 0), (said(38, "new"), 0.005), (said(8, "old"), 0), (said(8, "old"), WAIT)
    )
    stage = Stage(agent).run(5)
    assert [params.get("index") for _, params, _ in stage.asked] == [None, "38", None, "8"]
    assert stage.bodies == ["new", "old"]
    assert stage.told[-1][0] < 0.1


def test_the_timeout_of_a_query_is_no_early_answer() -> None:
    """An agent that holds the query for its wait is asked again with the same index."""
    stage = Stage(history((0, 7, "a"))).run(90)
    assert [params.get("index") for _, params, _ in stage.asked] == [None, "7", "7", "7"]
    assert stage.bodies == ["a"]


def test_an_index_of_0_is_never_sent_back() -> None:
    """It would not block; 1 always does."""
    stage = Stage(script((said(0, "a"), 0), (said(0, "a"), WAIT))).run(5)
    assert "0" not in [params.get("index") for _, params, _ in stage.asked]
    assert [params.get("index") for _, params, _ in stage.asked][:2] == [None, "1"]


def test_a_wake_without_a_change_is_not_told() -> None:
    """A grown index is no proof: identical config writes and filtered lists wake a watch."""
    stage = Stage(history((0, 7, "a"), (3, 8, "a"), (6, 9, "b"))).run(10)
    assert stage.bodies == ["a", "b"]
    assert [news.before for _, news in stage.told] == [0, 8]


def test_another_body_at_the_same_index_is_told_as_such() -> None:
    """Losing the right to see moves no index; whoever is told can tell it from a deregistration."""
    stage = Stage(script((said(18, "[1]"), 0), (said(18, "[]"), WAIT))).run(31)
    (_, first), (_, second) = stage.told
    assert (first.index, first.before) == (18, 0)
    assert (second.index, second.before) == (18, 18)


def test_news_says_whether_anything_went_wrong_in_between() -> None:
    """Only in an unbroken series does a grown index belong to the same history."""
    agent = script(
        (said(5, "a"), 0),
        (said(6, "b"), 1),
        (Unanswered("gone"), 1),
        (said(9, "c"), 0),
        (said(10, "d"), 1),
        (said(3, "e"), 1),
        (said(3, "e"), 0),
        (said(3, "e"), WAIT),
    )
    stage = Stage(agent).run(20)
    assert [(news.answer.body, news.before, news.unbroken) for _, news in stage.told] == [
        (b"a", 0, False),
        (b"b", 5, True),
        (b"c", 6, False),
        (b"d", 9, True),
        (b"e", 10, False),
    ]


@pytest.mark.parametrize("index", ["", "abc", "-1", "1.5", " 7", "1_0", "٣", str(1 << 64), "9" * 400])
def test_an_answer_without_a_usable_index_is_a_failure(index: str) -> None:
    """A proxy's page, a number that no uint64 holds."""
    stage = Stage(script((said(index, "a"), 0.001))).run(0.06)
    assert stage.bodies == []
    assert "X-Consul-Index" in stage.failed[0][1]


def test_the_largest_index_is_compared_as_a_number() -> None:
    """Indexes are uint64: 2^63 + 1 is above 9."""
    high = (1 << 63) + 1
    stage = Stage(history((0, 9, "a"), (2, high, "b"))).run(40)
    assert stage.bodies == ["a", "b"]
    assert stage.asked[-1][1]["index"] == str(high)


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
    """A hundred changes a second for two minutes: the burst is spent, the last one is seen within a
    second."""
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
        pytest.param(
            lambda at, _params: (said(50 if at % 0.02 < 0.01 else 100, "a"), 0.003), id="back and forth"
        ),
        pytest.param(
            lambda _at, params: (said(int(params.get("index", 9)) - 1, "a"), 0.001), id="ever backwards"
        ),
        pytest.param(
            lambda _at, params: (said(int(params.get("index", 9)) + 1, "a"), 0.001), id="ever forwards"
        ),
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


@pytest.mark.parametrize("error", [ValueError("not JSON"), Unanswered("unsure"), ZeroDivisionError("a bug")])
def test_an_answer_that_could_not_be_handled_counts_as_none(error: Exception) -> None:
    """The index is not adopted, the same answer is handled again, and the watch goes on whatever it was."""
    stage = Stage(history((0, 7, "a")))

    def handle(_: News) -> None:
        if len(stage.told) == 1:
            raise error

    stage.deliver = handle
    stage.run(20)
    assert [params.get("index") for _, params, _ in stage.asked] == [None, None, "7"]
    assert stage.bodies == ["a", "a"]
    assert str(error) in stage.failed[0][1]
    assert stage.answered == 2


def test_whoever_asks_is_told_again_after_a_while() -> None:
    """Although nothing changed, and not before: the wait is cut to that moment."""
    wishes: list[float | None] = [4.0, None]
    stage = Stage(history((0, 7, "[]")), deliver=lambda _: wishes.pop(0)).run(50)
    assert [round(at) for at, _ in stage.told] == [0, 4]
    waits = [params.get("wait") for _, params, _ in stage.asked]
    assert waits[0] is None
    assert 3990 <= int(str(waits[1]).removesuffix("ms")) <= 4000
    assert waits[-1] == "30000ms"


def test_whoever_asks_is_told_again_when_the_index_moves() -> None:
    """The same answer at another index may mean something else."""
    wishes: list[float | None] = [math.inf, None]
    stage = Stage(history((0, 7, "[]"), (50, 9, "[]"), (60, 11, "[]")), deliver=lambda _: wishes.pop(0)).run(
        80
    )
    assert [(round(at), news.index) for at, news in stage.told] == [(0, 7), (50, 9)]


def test_whoever_asks_is_told_again_after_an_outage() -> None:
    """What was held against an answer has to be weighed anew."""
    agent = script((said(7, "[]"), 0), (Unanswered("reset"), 5), (said(7, "[]"), 0), (said(7, "[]"), WAIT))
    wishes: list[float | None] = [1000.0, None]
    stage = Stage(agent, deliver=lambda _: wishes.pop(0)).run(20)
    assert [news.unbroken for _, news in stage.told] == [False, False]


def test_a_watch_that_is_told_to_stop_asks_no_more() -> None:
    """`sleep` says so, even if the answer came while it was being closed."""
    stage = Stage(history((0, 7, "a")))
    stage.run(0)
    assert stage.queries() == 1


def test_a_bucket_gives_credit_and_wants_it_back() -> None:
    """Three at once, then one a second; an hour of rest is not saved up beyond the burst."""
    bucket = TokenBucket(3, 1.0)
    assert [bucket.pay(0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 1.0, 2.0]
    assert [bucket.pay(3600.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("headers", "fragile"),
    [
        ({}, False),
        ({"x-consul-knownleader": "true", "x-consul-lastcontact": "0"}, False),
        ({"x-consul-lastcontact": "10000"}, False),
        ({"x-consul-lastcontact": "10001"}, True),
        ({"x-consul-lastcontact": "9" * 4000}, True),
        ({"x-consul-knownleader": "false"}, True),
        ({"x-consul-lastcontact": "never"}, False),
    ],
)
def test_an_answer_is_fragile_when_its_server_has_lost_its_leader(
    headers: dict[str, str], fragile: bool
) -> None:
    """No known leader, or none heard of for more than ten seconds."""
    assert Answer(200, headers, b"").fragile is fragile
