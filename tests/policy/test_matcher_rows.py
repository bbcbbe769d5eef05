"""The peers' tables of header, string and path matching (01, 02, 03): their inputs, their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from proxyless.model.findings import Invalid
from proxyless.model.matches import HeaderMatch, Match, Range, StringMatch
from proxyless.policy.matcher import Matcher, header, joined, regex, text
from tests.policy.rows import rows

NOT_OURS = {
    "domain-type-*": "no virtual hosts here: `authority` is a condition of a route, and the first wins",
    "domain-type-*.abc.com": "as above",
    "domain-type-foo.*.com": "as above; `authority` has prefix and suffix instead of stars",
    "domain-match-a.*.b-": "as above",
    "best-vhost-foo.bar.com": "as above; the author orders the routes, not a search for the longest",
    "best-vhost-foo.bar.org": "as above",
    "best-vhost-v2.foo.bar.com": "as above",
    "best-vhost-foo.bar.159": "as above",
}
"""Rows of 03 that are left out. Of 01 and 02 none is."""


def asked(name: str, given: Mapping[str, Any]) -> bool:
    """Ask a row's header matcher of a row's metadata."""
    match = dict(given["match"])
    if "range" in match:
        match["range"] = Range(match["range"]["start"], match["range"]["end"])
    wanted = HeaderMatch(**match, invert=given["invert"], ignore_case=not given.get("case_sensitive", True))
    metadata = [tuple(pair) for pair in (*given["metadata"], *given.get("transport_added_metadata", ()))]
    return header(name, wanted)(joined(metadata), lambda: 0.0)


@pytest.mark.parametrize("row", rows("01_header_match.json"))
def test_headers_match_as_with_the_peers(row: Mapping[str, Any]) -> None:
    """grpc-go, C-core, Envoy and the PSM suite agree on these, and so do we."""
    assert asked(row["given"]["header"], row["given"]) is row["expect"]["match"]


@pytest.mark.parametrize("row", rows("02_string_match.json"))
def test_texts_match_as_with_the_peers(row: Mapping[str, Any]) -> None:
    """The ways of comparing text, as grpc-go and C-core have them."""
    given = row["given"]
    wanted = StringMatch(**given["match"], ignore_case=given["ignore_case"])
    assert text(wanted)(given["value"]) is row["expect"]["match"]


@pytest.mark.parametrize("row", rows("02_string_match.json", key="invalid"))
def test_matchers_that_the_peers_refuse_are_refused(row: Mapping[str, Any]) -> None:
    """What cannot be meant is refused when it is read, with the peer's words where the row has some."""
    given = row["given"] or {}
    build: Callable[[], object] = lambda: StringMatch(**given)  # noqa: E731
    if "range" in given:
        build = lambda: Range(given["range"]["start"], given["range"]["end"])  # noqa: E731
    elif "regex" in given:
        build = lambda: regex(given["regex"])  # noqa: E731
    with pytest.raises(ValueError, match=row["expect"].get("message_contains", r"\w")):
        build()


@pytest.mark.parametrize(
    "row", rows("03_path_route_match.json", left_out=NOT_OURS, only=lambda row: "match" in row["given"])
)
def test_paths_match_as_with_the_peers(row: Mapping[str, Any]) -> None:
    """The whole path is compared, case and all unless told otherwise."""
    given = row["given"]
    path = StringMatch(**given["match"], ignore_case=given["ignore_case"])
    matches, rest = Matcher([Match(path=path)], {}).narrow(given["path"], "any")
    assert matches is row["expect"]["match"]
    assert rest is None, "a path is asked once, not per request"


@pytest.mark.parametrize(
    "row", rows("03_path_route_match.json", left_out=NOT_OURS, only=lambda row: "host" in row["given"])
)
def test_domains_match_where_a_condition_can_say_them(row: Mapping[str, Any]) -> None:
    """`abc.*` is an authority with a prefix, `*.123` one with a suffix, any other an exact one."""
    domain, host = row["given"]["domain"], row["given"]["host"]
    if domain.endswith("*"):
        wanted = StringMatch(prefix=domain[:-1])
    elif domain.startswith("*"):
        wanted = StringMatch(suffix=domain[1:])
    else:
        wanted = StringMatch(exact=domain)
    assert Matcher([Match(authority=wanted)], {}).narrow("/s/m", host)[0] is row["expect"]["match"]


@pytest.mark.parametrize(
    "row",
    rows("03_path_route_match.json", left_out=NOT_OURS, only=lambda row: "random_draw" in row["given"]),
)
def test_fractions_match_as_with_grpc_go(row: Mapping[str, Any]) -> None:
    """grpc-go lets draw <= fraction pass, we let draw < fraction: both rows hold either way."""
    given = row["given"]
    _, test = Matcher([Match(fraction=given["fraction_per_million"] / 10_000)], {}).narrow("/s/m", "any")
    assert test is not None
    assert test({}, lambda: given["random_draw"] / 1_000_000) is row["expect"]["match"]


@pytest.mark.parametrize(
    "row", rows("03_path_route_match.json", left_out=NOT_OURS, only=lambda row: "path_match" in row["given"])
)
def test_all_conditions_of_a_block_must_hold(row: Mapping[str, Any]) -> None:
    """A path and a header in one block are a conjunction."""
    given = row["given"]
    name, value = given["header_match"]["header"], given["header_match"]["exact"]
    block = Match(path=StringMatch(**given["path_match"]), headers={name: HeaderMatch(exact=value)})
    matches, test = Matcher([block], {}).narrow(given["path"], "any")
    assert (matches and (test is None or test(joined(given["metadata"]), lambda: 0.0))) is row["expect"]["match"]


@pytest.mark.parametrize("row", rows("03_path_route_match.json", left_out=NOT_OURS))
def test_no_row_slips_between_the_tests(row: Mapping[str, Any]) -> None:
    """What is not left out by name is of a kind that a test above takes."""
    assert {"match", "host", "random_draw", "path_match"} & row["given"].keys()


GO = "grpc-go@4793ad04 internal/xds/matcher/matcher_header_test.go"
CORE = "grpc@01950846 test/core/matchers/matchers_test.cc"
ENVOY = "envoy@00ecb000 test/common/http/header_utility_test.cc"


@pytest.mark.parametrize(
    ("match", "metadata", "matches", "_source"),
    [
        (
            HeaderMatch(exact="abc,tv"),
            [("k", "abc"), ("k", "tv")],
            True,
            f"{GO} two value match concatenated",
        ),
        (HeaderMatch(regex="^t+v*$"), [("k", "abc"), ("k", "tttvv")], False, f"{GO} two value one match"),
        (HeaderMatch(exact="tv", invert=True), [], False, f"{GO} invert header not present"),
        (HeaderMatch(exact="tv", invert=True), [("k", "tvv")], True, f"{GO} invert header not match"),
        (HeaderMatch(contains="tv", invert=True), [], False, f"{GO} header missing invert true"),
        (HeaderMatch(range=Range(1, 10)), [("k", "10")], False, f"{GO} equal to end"),
        (HeaderMatch(range=Range(1, 10), invert=True), [], False, f"{GO} invert header not present"),
        (HeaderMatch(present=False), [], True, f"{GO} want not present is not present"),
        (
            HeaderMatch(present=False, invert=True),
            [("k", "v")],
            True,
            f"{CORE} PresentMatcherFalseWithInvert",
        ),
        (HeaderMatch(range=Range(10, 20)), [], False, f"{CORE} RangeMatcherValidRange"),
        (HeaderMatch(range=Range(-10, 0)), [("k", "-1")], True, f"{ENVOY} HeaderRangeMatch"),
        (HeaderMatch(range=Range(-10, 0)), [("k", "-1somestring")], False, f"{ENVOY} HeaderRangeMatch"),
        (
            HeaderMatch(regex=r"\d{3}", invert=True),
            [("k", "1234"), ("k", "123.456")],
            True,
            f"{ENVOY} inverse",
        ),
        (
            HeaderMatch(regex="header-regex-a+"),
            [("k", "aheader-regex-a")],
            False,
            "psm-interop authz_test.py",
        ),
    ],
)
def test_the_rows_that_matter_most(
    match: HeaderMatch, metadata: list[tuple[str, str]], matches: bool, _source: str
) -> None:
    """Joined values, whole-value regexes, half-open ranges, and what is missing: kept beside the tables."""
    assert header("k", match)(joined(metadata), lambda: 0.0) is matches


@pytest.mark.parametrize(
    "wrong",
    [{"prefix": ""}, {"suffix": ""}, {"contains": ""}, {}, {"exact": "a", "prefix": "a"}],
    ids=["empty prefix", "empty suffix", "empty contains", "nothing", "two ways"],
)
def test_a_matcher_that_says_nothing_or_too_much_is_refused(wrong: dict[str, str]) -> None:
    """grpc-go string_matcher_test.go#TestStringMatcherFromProto, and a oneof can't hold two."""
    with pytest.raises(Invalid, match="must"):
        StringMatch(**wrong)  # type: ignore[arg-type]
