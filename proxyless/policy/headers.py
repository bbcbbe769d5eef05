"""Changes to request metadata: `remove`, then `set`, then `add`, worked out once per snapshot."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from proxyless.model.routes import HeaderEdit

Pairs: TypeAlias = tuple[tuple[str, Any], ...]
Edit: TypeAlias = Callable[[Iterable[tuple[str, Any]] | None], Pairs]


def editor(*edits: HeaderEdit | None) -> Edit | None:
    """One function that makes all of `edits` in order; None where there is nothing to change."""
    steps = [_step(edit) for edit in edits if edit is not None and (edit.set or edit.add or edit.remove)]
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]

    def edit_all(metadata: Iterable[tuple[str, Any]] | None) -> Pairs:
        pairs = steps[0](metadata)
        for step in steps[1:]:
            pairs = step(pairs)
        return pairs

    return edit_all


def _step(edit: HeaderEdit) -> Edit:
    gone = frozenset(edit.remove) | frozenset(edit.set)
    new = tuple((name, _value(name, value)) for pairs in (edit.set, edit.add) for name, value in pairs.items())

    def apply(metadata: Iterable[tuple[str, Any]] | None) -> Pairs:
        if metadata is None:
            return new
        return (*((name, value) for name, value in metadata if name not in gone), *new)

    return apply


def _value(name: str, value: str) -> str | bytes:
    return base64.b64decode(value) if name.endswith("-bin") else value
