"""What a Consul filter may select from an entry, what may be asked of it, and the test that a match becomes.

The table is that of `/v1/health/service/:name` on Consul 1.8.7, without `Service.Proxy`; the coercions of
values are Go's. A match is checked when it is compiled, so that its test can fail on no entry: an entry is
JSON from the network, and what is null or of a wrong type in it counts as Go's zero value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import re2

Test = Callable[[Any], bool]

# In go-bexpr of 1.8.7 `matches` on a missing map key is true, in its successors false: the one switch.
_MISSING_KEY_MATCHES = True
_LONGEST_REGEX = 1024


class Misuse(Exception):
    """A match that cannot be; `at` says which piece of it is wrong: an index into its path, or another."""

    def __init__(self, at: int | Literal["operator", "value"], problem: str, expected: str) -> None:
        super().__init__(problem)
        self.at, self.problem, self.expected = at, problem, expected


class _Kind(NamedTuple):
    name: str
    operators: tuple[str, ...] = ()
    below: Mapping[str, _Kind] = {}  # of a list of structures: the fields of its elements


_ANY = ""  # as go-bexpr's FieldNameAny: the single entry below a map, good for every key
_IN = ("in", "not in")  # `contains` is the same operator, its operands swapped
_EMPTY = ("is empty", "is not empty")

_STRING = _Kind("a string", ("==", "!=", *_IN, "matches", "not matches"))
_INTEGER = _Kind("an integer", ("==", "!="))
_BOOLEAN = _Kind("a boolean", ("==", "!="))
_STRINGS = _Kind("a list of strings", (*_IN, *_EMPTY))


def _structure(*strings: str, **others: _Kind) -> _Kind:
    return _Kind("a structure", below=dict.fromkeys(strings, _STRING) | others)


def _map_of(value: _Kind) -> _Kind:
    return _Kind("a map", (*_IN, *_EMPTY), {_ANY: value})


_CHECK = _structure(
    *("Node", "CheckID", "Name", "Status", "Notes", "Output", "ServiceID", "ServiceName", "Type"),
    ServiceTags=_STRINGS,
)
_CHECKS = _Kind("a list of structures", _EMPTY, _CHECK.below)
_ENTRY = _structure(
    Service=_structure(
        *("Kind", "ID", "Service", "Address"),
        Tags=_STRINGS,
        Port=_INTEGER,
        EnableTagOverride=_BOOLEAN,
        Meta=_map_of(_STRING),
        TaggedAddresses=_map_of(_structure("Address", Port=_INTEGER)),
        Weights=_structure(Passing=_INTEGER, Warning=_INTEGER),
        Connect=_structure(Native=_BOOLEAN),
    ),
    Node=_structure(
        *("ID", "Node", "Address", "Datacenter"),
        TaggedAddresses=_map_of(_STRING),
        Meta=_map_of(_STRING),
    ),
    Checks=_CHECKS,
)


def bind(path: Sequence[str], operator: str, value: str) -> Test:
    """The test of a whole entry that one match stands for; raises `Misuse`."""
    kind = _ENTRY
    missing = operator in ("!=", "not in", "not matches") or (operator == "matches" and _MISSING_KEY_MATCHES)
    steps: list[Callable[[Test], Test]] = []
    for index, name in enumerate(path):
        in_map = _ANY in kind.below
        below = kind.below.get(_ANY if in_map else name)
        if below is None:
            holder = f"{'.'.join(path[:index])}, {kind.name}," if index else "an entry"
            raise Misuse(index, f"{holder} has no {name!r} to filter by", _one_of(kind.below))
        if kind is _CHECKS:
            steps.append(_some)
        steps.append(_key(name, missing) if in_map else _field(name))
        kind = below
    if operator not in kind.operators:
        problem = f'"{operator}" cannot be asked of {".".join(path)}, {kind.name}'
        raise Misuse("operator", problem, _one_of(kind.operators or kind.below))
    test = _leaf(kind, operator, value)
    if operator in ("!=", "not in", "not matches", "is not empty"):
        test = negated(test)
    for step in reversed(steps):
        test = step(test)
    return test


def _one_of(names: Collection[str]) -> str:
    return f"one of {', '.join(names)}" if names else "nothing below it"


# --- the value at the end of the path; always in the affirmative, `bind` negates


def _leaf(kind: _Kind, operator: str, value: str) -> Test:
    if operator in _EMPTY:
        return lambda v: not (isinstance(v, _CONTAINERS) and v)
    if operator in _IN:
        return _contains(kind, value)
    if operator in ("matches", "not matches"):
        return _matches(value)
    if kind is _INTEGER:
        number = _integer(value)
        return lambda v: (v if type(v) is int else 0) == number
    if kind is _BOOLEAN:
        boolean = _BOOLEANS.get(value)
        if boolean is None:
            raise Misuse("value", f"{value!r} is no boolean", _one_of(_BOOLEANS))
        return lambda v: (v is True) == boolean
    return lambda v: _text(v) == value


def _contains(kind: _Kind, value: str) -> Test:
    if kind is _STRINGS:
        return lambda v: isinstance(v, _LISTS) and any(_text(item) == value for item in v)
    if kind is not _STRING:
        return lambda v: isinstance(v, Mapping) and value in v
    if value.isascii():
        return lambda v: value in _text(v)
    part = value.encode("utf-8", "surrogateescape")  # "\xe2" is a third of a character, and found in it
    return lambda v: part in _utf8(v)


# Go's strconv.ParseInt with base 0, so "0x1F", "017" and "1_000" are integers; and its ParseBool.
_INT = re.compile(r"[+-]?(?:0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|0|[1-9](?:_?[0-9])*)")
_C_OCTAL = re.compile(r"[+-]?0[0-7]+")
_INT64 = range(-(1 << 63), 1 << 63)
_BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True)
_BOOLEANS |= dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False)


def _integer(value: str) -> int:
    if _INT.fullmatch(value):
        digits = value.replace("_", "")
        number = int(digits, 8 if _C_OCTAL.fullmatch(digits) else 0)
        if number in _INT64:
            return number
    raise Misuse("value", f"{value!r} is no integer of 64 bits", "one such as 9001")


_QUIET = re2.Options()
_QUIET.log_errors = False  # else RE2 prints its complaints to stderr
_QUIET.never_capture = True

# RE2 knows three things that Go's regexp of that time does not: \C and two spellings of group names. The
# other branches step over quoted text, escapes and classes, where the same characters mean something else.
_NOT_IN_GO = re.compile(
    r"\\Q(?s:.*?)(?:\\E|\Z) | (\\C) | \\(?s:.) | \[\^?\]?(?:\[:\^?\w+:\]|\\(?s:.)|[^]\\])*\]"
    r" | (\(\?<|\(\?P<[0-9A-Za-z_]*[^0-9A-Za-z_>])",
    re.VERBOSE,
)


def _matches(value: str) -> Test:
    if len(value) > _LONGEST_REGEX:
        raise Misuse("value", f"a regular expression of {len(value)} characters", f"at most {_LONGEST_REGEX}")
    try:
        search = re2.compile(value.encode(), _QUIET).search
    except UnicodeEncodeError:
        raise Misuse("value", "the regular expression is no UTF-8", "whole characters") from None
    except re2.error as wrong:
        why = wrong.args[0].decode(errors="replace") if wrong.args else "it does not compile"
        expected = "RE2 syntax (which has no look-around and no back-references)"
        raise Misuse("value", f"a bad regular expression: {why}", expected) from None
    for found in _NOT_IN_GO.finditer(value):
        if found.lastindex:
            expected = r"no \C, and groups named (?P<like_this>…)"
            raise Misuse("value", f"Go's regular expressions have no {found[0]}", expected)
    return lambda v: search(_utf8(v)) is not None  # as in Go, anywhere in the text


_LISTS = (list, tuple)
_CONTAINERS = (list, tuple, Mapping)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _utf8(value: Any) -> bytes:
    return _text(value).encode("utf-8", "replace")


# --- the way to it


def _field(name: str) -> Callable[[Test], Test]:
    """Into a field of a structure: an absent one has its zero value."""
    return lambda test: lambda v: test(v.get(name) if isinstance(v, Mapping) else None)


def _key(name: str, missing: bool) -> Callable[[Test], Test]:
    """Into a map: where the key is missing, the operator alone decides."""
    return lambda test: lambda v: test(v[name]) if isinstance(v, Mapping) and name in v else missing


def _some(test: Test) -> Test:
    """Into a list of structures: one that satisfies is enough, for the negative operators too."""
    return lambda v: isinstance(v, _LISTS) and any(test(item) for item in v)


# --- tests made of tests


def negated(test: Test) -> Test:
    return lambda v: not test(v)


def all_of(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda v: all(test(v) for test in tests)


def any_of(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda v: any(test(v) for test in tests)
