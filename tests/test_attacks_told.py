"""What is told of hostile documents: one plain line each, and never a secret.

Logs are read line by line, often on a terminal, and kept where many may read them. So no name, value or
reason that comes from outside may break a line or colour it; and a header value that a document sets, or a
credential that it asks for, is nowhere but on the wire.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from proxyless.control import RawDocument
from proxyless.control.compiler import World
from proxyless.control.dialects import decode
from proxyless.events import log_event
from proxyless.explain import explain
from proxyless.model.documents import MeshDocument
from proxyless.model.findings import Finding
from proxyless.model.topology import NOWHERE, Watched
from proxyless.overview import status_of
from tests.control.hearing import Hearing, raw
from tests.worlds import document

SECRET = "S3CR3T-7f3a"
NASTY = "web\n2026-01-01 ERROR all is well\r\x1b[31m\x07\u2028\x85end"


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the `proxyless` logger has written."""
    return [record.getMessage() for record in caplog.records]


def logging_hearing(*wanted: str) -> Hearing:
    """A loop whose events are logged as in a program."""
    hearing = Hearing(*wanted)
    hearing.loop._emit = log_event
    return hearing


# --- one plain line ---


def test_every_event_is_one_plain_line(caplog: pytest.LogCaptureFixture) -> None:
    """Names, origins, keys, values, reasons: with line breaks, bells and colours in them (CVE-2024-45808)."""
    caplog.set_level(logging.DEBUG, "proxyless")
    hearing = logging_hearing(NASTY)
    hearing.source.name = f"file:{NASTY}"
    hearing.loop.documents({f"services/{NASTY}": RawDocument(f"services/{NASTY}", "routes: 7", "1", NASTY)})
    hearing.loop.documents({f"services/{NASTY}": RawDocument(f"services/{NASTY}", "routes: []", "1", NASTY)})
    for bad in (
        {NASTY: 1},
        {"service": NASTY},
        {"routes": [{"name": NASTY}]},
        {"routes": [{"timeout": NASTY}]},
    ):
        hearing.loop.documents({"services/web": raw("services/web", json.dumps(bad))})
    hearing.loop.stale(NASTY, NASTY)
    hearing.loop.fresh(NASTY)
    hearing.loop.suspicious(NASTY, NASTY)
    hearing.loop.dropped(Watched(NASTY), [NASTY])
    messages = logged(caplog)
    assert len(messages) >= 10
    assert [message for message in messages if not message.isprintable()] == []


@pytest.mark.parametrize(
    "document",
    [
        {NASTY: 1},
        {"apiVersion": NASTY},
        {"service": NASTY},
        {"subsets": {NASTY: {}}},
        {"subsets": {"a": {"filter": NASTY}}},
        {"routes": [{NASTY: 1}]},
        {"routes": [{"name": NASTY}]},
        {"routes": [{"timeout": NASTY}]},
        {"routes": [{"split": [{"subset": NASTY}]}], "subsets": {NASTY: {}}},
        {"routes": [{"split": [{"service": NASTY}]}]},
        {"routes": [{"match": [{"path": {"regex": f"({NASTY}"}}]}]},
        {"routes": [{"match": [{"headers": {NASTY: {"exact": "a"}}}]}]},
        {"routes": [{"headers": {"set": {NASTY: "a"}}}]},
        {"routes": [{"directResponse": {"status": NASTY}}]},
        {"routes": [{"retry": {"on": [NASTY]}}]},
        {"trafficPolicy": {"loadBalancer": {"policy": NASTY}}},
    ],
    ids=lambda document: ascii(document)[:40],
)
def test_every_finding_is_one_plain_line(document: dict[str, Any]) -> None:
    """In every part of it, for programs that print the parts by themselves; and in the status."""
    findings = decode(raw("services/web", json.dumps(document)))[1]
    assert findings
    for finding in findings:
        assert (finding.path + finding.reason + finding.hint).isprintable()
    errors = Hearing("web").says(web=json.dumps(document)).errors()["services/web"]
    assert all(error.isprintable() for error in errors)


def test_a_finding_is_plain_by_itself() -> None:
    """Whoever makes one need not think of it."""
    finding = Finding("a\nb", "c\x1b[0m", hint="d\x00")
    assert (finding.path, finding.reason, finding.hint) == ("a\\nb", "c\\x1b[0m", "d\\x00")


def test_a_long_log_line_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred findings of a hostile document are a line, not a page."""
    text = json.dumps({f"k{number}": 1 for number in range(1000)})
    logging_hearing("web").says(web=text)
    (message,) = [line for line in logged(caplog) if "is invalid" in line]
    assert len(message) < 5000
    assert message.endswith("; and 92 more")


# --- never a secret ---

GOOD = {
    "routes": [
        {
            "name": "guarded",
            "match": [
                {"headers": {"authorization": {"exact": f"Bearer {SECRET}"}}},
                {"headers": {"x-api-key": {"prefix": SECRET}}},
                {"headers": {"x-auth-token": {"regex": f"{SECRET}.*"}, "cookie": {"contains": SECRET}}},
                {
                    "withoutHeaders": {"x-session-id": {"suffix": SECRET}},
                    "headers": {"proxy-authorization": {"exact": SECRET}},
                },
            ],
            "headers": {"set": {"authorization": f"Bearer {SECRET}"}, "add": {"x-anything": SECRET}},
            "split": [{"headers": {"set": {"x-leg": SECRET, "t-bin": "UzNDUjNULTdmM2E="}}}],
        },
        {"name": "open", "headers": {"set": {"x-other": SECRET}}},
    ]
}

BAD: list[Any] = [
    {"routes": [{"headers": {"set": {"x-a": f"{SECRET}\r\n"}}}]},
    {"routes": [{"headers": {"set": {"t-bin": f"{SECRET}!"}}}]},
    {"routes": [{"headers": {"set": {"te": SECRET}}}]},
    {"routes": [{"headers": {"set": {"X-A": SECRET}}}]},
    {"routes": [{"headers": {"set": {"x-a": [SECRET]}}}]},
    {"routes": [{"headers": {"set": {"x-a": {SECRET[:3]: SECRET}}}}]},
    {"routes": [{"headers": {"set": SECRET}}]},
    {"routes": [{"headers": {"add": [SECRET]}}]},
    {"routes": [{"headers": SECRET}]},
    {"routes": [{"headers": {"x-a": SECRET}}]},
    {"routes": [{"split": [{"headers": {"set": {"x-a": SECRET + "é"}}}]}]},
    {"routes": [{"match": [{"headers": {"x-a": SECRET}}]}]},
    {"routes": [{"match": [{"headers": {"x-a": {"exact": [SECRET]}}}]}]},
    {"routes": [{"match": [{"headers": {"x-a": {"exact": SECRET, "prefix": SECRET}}}]}]},
    {"routes": [{"match": [{"headers": {"x-a": {"regex": f"{SECRET}("}}}]}]},
    {"routes": [{"match": [{"headers": {"x-a": {"regex": SECRET * 100}}}]}]},
    {"routes": [{"match": [{"headers": {"x-a": {"present": SECRET}}}]}]},
    {"routes": [{"match": [{"headers": {"x-a": {"range": {"start": SECRET, "end": 1}}}}]}]},
    {"routes": [{"match": [{"withoutHeaders": {"x-a": SECRET}}]}]},
]


def reachable(thing: object, seen: set[int]) -> Iterator[object]:
    """Everything of ours that can be reached from an object."""
    if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type)):
        return
    seen.add(id(thing))
    yield thing
    if isinstance(thing, dict):
        inner: Any = [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        inner = thing
    elif type(thing).__module__.startswith(("proxyless", "tests")):
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        inner = [getattr(thing, name, None) for name in (*slots, *vars_of(thing))]
    else:
        return
    for part in inner:
        yield from reachable(part, seen)


def vars_of(thing: object) -> list[str]:
    """The names of its attributes, where it has a dict of them."""
    return list(getattr(thing, "__dict__", ()))


def ours(root: object) -> list[object]:
    """The objects of proxyless's own types below `root`: those whose repr we are to answer for."""
    return [one for one in reachable(root, set()) if type(one).__module__.startswith("proxyless")]


def test_no_repr_shows_a_header_value_of_a_document(caplog: pytest.LogCaptureFixture) -> None:
    """Of anything that can be reached from the loop and the snapshot, or of a world; nor does the log."""
    hearing = logging_hearing("web").lives("web", "a:1").says(web=json.dumps(GOOD))
    hearing.says(rec=json.dumps(BAD[0]))
    things = ours([hearing.loop, hearing.published])
    names = {type(thing).__name__ for thing in things}
    assert {"Loop", "Compiler", "Snapshot", "PlannedRoute", "Route", "HeaderEdit", "HeaderMatch"} <= names
    assert {"RawDocument", "Accepted", "Rejected", "Finding"} <= names
    things.append(World(frozenset(), {"web": document(json.dumps(GOOD))}, MeshDocument(), {}))
    assert [type(thing).__name__ for thing in things if SECRET in repr(thing)] == []
    assert logged(caplog)
    assert [line for line in logged(caplog) if SECRET in line] == []


@pytest.mark.parametrize("document", BAD, ids=lambda document: ascii(document)[:60])
def test_no_finding_shows_a_header_value(document: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong is said without what it is: in findings, in the status, in refusals and in the log."""
    hearing = logging_hearing("web").lives("web", "a:1").says(web=json.dumps(document))
    assert hearing.errors()["services/web"]
    told = [*hearing.errors()["services/web"], json.dumps(hearing.loop.status()), hearing.call()[1].details]
    told += logged(caplog)
    assert [text for text in told if SECRET in text] == []


def test_no_finding_of_another_shows_it_either(caplog: pytest.LogCaptureFixture) -> None:
    """The document is good and its neighbour is not."""
    hearing = logging_hearing("web").says(web=json.dumps({**GOOD, "trafficPolicy": {"loadBalancer": {"policy": "no"}}}))
    hearing.says(web=json.dumps({"routes": [*GOOD["routes"], *GOOD["routes"]]}))
    assert len(hearing.errors()["services/web"]) == 2
    assert SECRET not in json.dumps(hearing.loop.status())


def test_neither_explain_nor_status_shows_a_credential() -> None:
    """A route that asks for one says so without it; what a route sets is not said at all."""
    hearing = Hearing("web").lives("web", "a:1").says(web=json.dumps(GOOD))
    explained = explain(hearing.snapshot, "web", "/a/B")
    assert explained.route == "open"
    (why,) = explained.rejected
    assert 'header authorization is not exact "…"' in why["why"]
    status = status_of(hearing.snapshot, hearing.loop.status(), {}, NOWHERE, hearing.clock())
    told = json.dumps([explained.to_dict(), status], default=repr)
    assert SECRET not in told
    assert "UzNDUjNU" not in told


def test_what_is_no_credential_is_shown_for_that_is_what_explain_is_for() -> None:
    """`header x-user-tier is not exact "premium"` is the answer that somebody came for."""
    match = [{"headers": {"x-user-tier": {"exact": "premium"}}}]
    hearing = Hearing("web").says(web=json.dumps({"routes": [{"match": match}, {}]}))
    (why,) = explain(hearing.snapshot, "web", "/a/B").rejected
    assert why["why"] == 'header x-user-tier is not exact "premium"'


def test_no_refusal_shows_what_a_caller_sent() -> None:
    """A refusal's details reach logs of every kind."""
    hearing = Hearing("web").says(web="routes: [{match: [{headers: {x-a: {exact: b}}}]}]")
    outcome = hearing.call(metadata=[("x-a", SECRET), ("authorization", SECRET)])[1]
    assert outcome.refused == "no_route"
    assert SECRET not in outcome.details
    why = explain(hearing.snapshot, "web", "/a/B", [("x-a", SECRET)])
    assert SECRET not in repr(why)
