"""Text of any kind to plain data and lines: what YAML would like to misread, what is refused, what it may cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxyless.control import scanner
from proxyless.control.syntax import MAX_BYTES, Parsed, Path, parse, render_path

LOADERS = [
    pytest.param(
        getattr(yaml, "CSafeLoader", None),
        marks=pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml"),
        id="libyaml",
    ),
    pytest.param(yaml.SafeLoader, id="python"),
]


@pytest.fixture(params=LOADERS)
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever PyYAML was built with, the answers are the same: run the test with both."""
    monkeypatch.setattr(scanner, "_LOADER", request.param)


both_loaders = pytest.mark.usefixtures("_loader")


def told(text: str | bytes) -> list[str]:
    return [str(finding) for finding in parse(text).findings]


def good(text: str | bytes) -> Any:
    parsed = parse(text)
    assert parsed.findings == ()
    return parsed.data


# --- what scalars mean ---

# The left column is written as it stands; most of the right one is what YAML 1.2's core schema (10.3.2) says.
SCALARS: list[tuple[str, Any]] = [
    ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
    ("on", "on"), ("off", "off"), ("yes", "yes"), ("no", "no"), ("NO", "NO"), ("y", "y"), ("n", "n"), ("tRUE", "tRUE"),
    ("null", None), ("~", None), ("", None), ("Null", None), ("NULL", None), ("nil", "nil"),
    ("0", 0), ("90", 90), ("-7", -7), ("+7", 7), ("-0", 0), ("9" * 30, int("9" * 30)),
    ("1.5", 1.5), ("-.5", -0.5), ("2.", 2.0), ("1e3", 1000.0), ("1E+2", 100.0), ("1.5e-3", 0.0015), ("1e999", math.inf),
    (".inf", math.inf), ("-.INF", -math.inf), ("inf", "inf"), ("nan", "nan"), ("NaN", "NaN"), ("Infinity", "Infinity"),
    ("0777", "0777"), ("007", "007"), ("00.5", "00.5"), ("0o17", "0o17"), ("0x1F", "0x1F"), ("0b101", "0b101"),
    ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("1_000", "1_000"), ("1_0.5", "1_0.5"),
    ("2024-01-31", "2024-01-31"), ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00Z"),
    (".", "."), ("-", "-"), ("1e", "1e"), ("e3", "e3"), ("1.2.3", "1.2.3"), ("٣", "٣"), ("5s", "5s"), ("=", "="),
    ('"true"', "true"), ("'1'", "1"), ('"~"', "~"), ("''", ""), ("|\n  1\n", "1\n"), (">-\n  true", "true"),
    ("1\n  2", "1 2"), (r'"a\u00e9\n"', "aé\n"), (r"'\d+'", r"\d+"), ("a#b", "a#b"), ("a # b", "a"),
]  # fmt: skip


@both_loaders
@pytest.mark.parametrize(("text", "value"), [row for row in SCALARS if row[0] != "-"], ids=repr)
def test_a_scalar_means_what_it_looks_like(text: str, value: Any) -> None:
    """Only true, false, null, decimal numbers and the words for infinity are more than text."""
    data = good(f"a: {text}")
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


@both_loaders
def test_nan_is_a_float_for_later_checks_to_refuse() -> None:
    """`.nan` equals nothing, so it has a test of its own."""
    assert math.isnan(good("a: .nan")["a"])


@both_loaders
@pytest.mark.parametrize("key", ["on", "NO", "yes", "true", "null", "~", "1", "1.50", "0x1F", "1:30", "<<", "="])
def test_a_key_is_its_own_text(key: str) -> None:
    """A key is never a boolean, a number or a merge."""
    assert good(f"{key}: 1\n") == {key: 1}


@both_loaders
def test_blocks_flows_and_comments_are_read_as_yaml_reads_them() -> None:
    """The shapes that documents are written in."""
    text = "# head\n%s# middle\nroutes:\n- name: a\n  split: [{subset: v1}, {subset: 'v2', weight: 0.5}]\n-\n  - |\n    x\n" % ""
    assert good(text) == {
        "routes": [{"name": "a", "split": [{"subset": "v1"}, {"subset": "v2", "weight": 0.5}]}, ["x\n"]]
    }
