"""What a route asks of a request (CONTRACT section 4). The asking itself is `policy/matcher.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from proxyless.model.findings import Invalid
from proxyless.model.quantities import STRICT, AtMost, Checked, Name, Percent, Shaped, checked

LONGEST = 4096
"""Characters in a literal to compare with; a header value longer than 8 KiB is refused by most servers."""
LONGEST_REGEX = 256

HEADER_NAME = Shaped(r"[a-z0-9_.-]+", 256, "a lower-case metadata key: letters, digits and _ . -")
HeaderName = Annotated[str, HEADER_NAME]
Literally = Annotated[str, AtMost(LONGEST)]
Regex = Annotated[str, AtMost(LONGEST_REGEX)]

BARE: Mapping[str, str] = {"content-type": "application/grpc"}
"""The headers that every request carries, and routes may match on: as in gRFC A28."""

_WAYS = ("exact", "prefix", "suffix", "contains", "regex")

_CREDENTIAL = re.compile(
    "authorization|cookie|token|secret|password|credential|api-?key|session|signature|jwt|client-cert"
)
_VEIL = "…"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """One way of comparing text. A regex is RE2 and matches the whole value; `ignoreCase` leaves it alone."""

    __pydantic_config__ = STRICT
    exact: Literally | None = None
    prefix: Literally | None = None
    suffix: Literally | None = None
    contains: Literally | None = None
    regex: Regex | None = None
    ignore_case: bool = False

    def __post_init__(self) -> None:
        checked(self, *_one_way(self, _WAYS))


@dataclass(frozen=True, slots=True)
class Range:
    """Whole numbers from `start` up to, but without, `end` (Envoy Int64Range)."""

    __pydantic_config__ = STRICT
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise Invalid(("", f"the end cannot be smaller than start, got {self.start}..{self.end}"))


@dataclass(frozen=True, slots=True, repr=False)
class HeaderMatch:
    """One way of asking a header. A missing header matches nothing but `present: false`, inverted or not."""

    __pydantic_config__ = STRICT
    exact: Literally | None = None
    prefix: Literally | None = None
    suffix: Literally | None = None
    contains: Literally | None = None
    regex: Regex | None = None
    present: bool | None = None
    range: Range | None = None
    ignore_case: bool = False
    invert: bool = False

    def __post_init__(self) -> None:
        checked(self, *_one_way(self, (*_WAYS, "present", "range")))

    def __repr__(self) -> str:
        """Without the value: which header it is of is not known here, and reprs end up in logs."""
        said = ((f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) not in (None, False))
        return f"HeaderMatch({', '.join(f'{name}={_VEIL if name in _WAYS else value}' for name, value in said)})"


def carries_credential(name: str) -> bool:
    """Whether what stands under this metadata key may let its holder act as the caller."""
    return _CREDENTIAL.search(name) is not None


def veiled(name: str, match: HeaderMatch) -> HeaderMatch:
    """`match` as people may be shown it: of a header that carries a credential the value is left out."""
    if not carries_credential(name):
        return match
    hidden: dict[str, Any] = {way: _VEIL for way in _WAYS if getattr(match, way) is not None}
    return replace(match, **hidden)


@dataclass(frozen=True, slots=True)
class GrpcMatch(Checked):
    """A service, or one method of it: shorthand for a path."""

    __pydantic_config__ = STRICT
    service: Name
    method: Name | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """One block: all its conditions must hold. A route matches when any of its blocks does."""

    __pydantic_config__ = STRICT
    path: StringMatch | None = None
    authority: StringMatch | None = None
    grpc: GrpcMatch | None = None
    headers: Annotated[Mapping[HeaderName, HeaderMatch], AtMost(64)] = field(default_factory=dict, hash=False)
    without_headers: Annotated[Mapping[HeaderName, HeaderMatch], AtMost(64)] = field(default_factory=dict, hash=False)
    source_labels: Annotated[Mapping[str, str], AtMost(64)] = field(default_factory=dict, hash=False)
    fraction: Percent | None = None

    def __post_init__(self) -> None:
        # An empty block would match everything, and is nearly always a slip of indentation.
        empty = not (
            self.path
            or self.authority
            or self.grpc
            or self.headers
            or self.without_headers
            or self.source_labels
            or self.fraction is not None
        )
        problem = [("", "must have at least one condition; leave `match` out to match every call")] if empty else []
        checked(self, *problem)


def _one_way(match: StringMatch | HeaderMatch, ways: tuple[str, ...]) -> list[tuple[str, str]]:
    named = [way for way in ways if getattr(match, way) is not None]
    if len(named) != 1:
        return [("", f"must have exactly one of {', '.join(ways)}, has {' and '.join(named) or 'none'}")]
    # "empty prefix is not allowed" - gRPC A63 string matchers; likewise suffix and contains
    if named[0] in ("prefix", "suffix", "contains") and not getattr(match, named[0]):
        return [(named[0], "must not be empty: it would match everything")]
    return []
