"""Which of KV's answers about the documents are believed, and when that everything is gone."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping

import pytest

from proxyless.control import RawDocument
from proxyless.control.consul_documents import Documents
from proxyless.control.vanishing import LATER, SOON
from proxyless.control.watcher import Answer, News, Unanswered

PREFIX = "proxyless/v1"
WATCH = "kv/proxyless/v1/"
MESH = "kv/proxyless/v1/mesh"
WEB = "kv/proxyless/v1/services/web"
BOTH = {"mesh": "{}", "services/web": "routes: []"}


def kv(documents: Mapping[str, str | bytes | None] | None, **headers: str) -> Answer:
    """An answer with these keys under the prefix, 404 without any."""
    if not documents:
        return Answer(404, headers, b"")
    entries = []
    for number, (key, text) in enumerate(documents.items()):
        value = text.encode() if isinstance(text, str) else text
        encoded = None if value is None else base64.b64encode(value).decode()
        entries.append({"Key": f"{PREFIX}/{key}", "Value": encoded, "ModifyIndex": 10 + number, "Flags": 0})
    return Answer(200, headers, json.dumps(entries).encode())


class Stage:
    """`Documents` in virtual time; `says` is what the agent answers to reads beside the watch."""

    def __init__(self, hold: float = 30.0) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        nothing = Answer(404, {}, b"")
        self.says: dict[str, Answer] = {MESH: nothing, WEB: nothing, f"{WATCH}?recurse&consistent": kv(None)}
        self.told: list[Mapping[str, RawDocument]] = []
        self.documents = Documents(PREFIX, self._ask, self.told.append, hold=hold, now=lambda: self.now)
        self.index = 0

    def hears(self, answer: Answer, index: int, *, unbroken: bool = True) -> float | None:
        before, self.index = self.index, index
        return self.documents.take(News(answer, index, before, unbroken))

    @property
    def texts(self) -> list[dict[str, str | bytes]]:
        return [{key: raw.text for key, raw in documents.items()} for documents in self.told]

    @property
    def doubt(self) -> str:
        return self.documents.doubt

    def _ask(self, path: str, *flags: str) -> Answer:
        asked = f"{path}?{'&'.join(flags)}" if flags else path
        self.asked.append(asked)
        return self.says[asked]


@pytest.fixture
def stage() -> Stage:
    """One that has heard of two documents at index 20."""
    stage = Stage()
    assert stage.hears(kv(BOTH), 20, unbroken=False) is None
    return stage


# --- what is in an answer


def test_each_key_is_a_document_with_its_version_and_where_to_find_it(stage: Stage) -> None:
    """The version is the key's own ModifyIndex, not the index of the answer."""
    (documents,) = stage.told
    assert documents["services/web"] == RawDocument(
        "services/web", "routes: []", "11", "consul:proxyless/v1/services/web"
    )
    assert stage.documents.path == WATCH


def test_only_mesh_and_services_are_documents() -> None:
    """Locks, folders and drafts beside them are somebody else's."""
    stage = Stage()
    stage.hears(kv({"mesh": "{}", "services/": "", "services/a/b": "x", "locks/web": "x", "mesh2": "x", "": "x"}), 5)
    assert stage.texts == [{"mesh": "{}"}]


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_value_is_an_empty_text(value: str | None) -> None:
    """KV has two ways to say it."""
    stage = Stage()
    stage.hears(kv({"mesh": value}), 5)
    assert stage.texts == [{"mesh": ""}]


def test_bytes_that_are_no_text_are_handed_on_as_they_are() -> None:
    """The dialect refuses them, with the document's name."""
    stage = Stage()
    stage.hears(kv({"mesh": b"\xff\x00", "services/web": "é"}), 5)
    assert stage.texts == [{"mesh": b"\xff\x00", "services/web": "é"}]


def test_a_value_that_is_not_base64_leaves_the_document_as_it_was(stage: Stage) -> None:
    """It is said, and the others are applied; one that was never read is left out."""
    entries = json.loads(kv(BOTH | {"services/new": "x"}).body)
    entries[0]["Value"] = base64.b64encode(b"new").decode()
    entries[1]["Value"] = "&&&"
    entries[2]["Value"] = {"not": "a text"}
    stage.hears(Answer(200, {}, json.dumps(entries).encode()), 21)
    assert stage.texts[-1] == {"mesh": "new", "services/web": "routes: []"}
    assert "not base64" in stage.doubt


@pytest.mark.parametrize("body", [b"{}", b"<html>", b"[1", b"[" * 100_000, b"null"])
def test_an_answer_that_is_no_list_is_refused_whole(stage: Stage, body: bytes) -> None:
    """It is a failure of the watch, and nothing of it is applied."""
    with pytest.raises(ValueError, match="the answer is not"):
        stage.hears(Answer(200, {}, body), 21)
    assert len(stage.told) == 1


def test_entries_of_another_shape_are_passed_over(stage: Stage) -> None:
    """Numbers for keys, lists for entries: nothing that Consul says."""
    entries = [7, None, [], {"Key": 7}, {"Key": None}, *json.loads(kv({"mesh": "x"}).body)]
    stage.hears(Answer(200, {}, json.dumps(entries).encode()), 21)
    assert stage.texts[-1] == {"mesh": "x"}


# --- what is no longer in an answer


def test_a_document_that_is_gone_from_an_answer_is_gone(stage: Stage) -> None:
    """Once Consul says by name that it is not there."""
    assert stage.hears(kv({"mesh": "{}"}), 21) is None
    assert stage.texts[-1] == {"mesh": "{}"}
    assert stage.asked == [WEB]
    assert stage.doubt == ""


def test_a_document_that_may_no_longer_be_read_is_not_gone(stage: Stage) -> None:
    """A token narrowed to some documents is shown these alone: calls would go where the hidden one forbids."""
    stage.says[WEB] = Answer(403, {}, b"Permission denied")
    for index in (20, 21, 35):  # narrowed; another document written meanwhile; and again
        assert stage.hears(kv({"mesh": "new"}), index) == LATER
        assert stage.texts[-1] == {"mesh": "new", "services/web": "routes: []"}
        assert "may no longer read services/web" in stage.doubt
        assert 'grant it key_prefix "proxyless/v1/"' in stage.doubt
    stage.says[WEB] = Answer(404, {}, b"")  # the right is back, and the document was deleted meanwhile
    assert stage.hears(kv({"mesh": "new"}), 36) is None
    assert stage.texts[-1] == {"mesh": "new"}
    assert stage.doubt == ""


def test_a_document_whose_end_consul_does_not_confirm_stays(stage: Stage) -> None:
    """Asked for it by name, an agent that lost its leader says 500: nothing is decided."""
    stage.says[WEB] = Answer(500, {}, b"No cluster leader")
    with pytest.raises(Unanswered, match="services/web is gone, which Consul won't confirm: it answered 500"):
        stage.hears(kv({"mesh": "{}"}), 21)
    assert len(stage.told) == 1


@pytest.mark.parametrize("fragile", [{"x-consul-knownleader": "false"}, {"x-consul-lastcontact": "12000"}])
def test_a_server_without_its_leader_can_add_but_not_remove(stage: Stage, fragile: dict[str, str]) -> None:
    """What it lacks may be new to it; a healthy answer settles it, and is asked for soon."""
    stage.says["kv/proxyless/v1/services/api"] = kv(None)
    assert stage.hears(kv({"mesh": "new", "services/api": "x"}, **fragile), 21) == SOON
    assert stage.texts[-1] == {"mesh": "new", "services/api": "x", "services/web": "routes: []"}
    assert "without a leader" in stage.doubt
    assert stage.hears(kv({"mesh": "new"}), 21) is None
    assert stage.texts[-1] == {"mesh": "new"}
    assert stage.doubt == ""


def test_no_documents_at_the_first_start_are_no_documents() -> None:
    """A mesh without any has its defaults at once."""
    stage = Stage()
    assert stage.hears(kv(None), 5, unbroken=False) is None
    assert stage.texts == [{}]
    assert stage.asked == [MESH]


def test_documents_that_may_not_be_read_at_the_first_start_are_a_failure() -> None:
    """KV shows them as absent: without the question by name, calls would go where they forbid."""
    stage = Stage()
    stage.says[MESH] = Answer(403, {}, b"Permission denied")
    with pytest.raises(Unanswered, match='grant it key_prefix "proxyless/v1/"') as caught:
        stage.hears(kv(None), 5, unbroken=False)
    assert caught.value.floor == 5.0
    assert stage.told == []


def test_a_prefix_that_was_deleted_is_empty_once_the_leader_says_so_too(stage: Stage) -> None:
    """The index grew and nothing went wrong in between: it belongs to Consul's own history."""
    assert stage.hears(kv(None), 25) is None
    assert stage.asked[:2] == [MESH, f"{WATCH}?recurse&consistent"]
    assert stage.texts[-1] == {}
    assert stage.doubt == ""


def test_other_keys_under_the_prefix_do_not_make_it_any_less_empty(stage: Stage) -> None:
    """All documents are gone, whatever else is there."""
    assert stage.hears(kv({"locks/x": ""}), 25) is None
    assert f"{WATCH}?recurse&consistent" in stage.asked


def test_a_leader_that_still_has_them_is_believed(stage: Stage) -> None:
    """A stale answer from a server that lags far behind."""
    stage.says[f"{WATCH}?recurse&consistent"] = kv({"mesh": "new"})
    assert stage.hears(kv(None), 25) is None
    assert stage.texts[-1] == {"mesh": "new"}


def test_a_token_that_lost_its_rights_takes_nothing_away(stage: Stage) -> None:
    """404 for the prefix and 403 for a key: all stays, is said once, and looked at again later."""
    stage.says[MESH] = Answer(403, {}, b"Permission denied")
    assert stage.hears(kv(None), 25) == LATER
    assert len(stage.told) == 1
    assert "may no longer read" in stage.doubt
    assert stage.hears(kv(BOTH), 25) is None
    assert stage.doubt == ""


def test_nothing_vanishes_at_an_unchanged_index(stage: Stage) -> None:
    """To delete moves it, even if the one key we ask for by name says 404."""
    assert stage.hears(kv(None), 20) == math.inf
    assert len(stage.told) == 1
    assert "the index is as before" in stage.doubt
    stage.now = 1000.0
    assert stage.hears(kv(None), 26) == pytest.approx(30.0), "the hold begins when it is first to be believed"


@pytest.mark.parametrize(("index", "unbroken"), [(8, True), (8, False), (25, False)])
def test_after_a_restart_or_an_outage_emptiness_has_to_last(stage: Stage, index: int, unbroken: bool) -> None:
    """An agent that comes up empty is filled again in a moment."""
    assert stage.hears(kv(None), index, unbroken=unbroken) == 30.0
    assert "they stay for a while" in stage.doubt
    stage.now = 29.0
    assert stage.hears(kv(None), index) == pytest.approx(1.0)
    assert len(stage.told) == 1
    stage.now = 30.0
    assert stage.hears(kv(None), index) is None
    assert stage.texts[-1] == {}
    assert stage.doubt == ""


def test_another_outage_starts_the_hold_anew(stage: Stage) -> None:
    """An agent that comes and goes proves nothing."""
    stage.hears(kv(None), 8)
    stage.now = 29.0
    assert stage.hears(kv(None), 8, unbroken=False) == 30.0


def test_an_outage_in_the_middle_of_a_deletion_makes_it_wait_too(stage: Stage) -> None:
    """It was a step of the history, but the confirmation failed: what comes after may be another history."""
    stage.says[f"{WATCH}?recurse&consistent"] = Answer(500, {}, b"No cluster leader")
    with pytest.raises(Unanswered, match="won't confirm"):
        stage.hears(kv(None), 25)
    stage.says[f"{WATCH}?recurse&consistent"] = kv(None)
    assert stage.hears(kv(None), 25, unbroken=False) == 30.0


def test_the_hold_begins_when_rights_are_back(stage: Stage) -> None:
    """However long they were gone: only then are missing documents to be believed at all."""
    assert stage.hears(kv(None), 8) == 30.0
    stage.says[MESH] = Answer(403, {}, b"Permission denied")
    stage.now = 3600.0
    assert stage.hears(kv(None), 8) == LATER
    stage.says[MESH] = Answer(404, {}, b"")
    assert stage.hears(kv(None), 8) == 30.0


def test_documents_that_come_back_end_the_hold(stage: Stage) -> None:
    """And the next emptiness starts one of its own."""
    stage.hears(kv(None), 8)
    stage.now = 20.0
    assert stage.hears(kv(BOTH), 12) is None
    assert stage.doubt == ""
    stage.now = 100.0
    assert stage.hears(kv(None), 3) == 30.0


def test_an_agent_that_cannot_tell_whether_it_is_allowed_is_a_failure(stage: Stage) -> None:
    """500 for the one key: nothing is decided."""
    stage.says[MESH] = Answer(500, {}, b"No cluster leader")
    with pytest.raises(Unanswered, match="won't say"):
        stage.hears(kv(None), 25)
    assert len(stage.told) == 1


def test_keys_that_are_no_documents_are_named(stage: Stage) -> None:
    """Whoever wrote `service/web` waits for it to take effect. A folder is none, nor is what came before the slip."""
    slips = {"service/web": "routes: []", "services/web/v2": "{}", "web": "{}", "services/": None, "old/": None}
    stage.hears(kv({**BOTH, **slips}), 21)
    assert stage.texts[-1] == BOTH
    assert stage.documents.unread == ["service/web", "services/web/v2", "web"]
    stage.hears(kv(BOTH), 22)
    assert stage.documents.unread == []
    stage.hears(kv(BOTH | {f"x{number:03}" + "y" * 500: "" for number in range(50)}), 23)
    assert (len(stage.documents.unread), max(map(len, stage.documents.unread))) == (20, 120)
