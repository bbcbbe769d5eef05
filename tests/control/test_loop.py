"""What a source says becomes what calls read, or a finding; what was good stays until there is better."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless.control import RawDocument
from proxyless.events import (
    ConfigApplied,
    ConfigRejected,
    EndpointsDropped,
    SourceRecovered,
    SourceStale,
    Suspicious,
)
from proxyless.model.findings import Finding
from proxyless.model.topology import Endpoint, Watched
from tests.control.hearing import GONE, Hearing, answer, raw

# --- the good and the bad ---


def test_nothing_is_published_before_the_documents_are_known() -> None:
    """Endpoints alone would be called as if no document forbade it."""
    hearing = Hearing("web").lives("web", "a:1")
    assert hearing.published == []
    hearing.says()
    assert [node.address for cluster in hearing.snapshot.clusters.values() for node in cluster.nodes] == ["a:1"]


def test_an_edit_is_in_effect_when_documents_returns() -> None:
    """No hand-over to a thread, no timer: the next call reads it."""
    hearing = Hearing("web").says(web=GONE % "one")
    assert answer(hearing) == "one"
    hearing.says(web=GONE % "two")
    assert answer(hearing) == "two"
    assert [event.changed for event in hearing.told.of(ConfigApplied)] == [("services/web",)] * 2


def test_an_invalid_edit_changes_nothing_but_the_status_and_the_log() -> None:
    """The last good document serves on; one event says why, however often the same is told."""
    hearing = Hearing("web").says(web=GONE % "good")
    published = len(hearing.published)
    for _ in range(3):
        hearing.says(web="routes: [{tiemout: 1s}]")
    assert answer(hearing) == "good"
    assert len(hearing.published) == published
    (event,) = hearing.told.of(ConfigRejected)
    assert (event.document, event.kept) == ("kv/services/web", True)
    assert hearing.errors() == {
        "services/web": ['routes[0].tiemout (line 1): is not a key that is known here; did you mean "timeout"?']
    }


def test_the_status_tells_the_version_in_effect_from_the_one_that_is_not() -> None:
    """Both are there while they differ."""
    hearing = Hearing("web").says(web=GONE % "good").says(web="routes: 7")
    (document,) = hearing.loop.status()["documents"]
    assert (document["version"], document["in_effect"], document["accepted"]) == ("2", "1", False)
    assert document["origin"] == "kv/services/web"


def test_mending_it_is_all_it_takes_to_recover() -> None:
    """No restart, no second edit."""
    hearing = Hearing("web").says(web=GONE % "good").says(web="{").says(web=GONE % "better")
    assert answer(hearing) == "better"
    assert hearing.errors() == {}


def test_an_invalid_first_document_refuses_its_calls_at_once() -> None:
    """Nobody may guess what was meant: `not_ready`, with the finding, instead of defaults or a wait."""
    hearing = Hearing("web").lives("web", "a:1").says(web="routes: [{timeout: 5}]\ncolour: red")
    effects, outcome = hearing.call(timeout=30.0)
    assert effects == []
    assert outcome.refused == "not_ready"
    assert outcome.details == (
        "proxyless: not_ready: kv/services/web is invalid and no earlier version of it is known: "
        "routes[0].timeout (line 1): must be a duration with a unit, got the bare number 5: "
        'did you mean "5s"? (and 1 more)'
    )
    (event,) = hearing.told.of(ConfigRejected)
    assert not event.kept
    assert hearing.says(web="routes: []").call()[0] == ["send a"]


def test_one_service_s_mistake_is_not_another_s() -> None:
    """Documents are judged one by one."""
    hearing = Hearing("web", "rec").says(web=GONE % "web", rec=GONE % "rec")
    hearing.says(web="{", rec=GONE % "new")
    assert (answer(hearing, "web"), answer(hearing, "rec")) == ("web", "new")


def test_a_deleted_document_leaves_the_defaults() -> None:
    """Its service is called by the rules of one that never had any."""
    hearing = Hearing("web").lives("web", "a:1").says(web=GONE % "x").says(web=None)
    assert hearing.call()[0] == ["send a"]


def test_an_invalid_mesh_document_keeps_the_last_good_one() -> None:
    """Its defaults hold on; the same for the first, which leaves the built-in ones."""
    hearing = Hearing("web").says(mesh="defaults: {timeout: 3s}").says(mesh="defaults: {timeout: 3}")
    assert hearing.snapshot.services["web"].routes[0].timeout == 3.0
    hearing = Hearing("web").lives("web", "a:1").says(mesh="defaults: {timeout: 3}")
    assert hearing.call()[0] == ["send a"]
    assert set(hearing.errors()) == {"mesh"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("apiVersion: proxyless/v2", 'apiVersion (line 1): must be proxyless/v1, got "proxyless/v2"'),
        ("routes: []\napiVersion: [1]", 'apiVersion (line 2): must be proxyless/v1, got "[1]"'),
        (
            "service: rec",
            'service (line 1): says "rec", but the document lies where "web" is expected; make both the same',
        ),
    ],
)
def test_a_document_must_be_what_it_is_kept_as(text: str, says: str) -> None:
    """Of a language that is known, and of the service whose key it has."""
    assert Hearing("web").says(web=text).errors() == {"services/web": [says]}


def test_what_the_source_itself_found_wrong_is_a_finding_like_others() -> None:
    """A document twice, or one that could not be read."""
    hearing = Hearing("web").says(web=GONE % "good")
    broken = RawDocument("services/web", "", "9", "two places", findings=(Finding("", "stands in two files"),))
    hearing.loop.documents({"services/web": broken})
    assert answer(hearing) == "good"
    assert hearing.errors() == {"services/web": ["stands in two files"]}


# --- what is asked of the source ---


def test_watches_follow_what_calls_can_reach() -> None:
    """A destination is watched when a route leads there, and no longer when none does."""
    hearing = Hearing("web").says(web="routes: [{split: [{service: one}, {service: two}]}]")
    assert sorted(hearing.source.asked) == ["watch one", "watch two"]
    hearing.says(web="routes: [{split: [{service: two}, {service: three}]}]")
    assert sorted(hearing.source.asked[2:]) == ["unwatch one", "watch three"]


def test_a_source_that_answers_while_it_is_asked_is_asked_once() -> None:
    """Each answer is carried through to a snapshot before the next question: it must not be asked twice."""
    hearing = Hearing()
    for name in ("one", "two", "three"):
        hearing.source.known[Watched(name)] = (Endpoint(f"{name}:1"),)
    hearing.says(web="routes: [{split: [{service: one}, {service: two}, {service: three}]}]")
    hearing.loop.want("web")
    assert sorted(hearing.source.asked) == ["watch one", "watch three", "watch two"]
    assert {node.address for c in hearing.snapshot.clusters.values() for node in c.nodes} == {
        "one:1",
        "two:1",
        "three:1",
    }


def test_what_is_no_longer_watched_is_forgotten() -> None:
    """Watched again, its endpoints are asked for, not remembered: they may be others by then."""
    hearing = Hearing("web").says(web="routes: [{split: [{service: one}]}]").lives("one", "a:1")
    hearing.says(web=GONE % "x").says(web="routes: [{split: [{service: one}]}]")
    assert hearing.source.asked[-2:] == ["unwatch one", "watch one"]
    assert hearing.call(timeout=1.0)[1].refused == "direct_response"


def test_an_edit_takes_effect_when_what_it_leads_to_is_known() -> None:
    """Until then the earlier routes hold, as Envoy warms clusters: no call waits for an edit."""
    hearing = Hearing("web").says(web="routes: [{split: [{service: one}]}]").lives("one", "a:1")
    hearing.says(web="routes: [{split: [{service: two}]}]")
    assert hearing.loop.status()["warming"] == ["web"]
    assert hearing.call()[0] == ["send a"]
    hearing.lives("one", "a:1", "c:1").lives("two", "b:1")
    assert hearing.loop.status()["warming"] == []
    assert hearing.call()[0] == ["send b"]
    assert "unwatch one" in hearing.source.asked


def test_wanting_a_service_twice_is_wanting_it_once() -> None:
    """Each channel asks; one snapshot answers."""
    hearing = Hearing("web").says()
    published = len(hearing.published)
    hearing.loop.want("web")
    assert len(hearing.published) == published


def test_a_watch_that_could_not_begin_is_asked_for_again() -> None:
    """A process at its limit of threads: a service must not stay unknown for ever because of one such moment."""
    hearing = Hearing().says()
    source: Any = hearing.source
    watch, source.watch = source.watch, no_threads
    with pytest.raises(RuntimeError, match="can't start new thread"):
        hearing.loop.want("web")
    source.watch = watch
    hearing.loop.want("web")
    assert hearing.source.asked == ["watch web"]


def no_threads(_: object) -> None:
    raise RuntimeError("can't start new thread")


# --- what is dropped, doubted and stale ---


def test_news_that_change_nothing_publish_nothing() -> None:
    """The same documents with a new index, the same endpoints in a new list: no snapshot, no event."""
    hearing = Hearing("web").says(web="routes: []").lives("web", "a:1", "b:1")
    published, told = len(hearing.published), len(hearing.told.events)
    hearing.lives("web", "a:1", "b:1")
    hearing.loop.documents({"services/web": raw("services/web", "routes: []", version="77")})
    assert (len(hearing.published), len(hearing.told.events)) == (published, told)


def test_the_endpoints_of_one_service_leave_the_others_alone() -> None:
    """Only what has changed is made anew."""
    hearing = Hearing("web", "rec").says().lives("web", "a:1").lives("rec", "b:1")
    before = hearing.snapshot
    hearing.lives("rec", "c:1")
    assert hearing.snapshot.services["web"] is before.services["web"]
    assert hearing.snapshot.version == before.version + 1


def test_an_outage_is_told_once_and_its_end_once() -> None:
    """With how long it was; the state serves on meanwhile."""
    hearing = Hearing("web").says().lives("web", "a:1")
    hearing.told.events.clear()
    for _ in range(3):
        hearing.loop.stale("documents", "connection refused")
    hearing.clock.advance(12.5)
    assert hearing.loop.status()["stale"] == {"documents": {"seconds": 12.5, "reason": "connection refused"}}
    assert hearing.call()[0] == ["send a"]
    hearing.loop.fresh("documents")
    hearing.loop.fresh("documents")
    assert hearing.told.events == [
        SourceStale("spoken", "documents", "connection refused"),
        SourceRecovered("spoken", "documents", 12.5),
    ]


def test_a_doubt_is_told_once_and_shown_until_it_is_gone() -> None:
    """Something was said that is not believed."""
    hearing = Hearing("web").says()
    hearing.told.events.clear()
    hearing.loop.suspicious("web", "all 3 endpoints are gone")
    hearing.loop.suspicious("web", "all 3 endpoints are gone")
    assert hearing.told.events == [Suspicious("spoken", "web", "all 3 endpoints are gone")]
    assert hearing.loop.status()["suspicious"] == {"web": "all 3 endpoints are gone"}
    hearing.loop.fresh("web")
    assert hearing.loop.status()["suspicious"] == {}


def test_instances_that_are_left_out_are_counted_when_that_changes() -> None:
    """One event a change, with each reason once."""
    hearing = Hearing("web").says()
    for reasons in (["bad"], ["bad"], ["bad", "bad", "worse"], []):
        hearing.loop.dropped(Watched("web"), reasons)
    assert [(event.count, tuple(event.reasons)) for event in hearing.told.of(EndpointsDropped)] == [
        (1, ("bad",)),
        (3, ("bad", "worse")),
    ]
    assert hearing.loop.status()["dropped"] == {}


def test_a_closed_loop_publishes_nothing() -> None:
    """A watch that answers late changes nothing any more."""
    hearing = Hearing("web").says(web=GONE % "one")
    hearing.loop.close()
    hearing.says(web=GONE % "two")
    assert answer(hearing) == "one"


# --- from disk ---


def test_a_silent_source_is_stood_in_for_by_the_disk() -> None:
    """The last good state of an earlier process, marked as such until the source speaks."""
    hearing = Hearing("web")
    assert hearing.loop.silent
    hearing.loop.restore({"services/web": raw("services/web", "routes: []")}, {Watched("web"): [Endpoint("a:1")]})
    assert hearing.call()[0] == ["send a"]
    assert hearing.loop.status()["from_disk"] == ["documents", "web"]
    hearing.lives("web", "b:1")
    assert hearing.call()[0] == ["send b"]
    assert hearing.loop.status()["from_disk"] == ["documents"]
    hearing.says(web=GONE % "said")
    assert answer(hearing) == "said"
    assert not hearing.loop.silent


def test_what_the_source_has_said_is_never_overwritten_from_disk() -> None:
    """The disk fills gaps."""
    hearing = Hearing("web").says(web="routes: []").lives("web", "a:1")
    hearing.loop.restore({"services/web": raw("services/web", GONE % "old")}, {Watched("web"): [Endpoint("b:1")]})
    assert hearing.call()[0] == ["send a"]
    assert hearing.loop.status()["from_disk"] == []


def test_what_is_in_doubt_is_not_written_to_disk() -> None:
    """Neither a stale state, nor a doubted one, nor what came from there."""
    hearing = Hearing("web").says(web=GONE % "good").says(web="{")
    believed = hearing.loop.believed()
    assert believed is not None
    assert believed[0]["services/web"].text == GONE % "good"
    hearing.loop.stale("documents", "down")
    assert hearing.loop.believed() is None
    doubted, written = Hearing("web").says(web=GONE % "good"), []
    doubted.loop.on_change = lambda: written.append(doubted.loop.believed())
    doubted.loop.suspicious("documents", "all are gone")
    assert doubted.loop.believed() is None
    doubted.loop.fresh("documents")
    assert written == [doubted.loop.believed()] != [None]  # what changed meanwhile is written as soon as it may be
    restored = Hearing("web")
    restored.loop.restore({}, {Watched("web"): [Endpoint("a:1")]})
    assert restored.loop.believed() is None


@pytest.mark.parametrize("doubt", ["stale", "suspicious"])
def test_a_service_in_doubt_keeps_no_other_from_the_disk(doubt: str) -> None:
    """A datacenter out of reach, a service that the token may not see, can last for weeks; a restart in an outage
    would find nothing of the other services either."""
    hearing = Hearing("web", "pay").says(web="routes: []").lives("web", "a:1").lives("pay", "b:1")
    getattr(hearing.loop, doubt)("pay", "the token may not see it")
    believed = hearing.loop.believed()
    assert believed is not None
    assert believed[0].keys() == {"services/web"}
    assert believed[1].keys() == {Watched("web")}
    hearing.loop.fresh("pay")
    believed = hearing.loop.believed()
    assert believed is not None
    assert believed[1].keys() == {Watched("web"), Watched("pay")}


def test_documents_that_nobody_told_are_not_written_as_none() -> None:
    """Of the instances Consul spoke, of KV it has not yet: the last good documents on disk stay."""
    hearing = Hearing("web").lives("web", "a:1")
    hearing.loop.stale("web", "no answer within 10.0 s")
    hearing.loop.fresh("web")
    assert hearing.loop.believed() is None
