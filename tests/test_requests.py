"""Streams of requests for one attempt after another: whatever happens, each gets all of it, in order, or is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.channel.requests import FEW, Kept, Reader, Requests, replay_cap, serializing

SIZES = st.lists(st.integers(0, 40), max_size=12)


def source(sizes: list[int]) -> list[bytes]:
    return [bytes([number]) * size for number, size in enumerate(sizes)]


def sent(reader: Reader, count: int) -> list[bytes]:
    """What an attempt sends of it before it fails: `count` messages, or all."""
    serialize = serializing(None)
    return [serialize(message) for _, message in zip(range(count), reader)]  # noqa: B905


@given(SIZES, st.lists(st.integers(0, 12), max_size=4), st.integers(0, 200))
def test_every_attempt_gets_all_of_it_or_there_is_none(sizes: list[int], failures: list[int], cap: int) -> None:
    """Attempts fail after so many messages each; while another is possible, it begins at the first message."""
    messages = source(sizes)
    requests = Requests(iter(messages), cap)
    requests.keep()
    for count in failures:
        assert sent(Reader(requests, plain=False), count) == messages[:count]
        if not requests.possible():
            return
    assert sent(Reader(requests, plain=False), 99) == messages


@given(SIZES, st.integers(0, 200))
def test_no_more_is_kept_than_the_cap(sizes: list[int], cap: int) -> None:
    """When one more message is asked for, beyond the first few that may never have been sent."""
    requests = Requests(iter(source(sizes)), cap)
    requests.keep()
    serialize = serializing(None)
    for number, message in enumerate(Reader(requests, plain=False)):
        serialize(message)
        kept = sum(len(one.data or b"") for one in requests.kept[:-1] if isinstance(one, Kept))
        assert kept <= cap or number < FEW
        total = sum(sizes[: number + 1])
        assert requests.possible() is (requests.whole and total <= cap)


def test_a_message_is_serialized_once_and_let_go() -> None:
    """By whichever attempt comes to it first; what is kept is its bytes."""
    calls: list[str] = []

    def serialize(message: str) -> bytes:
        calls.append(message)
        return message.encode()

    requests = Requests(iter(["a", "b"]), 100)
    requests.keep()
    given_to = serializing(serialize)
    for _ in range(3):
        assert [given_to(message) for message in Reader(requests, plain=False)] == [b"a", b"b"]
    assert calls == ["a", "b"]
    assert [one.message for one in requests.kept] == [None, None]


def test_without_a_retry_messages_pass_as_they_are() -> None:
    """No more than the first few are held, and none of them in another shape."""
    requests = Requests(iter(range(1000)), 1 << 20)
    reader = Reader(requests, plain=False)
    for number in range(1000):
        assert next(reader) == number
        assert len(requests.kept) <= FEW
    assert not requests.possible()


def test_what_was_not_sent_can_be_however_large_it_is() -> None:
    """The cap is for retries. Without them the first few are kept for an attempt that could not be connected."""
    requests = Requests(iter([b"x" * 99, b"y"]), 10)
    assert sent(Reader(requests, plain=False), 1) == [b"x" * 99]
    assert requests.possible()
    assert sent(Reader(requests, plain=False), 9) == [b"x" * 99, b"y"]


def test_an_attempt_that_comes_too_late_is_told() -> None:
    """Half a stream is never sent as a whole one."""
    requests = Requests(iter([b"xx"] * 9), 3)
    requests.keep()
    sent(Reader(requests, plain=False), 9)
    with pytest.raises(RuntimeError, match="can't be sent again"):
        next(Reader(requests, plain=False))


def test_how_the_iterator_ended_is_how_it_ends_for_all() -> None:
    """Its exception, or its end."""

    def failing() -> Iterator[bytes]:
        yield b"a"
        raise LookupError("no more")

    requests = Requests(failing(), 100)
    requests.keep()
    for _ in range(2):
        reader = Reader(requests, plain=False)
        next(reader)
        with pytest.raises(LookupError):
            next(reader)


class Sized:
    """A message as protobuf's are."""

    def ByteSize(self) -> int:
        return 60


@pytest.mark.parametrize(("message", "possible"), [(b"x" * 60, True), (Sized(), True), ({"of": "unknown size"}, False)])
def test_interceptors_are_given_messages_and_their_size_is_asked(message: Any, possible: bool) -> None:
    """What can't be measured is not kept."""
    requests = Requests(iter([message]), 100)
    requests.keep()
    assert next(Reader(requests, plain=True)) is message
    assert requests.possible() is possible


@pytest.mark.parametrize(("value", "cap"), [(None, 256 * 1024), (0, 0), (1000, 1000), (-1, 0), ("much", 256 * 1024)])
def test_the_cap_is_c_core_s_option(value: Any, cap: int) -> None:
    """256 KiB where nobody says otherwise; what is no number says nothing."""
    assert replay_cap([] if value is None else [("grpc.per_rpc_retry_buffer_size", value)]) == cap
