"""Ten thousand endpoints: how long a change takes to be in effect, what it does to calls, what they weigh."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
import tracemalloc
from pathlib import Path

import proxyless
from proxyless.events import ConfigApplied, Event
from tests.agent import ConsulAgent
from tests.bench import fleet

METHOD = "/bench.Echo/Call"
IDLE = 10_000
FLIPS = 20


def measure(binary: str, folder: Path, live: list[str]) -> list[tuple[str, str]]:
    """Rows of (what, figure)."""
    # A server with a disk, as in production: a dev agent indents its answers to half as much again.
    with ConsulAgent(binary, folder, disk=True) as agent:
        fleet.register(agent, live, IDLE)
        agent.put_kv(f"proxyless/v1/services/{fleet.SERVICE}", fleet.document())
        applied = threading.Event()

        def observe(event: Event) -> None:
            if isinstance(event, ConfigApplied):
                applied.set()

        gc.collect()
        before = _resident()
        mesh = proxyless.connect(f"consul://{agent.address}?snapshot=off", observers=[observe])
        channel = mesh.channel(fleet.SERVICE)
        began = time.monotonic()
        assert mesh.ready(fleet.SERVICE, timeout=60)
        ready = time.monotonic() - began
        gc.collect()
        resident = _resident() - before
        call = channel.unary_unary(METHOD)
        for _ in range(500):
            call(b"x", timeout=10)
        calm = _latencies(call, lambda: None)
        effects: list[float] = []

        def flips() -> None:
            for turn in range(FLIPS):
                applied.clear()
                start = time.monotonic()
                fleet.flip(agent, turn, turn)
                if applied.wait(10):
                    effects.append(time.monotonic() - start)
                time.sleep(0.3)

        stormy = _latencies(call, flips)
        mesh.close()
        held = _held(agent.address)
    return [
        ("endpoints", f"{IDLE + len(live)}"),
        ("first snapshot", f"{ready * 1000:.0f} ms"),
        ("one changed endpoint in effect: median / worst", f"{_ms(statistics.median(effects))} / {_ms(max(effects))}"),
        ("a call, nothing changing: p50 / p99.9", f"{_ms(_cut(calm, 0.5))} / {_ms(_cut(calm, 0.999))}"),
        (
            f"a call during {len(effects)} changes: p50 / p99.9",
            f"{_ms(_cut(stormy, 0.5))} / {_ms(_cut(stormy, 0.999))}",
        ),
        ("calls measured: calm / during changes", f"{len(calm)} / {len(stormy)}"),
        ("Python memory per idle endpoint", f"{held / IDLE / 1024:.2f} KB"),
        ("resident memory per idle endpoint", f"{resident / IDLE / 1024:.2f} KB"),
    ]


def _held(address: str) -> int:
    """Bytes of Python objects that a mesh over the same fleet holds; counting makes it slow, so it comes last."""
    with proxyless.connect(f"consul://{address}?snapshot=off") as warm:
        warm.ready(fleet.SERVICE, timeout=60)  # modules and caches that are there only once
    gc.collect()
    tracemalloc.start()
    mesh = proxyless.connect(f"consul://{address}?snapshot=off")
    mesh.ready(fleet.SERVICE, timeout=120)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    mesh.close()
    return held


def _latencies(call: object, beside: object) -> list[float]:
    """Latency of every call that is made while `beside` runs, or for ten seconds."""
    thread = threading.Thread(target=beside)  # type: ignore[arg-type]
    thread.start()
    latencies = []
    until = time.monotonic() + 10
    while thread.is_alive() or time.monotonic() < until:
        began = time.perf_counter()
        call(b"x", timeout=10)  # type: ignore[operator]
        latencies.append(time.perf_counter() - began)
    thread.join()
    return latencies


def _cut(latencies: list[float], quantile: float) -> float:
    return sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * quantile))]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
