"""The recorded versions of a document: what a change adds and pushes out, which one came before, and what of KV
is believed to be one."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.control.history import (
    DELETED,
    FOUND,
    KEPT,
    LARGEST_TEXT,
    ROLLED_BACK,
    Signature,
    Version,
    earlier,
    recorded,
)

ANN = Signature("ann@desk", "2026-03-01 10:00:00Z", "more for v2")


class Document:
    """A document and its history, changed as the commands do it."""

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self.text: bytes | None = None

    def put(self, text: bytes | None, restores: int | None = None) -> None:
        new, out = recorded(self.versions, self.text, text, Signature("ann", "now", "", restores))
        self.versions = [version for version in self.versions if version not in out] + new
        self.text = text

    def back(self) -> int | None:
        target = earlier(self.versions, self.text)
        if target is not None:
            self.put(target.text, target.number)
        return None if target is None else target.number

    def numbers(self) -> list[int]:
        return [version.number for version in self.versions]


def test_going_back_twice_goes_back_two_versions() -> None:
    """Whoever goes back from a bad version, and once more, does not get the bad one again."""
    document = Document()
    for text in (b"a", b"b", b"bad"):
        document.put(text)
    assert (document.back(), document.text) == (2, b"b")
    assert (document.back(), document.text) == (1, b"a")
    assert document.back() is None
    assert document.numbers() == [1, 2, 3, 4, 5]
    assert [version.restores for version in document.versions] == [None, None, None, 2, 1]
    assert document.versions[-1].action == ROLLED_BACK


def test_a_change_after_going_back_is_a_new_beginning() -> None:
    """The version before it is the one that had been put back."""
    document = Document()
    for text in (b"a", b"bad"):
        document.put(text)
    document.back()
    document.put(b"c")
    assert (document.back(), document.text) == (3, b"a")


def test_a_deleted_document_comes_back() -> None:
    """A deletion is a version without text; the one before it is what was deleted."""
    document = Document()
    document.put(b"a")
    document.put(None)
    assert document.versions[-1] == Version(2, DELETED, "now", "ann", None)
    assert (document.back(), document.text) == (1, b"a")


def test_what_other_means_wrote_is_not_lost() -> None:
    """A text that no version has is recorded before it is replaced, and can be gone back to."""
    document = Document()
    document.put(b"a")
    document.text = b"by hand"
    assert earlier(document.versions, document.text) == document.versions[0]
    document.put(b"b")
    assert [(version.action, version.text) for version in document.versions[1:]] == [
        (FOUND, b"by hand"),
        ("applied", b"b"),
    ]
    assert (document.back(), document.text) == (2, b"by hand")


@given(st.lists(st.sampled_from([b"a", b"b", b"c", None]), max_size=60))
def test_so_many_are_kept_and_numbers_never_come_back(texts: list[bytes | None]) -> None:
    """The newest KEPT versions are there, numbered one after the other, and the last one is what is in effect."""
    document = Document()
    for text in texts:
        if text != document.text:
            document.put(text)
    numbers = document.numbers()
    assert len(numbers) <= KEPT
    if numbers:
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert document.versions[-1].text == document.text


@given(
    text=st.none() | st.binary(max_size=2000) | st.integers(0, 300_000).map(lambda size: b"x: 1\n" * (size // 5)),
    note=st.text(max_size=300),
    restores=st.none() | st.integers(1, 99),
)
def test_a_version_is_read_as_it_was_written(text: bytes | None, note: str, restores: int | None) -> None:
    """Whatever bytes the document was, small or large, text or not."""
    (version,), _ = recorded([], None, text, Signature("ann", "now", note, restores))
    assert Version.decode(version.key, version.encode()) == version
    assert version.note == note[:200]


def test_a_usual_version_can_be_read_in_consuls_own_pages() -> None:
    """A text of a usual size is kept as it is."""
    (version,), _ = recorded([], None, b"service: web\n", ANN)
    assert json.loads(version.encode()) == {
        "action": "applied",
        "at": "2026-03-01 10:00:00Z",
        "by": "ann@desk",
        "note": "more for v2",
        "text": "service: web\n",
    }


def test_a_document_as_large_as_can_be_has_room() -> None:
    """Half a megabyte of YAML, deflated, fits into a value of Consul many times."""
    (version,), _ = recorded([], None, b"- {name: a, timeout: 5s}\n" * 20_000, ANN)
    assert len(version.encode()) < 20_000


BOMB = base64.b64encode(zlib.compress(b"x" * (LARGEST_TEXT + 1))).decode()


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("1", b"{}"),
        ("0000000x", b"{}"),
        ("00000001/x", b"{}"),
        ("00000001", b""),
        ("00000001", b"[]"),
        ("00000001", b"[" * 100_000),
        ("00000001", b'{"text": 7}'),
        ("00000001", b'{"deflated": "%%%"}'),
        ("00000001", b'{"deflated": "AAAA"}'),
        ("00000001", b'{"deflated": null}'),
        ("00000001", json.dumps({"deflated": BOMB}).encode()),
        ("00000001", json.dumps({"deflated": BOMB[:400]}).encode()),
    ],
)
def test_what_was_not_recorded_here_is_no_version(key: str, content: bytes) -> None:
    """Whoever may write the history may write anything: it is refused with a ValueError, and nothing else."""
    with pytest.raises(ValueError, match=r"."):
        Version.decode(key, content)


def test_what_is_said_of_a_version_is_text_and_short() -> None:
    """Other types and long words do no harm."""
    content = json.dumps({"action": ["x"] * 999, "at": 7, "by": None, "note": "n" * 999, "restores": "2", "text": "a"})
    version = Version.decode("00000007", content.encode())
    assert (version.number, version.at, version.by, version.restores, version.text) == (7, "7", "", None, b"a")
    assert len(version.action) == len(version.note) == 200


def test_a_note_in_another_coding_is_kept() -> None:
    """A Latin-1 terminal's `ä` arrives as half a character; it must not keep a document from being written."""
    ((version,), _) = recorded([], None, b"x", Signature("ann\udce4", "now", "w\udce4il"))
    assert Version.decode(version.key, version.encode()) == version
