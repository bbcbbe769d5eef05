"""What the mesh tells of its destinations: one event and one line of the log for a change of state."""

from __future__ import annotations

import logging

import pytest

from proxyless.events import (
    BreakerChanged,
    Event,
    NodeEjected,
    NodeReadmitted,
    PanicChanged,
    SpillChanged,
    log_event,
    of_destination,
)


@pytest.mark.parametrize(
    ("what", "address", "why", "event", "level", "line"),
    [
        (
            "ejected",
            "a:1",
            "consecutive_5xx",
            NodeEjected("web", "a:1", "consecutive_5xx"),
            logging.WARNING,
            "a:1 of web is ejected: consecutive_5xx",
        ),
        ("readmitted", "a:1", "", NodeReadmitted("web", "a:1"), logging.INFO, "a:1 of web is back"),
        ("breaker", "", "OPEN", BreakerChanged("web", "OPEN"), logging.WARNING, "the circuit breaker of web is OPEN"),
        (
            "panic",
            "",
            "few are well",
            PanicChanged("web", True, "few are well"),
            logging.WARNING,
            "web is in a panic, its ejected endpoints are called as well: few are well",
        ),
        (
            "spill",
            "",
            "eu/a 70 %, eu/b 30 %",
            SpillChanged("web", True, "eu/a 70 %, eu/b 30 %"),
            logging.WARNING,
            "web: the nearest endpoints can't hold all calls, which go to: eu/a 70 %, eu/b 30 %",
        ),
        (
            *("spill", "", "", SpillChanged("web", False, ""), logging.INFO),
            "web: all calls are with the nearest endpoints again",
        ),
        ("panic", "", "", PanicChanged("web", False, ""), logging.INFO, "the panic of web is over"),
    ],
)
def test_a_change_of_state_is_an_event_and_a_line(
    caplog: pytest.LogCaptureFixture, what: str, address: str, why: str, event: Event, level: int, line: str
) -> None:
    """Of endpoints, breakers and panics."""
    assert of_destination(what, "web", address, why) == event
    with caplog.at_level(logging.INFO, "proxyless"):
        log_event(event)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(level, line)]
