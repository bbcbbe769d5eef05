"""What docs/balancing.md says of balancers is true: its documents do what it says, its tables are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxyless.model.topology import Endpoint
from proxyless.model.traffic import OF_POLICY
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.balancers.load_report import JSON, KEY, TEXT, LoadReport, of_text
from tests.worlds import WEB, Known, balancing, document

_, _BEGINS, _REST = (
    (Path(__file__).parents[1] / "docs" / "balancing.md").read_text("utf-8").partition("## Which policy")
)
PAGE = _BEGINS + _REST
DOCUMENTS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("text", DOCUMENTS, ids=[text.partition("\n")[2][:40] for text in DOCUMENTS])
def test_every_document_does_what_it_says(text: str) -> None:
    """It leads somewhere, by the policy it names, and what it places by is in effect."""
    known = Known().lives("web", Endpoint("a:1", labels={"version": "v1"}), Endpoint("b:1", labels={"version": "v2"}))
    known.services["web"] = document(text)
    snapshot = known.snapshot()
    assert all(cluster.nodes for cluster in snapshot.clusters.values())
    if "hash:" in text:
        assert all(route.hash is not None for route in snapshot.services["web"].routes)
    if "sticky:" in text:
        assert all(route.sticky is not None for route in snapshot.services["web"].routes)
    if "policy:" in text:
        assert f"policy: {snapshot.clusters[WEB].policy.load_balancer.policy}" in text


def test_every_balancer_has_its_row() -> None:
    """Nobody has to read the code to know that one is there."""
    table = PAGE.partition("## Which policy")[2].partition("## Latency")[0]
    assert set(re.findall(r"`([a-z_]+)`", table.partition("```")[0])) == set(BALANCERS)


def test_the_defaults_it_names_are_the_defaults() -> None:
    """Of the ring, and of the table."""
    ring, table = balancing("ring_hash", minimum_ring_size=None), OF_POLICY["maglev"]
    assert f"| `minimumRingSize` | {ring.minimum_ring_size} |" in PAGE
    assert f"| `maximumRingSize` | {ring.maximum_ring_size} |" in PAGE
    assert f"| `tableSize` | {table.table_size} |" in PAGE


def test_the_report_it_shows_can_be_read() -> None:
    """In the keys that it names."""
    (shown,) = re.findall(r"`(cpu_utilization:[^`]*)`", PAGE)
    assert of_text(shown) == LoadReport(cpu=0.3, qps=120, eps=1)
    assert all(f"`{key}`" in PAGE for key in (TEXT, JSON, KEY))
