"""The last good state on disk: it comes back as it went, and nothing that we did not write is believed."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyless.control import RawDocument
from proxyless.control.cache import Cache, Saver, default_folder
from proxyless.control.dialects import decode
from proxyless.control.sources import factory
from proxyless.events import ConfigRejected
from proxyless.model.codes import Code
from proxyless.model.topology import Endpoint, Locality, Watched
from tests.control.hearing import GONE, Hearing
from tests.fakes import FakeClock

WEB = Watched("web")
STATE = (
    {
        "mesh": RawDocument("mesh", "defaults: {timeout: 3s}", "1", "kv/mesh", lines={}),
        "services/web": RawDocument(
            "services/web", "", "7", "mesh.yaml#services.web", {"routes": []}, {("routes",): 4, (): 3}
        ),
    },
    {
        WEB: [
            Endpoint("10.0.0.1:1", 3, 2, Locality("eu", "eu-1"), {"version": "v1"}, "warning", '{"Service": {}}'),
            Endpoint("[::1]:1"),
        ],
        Watched("web", "dc2"): [],
    },
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_700_000_000.0)


@pytest.fixture
def cache(tmp_path: Path, clock: FakeClock) -> Cache:
    """An empty cache; a second one on the same folder is the next process."""
    return Cache(tmp_path / "deep" / "proxyless", "consul|127.0.0.1:8500", clock)


def next_process(cache: Cache, clock: FakeClock) -> Cache:
    """Another cache on the same folder."""
    return Cache(cache.folder.parent, "consul|127.0.0.1:8500", clock)


def test_what_was_written_comes_back(cache: Cache, clock: FakeClock) -> None:
    """Documents as they were told, with the lines of their parts, and endpoints with all we know of them."""
    cache.save(STATE)
    loaded = next_process(cache, clock).load()
    assert loaded is not None
    documents, endpoints = loaded
    assert documents == STATE[0]
    assert endpoints == STATE[1]
    assert [one.entry for one in endpoints[WEB]] == ['{"Service": {}}', ""]
    assert decode(documents["services/web"])[1] == []


def test_where_nothing_was_written_nothing_is_known(cache: Cache) -> None:
    """Not even the folder is made by looking."""
    assert cache.load() is None
    assert not cache.folder.exists()


def test_only_the_owner_may_look(cache: Cache) -> None:
    """Documents may hold secrets: 0700 for the folder, 0600 for its files, whatever the umask."""
    cache.save(STATE)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    files = list(cache.folder.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert len(files) == 3


def test_nothing_of_the_source_shows_in_the_names(cache: Cache) -> None:
    """Neither its address nor a token nor a service: a folder's listing is everybody's."""
    cache.save(STATE)
    names = str(cache.folder.relative_to(cache.folder.parent)) + "".join(p.name for p in cache.folder.iterdir())
    assert not [word for word in ("8500", "consul", "web", "dc2") if word in names]


def test_sources_don_t_share_their_states(tmp_path: Path, clock: FakeClock) -> None:
    """What one token may see is not for another's process."""
    one, other = Cache(tmp_path, "token a", clock), Cache(tmp_path, "token b", clock)
    one.save(STATE)
    assert other.load() is None


def test_processes_that_use_different_services_share_a_folder(cache: Cache, clock: FakeClock) -> None:
    """Each writes the files of its own, and undoes nobody's."""
    cache.save(STATE)
    next_process(cache, clock).save((STATE[0], {Watched("rec"): [Endpoint("10.0.0.9:1")]}))
    loaded = next_process(cache, clock).load()
    assert loaded is not None
    assert set(loaded[1]) == {*STATE[1], Watched("rec")}


@pytest.mark.parametrize(("age", "believed"), [(86_399, True), (86_401, False), (-1800, True), (-7200, False)])
def test_a_day_old_is_too_old(age: float, believed: bool, cache: Cache, clock: FakeClock) -> None:
    """Yesterday's addresses may be somebody else's today; a file from the future is as little believed."""
    cache.save(STATE)
    clock.advance(age)
    assert (next_process(cache, clock).load() is not None) is believed


def test_only_what_changed_is_written_again(cache: Cache) -> None:
    """One changed service of hundreds is one file; after `forget` it is all of them."""
    cache.save(STATE)
    before = {file.name: file.stat().st_ino for file in cache.folder.iterdir()}
    documents, endpoints = STATE
    cache.save((dict(documents), {**endpoints, WEB: [Endpoint("10.0.0.2:1")]}))
    after = {file.name: file.stat().st_ino for file in cache.folder.iterdir()}
    assert len([name for name in before if before[name] != after[name]]) == 1
    cache.forget()
    cache.save(STATE)
    assert not [file for file in cache.folder.iterdir() if file.stat().st_ino == before[file.name]]


def damage(change: Callable[[list[str]], str | None]) -> Callable[[Path], None]:
    """What happens to a file: given its lines, its new text."""

    def apply(file: Path) -> None:
        text = change(file.read_text().splitlines())
        file.unlink() if text is None else file.write_text(text)

    return apply


def head(lines: list[str], **changes: object) -> str:
    """The file with another first line."""
    return "\n".join([json.dumps(json.loads(lines[0]) | changes), *lines[1:]])


DAMAGES = {
    "gone": damage(lambda lines: None),
    "empty": damage(lambda lines: ""),
    "cut off": damage(lambda lines: "\n".join(lines[:-1])),
    "cut in a line": damage(lambda lines: "\n".join(lines)[:-5]),
    "another format": damage(lambda lines: head(lines, format="proxyless-cache/2")),
    "no head": damage(lambda lines: "\n".join(lines[1:])),
    "a list for a head": damage(lambda lines: "\n".join(["[]", *lines[1:]])),
    "no time": damage(lambda lines: head(lines, saved_at="yesterday")),
    "NaN for a time": damage(lambda lines: head(lines, saved_at=float("nan"))),
    "a time beyond all numbers": damage(lambda lines: head(lines, saved_at=10**400)),
    "lines beyond all numbers": damage(
        lambda lines: "\n".join(
            [lines[0], *(json.dumps(json.loads(line) | {"lines": [[["a"], float("inf")]]}) for line in lines[1:])]
        )
    ),
    "numbers for records": damage(lambda lines: "\n".join([lines[0], *("7" for _ in lines[1:])])),
    "texts for records": damage(lambda lines: "\n".join([lines[0], *('"key"' for _ in lines[1:])])),
    "empty records": damage(lambda lines: "\n".join([lines[0], *("{}" for _ in lines[1:])])),
    "wrong types": damage(
        lambda lines: "\n".join([lines[0], *(json.dumps(dict.fromkeys(json.loads(line), 7)) for line in lines[1:])])
    ),
    "deep": damage(lambda lines: "\n".join([lines[0], *("[" * 100_000 for _ in lines[1:])])),
    "binary": lambda file: file.write_bytes(b"\xff\x00\xfe" * 100) and None,
    "a folder": lambda file: (file.unlink(), file.mkdir())[0],
    "a pipe": lambda file: (file.unlink(), subprocess.check_call(["mkfifo", file]))[0],
}


@pytest.mark.parametrize("happens", DAMAGES.values(), ids=DAMAGES.keys())
def test_documents_we_did_not_write_are_not_believed(
    happens: Callable[[Path], None], cache: Cache, clock: FakeClock
) -> None:
    """And then nothing is: endpoints alone would be called as if no document forbade it."""
    cache.save(STATE)
    happens(cache.folder / "documents.jsonl")
    assert next_process(cache, clock).load() is None


@pytest.mark.parametrize("happens", DAMAGES.values(), ids=DAMAGES.keys())
def test_endpoints_we_did_not_write_are_not_believed(
    happens: Callable[[Path], None], cache: Cache, clock: FakeClock
) -> None:
    """One service's broken file is no reason to doubt the others."""
    documents, endpoints = STATE
    cache.save((documents, {WEB: endpoints[WEB]}))
    (broken,) = cache.folder.glob("endpoints-*")
    happens(broken)
    cache.save((documents, {Watched("rec"): [Endpoint("10.0.0.9:1")]}))
    loaded = next_process(cache, clock).load()
    assert loaded is not None
    assert loaded[0] == documents
    assert loaded[1].pop(WEB, []) == []  # type: ignore[attr-defined]
    assert loaded[1] == {Watched("rec"): [Endpoint("10.0.0.9:1")]}


@pytest.mark.parametrize(
    "change",
    [
        *({"address": "unix:/x"}, {"address": 7}, {"weight": -1}, {"weight": "x"}, {"labels": [1]}),
        *({"locality": "../.."}, {"entry": {}}, {"status": None}, {"more": 1}),
    ],
    ids=str,
)
def test_an_endpoint_that_cannot_be_is_left_out(change: dict[str, object], cache: Cache, clock: FakeClock) -> None:
    """What comes from the disk is checked like what comes from the registry."""
    cache.save(STATE)
    for file in cache.folder.glob("endpoints-*"):
        first, who, *rest = file.read_text().splitlines()
        rest[:1] = [json.dumps(json.loads(line) | change) for line in rest[:1]]
        file.write_text("\n".join([first, who, *rest]))
    loaded = next_process(cache, clock).load()
    assert loaded is not None
    assert [endpoint.address for endpoint in loaded[1][WEB]] == ["[::1]:1"]


def test_a_write_that_fails_leaves_what_was_there(
    cache: Cache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are replaced whole: a full disk costs the news, not the state, and leaves no halves about."""
    cache.save(STATE)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.save(({}, {}))
    loaded = next_process(cache, clock).load()
    assert loaded is not None
    assert loaded[0] == STATE[0]
    assert not list(cache.folder.glob(".*"))


def test_the_folder_is_the_user_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where caches belong by the XDG rules; never in /tmp, which is everybody's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "proxyless"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "proxyless"


def test_a_user_without_a_home_has_no_cache_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container that runs under a number which no passwd file knows, without HOME: no reason not to connect."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    source, cache = factory("consul://127.0.0.1:1")()
    source.close()
    assert cache is None
    assert caplog.messages == [
        "nothing is kept on disk: this user has no home; set XDG_CACHE_HOME, or say ?snapshot=DIR"
    ]


def restarted(first: Hearing, cache: Cache, clock: FakeClock) -> Hearing:
    """Another process, that begins with what the first one left on disk."""
    believed = first.loop.believed()
    assert believed is not None
    cache.save(believed)
    loaded = next_process(cache, clock).load()
    assert loaded is not None
    second = Hearing("web")
    second.loop.restore(*loaded)
    return second


def test_a_restored_state_serves_calls(cache: Cache, clock: FakeClock) -> None:
    """From one loop's good state, through the disk, to another's first snapshot."""
    first = Hearing("web").says(web="routes: [{timeout: 3s}]").lives("web", "a:1")
    second = restarted(first, cache, clock)
    assert second.call()[0] == ["send a"]
    assert second.snapshot.services["web"].routes[0].timeout == 3.0


@pytest.mark.parametrize("text", ["routes: [{timeout: 3}]", b"routes: [] # \xff"])
def test_a_service_whose_document_was_never_valid_is_refused_after_a_restart_too(
    text: str | bytes, cache: Cache, clock: FakeClock
) -> None:
    """Nobody may guess what was meant: the defaults would call it, if the disk forgot that there is a document."""
    first = Hearing("web").lives("web", "a:1")
    first.loop.documents({"services/web": RawDocument("services/web", text, "7", "kv/services/web")})
    assert first.call()[1].refused == "not_ready"
    second = restarted(first, cache, clock)
    assert second.call()[1].refused == "not_ready"
    assert second.errors().keys() == {"services/web"}


def beginning(cache: Cache, clock: FakeClock, *wanted: str) -> Hearing:
    """Another process, whose source speaks before the disk is asked."""
    hearing = Hearing(*wanted)
    hearing.loop.recall = next_process(cache, clock).documents
    return hearing


def kept(cache: Cache, hearing: Hearing) -> None:
    """Its state is on the disk."""
    believed = hearing.loop.believed()
    assert believed is not None
    cache.save(believed)


def test_who_starts_while_a_document_is_invalid_goes_by_the_last_good_one(cache: Cache, clock: FakeClock) -> None:
    """As a process that has lived on does; a restart is no worse. It is told so, and so is the next one after it."""
    kept(cache, Hearing("web").says(web="routes: [{timeout: 3s}]", api="routes: []").lives("web", "a:1"))
    for _ in range(2):
        process = beginning(cache, clock, "web").says(web="routes: [{timeout: 3}]", api="routes: []")
        process.lives("web", "a:1")
        assert process.call()[0] == ["send a"]
        assert process.snapshot.services["web"].routes[0].timeout == 3.0
        assert process.errors().keys() == {"services/web"}
        (rejected,) = process.told.of(ConfigRejected)
        assert rejected.kept
        assert process.loop.status()["from_disk"] == []
        assert len(process.published) == 2  # with the endpoints; nothing of an earlier state was shown to calls
        kept(cache, process)
    assert process.says(web="routes: [{timeout: 4s}]").errors() == {}
    assert process.snapshot.services["web"].routes[0].timeout == 4.0


def test_the_same_goes_for_documents_that_can_t_stand_beside_each_other(cache: Cache, clock: FakeClock) -> None:
    """One that is valid by itself and names a subset that is not there."""
    kept(cache, Hearing("web").says(web="routes: [{timeout: 3s}]").lives("web", "a:1"))
    process = beginning(cache, clock, "web").says(web="routes: [{split: [{subset: canary}]}]").lives("web", "a:1")
    assert process.call()[0] == ["send a"]
    assert process.errors().keys() == {"services/web"}


def test_documents_that_are_gone_are_not_brought_back(cache: Cache, clock: FakeClock) -> None:
    """The disk says what was good of those that there are; not which there are."""
    kept(cache, Hearing("web", "api").says(web=GONE % "old", api=GONE % "old").lives("web", "a:1"))
    process = beginning(cache, clock, "web", "api").says(web="routes: 7")
    process.lives("api", "b:1")
    assert process.call("api")[0] == ["send b"]
    assert process.call("web")[1].code is Code.NOT_FOUND


def test_who_finds_all_documents_valid_does_not_ask_the_disk(cache: Cache, clock: FakeClock) -> None:
    """It may be slow, or hang."""
    process = beginning(cache, clock, "web")
    process.loop.recall = pytest.fail
    process.says(web="routes: []").lives("web", "a:1")
    assert process.call()[0] == ["send a"]
    process.says(web="routes: 7")
    assert process.call()[0] == ["send a"]


def test_what_is_too_old_to_be_believed_is_no_last_good_state(cache: Cache, clock: FakeClock) -> None:
    """Then the service is refused, as one whose first document is invalid."""
    kept(cache, Hearing("web").says(web="routes: []").lives("web", "a:1"))
    clock.advance(25 * 3600.0)
    process = beginning(cache, clock, "web").says(web="routes: 7").lives("web", "a:1")
    assert process.call()[1].refused == "not_ready"


def test_the_saver_writes_once_what_changed_often(cache: Cache) -> None:
    """From a thread of its own; `close` has what is waiting written, at once."""
    asked = []

    def state() -> object:
        asked.append(threading.current_thread().name)
        return STATE

    saver = Saver(cache, state, pytest.fail)  # type: ignore[arg-type]
    for _ in range(100):
        saver.changed()
    saver.close()
    saver._thread.join(5.0)  # type: ignore[union-attr]
    assert asked == ["proxyless-cache"]
    assert (cache.folder / "documents.jsonl").exists()


def test_the_saver_says_once_why_it_cannot_write(tmp_path: Path, clock: FakeClock) -> None:
    """A read-only disk is news, not an avalanche; and no reason to stop trying."""
    (tmp_path / "file").write_text("")
    said: list[str] = []
    saver = Saver(Cache(tmp_path / "file", "x", clock), lambda: STATE, said.append)
    saver.changed()
    saver.close()
    saver._thread.join(5.0)  # type: ignore[union-attr]
    assert said == ["the state can't be written to disk: Not a directory"]


def test_what_is_in_doubt_is_not_written(cache: Cache) -> None:
    """The loop says None while something is stale or suspicious."""
    saver = Saver(cache, lambda: None, pytest.fail)
    saver.changed()
    saver.close()
    saver._thread.join(5.0)  # type: ignore[union-attr]
    assert not cache.folder.exists()
