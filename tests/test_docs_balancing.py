"""docs/balancing.md is true: its documents are accepted, and its table is the arithmetic's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import parse
from proxyless.model.documents import ServiceDocument
from proxyless.policy.locality.loads import Level, priority_loads
from tests.fakes import Asks

PAGE = (Path(__file__).parents[1] / "docs" / "balancing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
def test_every_document_on_the_page_is_accepted(text: str) -> None:
    """As a service's document, without a finding."""
    value, findings = DIALECTS["proxyless/v1"](parse(text), ServiceDocument)
    assert findings == []
    assert value is not None


def test_a_policy_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet runs, and its balancer is the one that a document means by its name."""
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mesh.yaml").write_text(
        "services: {web: {trafficPolicy: {loadBalancer: {policy: fewest}}}}\n"
        "endpoints: {web: [{address: 'a:1'}, {address: 'b:1'}]}\n"
    )
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(snippet, made)
    with made["mesh"] as mesh:
        assert mesh.ready("web", timeout=5.0)
        (cluster,) = mesh.snapshot.clusters.values()
        one, other = cluster.nodes
        assert isinstance(cluster.picker, made["Fewest"])
        one.inflight = 1
        assert cluster.picker.pick(Asks(lambda: 0.0)) is other
        one.inflight = 0
    assert made["fewest"]([], [], None, None).pick(None) is None


def test_the_table_of_what_spills_over() -> None:
    """Each row as computed."""
    rows = re.findall(r"\| (\d+) %(?: or more)? \| (\d+) % \| (\d+) % \|", PAGE)
    assert len(rows) == 4
    for healthy, stays, goes in rows:
        loads = priority_loads([Level(100, int(healthy), 100), Level(100, 100, 100)])
        assert loads.percent == (int(stays), int(goes))
