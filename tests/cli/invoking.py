"""Running the command line in tests: in this process, or in one of its own; and a file to ask."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from typer.testing import CliRunner, Result

from proxyless.cli.app import app

T = TypeVar("T")

CHECKOUT = Path(__file__).parents[2]

SHOP = """\
apiVersion: proxyless/v1
mesh: {defaults: {timeout: 10s}}
services:
  shop:
    subsets:
      stable: {labels: {version: v1}}
      canary: {labels: {version: v2}, trafficPolicy: {loadBalancer: {policy: round_robin}}}
    routes:
    - name: premium
      match:
      - headers: {x-tier: {exact: premium}, x-flags: {regex: ".*new-ui.*"}}
      split: [{subset: canary}]
      timeout: 5s
    - name: advice
      match: [{path: {prefix: /shop.Advice/}}]
      split: [{service: advice}]
    - name: inside
      match: [{sourceLabels: {team: blue}}]
      split: [{subset: canary}]
    - name: teapot
      match: [{grpc: {service: shop.Teapot}}]
      directResponse: {status: NOT_FOUND, message: no tea here}
    - name: rollout
      split: [{subset: stable, weight: 90}, {subset: canary, weight: 10}]
endpoints:
  shop:
  - {address: "127.0.0.1:50051", labels: {version: v1}, locality: eu/a}
  - {address: "127.0.0.1:50052", labels: {version: v1}, locality: eu/b, weight: 3}
  - {address: "127.0.0.1:50053", labels: {version: v2}}
  advice:
  - {address: "127.0.0.1:50061"}
"""

Run = Callable[..., Result]
"""`run("status", "--source", ...)`: in this process, stdout and stderr apart."""

Program = Callable[..., "subprocess.CompletedProcess[str]"]
"""`program("status", ...)`: in a process of its own, as `python -m proxyless`, its output in pipes."""


def forget_the_machine(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Nothing of this machine's own settings: no source, no token, no state of earlier processes."""
    for name in list(os.environ):
        if name.startswith(("CONSUL_", "PROXYLESS_")) or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def call(*arguments: object, stdin: str | None = None) -> Result:
    """A command in this process; only what it means to end with is taken for its end."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="proxyless")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def timed(act: Callable[[], T], *, within: float) -> tuple[T, float]:
    """What came of `act`, and its seconds; tried up to three times: a busy machine is not a slow program."""
    for _ in range(3):
        started = time.monotonic()
        made = act()
        seconds = time.monotonic() - started
        if seconds <= within:
            break
    return made, seconds


def start(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, to its end."""
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
    command = [sys.executable, "-m", "proxyless", *(str(a) for a in arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
