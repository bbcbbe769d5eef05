"""The watcher's rules for indexes and answers, each in virtual time."""

from __future__ import annotations

import math

import pytest

from proxyless.control.watcher import Answer, News, Unanswered
from tests.control.watching import WAIT, Stage, history, said, script


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


def test_the_same_body_with_another_status_is_news() -> None:
    """An empty 404 is not an empty 200."""
    stage = Stage(script((said(5), 0), (said(6, status=404), 1), (said(6, status=404), WAIT))).run(5)
    assert [news.answer.status for _, news in stage.told] == [200, 404]


def test_after_an_error_the_index_is_forgotten() -> None:
    """An agent that was restarted has a lower one, and would leave us blind for a whole wait."""
    agent = script((said(70, "a"), 0), (Unanswered("reset"), 1), (said(8, "b"), 0), (said(8, "b"), WAIT))
    stage = Stage(agent).run(20)
    assert [params.get("index") for _, params, _ in stage.asked] == [None, "70", None, "8"]
    assert stage.bodies == ["a", "b"]


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503, 301])
def test_the_index_of_an_error_is_never_adopted(status: int) -> None:
    """Errors carry X-Consul-Index: 1 and mean nothing by it."""
    agent = script((said(70, "a"), 0), (said(1, "oops", status=status), 0), (said(70, "a"), 0), (said(70, "a"), 31))
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
    """A restored snapshot answers the watch so, with the old data; the next such watch was blind."""
    agent = script((said(38, "new"), 0), (said(38, "new"), 0.005), (said(8, "old"), 0), (said(8, "old"), WAIT))
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
    stage = Stage(history((0, 7, "[]"), (50, 9, "[]"), (60, 11, "[]")), deliver=lambda _: wishes.pop(0)).run(80)
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
def test_an_answer_is_fragile_when_its_server_has_lost_its_leader(headers: dict[str, str], fragile: bool) -> None:
    """No known leader, or none heard of for more than ten seconds."""
    assert Answer(200, headers, b"").fragile is fragile


@pytest.mark.parametrize("who", ["_answered", "_failed"])
def test_a_listener_that_fails_does_not_end_the_watch(
    who: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that can't be started, a state on disk that can't be taken in: told, and gone on from."""
    stage = Stage(script((said(5, "a"), 0), (Unanswered("reset"), 1), (said(7, "b"), 0), (said(7, "b"), WAIT)))
    told = iter([RuntimeError("can't start new thread")])

    def fail_once(_: object) -> None:
        if (error := next(told, None)) is not None:
            raise error

    monkeypatch.setattr(stage.watcher, who, fail_once)
    assert stage.run(40).bodies == ["a", "b"]
    (record,) = caplog.records
    assert record.getMessage() == "what a watch told could not be taken in; it goes on in 15 s"
    assert "can't start new thread" in caplog.text
