"""What docs/resilience.md says is true: its documents are valid, its names exist, its numbers are the defaults."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import proxyless
from proxyless.channel.requests import CAP_OPTION, DEFAULT_CAP
from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import parse
from proxyless.model.documents import ServiceDocument
from proxyless.model.routes import RetryPolicy
from proxyless.model.traffic import DEFAULTS

PAGE = (Path(__file__).parents[1] / "docs" / "resilience.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_documents_are_valid(text: str) -> None:
    """Each is accepted as it stands."""
    value, findings = DIALECTS["proxyless/v1"](parse(text), ServiceDocument)
    assert value is not None, findings


@pytest.mark.parametrize("snippet", blocks("python"))
def test_its_snippets_use_names_that_exist(snippet: str) -> None:
    """Each is Python, and every name of ours in it is there to be used."""
    tree = ast.parse(snippet)
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "proxyless"
    }
    assert names <= set(proxyless.__all__)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            home = importlib.import_module(str(node.module))
            assert all(hasattr(home, alias.name) for alias in node.names)


def test_the_deadlines_snippet_does_what_it_says() -> None:
    """Time is left inside, less than was given, and none is inherited by what is shielded."""
    with proxyless.deadline(2.5):
        left = proxyless.remaining()
        with proxyless.shield():
            assert proxyless.remaining() is None
    assert left is not None
    assert 2.0 < left <= 2.5


def test_its_numbers_are_the_defaults() -> None:
    """Two retries on three words; 256 KiB; 0.2, 10 a second, 10 s."""
    policy, budget = RetryPolicy(), DEFAULTS.retry_budget
    assert (policy.attempts, set(policy.on)) == (2, {"connect-failure", "refused-stream", "unavailable"})
    assert [budget.ratio, budget.min_retries_per_second, float(budget.ttl)] == [0.2, 10.0, 10.0]
    assert DEFAULTS.limits.max_retries == 0
    assert DEFAULTS.limits.max_requests == 1024
    assert not DEFAULTS.circuit_breaker
    outliers = DEFAULTS.outlier_detection
    assert [outliers.consecutive5xx, outliers.probation.requests] == [5, 1]
    assert [outliers.interval, outliers.base_ejection_time, outliers.max_ejection_percent] == [10, 30, 50]
    assert f"{DEFAULT_CAP // 1024} KiB" in PAGE
    assert CAP_OPTION in PAGE
