"""Plain data into model values, or all that keeps it from being one, in words that help to mend it.

pydantic decodes the plain dataclasses of `model/` as they stand, in strict mode: no text becomes a number,
no number a duration, no unknown key is dropped. What it finds is said in our own words: where, what was
expected, the nearest thing that would have been right. Where it may be a secret, only its kind is shown.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from proxyless.control.syntax import Path, render_path
from proxyless.model.findings import Finding, Invalid

MOST = 100
"""Findings a document: a text of nothing but mistakes must not make a report of fifty thousand lines."""
ROUNDS = 6
FEW = 6
"""So many words are listed when one of them was expected; of more, only how many and the nearest."""

_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
_SCHEMAS: dict[Any, dict[str, Any]] = {}

_Said: TypeAlias = tuple[Path, str, str]


def decoded(data: Any, kind: Any, lines: Mapping[Path, int], under: Path = ()) -> tuple[Any, list[Finding]]:
    """The value of type `kind` that `data` is, or findings; `under` is where `data` stands in its document.

    What parts have to do with each other (a name given twice) is checked when all of them could be built. So
    what was found wrong is taken out and the rest is looked at again: else one slip would hide another.
    """
    said: dict[_Said, None] = {}
    gone: set[Path] = set()
    for turn in range(ROUNDS):
        try:
            value = adapter(kind).validate_json(json.dumps(data), strict=True)
        except ValidationError as invalid:
            errors = invalid.errors(include_url=False)[:MOST]
        else:
            if not said:
                return value, []
            break
        blamed = [path for path, _, _ in said]
        for error in errors:
            path: Path = tuple(part for part in error["loc"] if part != "[key]")
            for one in _said(error, path, kind):
                if turn == 0 or (_is_ours(error) and not any(_touch(one[0], other) for other in blamed)):
                    said[one] = None
        if len(said) >= MOST:
            break
        data = json.loads(json.dumps(data))
        if False in {_take_out(data, path, gone) for error in errors for path in _culprits(error)}:
            break
    return None, [_finding(one, lines, under) for one in said]


def listed(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of a document, each once, in the order of its lines, and no more than anybody reads."""
    once = list(dict.fromkeys(islice(findings, 2 * MOST)))
    once.sort(key=lambda one: one.line or 0)
    if len(once) > MOST:
        once[MOST:] = [Finding("", f"{MOST} mistakes up to here; the rest is not listed")]
    return once


def finding(lines: Mapping[Path, int], path: Path, reason: str, hint: str = "") -> Finding:
    """A finding about `path`, with its line or that of the nearest thing around it."""
    known = path
    while known not in lines and known:
        known = known[:-1]
    return Finding(render_path(path), reason, lines.get(known), hint)


def adapter(kind: Any) -> TypeAdapter[Any]:
    """pydantic's decoder of `kind`, made once: that takes ten milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _finding(said: _Said, lines: Mapping[Path, int], under: Path) -> Finding:
    path, reason, hint = said
    return finding(lines, (*under, *path), reason, hint)


def _is_ours(error: Any) -> bool:
    """Whether a value refused to be built of parts that are good each by itself."""
    return isinstance(error.get("ctx", {}).get("error"), Invalid)


def _touch(one: Path, other: Path) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _culprits(error: Any) -> list[Path]:
    """What would have to go for `error` to go."""
    path = tuple(part for part in error["loc"] if part != "[key]")
    if error["type"] in _MISSING:
        return [path[:-1]]
    return [_deeper(path, field) for field, _ in error["ctx"]["error"].problems] if _is_ours(error) else [path]


def _take_out(data: Any, path: Path, gone: set[Path]) -> bool:
    """Take `path` out of `data`, or more around it where that was done in vain; False if all of it would go."""
    while path and path in gone:
        path = path[:-1]
    gone.add(path)
    if not path:
        return False
    parent = data
    for part in path[:-1]:
        inside = part in parent if isinstance(parent, dict) else isinstance(part, int) and part < len(parent)
        if not inside or not isinstance(parent[part], (dict, list)):
            return True  # something around it went before
        parent = parent[part]
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
    elif isinstance(path[-1], int) and path[-1] < len(parent):
        parent[path[-1]] = {}  # an item that went would move all that follow
    return True


# -- in our words


def _said(error: Any, path: Path, kind: Any) -> Iterator[_Said]:
    problem = error.get("ctx", {}).get("error")
    if isinstance(problem, Invalid):
        for field, reason in problem.problems:
            yield _deeper(path, field), reason, ""
    else:
        yield path, *_reason(error, path, kind)


def _deeper(path: Path, field: str) -> Path:
    """`path` and a field that a value named itself, which may be `name[2].more`."""
    parts: list[str | int] = list(path)
    for part in field.split(".", 1) if field else ():
        name, _, index = part.partition("[")
        parts.append(name)
        if index:
            parts.append(int(index.rstrip("]")))
    return tuple(parts)


def _reason(error: Any, path: Path, kind: Any) -> tuple[str, str]:
    sort, given = error["type"], error.get("input")
    if sort == "unexpected_keyword_argument":
        known = _known_keys(path[:-1], kind)
        near = difflib.get_close_matches(str(path[-1])[:60], known, n=1, cutoff=0.6)
        return "is not a key that is known here", (
            f'did you mean "{near[0]}"?' if near else f"the keys here are {', '.join(known)}"
        )
    if sort in _MISSING:
        return "is required", ""
    if sort == "literal_error":
        return _one_of(error["ctx"]["expected"], given, path)
    if sort == "value_error":
        return str(error.get("ctx", {}).get("error", error["msg"])), ""
    wanted = _WANTED.get(sort)
    if wanted is None:
        return error["msg"][:1].lower() + error["msg"][1:], ""
    return f"must be {wanted}, got {_shown(given, path)}", _way_out(wanted, given, path, kind)


def _one_of(expected: str, given: Any, path: Path) -> tuple[str, str]:
    words = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
    alike = {word.lower(): word for word in words}
    near = difflib.get_close_matches(str(given)[:60].lower().replace("_", "-"), list(alike), n=1)
    listed = f"{'one of ' if len(words) > 1 else ''}{', '.join(words)}"
    if near and len(words) > FEW:
        listed = f"one of {len(words)} known words"
    return f"must be {listed}, got {_shown(given, path)}", f'did you mean "{alike[near[0]]}"?' if near else ""


def _way_out(wanted: str, given: Any, path: Path, kind: Any) -> str:
    if given is None:
        return "leave the key out where there is nothing to say"
    if isinstance(given, str) and wanted in ("a number", "a whole number", "true or false"):
        # What is text without any quotes too (0x10, 1_000, yes) has none to be left out.
        meant = given.removesuffix("%").strip()
        if not _PLAIN[wanted].fullmatch(meant):
            return ""
        if meant != given.strip() and path and path[-1] in _PARTS:
            meant = f"{float(meant) / 100:g}"  # a budget of 20 would be one of 2,000 %
        return "write it without quotes" if meant == given else f"write it as {meant}"
    if wanted == "text" and isinstance(given, (bool, int, float)):
        return "put it in quotes"
    if wanted == "a list":
        return "begin each entry with a dash, or put [ ] around it"
    if wanted == "a mapping" and isinstance(given, str) and "exact" in _known_keys(path, kind):
        return "say how to compare, as in {exact: ...}"
    return ""


_PARTS = ("ratio", "overprovisioning")
"""Numbers that are parts of 1, where others are percentages."""
_PLAIN = {
    "a number": re.compile(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?"),
    "a whole number": re.compile(r"-?(0|[1-9][0-9]{0,20})"),
    "true or false": re.compile("true|false"),
}
_MISSING = ("missing", "missing_argument")
_WANTED = {
    "string_type": "text",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "dataclass_type": "a mapping",
}


def _shown(given: Any, path: Path) -> str:
    """What was found; only its kind where it may be the value of a header, for these words go to logs."""
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, list):
        return "a list"
    if given is None:
        return "nothing"
    sort = {bool: "a truth value", int: "a number", float: "a number"}.get(type(given), "text")
    if "headers" in path or "withoutHeaders" in path:
        return sort
    text = json.dumps(given)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({sort})"


def _known_keys(path: Path, kind: Any) -> list[str]:
    """The keys that the mapping at `path` may have, by the schema."""
    if kind not in _SCHEMAS:
        _SCHEMAS[kind] = adapter(kind).json_schema(by_alias=True)
    root = _SCHEMAS[kind]
    node: Any = root
    for part in path:
        node = _resolve(node, root)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            shaped: Any = next(iter(node.get("patternProperties", {}).values()), {})
            others = node.get("additionalProperties") or shaped
            node = node.get("properties", {}).get(part) or others
    return sorted(_resolve(node, root).get("properties", {}))


def _resolve(node: Any, root: Any) -> Any:
    while isinstance(node, dict) and ("$ref" in node or "anyOf" in node):
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rsplit("/", 1)[1]]
        else:
            node = next((option for option in node["anyOf"] if option.get("type") != "null"), {})
    return node if isinstance(node, dict) else {}
