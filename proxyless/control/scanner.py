"""Text to events: JSON and YAML come to one stream, an event at a time, nothing built and nothing remembered.

So whoever reads the stream may stop at any event, and a text of half a million brackets costs only as far as
it is read. JSON is scanned here, because it is not quite a part of YAML: tabs between tokens, surrogate pairs
and keys of more than 1024 characters are good in JSON only. YAML is left to PyYAML, whose complaints are put
into plain words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import yaml

from proxyless.model.findings import Finding

__all__ = ["CLIP", "Event", "Malformed", "forbid", "json_events", "quoted", "yaml_events"]

CLIP = 60  # characters of a key or a value that a message repeats

# libyaml is twenty times faster, but not every build of PyYAML has it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Event(NamedTuple):
    """The next thing in the text. A `plain` scalar has no quotes: its text may mean a number or a word.

    "document" starts one, which JSON leaves out. "refused" is good YAML that we don't take; `text` says why.
    """

    kind: Literal["document", "map", "list", "end", "scalar", "refused"]
    line: int
    text: str = ""
    plain: bool = False
    hint: str = ""


class Malformed(Exception):
    """The text breaks the grammar at this place; what follows can't be read."""

    def __init__(self, language: str, text: str, at: int, reason: str, hint: str = "") -> None:
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        self.finding = Finding("", f"not valid {language} at column {column}: {reason}", line, hint)
        super().__init__(str(self.finding))


def quoted(text: str) -> str:
    """Text of a document, fit for one line of a log: short, quoted, nothing in it that a terminal obeys."""
    clipped = text if len(text) <= CLIP else f"{text[: CLIP - 3]}..."
    return json.dumps(clipped, ensure_ascii=not clipped.isprintable())


def forbid(pattern: re.Pattern[str], text: str) -> None:
    """Raise `Malformed` at the first character that `pattern` finds."""
    if found := pattern.search(text):
        reason = f"the character U+{ord(found[0]):04X} is not allowed"
        hint = "remove it, or write it as an escape in double quotes"
        raise Malformed("text", text, found.start(), reason, hint)


_UNCLOSED = "expected a closing quote for the text that begins here"


_SIGNS = frozenset("{}[],:\"'#&*!|>%@`?-\\\t")


def _expected(what: str, text: str, at: int) -> str:
    """What was expected at `at`, and what stands there: a sign of the grammar, or only that it is something else.

    Never the text itself: what breaks the grammar may be half of a value, and values may be secrets.
    """
    if not text[at:].strip():
        return f"expected {what}, got the end of the text"
    sign = text[at]
    if sign == "\n":
        return f"expected {what}, got the end of the line"
    return f"expected {what}, got {quoted(sign) if sign in _SIGNS else 'other text'}"


# --- JSON ---

_BLANK = re.compile(r"[ \t\r\n]*")
_LITERAL = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_STRING = json.JSONDecoder()


def json_events(text: str) -> Iterator[Event]:
    """RFC 8259 to the letter, without recursion; strings are left to the standard library."""

    def fault(what: str) -> Malformed:
        return Malformed("JSON", text, start, _expected(what, text, start))

    at, line = 0, 1
    closers: list[str] = []
    wanted: Literal["first", "value", "key", "colon", "more"] = "value"
    while True:
        blank = _BLANK.match(text, at)
        start = blank.end() if blank else at
        line += text.count("\n", at, start)
        char, at = text[start : start + 1], start + 1
        closer = closers[-1] if closers else ""
        if wanted == "first" and char != closer:
            wanted = "key" if closer == "}" else "value"
        if wanted in ("first", "more") and char == closer:
            if not closers:
                return  # both are empty: the end of the text, and nothing is open
            closers.pop()
            yield Event("end", line)
            wanted = "more"
        elif wanted == "more":
            if char != "," or not closers:
                raise fault(f"',' or '{closer}'" if closers else "the end of the document")
            wanted = "key" if closer == "}" else "value"
        elif wanted == "colon":
            if char != ":":
                raise fault("':' after the key")
            wanted = "value"
        elif char == '"':
            try:
                string, at = _STRING.raw_decode(text, start)
            except json.JSONDecodeError as error:
                raise _bad_string(text, error) from None
            yield Event("scalar", line, string)
            wanted = "colon" if wanted == "key" else "more"
        elif wanted == "key":
            raise fault("a key in double quotes")
        elif char in ("{", "["):
            yield Event("map" if char == "{" else "list", line)
            closers.append("}" if char == "{" else "]")
            wanted = "first"
        else:
            literal = _LITERAL.match(text, start)
            if literal is None:
                raise fault("a value")
            yield Event("scalar", line, literal[0], plain=True)
            at = literal.end()
            wanted = "more"


def _bad_string(text: str, error: json.JSONDecodeError) -> Malformed:
    if error.msg.startswith("Unterminated"):
        return Malformed("JSON", text, error.pos, _UNCLOSED)
    what = "a closing quote" if error.msg.startswith("Invalid control") else "an escape that JSON knows"
    return Malformed("JSON", text, error.pos, _expected(what, text, error.pos))


# --- YAML ---

# What JSON allows inside a string and YAML doesn't; and U+0085, U+2028 and U+2029, which YAML 1.1 takes for
# line breaks: what an editor shows as the rest of a value, the parser would take for keys.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def yaml_events(text: str) -> Iterator[Event]:
    """PyYAML's events, with its tags, anchors and aliases turned into refusals."""
    forbid(_NOT_IN_YAML, text)
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    reached = 0
    try:
        for event in events:
            line, reached = event.start_mark.line + 1, event.end_mark.index
            if isinstance(event, yaml.AliasEvent):
                hint = "write the value out where it is needed; put text that begins with * in quotes"
                yield Event("refused", line, "aliases (*name) are not allowed", hint=hint)
                yield Event("scalar", line, plain=True)
            elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
                if event.anchor is not None:
                    hint = "remove it; put text that begins with & in quotes"
                    yield Event("refused", line, "anchors (&name) are not allowed", hint=hint)
                if event.tag is not None:
                    hint = "remove it; quotes keep a number as text, and text that begins with ! as it is"
                    yield Event("refused", line, "tags (!name) are not allowed", hint=hint)
                if isinstance(event, yaml.ScalarEvent):
                    yield Event("scalar", line, event.value, plain=not event.style)  # None, or "" in libyaml
                else:
                    yield Event("map" if isinstance(event, yaml.MappingStartEvent) else "list", line)
            elif isinstance(event, yaml.CollectionEndEvent):
                yield Event("end", line)
            elif isinstance(event, yaml.DocumentStartEvent):
                yield Event("document", line)
    except yaml.MarkedYAMLError as error:
        raise _in_plain_words(text, error) from None
    except Exception as error:
        # PyYAML lets others out too, OverflowError for "\UFFFFFFFF" among them, which don't say where.
        raise Malformed("YAML", text, reached, f"the parser gave up here ({type(error).__name__})") from None


# What PyYAML or libyaml says ("context: problem", as a pattern), what was expected there, and the way out.
_COMPLAINTS = (
    (
        r"mapping (values|keys)",
        "the end of the value",
        "quote text with ': ' in it; align the keys of a mapping",
    ),
    (r"tab character", "spaces", "indent with spaces, never with tabs"),
    (r"directive|incompatible", "the document", "remove lines that begin with %"),
    (r"sequence entries", "a value", "begin a list on the line below its key"),
    (r"start any token", "a value", "put it in quotes; indent with spaces, never with tabs"),
    (r"unknown escape", "an escape that YAML knows", "in single quotes a backslash is only a backslash"),
    (r"hexa?decimal|character escape", "the code of a character", "write the character itself"),
    (r"simple key", "'key: value'", "indent all lines of a text, or put it in quotes"),
    (r"flow sequence", "',' or ']'", ""),
    (r"flow mapping", "',' or '}'", ""),
    (r"block mapping", "a key", "align the keys of a mapping"),
    (r"block collection", "'- '", "align the items of a list"),
    (r"node content", "a value", ""),
    (r"document start", "the end of the document", ""),
    (r"anchor|alias", "a value", "put text that begins with & or * in quotes"),
    (r"tag\b", "a value", "put text that begins with ! in quotes"),
    (r"block scalar", "the end of the line", "begin the text on the line below | or >"),
)


def _in_plain_words(text: str, error: yaml.MarkedYAMLError) -> Malformed:
    """Where it is, what was expected and what stands there, in place of the parser's own trace."""
    # A complaint may repeat a whole tag of the text; what tells it from others comes before that.
    said = f"{error.context or ''}: {error.problem or ''}"[:200]
    began, found = (mark.index if mark else 0 for mark in (error.context_mark, error.problem_mark))
    if re.search(r"quoted scalar.*unexpected", said):
        return Malformed("YAML", text, began, _UNCLOSED)
    if "simple key" in said:
        found = began  # the parser misses the colon only on a later line
    reason, hint = "the parser can't make anything of what stands here", ""
    for pattern, what, way_out in _COMPLAINTS:
        if re.search(pattern, said):
            reason, hint = _expected(what, text, found), way_out
            break
    inside = re.search(r"(?:flow|block) (mapping|sequence|collection)", said)
    if inside is not None and "\n" in text[began:found]:
        kind = "mapping" if inside[1] == "mapping" else "list"
        first = text.count("\n", 0, began) + 1
        reason += f", in the {kind} that begins on line {first}"
    return Malformed("YAML", text, found, reason, hint)
