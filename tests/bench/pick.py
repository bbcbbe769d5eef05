"""A pick, for every balancer, over 10 and over 10,000 endpoints."""

from __future__ import annotations

import random
import statistics
import time

from proxyless.model.snapshot import ClusterKey
from proxyless.model.topology import Endpoint
from proxyless.model.traffic import DEFAULTS
from proxyless.policy.balancers import BALANCERS
from proxyless.script import Send
from proxyless.state import Node
from tests.fakes import Asks

SIZES = (10, 10_000)
PICKS = 20_000


def measure() -> list[tuple[str, str, str, str, str]]:
    """Rows of (policy, weights, ns per pick over 10, over 10,000, ratio)."""
    rows = []
    for name, balancer in BALANCERS.items():
        for kind in ("equal", "1 to 10"):
            pickers = []
            for size in SIZES:
                dice = random.Random(7)
                nodes = [
                    Node(ClusterKey("s"), Endpoint(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}:80"), Send)
                    for n in range(size)
                ]
                weights = [1 if kind == "equal" else n % 10 + 1 for n in range(size)]
                pickers.append((balancer(nodes, weights, DEFAULTS.load_balancer, dice.random), Asks(dice.random)))
            times: list[list[float]] = [[], []]
            for _ in range(7):
                for which, (picker, call) in enumerate(pickers):
                    pick = picker.pick
                    began = time.perf_counter()
                    for _ in range(PICKS):
                        pick(call)
                    times[which].append((time.perf_counter() - began) / PICKS)
            few, many = (statistics.median(t) for t in times)
            ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
            rows.append((name, kind, f"{few * 1e9:.0f}", f"{many * 1e9:.0f}", f"{ratio:.2f}"))
    return rows
