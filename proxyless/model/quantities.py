"""The scalars of documents: durations, percentages, weights, names; each knows its range.

A quantity used in a dataclass field is checked in two places by one rule: when a value is built in Python
(`checked`), and when a document is decoded, because pydantic calls the two hooks that a class or an
`Annotated` marker may carry. The hooks return plain dicts, so nothing of pydantic is imported here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from itertools import count
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from proxyless.model.findings import Invalid

T = TypeVar("T")

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s|us|µs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PRINTED = (("h", 3600.0), ("m", 60.0), ("s", 1.0))


class Duration(float):
    """Seconds. Documents write them as Go does: `250ms`, `1.5s`, `1m30s`, `1h`; never a bare number."""

    LONGEST: ClassVar[float] = 30 * 24 * 3600.0
    """A month: longer than any call, short enough that no arithmetic on it can overflow a timer."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Read `text`; raises ValueError that says what to write instead."""
        if isinstance(text, Duration):
            return text
        if isinstance(text, bool) or not isinstance(text, (str, int, float)):
            raise ValueError(f'must be a duration such as "250ms" or "1.5s", got {_shown(text)}')
        if not isinstance(text, str):
            raise ValueError(f'must be a duration with a unit, got the bare number {text}: did you mean "{text}s"?')
        if len(text) > 64:
            raise ValueError("must be a duration of at most 64 characters")
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            meant = f': did you mean "{text}s"?' if re.fullmatch(r"\d+(\.\d+)?", text) else ""
            raise ValueError(f'must be a duration such as "250ms", "1.5s" or "1m30s", got {_shown(text)}{meant}')
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        if seconds > cls.LONGEST:
            raise ValueError(f"must be at most 720h, got {text}")
        return cls(seconds)

    def __str__(self) -> str:
        seconds = float(self)
        if seconds < 1.0:
            return f"{round(seconds * 1000, 6):g}ms" if seconds else "0s"
        text = ""
        for unit, size in _PRINTED:
            whole = seconds if unit == "s" else seconds // size
            if whole >= (0.001 if text or unit == "s" else 1):
                text += f"{round(whole, 6):g}{unit}"
                seconds -= whole * size
        return text

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> dict[str, Any]:
        return {
            "type": "function-plain",
            "function": {"type": "no-info", "function": cls.parse},
            "serialization": {"type": "to-string"},  # as a default in the schema: "25ms", and no bare number
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {
            "type": "string",
            "pattern": r"^([0-9]+(\.[0-9]+)?(h|ms|m|s|us|µs|ns))+$",
            "examples": ["250ms", "1.5s", "1m30s"],
        }


class _Number(float):
    """A number as people write it: 1000000000, not 1e+09."""

    def __str__(self) -> str:
        return f"{self:.15g}"


class Rule:
    """A check on a scalar that travels with its type: `Annotated[int, Between(0, 10)]`."""

    def check(self, value: Any) -> Any:
        """Return `value`, or raise ValueError that says what was expected."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """What JSON Schema can say of this rule."""
        return {}

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        after = {"type": "no-info", "function": self.check}
        return {"type": "function-after", "function": after, "schema": handler(source)}

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return {**handler(schema), **self.schema()}


class Between(Rule):
    """A number from `low` to `high`, both allowed, and finite."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def check(self, value: Any) -> Any:
        if not (math.isfinite(value) and self.low <= value <= self.high):
            kind = Duration if isinstance(value, Duration) else _Number
            raise ValueError(f"must be {kind(self.low)} to {kind(self.high)}, got {kind(value)}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"minimum": self.low, "maximum": self.high}


class Long(Between):
    """A duration from `low` to `high`; the same check, but a schema of strings cannot say it."""

    def schema(self) -> dict[str, Any]:
        return {}


class Prime(Rule):
    """A prime number; the check names the nearest one above. What is too large to tell is for its range to refuse."""

    def check(self, value: Any) -> Any:
        if value < 10**9 and not _is_prime(value):
            nearest = next(number for number in count(max(2, value)) if _is_prime(number))
            raise ValueError(f"must be a prime number, got {value}: did you mean {nearest}?")
        return value


def _is_prime(number: int) -> bool:
    return number >= 2 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


class Shaped(Rule):
    """Text of 1 to `longest` characters that matches `pattern` from end to end; `called` names it in errors."""

    def __init__(self, pattern: str, longest: int, called: str) -> None:
        self.pattern, self.longest, self.called = re.compile(pattern), longest, called

    def check(self, value: Any) -> Any:
        if not 1 <= len(value) <= self.longest:
            raise ValueError(f"must have 1 to {self.longest} characters, has {len(value)}")
        if not self.pattern.fullmatch(value):
            meant = value.lower().replace(" ", "-")
            hint = f": did you mean {_shown(meant)}?" if self.pattern.fullmatch(meant) else ""
            raise ValueError(f"must be {self.called}, got {_shown(value)}{hint}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"minLength": 1, "maxLength": self.longest, "pattern": f"^(?:{self.pattern.pattern})$"}


class AtMost(Rule):
    """A list, mapping or text of at most `most` members: documents are bounded, whoever writes them."""

    def __init__(self, most: int) -> None:
        self.most = most

    def check(self, value: Any) -> Any:
        if len(value) > self.most:
            what = "characters" if isinstance(value, str) else "members"
            raise ValueError(f"must have at most {self.most} {what}, has {len(value)}")
        return value


def checked(value: Any, *more: tuple[str, str]) -> None:
    """Check every annotated field of the dataclass `value`; raise Invalid with all that is wrong, and `more`."""
    problems = list(more)
    kind: Any = type(value)
    for name, rules, optional in _rules(kind):
        part = getattr(value, name)
        if part is None and optional:
            continue  # left out
        for rule in rules:
            try:
                rule.check(part)
            except (ValueError, TypeError) as wrong:
                problems.append((camel(name), str(wrong)))
    if problems:
        raise Invalid(*problems)


class Checked:
    """A dataclass whose fields say all that is to be checked."""

    __slots__ = ()

    def __post_init__(self) -> None:
        checked(self)


@cache
def _rules(kind: type) -> tuple[tuple[str, tuple[Rule, ...], bool], ...]:
    """The fields of `kind` that carry rules; looked up once a class, so that building a value stays cheap."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        options = (hints[field.name],)
        if get_origin(hints[field.name]) is not Annotated:
            options = get_args(hints[field.name]) or options
        rules = tuple(r for option in options for r in getattr(option, "__metadata__", ()) if isinstance(r, Rule))
        if rules:
            found.append((field.name, rules, type(None) in options or field.default is None))
    return tuple(found)


def camel(name: str) -> str:
    """`per_try_timeout` as documents write it: `perTryTimeout`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


STRICT: dict[str, Any] = {"extra": "forbid", "alias_generator": camel}
"""How every document value decodes: camelCase names, and an unknown key is an error, never ignored."""

NAME = Shaped(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", 128, "letters, digits and inner . _ -")

Name = Annotated[str, NAME]
Percent = Annotated[float, Between(0, 100)]
HEAVIEST = 2**32 - 1
"""What the weights of a split may be together, and so each of them: Envoy's limit, beyond Istio's int32."""
Weight = Annotated[float, Between(0, HEAVIEST)]


def _shown(value: object) -> str:
    text = json.dumps(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
