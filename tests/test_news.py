"""Waiting for a snapshot, without threads."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from proxyless.channel.news import Waiter
from proxyless.script import Wait


class Slot:
    """Where a snapshot is published in the very moment that somebody begins to listen."""

    def __init__(self) -> None:
        self.current = SimpleNamespace(version=1)
        self.listening: list[Callable[[], None]] = []

    def subscribe(self, look: Callable[[], None]) -> None:
        self.listening.append(look)
        self.current = SimpleNamespace(version=2)
        look()

    def unsubscribe(self, look: Callable[[], None]) -> None:
        self.listening.remove(look)


def test_news_that_come_while_it_begins_to_listen_are_heard_once() -> None:
    """And the alarm of the deadline is let go of, though it was set afterwards."""
    slot, resumed, rung, forgotten = Slot(), list[Any](), list[Any](), list[bool]()

    def alarm(_seconds: float, function: Callable[[], None]) -> Callable[[], None]:
        rung.append(function)
        return lambda: forgotten.append(True)

    timers = SimpleNamespace(after=lambda _seconds, function: function(), alarm=alarm)
    channel: Any = SimpleNamespace(slot=slot, timers=timers, clock=lambda: 100.0)
    Waiter(channel, Wait(version=1, until=105.0), resumed.append)
    assert [snapshot.version for snapshot in resumed] == [2]
    assert slot.listening == []
    assert (len(rung), forgotten) == (1, [True])
    rung[0]()
    assert len(resumed) == 1
