"""The matcher's own rules: what is asked once, what of each request, what is invisible, and what is said."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.matches import GrpcMatch, HeaderMatch, Match, Range, StringMatch
from proxyless.policy.matcher import Matcher, header, joined, regex, text

GET = "/shop.Products/Get"


def asks(block: Match, metadata: Sequence[tuple[str, Any]] = (), *, method: str = GET, draw: float = 0.0) -> bool:
    """Whether a route with this one block matches a request."""
    matches, test = Matcher([block], {"team": "a"}).narrow(method, "web")
    return matches and (test is None or test(joined(metadata), lambda: draw))


def holds(name: str, match: HeaderMatch, metadata: Sequence[tuple[str, Any]] | None) -> bool:
    """Whether the one header question holds of some metadata."""
    return header(name, match)(joined(metadata), lambda: 0.0)


# --- what is asked ---


def test_no_block_at_all_matches_everything() -> None:
    """A route without `match` is a catch-all, and asks nothing of a request."""
    assert Matcher((), {}).narrow("/any/Thing", "anywhere") == (True, None)


def test_a_route_matches_when_any_block_does() -> None:
    """Blocks are alternatives."""
    blocks = [Match(headers={"a": HeaderMatch(exact="1")}), Match(headers={"b": HeaderMatch(exact="2")})]
    _, test = Matcher(blocks, {}).narrow(GET, "web")
    assert test is not None
    assert [test(joined(m), lambda: 0.0) for m in ([("a", "1")], [("b", "2")], [("a", "2")])] == [
        True,
        True,
        False,
    ]


def test_a_block_without_conditions_left_makes_the_rest_needless() -> None:
    """What the path alone decides is decided once: a block that holds already leaves nothing to ask."""
    blocks = [Match(headers={"a": HeaderMatch(exact="1")}), Match(path=StringMatch(prefix="/shop."))]
    assert Matcher(blocks, {}).narrow(GET, "web") == (True, None)


def test_a_path_that_differs_leaves_nothing_to_ask() -> None:
    """A route that can't match a method costs its calls nothing."""
    block = Match(path=StringMatch(exact="/a/b"), headers={"a": HeaderMatch(exact="1")})
    assert Matcher([block], {}).narrow(GET, "web") == (False, None)


@pytest.mark.parametrize(
    ("grpc", "method", "matches"),
    [
        (GrpcMatch("shop.Products"), "/shop.Products/Get", True),
        (GrpcMatch("shop.Products"), "/shop.ProductsV2/Get", False),
        (GrpcMatch("shop.Products", "Get"), "/shop.Products/Get", True),
        (GrpcMatch("shop.Products", "Get"), "/shop.Products/GetAll", False),
        (GrpcMatch("Products"), "/shop.Products/Get", False),
    ],
)
def test_the_grpc_shorthand_is_a_service_or_one_method(grpc: GrpcMatch, method: str, matches: bool) -> None:
    """It compares whole names: no other service or method begins with the same letters and slips through."""
    assert asks(Match(grpc=grpc), method=method) is matches


@pytest.mark.parametrize(
    ("labels", "matches"),
    [({"team": "a"}, True), ({"team": "b"}, False), ({"zone": "x"}, False), ({}, False)],
)
def test_source_labels_are_those_of_this_process(labels: dict[str, str], matches: bool) -> None:
    """All of them must be there and equal; nothing of a request is asked."""
    block = Match(source_labels={"team": "a"})
    assert Matcher([block], labels).narrow(GET, "web") == (matches, None)


@pytest.mark.parametrize(
    ("percent", "draw", "matches"),
    [(0, 0.0, False), (100, 0.999999, True), (0.01, 0.00009, True), (0.01, 0.0001, False)],
)
def test_a_fraction_is_half_open(percent: float, draw: float, matches: bool) -> None:
    """0 never passes and 100 always does, where gRFC A28's `<=` would let 0 pass sometimes."""
    assert asks(Match(fraction=percent), draw=draw) is matches


@pytest.mark.parametrize(
    ("match", "metadata", "matches"),
    [
        (HeaderMatch(exact="1"), [("a", "1")], False),
        (HeaderMatch(exact="1"), [("a", "2")], True),
        (HeaderMatch(exact="1"), [], True),
        (HeaderMatch(regex=".*"), [], False),
        (HeaderMatch(regex=".+"), [], True),
        (HeaderMatch(present=True), [], True),
        (HeaderMatch(present=True), [("a", "")], False),
        (HeaderMatch(range=Range(0, 5)), [], True),
    ],
)
def test_without_headers_takes_what_is_missing_for_empty(
    match: HeaderMatch, metadata: list[tuple[str, str]], matches: bool
) -> None:
    """As Istio has Envoy do (its `route.go`): but for `present`, what is missing is ""."""
    assert asks(Match(without_headers={"a": match}), metadata) is matches


# --- what a request shows ---


def test_binary_keys_are_never_seen() -> None:
    """ "-bin" keys are treated as absent - gRFC A28; so only `present: false` holds of one."""
    metadata = [("a-bin", b"\x00"), ("b", "1")]
    assert joined(metadata) == {"content-type": "application/grpc", "b": "1"}
    assert holds("a-bin", HeaderMatch(present=False), metadata)
    assert not holds("a-bin", HeaderMatch(present=True), metadata)
    assert not holds("a-bin", HeaderMatch(regex="(?s).*"), metadata)


def test_the_content_type_is_what_grpc_will_send() -> None:
    """ "content-type matches as hard-coded application/grpc" - gRFC A28."""
    assert holds("content-type", HeaderMatch(exact="application/grpc"), None)


def test_values_of_a_key_are_joined_in_order() -> None:
    """A rule that denies `a` sees `a,b` whichever way it was sent: as one value or as two."""
    assert joined([("k", "a"), ("x", "1"), ("k", b"b")])["k"] == "a,b" == joined([("k", "a,b")])["k"]


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        *(
            ("5", True),
            ("+5", True),
            ("05", True),
            ("-5", False),
            ("5.0", False),
            (" 5", False),
            ("5_0", False),
        ),
        *(("", False), ("-", False), ("\u0665", False), ("9" * 5000, False), ("0x5", False), ("5e0", False)),
    ],
)
def test_a_range_wants_a_whole_number_from_end_to_end(value: str, matches: bool) -> None:
    """Nothing that Python would also read as a number counts: not underscores, not Arabic digits."""
    assert holds("k", HeaderMatch(range=Range(0, 10)), [("k", value)]) is matches


@pytest.mark.parametrize(
    ("match", "value", "matches"),
    [
        (StringMatch(exact="AbC", ignore_case=True), "aBc", True),
        (StringMatch(suffix="/Get", ignore_case=True), "/shop.Products/GET", True),
        (StringMatch(contains="Prod", ignore_case=True), "/shop.pRoDucts/Get", True),
        (StringMatch(regex="abc", ignore_case=True), "ABC", False),
        (StringMatch(regex="(?i)abc", ignore_case=True), "ABC", True),
        (StringMatch(regex="a|b"), "ab", False),
        (StringMatch(regex=".*"), "a\nb", False),
        (StringMatch(exact=""), "", True),
    ],
)
def test_case_is_folded_for_literals_only(match: StringMatch, value: str, matches: bool) -> None:
    """A regex says by itself whether case counts, and matches the whole value."""
    assert text(match)(value) is matches


# --- what is said of it ---


def test_why_not_names_the_condition_that_failed() -> None:
    """The first failing condition of each block, once each, and "" where nothing stands in the way."""
    blocks = [
        Match(path=StringMatch(prefix="/other."), headers={"a": HeaderMatch(exact="1")}),
        Match(headers={"x-user-tier": HeaderMatch(exact="premium")}),
        Match(source_labels={"team": "z"}),
        Match(without_headers={"c": HeaderMatch(present=True)}),
    ]
    matcher = Matcher(blocks, {"team": "a"})
    assert matcher.why_not(GET, "web", joined([("c", "1")])) == (
        'path /shop.Products/Get is not prefix "/other."; header x-user-tier is not exact "premium"; '
        "this process has no label team=z; header c is present"
    )
    assert matcher.why_not(GET, "web", joined(None)) == ""


def test_why_not_takes_a_fraction_for_drawn() -> None:
    """Chance is no reason: a route with a fraction is explained as if the dice fell right."""
    assert Matcher([Match(fraction=1)], {}).why_not(GET, "web", {}) == ""
    assert Matcher([Match(fraction=0)], {}).why_not(GET, "web", {}) == "fraction 0% draws 0"


def test_why_not_agrees_with_narrow() -> None:
    """They are two ways to ask one question, so they must not answer differently."""
    for block in (
        Match(headers={"a": HeaderMatch(exact="1", invert=True)}),
        Match(without_headers={"a": HeaderMatch(regex="[0-9]+")}),
        Match(authority=StringMatch(suffix="eb"), fraction=50),
        Match(grpc=GrpcMatch("shop.Products", "Get"), headers={"a": HeaderMatch(present=False)}),
    ):
        for metadata in ([], [("a", "1")], [("a", "x")]):
            why = Matcher([block], {}).why_not(GET, "web", joined(metadata))
            assert (why == "") is asks(block, metadata), (block, metadata, why)


# --- what nothing can do to it ---

VALUES = st.text(max_size=40) | st.sampled_from(["", "a", "a,b", "-1", "9" * 30, "\x00", "\ud800", "é"])
LITERAL = st.text(min_size=1, max_size=5)
MATCHES = st.one_of(
    st.sampled_from(["exact", "prefix", "suffix", "contains"]).flatmap(
        lambda way: st.builds(HeaderMatch, **{way: LITERAL}, ignore_case=st.booleans(), invert=st.booleans())
    ),
    st.builds(HeaderMatch, regex=st.sampled_from([".*", "a+", r"\d", "(a|b)*", ""]), invert=st.booleans()),
    st.builds(HeaderMatch, present=st.booleans(), invert=st.booleans()),
    st.builds(lambda start, size: HeaderMatch(range=Range(start, start + size)), st.integers(), st.integers(0)),
)
METADATA = st.lists(
    st.tuples(st.sampled_from(["a", "b", "a-bin", "content-type", ""]), VALUES | st.binary(max_size=20)),
    max_size=6,
)


@given(MATCHES, METADATA)
def test_no_header_makes_a_matcher_raise(match: HeaderMatch, metadata: list[tuple[str, Any]]) -> None:
    """Whatever a caller sends, the answer is yes or no; what is missing matches nothing, inverted or not."""
    headers = joined(metadata)
    found = header("a", match)(headers, lambda: 0.0)
    assert found in (True, False)
    assert Matcher([Match(headers={"a": match})], {}).why_not(GET, "web", headers) == "" or not found
    if match.present is None and "a" not in headers:
        assert found is False


# Patterns that take an engine with backtracking minutes: reliability-security.md section 2, ReDoS.
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(.*a){25}", "(a*)*b", "(x+x+)+y"])
def test_no_pattern_takes_long(pattern: str) -> None:
    """RE2 is linear: under 1 ms a match (the median of 20: a busy machine is not a slow engine)."""
    ask = regex(pattern)
    took = []
    for length in range(50, 70):
        started = time.perf_counter()
        ask("a" * length + "!")
        took.append(time.perf_counter() - started)
    assert statistics.median(took) < 0.001


@pytest.mark.parametrize("pattern", ["x{1000}{1000}", "(((((((x{50}){50}){50}){50})))){2}", "\\", "(?=a)", r"(a)\1"])
def test_a_pattern_that_re2_does_not_take_is_refused(pattern: str) -> None:
    """Too large, or asking for what only backtracking can do: refused when it is read, with RE2's reason."""
    with pytest.raises(ValueError, match=r"\w"):
        regex(pattern)
