"""The native language, `proxyless/v1`: documents as CONTRACT sections 3 to 5 describe them.

pydantic decodes the plain dataclasses of `model/` as they stand, in strict mode: no text becomes a number,
no number a duration, no unknown key is dropped. Everything it finds is said in our own words, with the path,
the line, what was expected and the nearest thing that would have been right; and what cannot be seen from
one value alone (names of subsets, regular expressions, filters) is checked beside it, so that all findings
of a document come at once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from proxyless.control.bexpr import FilterError, compile_filter
from proxyless.control.syntax import Parsed, Path, render_path
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.findings import Finding, Invalid
from proxyless.policy.matcher import regex

Value: TypeAlias = ServiceDocument | MeshDocument
Dialect: TypeAlias = Callable[[Parsed, type[Value]], tuple[Value | None, list[Finding]]]

NOT_YET = (
    ("routes", 0, "hedge"),
    ("routes", 0, "fault"),
    ("routes", 0, "mirror"),
    ("routes", 0, "hash"),
    ("routes", 0, "sticky"),
    ("routes", 0, "rateLimit"),
    ("routes", 0, "retry", "idempotentOnly"),
    ("routes", 0, "retry", "remoteLocalities"),
    ("defaults", "retry", "idempotentOnly"),
    ("defaults", "retry", "remoteLocalities"),
    ("trafficPolicy", "locality"),
    ("trafficPolicy", "outlierDetection"),
    ("trafficPolicy", "circuitBreaker"),
    ("trafficPolicy", "limits"),
    ("trafficPolicy", "loadBalancer", "slowStart"),
    ("trafficPolicy", "loadBalancer", "minimumRingSize"),
    ("trafficPolicy", "loadBalancer", "maximumRingSize"),
    ("trafficPolicy", "loadBalancer", "tableSize"),
    ("trafficPolicy", "connection", "maxEndpoints"),
)
"""What the language has and this version does not do: refused, so that nobody believes it is in effect.
0 stands for any index; a path also counts where `trafficPolicy` stands deeper (subsets, defaults)."""


def read(parsed: Parsed, kind: type[Value]) -> tuple[Value | None, list[Finding]]:
    """Decode one document; the value is None exactly when there are findings."""
    findings = list(parsed.findings)
    if findings or not isinstance(parsed.data, dict):
        return None, findings or [Finding("", "must be a mapping of keys to values", 1)]
    value: Value | None = None
    try:
        value = _adapter(kind).validate_json(json.dumps(parsed.data), strict=True)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            findings.extend(_translated(error, parsed, kind))
    except RecursionError:  # pragma: no cover - the reader bounds depth long before this
        findings.append(Finding("", "is nested too deeply"))
    findings.extend(_beside(parsed))
    findings = list(dict.fromkeys(findings))
    findings.sort(key=lambda finding: finding.line or 0)
    return (None, findings) if findings else (value, [])


def schema(kind: type[Value]) -> dict[str, Any]:
    """The JSON Schema of a document."""
    made = _without_unset(_adapter(kind).json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


_ADAPTERS: dict[Any, TypeAdapter[Value]] = {}


def _adapter(kind: type[Value]) -> TypeAdapter[Value]:
    """Made once a kind: building one takes ten milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _without_unset(node: Any) -> Any:
    """A field that inherits has no default of its own; the schema must not say it is null."""
    if isinstance(node, dict):
        return {
            key: _without_unset(value)
            for key, value in node.items()
            if not (key == "default" and value is None) and not (key == "title" and isinstance(value, str))
        }
    return [_without_unset(item) for item in node] if isinstance(node, list) else node


# -- what pydantic found, in our words


def _translated(error: Any, parsed: Parsed, kind: type[Value]) -> Iterator[Finding]:
    path: Path = tuple(part for part in error["loc"] if part != "[key]")
    problem = error.get("ctx", {}).get("error")
    if isinstance(problem, Invalid):
        for field, reason in problem.problems:
            deeper = _deeper(path, field)
            yield _finding(parsed, deeper, reason)
        return
    reason, hint = _reason(error, path, parsed, kind)
    yield _finding(parsed, path, reason, hint)


def _deeper(path: Path, field: str) -> Path:
    """`path` and a field that a value named itself, which may be `name[2].more`."""
    parts: list[str | int] = list(path)
    for part in field.split(".", 1) if field else ():
        name, _, index = part.partition("[")
        parts.append(name)
        if index:
            parts.append(int(index.rstrip("]")))
    return tuple(parts)


def _reason(error: Any, path: Path, parsed: Parsed, kind: type[Value]) -> tuple[str, str]:
    sort, context, given = error["type"], error.get("ctx", {}), error.get("input")
    if sort == "unexpected_keyword_argument":
        known = _known_keys(path[:-1], kind)
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
        hint = f'did you mean "{near[0]}"?' if near else f"the keys here are {', '.join(known)}"
        return "is not a key that is known here", hint
    if sort in ("missing", "missing_argument"):
        return "is required", ""
    if sort == "literal_error":
        words = [word.strip(" '") for word in context["expected"].replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(str(given).lower().replace("_", "-"), [w.lower() for w in words], n=1)
        hint = f'did you mean "{next(w for w in words if w.lower() == near[0])}"?' if near else ""
        return f"must be one of {', '.join(words)}, got {_shown(given)}", hint
    if sort == "value_error":
        return str(context.get("error", error["msg"])), ""
    wanted = _WANTED.get(sort)
    if wanted is not None:
        hint = "write it without quotes" if isinstance(given, str) and sort in _NUMBERS else ""
        return f"must be {wanted}, got {_shown(given)}", hint
    return error["msg"][:1].lower() + error["msg"][1:], ""


_NUMBERS = ("float_type", "int_type", "bool_type")
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


def _shown(given: Any) -> str:
    """What was found, by its kind: documents may hold secrets, and these words go to logs."""
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, list):
        return "a list"
    if given is None:
        return "nothing"
    text = json.dumps(given)
    kind = {bool: "a truth value", int: "a number", float: "a number"}.get(type(given), "text")
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


def _finding(parsed: Parsed, path: Path, reason: str, hint: str = "") -> Finding:
    return Finding(render_path(path), reason, _line(parsed, path), hint)


def _line(parsed: Parsed, path: Path) -> int | None:
    while path not in parsed.lines and path:
        path = path[:-1]
    return parsed.lines.get(path)


def _known_keys(path: Path, kind: type[Value]) -> list[str]:
    """The keys that the mapping at `path` may have, by the schema."""
    root = _full_schema(kind)
    node: Any = root
    for part in path:
        node = _resolve(node, root)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    return sorted(_resolve(node, root).get("properties", {}))


def _full_schema(kind: type[Value]) -> dict[str, Any]:
    return _adapter(kind).json_schema(by_alias=True)


def _resolve(node: Any, root: Any) -> Any:
    while isinstance(node, dict) and ("$ref" in node or "anyOf" in node):
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rsplit("/", 1)[1]]
        else:
            node = next((option for option in node["anyOf"] if option.get("type") != "null"), {})
    return node if isinstance(node, dict) else {}


# -- what no single value can show


def _beside(parsed: Parsed) -> Iterator[Finding]:
    """Checks on the plain data, so that they are made even where decoding fails elsewhere."""
    data = parsed.data
    for path, value in _walk(data, ()):
        if value is not None and _is_not_yet(path):
            yield _finding(parsed, path, "is not supported yet by this version", "take it out: nothing would obey it")
        if isinstance(value, str) and path:
            if path[-1] == "regex" and "match" in path:
                yield from _refused(parsed, path, regex, value, "must be an RE2 regular expression")
            elif path[-1] == "filter" and (path[0] in ("subsets", "discovery")):
                yield from _refused(parsed, path, compile_filter, value, "must be a Consul filter expression")
    yield from _unknown_subsets(parsed)


def _refused(
    parsed: Parsed, path: Path, compile_: Callable[[str], object], value: str, what: str
) -> Iterator[Finding]:
    try:
        compile_(value)
    except (FilterError, ValueError) as wrong:
        yield _finding(parsed, path, f"{what}: {wrong}")


def _walk(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _walk(value, (*path, index))


def _is_not_yet(path: Path) -> bool:
    plain = tuple(0 if isinstance(part, int) else part for part in path)
    if "trafficPolicy" in plain:
        plain = plain[plain.index("trafficPolicy") :]
    return plain in NOT_YET


def _unknown_subsets(parsed: Parsed) -> Iterator[Finding]:
    data = parsed.data
    subsets = data.get("subsets")
    known = list(subsets) if isinstance(subsets, dict) else []
    routes = data.get("routes")
    for index, route in enumerate(routes if isinstance(routes, list) else ()):
        for where in ("split", "mirror"):
            targets = route.get(where) if isinstance(route, dict) else None
            for number, target in enumerate(targets if isinstance(targets, list) else ()):
                subset = target.get("subset") if isinstance(target, dict) else None
                if not isinstance(subset, str) or subset in known:
                    continue
                if target.get("service") not in (None, data.get("service")):
                    continue  # another service's subset: the compiler knows that document
                near = difflib.get_close_matches(subset, known, n=1)
                hint = f'did you mean "{near[0]}"?' if near else f"the subsets are: {', '.join(known) or 'none'}"
                yield _finding(
                    parsed, ("routes", index, where, number, "subset"), f'names no subset of this document: "{subset}"', hint
                )
