"""The one thread for what has to happen later: what goes wrong in it, or with it, is nobody else's trouble."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from proxyless.channel.timers import Timers


def refusing(monkeypatch: pytest.MonkeyPatch, *names: str) -> Callable[[], None]:
    """The system gives no threads of these names, until the result is called."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(names):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return lambda: monkeypatch.setattr(threading.Thread, "start", start)


def test_a_system_without_threads_is_no_end_of_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process at its limit of threads: what could not be timed then is called once there is a thread again."""
    timers = Timers()
    relent = refusing(monkeypatch, "proxyless-timers")
    called: list[Any] = []
    timers.after(0.0, lambda: called.append(1))
    assert "waits for a thread: can't start new thread" in caplog.text
    relent()
    over = threading.Event()
    timers.after(0.001, over.set)
    assert over.wait(2.0)
    assert called == [1]
    timers.close()


def test_a_function_that_leaves_does_not_take_the_others_along(caplog: pytest.LogCaptureFixture) -> None:
    """`sys.exit()` in somebody's callback ends that callback."""
    timers = Timers()
    over = threading.Event()

    def leave() -> None:
        raise SystemExit

    timers.after(0.0, leave)
    timers.after(0.01, over.set)
    assert over.wait(2.0)
    assert "a timer's function failed" in caplog.text
    timers.close()


def test_an_alarm_that_is_forgotten_keeps_nothing() -> None:
    """What is over before its time is let go of at once, with all that it holds, and is not called."""
    timers = Timers()
    called: list[str] = []

    class Held:
        def ring(self) -> None:
            called.append("ring")

    held = Held()
    forget = timers.alarm(0.05, held.ring)
    seen = weakref.ref(held)
    del held
    assert seen() is not None
    forget()
    assert seen() is None
    over = threading.Event()
    timers.alarm(0.1, over.set)
    assert over.wait(2.0)
    timers.close()
    assert called == []
