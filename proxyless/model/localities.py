"""The `locality` block: how near is preferred to far (Envoy's priorities, Istio's localityLbSetting).

Places are written `region/zone/subzone`; `*`, or nothing, takes any from there on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from proxyless.model.quantities import STRICT, AtMost, Between, Checked, Percent, Shaped, checked

UNSET: Any = None

_PART = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?"
_AS_WRITTEN = STRICT | {"alias_generator": lambda name: name.rstrip("_")}

Pattern = Annotated[
    str,
    Shaped(rf"\*|{_PART}(/(\*|{_PART}(/(\*|{_PART}))?))?", 390, "region, region/zone or region/zone/subzone, * last"),
]
Region = Annotated[str, Shaped(_PART, 128, "a region: letters, digits and inner . _ -")]
Label = Annotated[
    str, Shaped(r"[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?(=[^=\s]{1,256})?", 512, "a label, or label=value")
]
Share = Annotated[float, Between(0, 100)]


@dataclass(frozen=True, slots=True)
class Distribute:
    """Callers in `from` spread over places by these percentages; a place that is not named gets nothing."""

    __pydantic_config__ = _AS_WRITTEN
    from_: Pattern
    to: Annotated[Mapping[Pattern, Share], AtMost(64)]

    def __post_init__(self) -> None:
        total = sum(share for share in self.to.values() if isinstance(share, (int, float)))
        wrong = abs(total - 100) > 1e-6
        checked(self, *([("to", f"must add up to 100 percent, adds up to {total:g}")] if wrong else []))


@dataclass(frozen=True, slots=True)
class Failover:
    """Where callers in region `from` go when their own region can't hold."""

    __pydantic_config__ = _AS_WRITTEN
    from_: Region
    to: Region

    def __post_init__(self) -> None:
        itself = self.from_ == self.to
        checked(self, *([("to", f'must be another region than "{self.to}", which fails over')] if itself else []))


@dataclass(frozen=True, slots=True)
class LocalityPolicy(Checked):
    """Zone affinity, spill-over and panic."""

    __pydantic_config__ = STRICT
    enabled: bool = UNSET
    distribute: Annotated[tuple[Distribute, ...], AtMost(64)] = UNSET
    failover: Annotated[tuple[Failover, ...], AtMost(64)] = UNSET
    failover_priority: Annotated[tuple[Label, ...], AtMost(16)] = UNSET
    overprovisioning: Annotated[float, Between(1, 100)] = UNSET
    panic_threshold: Percent = UNSET

    def __post_init__(self) -> None:
        checked(
            self,
            *_twice("distribute", [rule.from_ for rule in self.distribute or ()], ".from"),
            *_twice("failover", [rule.from_ for rule in self.failover or ()], ".from"),
            *_twice("failoverPriority", [label.partition("=")[0] for label in self.failover_priority or ()]),
        )


def _twice(field: str, names: Sequence[str], inner: str = "") -> list[tuple[str, str]]:
    """The first entry counts, so a second of the same name would never be obeyed."""
    return [
        (f"{field}[{index}]{inner}", f"{name!r} is already {field}[{names.index(name)}]")
        for index, name in enumerate(names)
        if names.index(name) != index
    ]
