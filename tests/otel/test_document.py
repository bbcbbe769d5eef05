"""What `docs/telemetry.md` says is true: its snippets run, its table is the table of names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxyless.otel import names
from proxyless.otel.names import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
ROWS = {row[0]: row for row in (line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `"))}


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
def test_the_snippets_run(tmp_path: Path, snippet: str) -> None:
    """In a process of their own, with warnings as errors."""
    (tmp_path / "mesh.yaml").write_text("services: {}\n")
    program = [sys.executable, "-W", "error", "-c", f"{snippet}\nmesh.close()\n"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_in_the_table(metric: names.Metric) -> None:
    """With its unit."""
    assert ROWS[f"`{metric.name}`"][2] == f"`{metric.unit}`"


def test_the_table_names_no_other_attributes() -> None:
    """All of them are ours to send."""
    known = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    for row in ROWS.values():
        if row[0].strip("`") in {metric.name for metric in METRICS}:
            assert set(re.findall(r"`((?:rpc|grpc|server|error|proxyless)\.[a-z_.]+)`", row[4])) <= known
