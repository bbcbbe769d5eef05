"""Changes to request metadata: the order, what repeats, what is binary, and what costs nothing."""

from __future__ import annotations

from proxyless.model.routes import HeaderEdit
from proxyless.policy.headers import editor


def test_remove_comes_before_set_and_set_before_add() -> None:
    """`set` replaces every value of a key, `add` appends to what is there, order is kept."""
    edit = editor(HeaderEdit(remove=("r",), set={"s": "new", "r": "back"}, add={"a": "2", "s": "more"}))
    assert edit is not None
    sent = edit([("r", "1"), ("s", "old"), ("a", "1"), ("s", "older"), ("k", "kept")])
    assert sent == (("a", "1"), ("k", "kept"), ("s", "new"), ("r", "back"), ("a", "2"), ("s", "more"))


def test_a_call_without_metadata_gets_what_is_set_and_added() -> None:
    """None is what most calls bring."""
    edit = editor(HeaderEdit(set={"s": "1"}, add={"a": "2"}, remove=("r",)))
    assert edit is not None
    assert edit(None) == (("s", "1"), ("a", "2"))


def test_the_route_edits_first_and_its_destination_after() -> None:
    """Consul merges so too: the leg of a split has the last word."""
    edit = editor(HeaderEdit(set={"leg": "route", "r": "1"}), HeaderEdit(set={"leg": "canary"}, remove=("r",)))
    assert edit is not None
    assert edit(()) == (("leg", "canary"),)


def test_binary_values_are_sent_as_bytes() -> None:
    """A document writes them in base64, grpc takes bytes."""
    edit = editor(HeaderEdit(set={"trace-bin": "AAEC/w=="}))
    assert edit is not None
    assert edit([("trace-bin", b"old")]) == (("trace-bin", b"\x00\x01\x02\xff"),)


def test_nothing_to_change_is_nothing_to_do() -> None:
    """A route without edits costs its calls not even a function call."""
    assert editor() is None
    assert editor(None, HeaderEdit()) is None


def test_what_a_caller_sent_is_left_as_it_was() -> None:
    """The caller's own list may be used again for the next call."""
    sent = [("a", "1")]
    edit = editor(HeaderEdit(remove=("a",)))
    assert edit is not None
    assert edit(sent) == ()
    assert sent == [("a", "1")]
