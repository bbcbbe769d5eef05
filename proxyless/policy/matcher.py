"""Does a route match a request? First match wins, even if a later one is more specific (gRFC A28).

A matcher works in two steps, because a stub asks for the same few methods again and again: `narrow` decides
what depends on method, authority and this process alone, once per snapshot; what it leaves over is asked of
each request's headers. `why_not` says for `explain`, in words, what kept a route from matching.

Rules kept here, all of them Envoy's and C-core's: values of a repeated key are joined with "," in order; a
regex is RE2 and must match the whole value; `ignoreCase` has no effect on a regex; a range needs a value that
is a whole number from end to end; a missing header matches nothing but `present: false`, inverted or not;
"-bin" keys are treated as absent (gRFC A28).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import re2

from proxyless.model.matches import BARE, HeaderMatch, Match, StringMatch, veiled

Headers: TypeAlias = Mapping[str, str]
Rng: TypeAlias = Callable[[], float]
Test: TypeAlias = Callable[[Headers, Rng], bool]
Text: TypeAlias = Callable[[str], bool]

_QUIET = re2.Options()
_QUIET.log_errors = False
_QUIET.max_mem = 1 << 18  # 256 KiB a program: RE2 refuses what would need more, e.g. x{1000}{1000}

_CACHED = 128
"""Values up to this length have their verdict kept: RE2 costs 3 us a match in Python, a hit 0.1 us."""


@lru_cache(maxsize=1024)
def regex(pattern: str) -> Text:
    """Compile `pattern` to a whole-value match; raises ValueError with RE2's own reason.

    Kept, because a document is compiled anew at every change around it, and a hostile pattern costs 6 ms.
    """
    try:
        compiled = re2.compile(pattern, _QUIET)
    except re2.error as wrong:
        reason = wrong.args[0].decode() if isinstance(wrong.args[0], bytes) else str(wrong)
        raise ValueError(reason) from None

    def ask(value: str) -> bool:
        try:
            return compiled.fullmatch(value) is not None
        except UnicodeEncodeError:  # a lone surrogate: no text that RE2 could match
            return False

    kept = lru_cache(maxsize=512)(ask)
    return lambda value: kept(value) if len(value) <= _CACHED else ask(value)


def text(match: StringMatch | HeaderMatch) -> Text:
    """The comparison that `match` asks for."""
    fold = match.ignore_case
    if match.regex is not None:
        return regex(match.regex)
    for way, compare in (
        ("exact", str.__eq__),
        ("prefix", str.startswith),
        ("suffix", str.endswith),
        ("contains", str.__contains__),
    ):
        wanted = getattr(match, way)
        if wanted is not None:
            # ASCII folding would do, since metadata is ASCII; casefold does the same for it.
            wanted = wanted.casefold() if fold else wanted
            return _comparison(compare, wanted, fold)
    raise AssertionError(f"a match without a way to match: {match!r}")


def _comparison(compare: Callable[[str, str], bool], wanted: str, fold: bool) -> Text:
    if fold:
        return lambda value: compare(value.casefold(), wanted)
    return lambda value: compare(value, wanted)


def header(name: str, match: HeaderMatch, *, missing_is_empty: bool = False) -> Test:
    """The question that `match` asks of the header `name`; the dice are not asked, and may be left out."""
    if name.endswith("-bin"):
        name = "-bin"  # never a key of the joined headers: absent
    if match.present is not None:
        wanted = match.present is not match.invert

        def is_there(headers: Headers, _rng: Rng | None = None) -> bool:
            return (name in headers) is wanted

        return is_there
    ask = _range(match) if match.range is not None else text(match)
    invert = match.invert
    default = "" if missing_is_empty else None

    if match.exact is not None and not (match.ignore_case or invert or missing_is_empty):
        exact = match.exact  # the usual question, without a call for each of its parts

        def is_equal(headers: Headers, _rng: Rng | None = None) -> bool:
            return headers.get(name) == exact

        return is_equal

    def test(headers: Headers, _rng: Rng | None = None) -> bool:
        value = headers.get(name, default)
        # A missing header never matches, not even inverted: Envoy's `treat_missing_header_as_empty: false`.
        return value is not None and ask(value) is not invert

    return test


def _range(match: HeaderMatch) -> Text:
    assert match.range is not None
    start, end = match.range.start, match.range.end

    def ask(value: str) -> bool:
        digits = value[1:] if value[:1] in ("-", "+") else value
        # A full integer parse, as absl::SimpleAtoi: no blanks, no underscores, no decimals, within 64 bits.
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 19):
            return False
        return start <= int(value) < end

    return ask


def joined(metadata: Iterable[tuple[str, Any]] | None) -> Headers:
    """Request metadata as matchers see it: one value a key, "-bin" keys left out."""
    if metadata is None:
        return BARE
    headers = dict(BARE)
    seen = set()
    for key, value in metadata:
        if key.endswith("-bin"):
            continue
        shown = value if isinstance(value, str) else bytes(value).decode("latin-1")
        headers[key] = f"{headers[key]},{shown}" if key in seen else shown
        seen.add(key)
    return headers


class Matcher:
    """The `match` list of one route, compiled for a process with `labels`. No block at all matches all."""

    __slots__ = ("_blocks", "_labels", "asked", "chance")

    def __init__(self, blocks: Sequence[Match], labels: Mapping[str, str]) -> None:
        self._blocks = tuple(_Block(block) for block in blocks)
        self._labels = dict(labels)
        self.asked = frozenset(name for block in blocks for name in (*block.headers, *block.without_headers))
        """The headers that it asks about: it has one answer for all requests that carry none of them."""
        self.chance = any(block.fraction is not None for block in blocks)
        """But for chance, where that has a say."""

    def narrow(self, method: str, authority: str) -> tuple[bool, Test | None]:
        """(can it match at all?, what to ask of each request: None if nothing)."""
        if not self._blocks:
            return True, None
        tests = []
        for block in self._blocks:
            if block.fixed(method, authority, self._labels) is None:
                if not block.tests:
                    return True, None
                tests.append(block.tests)
        if not tests:
            return False, None
        if len(tests) == 1 and len(tests[0]) == 1:
            return True, tests[0][0][1]

        def any_block(headers: Headers, rng: Rng) -> bool:
            return any(all(test(headers, rng) for _, test in block) for block in tests)

        return True, any_block

    def why_not(self, method: str, authority: str, headers: Headers) -> str:
        """What kept this route from matching: "" if nothing did. Fractions count as matched: they are chance."""
        reasons = []
        for block in self._blocks:
            failed = block.fixed(method, authority, self._labels)
            if failed is None:
                wrong = (words for words, test in block.tests if not test(headers, lambda: 0.0))
                failed = next(wrong, None)
            if failed is None:
                return ""
            reasons.append(failed)
        return "; ".join(dict.fromkeys(reasons))


class _Block:
    """One block: the fixed conditions as functions of method, authority and labels, the rest as tests."""

    __slots__ = ("_authority", "_grpc", "_labels", "_path", "_said", "tests")

    def __init__(self, block: Match) -> None:
        self._said = block
        self._path = text(block.path) if block.path else None
        self._authority = text(block.authority) if block.authority else None
        self._grpc = f"/{block.grpc.service}/{block.grpc.method or ''}" if block.grpc else None
        self._labels = block.source_labels
        tests: list[tuple[str, Test]] = []
        for name, match in block.headers.items():
            tests.append((f"header {name} is not {describe(veiled(name, match))}", header(name, match)))
        for name, match in block.without_headers.items():
            # Istio: a missing header counts as "" here, but for presence checks (`route.go` withoutHeaders).
            ask = header(name, match, missing_is_empty=True)
            tests.append((f"header {name} is {describe(veiled(name, match))}", _negated(ask)))
        if block.fraction is not None:
            tests.append((f"fraction {block.fraction:g}% draws 0", _fraction(block.fraction)))
        self.tests = tuple(tests)

    def fixed(self, method: str, authority: str, labels: Mapping[str, str]) -> str | None:
        """Which fixed condition fails, in words; None if all hold."""
        if self._path is not None and not self._path(method):
            assert self._said.path is not None
            return f"path {method} is not {describe(self._said.path)}"
        if self._grpc is not None:
            whole = self._said.grpc is not None and self._said.grpc.method is not None
            if method != self._grpc if whole else not method.startswith(self._grpc):
                return f"path {method} is not {self._grpc}{'' if whole else '*'}"
        if self._authority is not None and not self._authority(authority):
            assert self._said.authority is not None
            return f"authority {authority} is not {describe(self._said.authority)}"
        for label, value in self._labels.items():
            if labels.get(label) != value:
                return f"this process has no label {label}={value}"
        return None


def _negated(ask: Test) -> Test:
    return lambda headers, rng: not ask(headers, rng)


def _fraction(percent: float) -> Test:
    # Half-open (draw < fraction): 0 never passes and 100 always does, where A28's "<=" lets 0 pass sometimes.
    share = percent / 100.0
    return lambda _headers, rng: rng() < share


def describe(match: StringMatch | HeaderMatch) -> str:
    """`match` in words, without the values of any request: `exact "premium"`, `regex ".*new-ui.*" inverted`."""
    ways = ("exact", "prefix", "suffix", "contains", "regex")
    words = [f'{way} "{wanted}"' for way in ways if (wanted := getattr(match, way)) is not None]
    if isinstance(match, HeaderMatch):
        if match.present is not None:
            words.append("present" if match.present else "absent")
        if match.range is not None:
            words.append(f"in {match.range.start}..{match.range.end}")
        if match.invert:
            words.append("inverted")
    if match.ignore_case:
        words.append("in any case")
    return " ".join(words)
