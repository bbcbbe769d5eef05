"""The native language, `proxyless/v1`: documents as CONTRACT sections 3 to 5 describe them.

The values are those of `model/`, decoded by `control/wording.py`. What cannot be seen from one value alone
(names of subsets, regular expressions, filters) is checked beside it, so that all findings of a document come
at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any, Protocol, TypeAlias

from proxyless.control.bexpr import FilterError, compile_filter
from proxyless.control.scanner import quoted
from proxyless.control.syntax import Parsed, Path
from proxyless.control.wording import adapter, decoded, finding, listed
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.findings import Finding
from proxyless.policy.matcher import regex

Value: TypeAlias = ServiceDocument | MeshDocument
Names: TypeAlias = Collection[str] | None


class Dialect(Protocol):
    """A function that reads one document of a language."""

    def __call__(
        self, parsed: Parsed, kind: type[Value], balancers: Names = None
    ) -> tuple[Value | None, list[Finding]]:
        """The value, or what keeps it from being one."""


LANGUAGE = "proxyless/v1"

REGEXES = 512
"""In one document: the worst that RE2 takes needs 6 ms and 110 KB each."""


# pydantic imports half of itself when it first builds a decoder. On a watch's thread that could be while another
# thread forks, and the child would be left with half a module for good: so here, where `connect` is waited for.
for _kind in (ServiceDocument, MeshDocument):
    adapter(_kind)


def read(parsed: Parsed, kind: type[Value], balancers: Names = None) -> tuple[Value | None, list[Finding]]:
    """Decode one document; the value is None exactly when there are findings. Without `balancers` any name will do."""
    findings = list(parsed.findings)
    if findings or not isinstance(parsed.data, dict):
        return None, findings or [Finding("", "must be a mapping of keys to values", 1)]
    value, findings = decoded(parsed.data, kind, parsed.lines)
    findings = listed(chain(findings, _beside(parsed, balancers)))
    return (None, findings) if findings else (value, [])


def schema(kind: type[Value]) -> dict[str, Any]:
    """The JSON Schema of a document."""
    made = _without_unset(adapter(kind).json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _without_unset(node: Any) -> Any:
    """As pydantic made it, but for two things that it says too much or too little of."""
    if isinstance(node, dict):
        kept = {
            key: _without_unset(value)
            for key, value in node.items()
            # A field that inherits has no default of its own, and null is none of its values; a block's own fields say
            # what they are where it is left out, in the words of a document.
            if not (key == "default" and (value is None or isinstance(value, dict)))
            and not (key == "title" and isinstance(value, str))
        }
        # A key of another shape is refused, not only left unchecked.
        return kept | {"additionalProperties": False} if "patternProperties" in kept else kept
    return [_without_unset(item) for item in node] if isinstance(node, list) else node


# -- what no single value can show


def _beside(parsed: Parsed, balancers: Names) -> Iterator[Finding]:
    """Checks on the plain data, so that they are made even where decoding fails elsewhere."""
    regexes = 0
    for path, value in _walk(parsed.data, ()):
        if path[-2:] == ("trafficPolicy", "loadBalancer") and isinstance(value, dict):
            yield from _ring_sizes(parsed, path, value)
            yield from _unknown_balancer(parsed, path, value, balancers)
        if isinstance(value, str) and path:
            if path[-1] == "regex" and "match" in path and path[-2] != "sourceLabels":
                regexes += 1
                if regexes > REGEXES:
                    break
                yield from _refused(parsed, path, regex, value, "must be an RE2 regular expression")
            elif path == ("discovery", "filter") or (path[0] == "subsets" and path[2:] == ("filter",)):
                yield from _refused(parsed, path, compile_filter, value, "must be a Consul filter expression")
    if regexes > REGEXES:
        reason = f"has more than {REGEXES} regular expressions"
        yield finding(parsed.lines, ("routes",), reason, "say with exact or prefix what they can say")
    yield from _unknown_subsets(parsed)


def _ring_sizes(parsed: Parsed, path: Path, block: dict[str, Any]) -> Iterator[Finding]:
    least, most = block.get("minimumRingSize"), block.get("maximumRingSize")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield finding(
            parsed.lines, (*path, "minimumRingSize"), f"must be at most maximumRingSize ({most}), got {least}"
        )


def _unknown_balancer(parsed: Parsed, path: Path, block: dict[str, Any], known: Names) -> Iterator[Finding]:
    name = block.get("policy")
    if known is not None and isinstance(name, str) and name not in known:
        near = difflib.get_close_matches(name[:60].lower(), known, n=1)
        hint = f"did you mean {quoted(near[0])}?" if near else f"the balancers are: {', '.join(sorted(known))}"
        yield finding(parsed.lines, (*path, "policy"), f"no balancer is named {quoted(name)}", hint)


def _refused(parsed: Parsed, path: Path, compile_: Callable[[str], object], value: str, what: str) -> Iterator[Finding]:
    try:
        compile_(value)
    except (FilterError, ValueError) as wrong:
        reason = str(wrong).removeprefix("filter, ")
        if "headers" in path or "withoutHeaders" in path:
            reason = reason.partition(": ")[0]  # RE2 repeats the place, which may be a part of a secret
        yield finding(parsed.lines, path, f"{what}: {reason}")


def _walk(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _walk(value, (*path, index))


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
                near = difflib.get_close_matches(subset[:60], known, n=1)
                hint = f"did you mean {quoted(near[0])}?" if near else f"its subsets are: {_some(known)}"
                path = ("routes", index, where, number, "subset")
                reason = f"names no subset of this document: {quoted(subset)}"
                yield finding(parsed.lines, path, reason, hint)


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(quoted, names[:most])) + more or "none"
