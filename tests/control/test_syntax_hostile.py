"""What hostile text may cost, and that nothing at all makes `parse` raise."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxyless.control import scanner
from proxyless.control.syntax import Path, parse

LOADERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]

SIZE = 524_288
AT_THE_LIMITS = {
    "depth 32, YAML": ("a: " + "[" * 31 + "]" * 31, 0),
    "depth 33, YAML": ("a: " + "[" * 32 + "]" * 32, 1),
    "depth 32, JSON": ('{"a":' * 32 + "1" + "}" * 32, 0),
    "depth 33, JSON": ('{"a":' * 33 + "1" + "}" * 33, 1),
    "50,000 nodes, YAML": ("a:\n" + "- 1\n" * 49_997, 0),
    "50,001 nodes, YAML": ("a:\n" + "- 1\n" * 49_998, 1),
    "50,000 nodes, JSON": ('{"a":[' + "1," * 49_996 + "1]}", 0),
    "50,001 nodes, JSON": ('{"a":[' + "1," * 49_997 + "1]}", 1),
    "512 KiB": (f"a: {'é' * (SIZE // 2 - 2)}x", 0),
    "512 KiB and a byte": (f"a: {'é' * (SIZE // 2 - 2)}xy", 1),
}
HOSTILE = {
    "10,000 lists": "[" * 10_000,
    "lists": "[" * SIZE,
    "lists in YAML": "a: " + "[" * (SIZE - 3),
    "mappings": '{"a":' * (SIZE // 5),
    "mappings in YAML": "{a: " * (SIZE // 4),
    "mappings for keys": "{" * SIZE,
    "block lists": "- " * (SIZE // 2),
    "explicit keys": "? " * (SIZE // 2),
    "many items": "- a\n" * (SIZE // 4),
    "many keys": '{"a":1' + ',"b":2' * (SIZE // 6 - 2) + "}",
    "one alias after another": "a: &a x\n" + "b: *a\n" * (SIZE // 6 - 2),
    "a billion laughs": "a: &a [x]\n" + "".join(f"k{i}: &k{i} [*a,*k{i - 1},*k{i - 1}]\n" for i in range(1, 9000)),
    "an endless number": '{"a": ' + "9" * (SIZE - 7) + "}",
    "blank lines in a quote": '"' + "\n" * (SIZE - 2) + '"',
    "an open quote": '{"a": ["' + 'b\\"' * (SIZE // 3 - 3),
    "broken at the end": "{" + ",".join(f'"k{i}": {i}' for i in range(24_990)) + "x",
    "documents": "--- a\n" * (SIZE // 6),
    "base64": "YTogMQo=" * (SIZE // 8),
    "10 MB": "[" * 10_000_000,
}


@pytest.mark.parametrize(("text", "findings"), AT_THE_LIMITS.values(), ids=AT_THE_LIMITS.keys())
def test_limits_hold_to_the_last_one(text: str, findings: int) -> None:
    """The last that is allowed passes, the next is refused."""
    assert len(parse(text).findings) == findings


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_refused_quickly(text: str) -> None:
    """Each took less than 0.3 s when it was measured; what nests or expands takes minutes, or the stack."""
    started = time.perf_counter()
    parsed = parse(text)
    assert time.perf_counter() - started < 3.0
    assert 1 <= len(parsed.findings) <= 101


def test_a_report_stays_small() -> None:
    """Fifty thousand findings, each with a path of 200 KB, would be a report of 10 GB."""
    parsed = parse('{"' + "k" * 200_000 + '":{' + ",".join(['"a":1'] * 50_000) + "}}")
    assert len(parsed.findings) == 101
    assert parsed.findings[-1].reason == "100 mistakes up to here; the rest is not read"
    assert sum(len(str(finding)) for finding in parsed.findings) < 20_000


JSONABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30) + 1, 10**30 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
PIECES = st.sampled_from(
    [
        *" \n\t:-?[]{},&*!|>'\"%@`#\\~=<.019aéb/_",
        *(
            "\r",
            "---",
            "...",
            "%YAML 1.1",
            "%TAG !e! t:",
            "!!",
            "&a ",
            "*a ",
            "true",
            "- ",
            ": ",
            "? ",
            '{"a": ',
        ),
        *("\\u", "\\U", "\\x", "\\ud83d", "FFFFFFFF", "%ff", "<<: ", " #", "\n  "),
    ]
)
YAMLISH = st.lists(PIECES, max_size=40).map("".join)


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    yield at
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield from paths(child, (*at, key)) if isinstance(child, (dict, list)) else [(*at, key)]


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSONABLE), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_json_comes_back_as_it_went(data: dict[str, Any], indent: int | str | None, ascii_only: bool) -> None:
    """What json writes is read as json would read it, whatever the strings and the white space."""
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    parsed = parse(text)
    assert parsed.findings == ()
    assert parsed.data == data
    assert set(parsed.lines) == set(paths(data))


@settings(deadline=None, max_examples=300)
@given(YAMLISH | st.text() | st.text().map(lambda text: "\ud800" + text) | st.binary())
@example('"\\UFFFFFFFF"')
@example("%YAML " + "9" * 5000)
def test_nothing_makes_it_raise(text: str | bytes) -> None:
    """Any text and any bytes: data with a line for every path, or findings of one line each."""
    for loader in LOADERS:
        with mock.patch.object(scanner, "_LOADER", loader):
            parsed = parse(text)
        if parsed.findings:
            assert not any("\n" in str(finding) for finding in parsed.findings)
        else:
            assert set(parsed.lines) == set(paths(parsed.data))
            json.dumps(parsed.data, ensure_ascii=False).encode()
