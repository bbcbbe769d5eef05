"""Documents under review: each checked by itself, and all of them beside what is there already.

The checks are the dialect's and the compiler's, the same that a client makes; nothing is decided here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, NoReturn

from proxyless.cli.files import Draft, Located, located
from proxyless.control import MESH_KEY, SERVICES, RawDocument
from proxyless.control.compiler import Compiler, World
from proxyless.control.dialects import decode
from proxyless.control.idle import idle
from proxyless.control.standing import Here
from proxyless.model.documents import MeshDocument, ServiceDocument, Subset
from proxyless.model.findings import Finding
from proxyless.model.routes import Mirror, Route, Split
from proxyless.policy.balancers import BALANCERS

Value = ServiceDocument | MeshDocument


@dataclass(slots=True)
class Review:
    """What was found. `values` are the drafts that are good by themselves, by key."""

    findings: list[Located] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    """What could not be checked, in words."""
    idle: list[Located] = field(default_factory=list)
    """What has no effect, although nothing is wrong with it."""


def review(drafts: Sequence[Draft], stored: Mapping[str, RawDocument] | None = None) -> Review:
    """Check `drafts` beside the `stored` documents; with None beside each other, trusting the rest."""
    made = Review()
    by_key: dict[str, Draft] = {}
    known = known_balancers()
    for draft in drafts:
        value, findings = decode(draft.raw, known)
        made.findings += [located(draft, finding) for finding in findings]
        if draft.key in by_key and value is not None:
            first = by_key[draft.key].path
            made.findings.append(
                located(draft, Finding("", f"{draft.key} is given twice, first in {first}", None, "keep one"))
            )
        elif value is not None:
            made.values[draft.key] = value
            made.idle += sorted((located(draft, one) for one in idle(value)), key=lambda one: one.line or 0)
        by_key.setdefault(draft.key, draft)
    if stored is None:
        _beside_each_other(made, by_key)
    else:
        _beside_stored(made, by_key, stored)
    return made


def broken_by_deleting(key: str, stored: Mapping[str, RawDocument]) -> list[Located]:
    """What would no longer be valid without the document `key`."""
    before = _decoded(stored, [])
    after = {other: value for other, value in before.items() if other != key}
    return _newly_wrong(before, after, ())


def beside(keys: Iterable[str], stored: Mapping[str, RawDocument], values: Mapping[str, Value]) -> dict[str, str]:
    """The stored documents that a change of `keys` was judged by, with versions: referred to, referring.

    `values` are the documents as they will be, where they differ from the stored ones.
    """
    changed = set(keys)
    refers = {key: _references(value) for key, value in {**_decoded(stored, []), **values}.items()}
    there = {other for key in changed for other in refers.get(key, ())}
    back = {key for key, others in refers.items() if others & changed}
    return {key: stored[key].version for key in sorted((there | back) - changed) if key in stored}


def _references(value: Value) -> set[str]:
    if isinstance(value, MeshDocument):
        return set()
    return {SERVICES + to.service for route in value.routes for to in _targets(route) if to.service}


def _targets(route: Route) -> Iterator[Split | Mirror]:
    yield from route.split
    yield from route.mirror


def _beside_each_other(made: Review, by_key: Mapping[str, Draft]) -> None:
    """A subset of a service whose document is not among these is taken for granted: only its owner knows."""
    world = _trusting(made.values, lambda owner: True)
    for key, others in _subsets(made.values).items():
        made.assumed += [
            f"{by_key[key].path}: the subset {subset} of {owner.removeprefix(SERVICES)} is not checked: "
            "that document is in none of these files"
            for owner, subset in dict.fromkeys(others)
            if owner not in by_key
        ]
    for key, findings in _check(world).items():
        made.findings += [located(by_key[key], finding) for finding in findings]


def _beside_stored(made: Review, by_key: Mapping[str, Draft], stored: Mapping[str, RawDocument]) -> None:
    """As clients will see them. What is invalid itself is not known: it must not make others look wrong."""
    unread = {key for key in by_key if key not in made.values}
    others = _decoded({key: raw for key, raw in stored.items() if key not in by_key}, made.assumed)
    after = _trusting({**others, **made.values}, lambda owner: owner in unread or owner in stored)
    for key, findings in _check(after).items():
        if key in by_key:
            made.findings += [located(by_key[key], finding) for finding in findings]
    made.findings += _newly_wrong(_decoded(stored, []), after, by_key)


def _subsets(values: Mapping[str, Value]) -> dict[str, list[tuple[str, str]]]:
    """By document: the subsets of other services that it names, as (key of the owner, subset)."""
    return {
        key: [
            (SERVICES + to.service, to.subset)
            for route in value.routes
            for to in _targets(route)
            if to.service and to.subset
        ]
        for key, value in values.items()
        if isinstance(value, ServiceDocument)
    }


def _trusting(values: Mapping[str, Value], trusted: Callable[[str], bool]) -> dict[str, Value]:
    """`values`, and for each `trusted` owner that is not among them a document with what is named of it."""
    world = dict(values)
    for others in _subsets(values).values():
        for owner, subset in others:
            if owner not in values and trusted(owner):
                known = world.setdefault(owner, ServiceDocument())
                assert isinstance(known, ServiceDocument)
                world[owner] = ServiceDocument(subsets={**known.subsets, subset: Subset()})
    return world


def _newly_wrong(before: Mapping[str, Value], after: Mapping[str, Value], touched: Iterable[str]) -> list[Located]:
    """What is wrong with documents that are not touched, and was not before: the touched ones break them."""
    earlier = _check(before)
    return [
        Located(key, None, finding.path, f"would become invalid: {finding.reason}", finding.hint)
        for key, findings in _check(after).items()
        if key not in touched
        for finding in findings
        if finding not in earlier.get(key, ())
    ]


def _decoded(stored: Mapping[str, RawDocument], said: list[str]) -> dict[str, Value]:
    """The valid ones of `stored`; `said` hears of the others."""
    values = {}
    known = known_balancers()
    for key, raw in stored.items():
        value, findings = decode(raw, known)
        if value is not None:
            values[key] = value
        else:
            more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
            said.append(f"{raw.origin} is invalid as it is, and left out of the check: {findings[0]}{more}")
    return values


def _check(values: Mapping[str, Value]) -> Mapping[str, Sequence[Finding]]:
    """What only shows when documents stand side by side: the compiler's first step, and no more."""
    services = {
        key.removeprefix(SERVICES): value for key, value in values.items() if isinstance(value, ServiceDocument)
    }
    mesh = values.get(MESH_KEY)
    world = World(frozenset(), services, mesh if isinstance(mesh, MeshDocument) else MeshDocument(), {})
    compiler = Compiler(registry=_NOTHING, compose=_never, balancers={}, here=Here(), rng=random.random)
    return compiler.compile(world, 0).findings


def known_balancers() -> frozenset[str]:
    """Those that every program knows; what one of them is given by `connect(balancers=…)` it alone does."""
    return frozenset({*BALANCERS, *(entry.name for entry in entry_points(group="proxyless.balancers"))})


class _Nothing:
    """The registry of a check: nothing is wanted, so nothing is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"no service is wanted, so nothing is made: {name}")


_NOTHING: Any = _Nothing()


def _never(*_given: Any) -> NoReturn:
    raise AssertionError("no service is wanted, so nothing is made")
