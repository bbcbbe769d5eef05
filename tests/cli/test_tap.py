"""A call in one line: how it ended, and what else was tried for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxyless.admin.asking import Process
from proxyless.cli.tap import WIDEST, _Lines, _outcome

A, B, C = "10.0.0.7:50051", "10.0.0.8:50051", "10.0.0.9:50051"


def made(endpoint: str, status: str, **more: bool) -> Mapping[str, Any]:
    """An attempt, as a process tells it."""
    return {"endpoint": endpoint, "status": status, "seconds": 0.01, **more}


def text_of(line: Mapping[str, Any], attempts: list[Mapping[str, Any]]) -> str:
    """The last column, without its colours."""
    return "".join(cell if isinstance(cell, str) else cell[0] for cell in _outcome(line, attempts))


@pytest.mark.parametrize(
    ("status", "attempts", "says"),
    [
        ("OK", [made(A, "OK")], "OK"),
        ("OK", [made(A, "UNAVAILABLE"), made(B, "OK")], f"OK at the 2nd try after UNAVAILABLE {A}"),
        ("OK", [made(B, "CANCELLED", given_up=True), made(A, "OK")], f"OK beside {B}, given up"),
        (
            "OK",
            [made(A, "INTERNAL"), made(C, "CANCELLED", given_up=True), made(B, "OK")],
            f"OK at the 2nd try after INTERNAL {A} beside {C}, given up",
        ),
        (
            "CANCELLED",
            [made(A, "UNAVAILABLE"), made(B, "CANCELLED", given_up=True)],
            f"CANCELLED at the 2nd try after UNAVAILABLE {A}",
        ),
    ],
    ids=["one", "retried", "hedged", "hedged after a failure", "walked away"],
)
def test_how_a_call_ended(status: str, attempts: list[Mapping[str, Any]], says: str) -> None:
    """Tries that failed before, and attempts of a hedged call that were too late."""
    line = {"status": status, "refused": None}
    assert text_of(line, attempts) == says


def test_a_refusal_says_its_reason() -> None:
    """There was no attempt."""
    assert text_of({"status": "UNAVAILABLE", "refused": "no_route"}, []) == "UNAVAILABLE refused: no_route"


def test_columns_stand_below_each_other_however_long_a_name_is(capsys: pytest.CaptureFixture[str]) -> None:
    """After the first line with a long name; but one absurd name does not push the others off the screen."""
    process, lines = Process(Path("x"), 4711, {}), _Lines()
    line = {"at": 0.0, "seconds": 0.01, "service": "orders", "method": "/shop.Orders/PutOneOfTheirManyOrders"}
    line |= {"destination": "orders", "subset": None, "route": "all", "endpoint": A, "status": "OK", "refused": None}
    lines.head()
    for service in ("a", "a-service-with-a-long-name", "orders", "x" * 4 * WIDEST, "orders"):
        lines.show(process, {**line, "service": service, "attempts": [made(A, "OK")]})
    _, short, long, after, _, last = capsys.readouterr().out.splitlines()
    assert long.index(A) == after.index(A) > short.index(A)
    assert last.index(A) < 3 * WIDEST
    assert long.index("  OK") == after.index("  OK")
