"""Beside other tracers, all of which patch grpcio: one client span per call, the right parent, nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wire.ways import Net

for name in ("opentelemetry.instrumentation.grpc", "sentry_sdk", "ddtrace"):
    pytest.importorskip(name, reason="the extra `tracers` brings the tracers that are tested against")


def seen(net: Net, order: str) -> tuple[dict[str, Any], list[Any]]:
    """What the tracers saw, and what the server did."""
    server = net.server()
    program = [sys.executable, "-m", "tests.otel.beside", net.source, server.address, order]
    root = Path(__file__).parents[2]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), server.seen


OURS = [("echo.Echo/Unary", "proxyless", "CLIENT"), ("echo.Echo/ServerStream", "proxyless", "CLIENT")]
THEIRS = [(f"/{name}", "opentelemetry.instrumentation.grpc", kind) for name, _, kind in OURS]


@pytest.mark.parametrize("order", ["mesh first", "tracers first"])
def test_three_tracers_at_once(net: Net, order: str) -> None:
    """A span per call and none per attempt, whether on mesh channels of both kinds, through the mesh's interceptors, or
    on channels that a client opens itself and rules give to the mesh.

    Only there a tracer can be around the mesh: where it patched last. Then the span is its own, and we add none.
    """
    found, calls = seen(net, order)
    around = THEIRS if order == "mesh first" else OURS
    assert [(span["name"], span["by"], span["kind"]) for span in found["spans"]] == [*OURS * 3, *around]
    assert all(span["child"] for span in found["spans"])
    assert (found["ours"], found["intercepted"], found["calls"]) == (4, 2, 8)
    theirs = 2 if order == "mesh first" else 0
    assert (found["sentry"], found["ddtrace"]) == (theirs, theirs)
    for call in calls:
        assert len([key for key, _ in call.metadata if key == "traceparent"]) == 1
    for call in calls[0], calls[4]:
        sent = [pair for pair in call.metadata if pair[0] in ("x-a", "x-b-bin")]
        assert sent == [("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00")]
