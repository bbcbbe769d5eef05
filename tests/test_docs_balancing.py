"""docs/balancing.md is true: its documents are accepted, and its table is the arithmetic's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import parse
from proxyless.model.documents import ServiceDocument
from proxyless.policy.locality.loads import Level, priority_loads

PAGE = (Path(__file__).parents[1] / "docs" / "balancing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
def test_every_document_on_the_page_is_accepted(text: str) -> None:
    """As a service's document, without a finding."""
    value, findings = DIALECTS["proxyless/v1"](parse(text), ServiceDocument)
    assert findings == []
    assert value is not None


def test_the_table_of_what_spills_over() -> None:
    """Each row as computed."""
    rows = re.findall(r"\| (\d+) %(?: or more)? \| (\d+) % \| (\d+) % \|", PAGE)
    assert len(rows) == 4
    for healthy, stays, goes in rows:
        loads = priority_loads([Level(100, int(healthy), 100), Level(100, 100, 100)])
        assert loads.percent == (int(stays), int(goes))
