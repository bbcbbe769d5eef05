"""Text to plain data and lines: what YAML would misread, and how each thing that is refused is told."""

from __future__ import annotations

import json
import math
from typing import Any
from unittest import mock

import pytest
import yaml

from proxyless.control import scanner
from proxyless.control.syntax import Path, parse, render_path

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=LOADERS, ids=lambda loader: str(loader.__name__))
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner, "_LOADER", request.param)


# Whatever PyYAML was built with, the answers are the same.
both_loaders = pytest.mark.usefixtures("_loader")


def told(text: str | bytes) -> list[str]:
    return [str(finding) for finding in parse(text).findings]


def good(text: str | bytes) -> Any:
    parsed = parse(text)
    assert parsed.findings == ()
    return parsed.data


# What stands in the text, and what YAML 1.2's core schema (10.3.2) says it is; without octal, hexadecimal and
# leading zeros, which are text here.
SCALARS: list[tuple[str, Any]] = [
    *((text, True) for text in ("true", "True", "TRUE")),
    *((text, False) for text in ("false", "False", "FALSE")),
    *((text, None) for text in ("null", "Null", "NULL", "~", "")),
    *((text, text) for text in ("on", "off", "yes", "no", "NO", "y", "n", "tRUE", "nil", "none")),
    *((text, text) for text in ("0777", "007", "00.5", "0o17", "0x1F", "0b101", "1_000", "1_0.5", "٣")),
    *((text, text) for text in ("1:30", "190:20:30", "2024-01-31", "2024-01-31T10:00:00Z", "5s", "1.2.3")),
    *((text, text) for text in (".", "1e", "e3", "inf", "nan", "NaN", "Infinity", "=", "<<", "a#b")),
    *((text, int(text)) for text in ("0", "90", "-7", "+7", "-0", "9" * 30)),
    *((text, float(text)) for text in ("1.5", "-.5", "2.", "1e3", "1E+2", "1.5e-3", "1e999")),
    *((text, math.inf) for text in (".inf", ".Inf", "+.INF")),
    ("-.inf", -math.inf),
    ('"true"', "true"),
    ("'1'", "1"),
    ('"~"', "~"),
    ("''", ""),
    ("|\n  1\n", "1\n"),
    (">-\n  true", "true"),
    ("1\n  2", "1 2"),
    (r'"a\u00e9\n"', "aé\n"),
    (r"'\d+'", r"\d+"),
    ("a # b", "a"),
]


@both_loaders
@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_a_scalar_means_what_it_looks_like(text: str, value: Any) -> None:
    """Only true, false, null, decimal numbers and the words for infinity are more than text."""
    data = good(f"a: {text}")
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


@both_loaders
def test_nan_is_a_float() -> None:
    """It is left to later checks, which know where a number must be finite."""
    assert math.isnan(good("a: .nan")["a"])


@both_loaders
@pytest.mark.parametrize("key", ["on", "NO", "yes", "true", "null", "~", "1", "1.50", "0x1F", "1:30", "<<", "="])
def test_a_key_is_its_own_text(key: str) -> None:
    """A key is never a boolean, a number or a merge."""
    assert good(f"{key}: 1\n") == {key: 1}


@both_loaders
def test_lines_of_yaml() -> None:
    """Every key and every item has its line, whatever ends the lines, and comments count."""
    text = "# head\nroutes:\n- name: a\n  split: [{subset: v1},\n    {subset: v2}]\n-\n  - |\n    x\n\non: 1\n"
    for variant in (
        text,
        text.replace("\n", "\r\n"),
        text.replace("\n", "\r"),
        text.encode(),
        f"\ufeff{text}",
    ):
        parsed = parse(variant)
        assert parsed.findings == ()
        split = [{"subset": "v1"}, {"subset": "v2"}]
        assert parsed.data == {"routes": [{"name": "a", "split": split}, ["x\n"]], "on": 1}
        assert parsed.lines == {
            (): 1,
            ("routes",): 2,
            ("routes", 0): 3,
            ("routes", 0, "name"): 3,
            ("routes", 0, "split"): 4,
            ("routes", 0, "split", 0): 4,
            ("routes", 0, "split", 0, "subset"): 4,
            ("routes", 0, "split", 1): 5,
            ("routes", 0, "split", 1, "subset"): 5,
            ("routes", 1): 7,
            ("routes", 1, 0): 7,
            ("on",): 10,
        }


def test_lines_of_json() -> None:
    """JSON has lines as well, and may be indented by tabs."""
    parsed = parse('\ufeff{\n\t"a": [1,\n\t\t{"b": null}\n\t],\r\n\t"c"\r:\ttrue,\n"d":0}\n')
    assert parsed.findings == ()
    assert parsed.data == {"a": [1, {"b": None}], "c": True, "d": 0}
    assert parsed.lines == {
        (): 1,
        ("a",): 2,
        ("a", 0): 2,
        ("a", 1): 3,
        ("a", 1, "b"): 3,
        ("c",): 5,
        ("d",): 7,
    }


@pytest.mark.parametrize(
    "text",
    [
        r'{"a": "\ud83d\ude00 \/ \u0000", "\ud83d\ude00": 1}',
        '{"' + "k" * 2000 + '":1}',
        '{"a":[],"b":{},"c":[[]],"":0}',
        '{"a": -0, "b": 1E400, "c": 0.5e-3, "d": "\u2028 \x7f"}',
    ],
)
def test_all_of_json_is_read_as_json(text: str) -> None:
    """Even what YAML reads otherwise or not at all."""
    assert good(text) == json.loads(text)


@both_loaders
@pytest.mark.parametrize("text", ["{a: 1, b: [x, y]}", "{'a': 1, b: [x, y],}", "{a: 1, # why\n b: [\n x, y]}"])
def test_a_flow_mapping_of_yaml_looks_like_json_and_is_read(text: str) -> None:
    """A first brace is no promise."""
    assert good(text) == {"a": 1, "b": ["x", "y"]}


TWICE = "this key is given twice, first on line {}; keep one of them"
TAG = "remove it; quotes keep a number as text, and text that begins with ! as it is"
ANCHOR = "remove it; put text that begins with & in quotes"
ALIAS = "write the value out where it is needed; put text that begins with * in quotes"
KEY = "a key must be text, got a {}; put text that begins with {{ or [ in quotes"
DIGITS = "an integer of {} digits, more than 30; quote it if it is text"

REFUSALS: list[tuple[str | bytes, str]] = [
    ("", "the document is empty"),
    (" \n# nothing\n", "the document is empty"),
    ("---\n", "the document is empty"),
    ("- a", "line 1: the document must be a mapping (key: value), got a list"),
    ('["a"]', "line 1: the document must be a mapping (key: value), got a list"),
    ("YTogMQo=", "line 1: the document must be a mapping (key: value), got text"),
    ("12", "line 1: the document must be a mapping (key: value), got a number"),
    ("true", "line 1: the document must be a mapping (key: value), got a boolean"),
    (b"a: 1\nb: \xff", "line 2: the document is not UTF-8: invalid start byte; save it as UTF-8"),
    ("a: 1\n---\nb: 2", "line 2: a second document begins here; keep one, and no further ---"),
    ("a:\n  b: 1\n  c: 2\n  b: 3", f"a.b (line 4): {TWICE.format(2)}"),
    ('{"a":1,\n"\\u0061":2}', f"a (line 2): {TWICE.format(1)}"),
    ("a: 1\na: 2\na: 3", f"a (line 3): {TWICE.format(1)}"),
    ("[{a: 1, a: 2}]", f"[0].a (line 1): {TWICE.format(1)}"),
    ("1: a\n'1': b", f'["1"] (line 2): {TWICE.format(1)}'),
    ("a:\n- &x 1", f"a[0] (line 2): anchors (&name) are not allowed; {ANCHOR}"),
    ("a: &x {b: 1}", f"a (line 1): anchors (&name) are not allowed; {ANCHOR}"),
    ("a: *x", f"a (line 1): aliases (*name) are not allowed; {ALIAS}"),
    ("a: !x 1", f"a (line 1): tags (!name) are not allowed; {TAG}"),
    ("a: !!str 1", f"a (line 1): tags (!name) are not allowed; {TAG}"),
    ("a: ! 1", f"a (line 1): tags (!name) are not allowed; {TAG}"),
    ("a: !!python/name:os [x]", f"a (line 1): tags (!name) are not allowed; {TAG}"),
    ("a:\n  ? [x]\n  : 1", f"a (line 2): {KEY.format('list')}"),
    ("a: {{b}}", f"a (line 1): {KEY.format('mapping')}"),
    (f"a: -{'9' * 31}", f"a (line 1): {DIGITS.format(31)}"),
    (f'{{"a": [{"9" * 5000}]}}', f"a[0] (line 1): {DIGITS.format(5000)}"),
    ('{"a": "\\ud83d"}', r"a (line 1): half a surrogate pair; write the whole pair"),
]


@both_loaders
@pytest.mark.parametrize(("text", "finding"), REFUSALS, ids=[str(row[0])[:20] for row in REFUSALS])
def test_what_is_refused_says_where_and_why(text: str | bytes, finding: str) -> None:
    """What can't be meant, or would be read in two ways, has a finding of its own with path and line."""
    assert finding in told(text)


@pytest.mark.parametrize("char", ["\x00", "\x1b", "\x08", "\ud800", "\x7f", "\x85", "\u2028", "\ufeff", "\uffff"])
def test_characters_that_nobody_sees_are_refused(char: str) -> None:
    """U+0085 and U+2028 among them: to YAML 1.1 they end the line, and `b` would be a key."""
    hint = "remove it, or write it as an escape in double quotes"
    assert told(f"a: 1\nx: y{char}b: 2") == [
        f"line 2: not valid text at column 5: the character U+{ord(char):04X} is not allowed; {hint}"
    ]


BREAKS = [
    ("a: b: c", "YAML", 1, 5, 'expected the end of the value, got ":"'),
    ("a:\n\t- b", "YAML", 2, 1, 'expected a value, got "\\t"'),
    ("a: @x", "YAML", 1, 4, 'expected a value, got "@"'),
    ("a: - b", "YAML", 1, 4, 'expected a value, got "-"'),
    ("a: [\n 2", "YAML", 2, 3, "expected ',' or ']', got the end of the text, "
     "in the list that begins on line 1"),
    ("a: {x: 1 y: 2}", "YAML", 1, 11, 'expected \',\' or \'}\', got ":"'),
    ("a: 1\nb: 'x\n\n", "YAML", 2, 4, "expected a closing quote for the text that begins here"),
    ('a: "\\uZZZZ"', "YAML", 1, 7, 'expected the code of a character, got other text'),
    ("a:\n  b: 1\n c: 2", "YAML", 3, 2, 'expected a key, got other text, in the mapping that begins on line 1'),
    ("- a\nb: 1", "YAML", 2, 1, "expected '- ', got other text, in the list that begins on line 1"),
    ("a: b\nc\n", "YAML", 2, 1, "expected 'key: value', got other text"),
    ("a: |x\n  y", "YAML", 1, 5, 'expected the end of the line, got other text'),
    ("a: ]", "YAML", 1, 4, 'expected a value, got "]"'),
    ("a: &\n", "YAML", 1, 5, "expected a value, got the end of the text"),
    ("a: !b!c d", "YAML", 1, 4, 'expected a value, got "!"'),
    ("%YAML 3.0\n---\na: 1", "YAML", 1, 1, 'expected the document, got "%"'),
    ("{a: 1}}", "YAML", 1, 7, 'expected the end of the document, got "}"'),
    ("{a: [1}", "YAML", 1, 7, 'expected \',\' or \']\', got "}"'),
    ('{"a": 1\n "b": 2}', "JSON", 2, 2, 'expected \',\' or \'}\', got "\\""'),
    ('{"a": [1, 2}', "JSON", 1, 12, 'expected \',\' or \']\', got "}"'),
    ('{"a" [1]}', "JSON", 1, 6, 'expected \':\' after the key, got "["'),
    ('{"a": {"b": "c}}', "JSON", 1, 13, "expected a closing quote for the text that begins here"),
    ('{"a": [x]], "b": [1, }', "JSON", 1, 8, 'expected a value, got other text'),
    ('{"a": "\\d"}', "JSON", 1, 8, 'expected an escape that JSON knows, got "\\\\"'),
    ('{"a": "x,\n "b": 1}', "JSON", 1, 10, "expected a closing quote, got the end of the line"),
    ('{"a": [1]} {', "JSON", 1, 12, 'expected the end of the document, got "{"'),
    ('{"a": [1]}, 2', "JSON", 1, 11, 'expected the end of the document, got ","'),
    ('{"a": 1, [', "JSON", 1, 10, 'expected a key in double quotes, got "["'),
]  # fmt: skip


@both_loaders
@pytest.mark.parametrize(("text", "language", "line", "column", "reason"), BREAKS, ids=[row[0] for row in BREAKS])
def test_broken_grammar_is_one_readable_finding(text: str, language: str, line: int, column: int, reason: str) -> None:
    """Line, column, what was expected and what is there; the parser's own words stay inside."""
    (finding,) = parse(text).findings
    assert finding.reason == f"not valid {language} at column {column}: {reason}"
    assert finding.line == line


def test_pyyaml_in_python_lets_other_errors_out() -> None:
    """OverflowError is no YAMLError, and is a finding all the same, behind the last thing that was read."""
    with mock.patch.object(scanner, "_LOADER", yaml.SafeLoader):
        (finding,) = parse('a: 1\nb: "\\UFFFFFFFF"').findings
    assert finding.line == 2
    assert "the parser gave up here" in finding.reason


@both_loaders
def test_all_mistakes_are_told_at_once_and_the_rest_is_kept() -> None:
    """Even before a break of the grammar; and the data is there for later checks to go on with."""
    text = "a: 1\nb: &x [!y z, {c: 1, c: 2}]\na: {d: 3}\n? {e: !x f}\n: g\nh: *x\n"
    parsed = parse(text)
    assert [(finding.path, finding.line) for finding in parsed.findings] == [
        ("b", 2),
        ("b[0]", 2),
        ("b[1].c", 2),
        ("a", 3),
        ("", 4),
        ('["?"].e', 4),
        ("h", 6),
    ]
    assert parsed.data == {"a": 1, "b": ["z", {"c": 1}], "h": None}
    assert len(parse(f"{text}]").findings) == 8
    assert len(parse("*x").findings) == 1
    assert parse("? [x]\n: g\n").data == {}


def test_the_name_of_the_document_stands_in_what_is_said_of_the_whole() -> None:
    """A path can't say it, for the whole document has none."""
    assert str(parse("", where="services/web").findings[0]) == "services/web is empty"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("routes", 2, "retry", "attempts"), "routes[2].retry.attempts"),
        (("headers", "x-a"), 'headers["x-a"]'),
        (("x-a", 0, 1, ""), '["x-a"][0][1][""]'),
        (('a"b\n\x1b[31m',), r'["a\"b\n\u001b[31m"]'),
        (("k" * 61,), f'["{"k" * 57}..."]'),
    ],
)
def test_paths_as_people_write_them(path: Path, text: str) -> None:
    """Keys that are no names are quoted, long ones clipped, and nothing in them reaches a terminal."""
    assert render_path(path) == text


SECRET = "hunter2"


@both_loaders
@pytest.mark.parametrize(
    "text",
    [
        f'headers: {{set: {{authorization: "Bearer "{SECRET}}}}}',
        f"headers:\n  set:\n    authorization: Bearer: {SECRET}: x",
        f"authorization: !{SECRET} x",
        f"authorization: *{SECRET}",
        f"authorization: &{SECRET} x",
        f"authorization: @{SECRET}",
        f"authorization: %{SECRET}\n{SECRET}",
        f"authorization: '{SECRET}",
        f'authorization: "\\{SECRET}"',
        f'authorization: "\\U{SECRET}"',
        f"authorization: !<{SECRET} x",
        f"authorization: !{SECRET}!x y",
        f"authorization: |{SECRET}\n  x",
        f"authorization:\n  {SECRET}\n {SECRET}\n:",
        f"{SECRET}",
        f'{{"authorization": "x" {SECRET}}}',
        f'{{"authorization": [{SECRET}}}',
        f'{{"authorization": "\\{SECRET}"}}',
        f'{{"authorization": "{SECRET}\\ud83d"}}',
        f'{{"authorization": "{SECRET}"}} {SECRET}',
    ],
)
def test_no_value_of_a_broken_text_is_repeated(text: str) -> None:
    """Findings go to logs and to status: they say where, and what was expected, and never what stands there."""
    findings = told(text)
    assert findings
    assert SECRET not in "\n".join(findings)
