"""The peers' number tables, where they lie beside the checkout: each a test, or left out with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "vectors"


def rows(
    file: str,
    *,
    key: str = "vectors",
    left_out: Mapping[str, str] | None = None,
    only: Callable[[Mapping[str, Any]], bool] = lambda _row: True,
) -> Sequence[Any]:
    """The rows of a table as pytest's parameters, but for those in `left_out` (id -> why)."""
    path = FOLDER / file
    if not path.exists():
        reason = "the peers' number tables do not lie beside this checkout"
        return [pytest.param(None, id=file, marks=pytest.mark.skip(reason=reason))]
    table = json.loads(path.read_text())[key]
    unknown = set(left_out or ()) - {row["id"] for row in table}
    assert not unknown, f"{file} has no rows {sorted(unknown)}: nothing can leave them out"
    return [pytest.param(row, id=row["id"]) for row in table if only(row) and row["id"] not in (left_out or ())]
