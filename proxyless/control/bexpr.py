"""Consul's `filter=` language, compiled once and evaluated here instead of on the server.

Consul stores a subset's filter unread and answers a broken one with 500 when it is used. So here a filter is
parsed and type-checked when its document is loaded, and one unfiltered watch per service feeds all subsets.
This is the language of Consul 1.8.7, grammar.peg of its go-bexpr; `selectors` knows what may be selected:

    expr   := and { "or" and }                  and := unary { "and" unary }
    unary  := "not" unary | "(" expr ")" | match
    match  := Sel ( "==" | "!=" | ["not"] "contains" | ["not"] "matches" ) Val
            | Val ["not"] "in" Sel | Sel "is" ["not"] "empty"
    Sel    := Ident { "." Ident | "[" string "]" }
    Val    := string | number | Sel             a bare path is a text: its parts joined by dots

Two differences are meant: `Service.Proxy` is not offered, and size is bounded, for a filter may come from
anybody who can write a document: its length, its nesting, and the length and memory of a regular expression.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from proxyless.control.selectors import Misuse, Test, all_of, any_of, bind, negated

__all__ = ["Filter", "FilterError", "compile_filter"]

_LONGEST = 4096
_DEEPEST = 64


class FilterError(ValueError):
    """Consul would refuse this filter, or it is too big: what is wrong, where, and what was expected."""


@dataclass(frozen=True, slots=True, repr=False)
class Filter:
    """A predicate over one decoded element of `/v1/health/service/:name`. Never raises; equal by its text."""

    text: str
    _test: Test = field(compare=False)

    def __call__(self, entry: Mapping[str, Any]) -> bool:
        return self._test(entry)

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"


def compile_filter(text: str) -> Filter:
    """Parse and check `text`. As on the server, "" lets everything pass and mere white space is an error."""
    return Filter(text, _Parser(text).parse() if text else lambda entry: True)


# White space is taken whole: a pattern that could give some of it back would misread `not  in Sel`.
_S = r"[ \t\r\n]+(?![ \t\r\n])"
_SPACE = re.compile(f"(?:{_S})?")
_IDENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?=[ \t\r\n)]|\Z)")
_AND = re.compile(f"{_S}and{_S}")
_OR = re.compile(f"{_S}or{_S}")
# `not in Sel` looks for the text "not" in Sel; only `not in in Sel` and `not in not in Sel` negate.
_NOT = re.compile(f"not{_S}(?!in{_S}(?!(?:not{_S})?in{_S}))")
_COMPARE = re.compile(f"(?:{_S})?(==|!=)(?:{_S})?|{_S}(not{_S})?(contains|matches){_S}")
_IS_EMPTY = re.compile(f"{_S}is{_S}(not{_S})?empty")
_IS_IN = re.compile(f"{_S}(not{_S})?in{_S}")

_HEX = "[0-9A-Fa-f]"
_ESCAPE = re.compile(rf"\\(?:([abfnrtv\\])|x({_HEX}{{2}})|([0-3][0-7]{{2}})|u({_HEX}{{4}})|U({_HEX}{{8}}))?")
_LETTERS = dict(zip("abfnrtv\\", "\a\b\f\n\r\t\v\\", strict=True))
_SURROGATES = range(0xD800, 0xE000)


class _Part(NamedTuple):
    name: str
    at: int


class _Parser:
    """Recursive descent that takes no branch back: linear in time, and the first error is the true one."""

    __slots__ = ("_at", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> Test:
        if len(self._text) > _LONGEST:
            self._fail(f"the filter has {len(self._text)} characters", f"at most {_LONGEST}", _LONGEST)
        try:
            self._text.encode()
        except UnicodeEncodeError as wrong:
            self._fail("half of a surrogate pair", "text that UTF-8 can carry", wrong.start)
        test = self._expression(0)
        if self._at < len(self._text):
            expected = '"and" or "or" between white space, or the end; a value such as "web-1" needs its quotes'
            self._fail("the match ended before this", expected)
        return test

    def _expression(self, depth: int) -> Test:
        self._take(_SPACE)
        tests = [self._conjunction(depth)]
        while self._take(_OR):
            tests.append(self._conjunction(depth))
        self._take(_SPACE)
        return any_of(tests)

    def _conjunction(self, depth: int) -> Test:
        tests = [self._unary(depth)]
        while self._take(_AND):
            tests.append(self._unary(depth))
        return all_of(tests)

    def _unary(self, depth: int) -> Test:
        start, negative = self._at, False
        while self._take(_NOT):
            depth, negative = depth + 1, not negative
        opened = self._at
        grouped = self._sees("(")
        if depth + grouped > _DEEPEST:
            self._fail("nested too deeply", f'at most {_DEEPEST} levels of "(" and "not"', start)
        if grouped:
            self._at += 1
            test = self._expression(depth + 1)
            self._close(")", f'the "(" of column {opened + 1} is not closed', '"and", "or" or ")"')
        else:
            test = self._match()
        return negated(test) if negative else test

    def _match(self) -> Test:
        start = self._at
        if self._sees_name():
            path = self._path()
            if op := self._take(_COMPARE):
                operator = op[1] or ("not " if op[2] else "") + op[3].replace("contains", "in")
                value_at = self._at
                return self._bind(path, operator, op, self._value(), value_at)
            if op := self._take(_IS_EMPTY):
                return self._bind(path, "is not empty" if op[1] else "is empty", op)
            value = _dotted(path)
            expected = '"==", "!=", or between white space "in", "contains", "matches", "is empty"'
            if value == "not":
                expected = 'white space after "not"'
        else:
            value = self._value()
            expected = '"in" or "not in" between white space; elsewhere the selector stands first, unquoted'
        if not (op := self._take(_IS_IN)):
            self._fail("no operator", expected)
        if not self._sees_name():
            self._fail('no selector after "in"', "a path such as Service.Tags, unquoted")
        return self._bind(self._path(), "not in" if op[1] else "in", op, value, start)

    def _bind(self, path: list[_Part], operator: str, found: re.Match[str], value: str = "", value_at: int = 0) -> Test:
        try:
            return bind([part.name for part in path], operator, value)
        except Misuse as wrong:
            places = {"operator": found.end() - len(found[0].lstrip()), "value": value_at}
            at = path[wrong.at].at if isinstance(wrong.at, int) else places[wrong.at]
            self._fail(wrong.problem, wrong.expected, at)

    def _path(self) -> list[_Part]:
        """A selector, or a bare value, which is written alike."""
        parts = [self._name()]
        while True:
            if self._sees("."):
                self._at += 1
                parts.append(self._name())
            elif self._sees("["):
                self._at += 1
                self._take(_SPACE)
                at = self._at
                if not self._sees('"', "`"):
                    self._fail("no key in the brackets", 'a quoted one, as in Service.Meta["a-b"]')
                parts.append(_Part(self._string(), at))
                self._take(_SPACE)
                self._close("]", "the bracket is not closed", '"]" after the one quoted key')
            else:
                return parts

    def _name(self) -> _Part:
        at = self._at
        if not (name := self._take(_IDENT)):
            expected = 'a letter; quote a value such as "v1.2", and write any other key as in Meta["1"]'
            self._fail("no name after the dot", expected)
        return _Part(name[0], at)

    def _value(self) -> str:
        if self._sees_name():
            return _dotted(self._path())
        if self._sees('"', "`"):
            return self._string()
        if number := self._take(_NUMBER):
            return number[0]
        self._fail("no value", 'a name, a number such as -1 or 1.5, "text" or `text`; quote everything else')

    def _string(self) -> str:
        quote, start = self._text[self._at], self._at + 1
        end = self._text.find(quote, start)
        if end < 0:
            self._fail("the quote is not closed", f"another {quote}")
        self._at, body = end + 1, self._text[start:end]
        if quote == "`":
            return body.replace("\r", "")  # Go's raw strings have no carriage returns
        if "\n" in body:
            self._fail("a line break in double quotes", r"\n, or `text`", start + body.index("\n"))
        return self._unescaped(body, start)

    def _unescaped(self, body: str, start: int) -> str:
        r"""Go's strconv.Unquote. It makes bytes: "\xe2", a third of a character, is kept as a surrogate."""
        raw, done = bytearray(), 0
        for escape in _ESCAPE.finditer(body):
            letter, byte, octal, short, long = escape.groups()
            raw += body[done : escape.start()].encode()
            done = escape.end()
            rune = int(short or long or "0", 16)
            if letter:
                raw += _LETTERS[letter].encode()
            elif byte or octal:
                raw.append(int(byte, 16) if byte else int(octal, 8))
            elif (short or long) and rune <= sys.maxunicode:
                raw += ("\ufffd" if rune in _SURROGATES else chr(rune)).encode()
            else:
                expected = r"\\, \n, \t, \x41, \u0041 and the like; between back quotes, \ is just \ itself"
                self._fail("an unknown escape in double quotes", expected, start + escape.start())
        return (raw + body[done:].encode()).decode("utf-8", "surrogateescape")

    def _sees(self, *marks: str) -> bool:
        return self._text.startswith(marks, self._at)

    def _sees_name(self) -> bool:
        return _IDENT.match(self._text, self._at) is not None

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if found := pattern.match(self._text, self._at):
            self._at = found.end()
        return found

    def _close(self, mark: str, problem: str, expected: str) -> None:
        if not self._sees(mark):
            self._fail(problem, expected)
        self._at += 1

    def _fail(self, problem: str, expected: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        near = f"{self._text[max(0, at - 30) : at]}>>>{self._text[at : at + 30]}"
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in near)
        raise FilterError(f"filter, column {at + 1}: {problem}; expected {expected}; at {shown}")


def _dotted(path: list[_Part]) -> str:
    return ".".join(part.name for part in path)
