"""A pick, for every balancer, over 10 and over 10,000 endpoints; alone, and on the ladder of localities."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from proxyless.model.snapshot import ClusterKey, Picker
from proxyless.model.topology import Endpoint
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.locality import Ladder, Rung
from proxyless.script import Send
from proxyless.state import Node
from tests.fakes import START, Asks
from tests.worlds import balancing

SIZES = (10, 10_000)
PICKS = 20_000


ZONES = ("3 zones", "3 zones, half of ours ejected")


def ladder(nodes: Sequence[Node], build: Callable[[Sequence[Node], Sequence[int]], Picker], broken: bool) -> Ladder:
    """The nodes in three zones, the first of them ours; `broken`: half of it is ejected, and calls spill over."""
    rungs = []
    for zone in range(3):
        members = nodes[zone::3]
        weights = [1] * len(members)
        rungs.append(Rung(zone, 0, f"zone {zone}", members, weights, build(members, weights)))
    made = Ladder(rungs, 140, 50.0)
    ejected = nodes[: len(nodes) // 2 : 3] if broken else []
    for node in ejected:
        node.outlier.out, node.outlier.ejected_until = True, START + 3600.0
    made.settle(ejected)
    return made


def measure() -> list[tuple[str, str, str, str, str]]:
    """Rows of (policy, weights, ns per pick over 10, over 10,000, ratio)."""
    rows = []
    for name in BALANCERS:
        for kind in ("equal", "1 to 10", *ZONES):
            pickers = []
            for size in SIZES:
                dice = random.Random(7)
                nodes = [
                    Node(ClusterKey("s"), Endpoint(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}:80"), Send)
                    for n in range(size)
                ]
                weights = [n % 10 + 1 if kind == "1 to 10" else 1 for n in range(size)]

                def build(
                    nodes: Sequence[Node], weights: Sequence[int], policy: str = name, rng: Any = dice.random
                ) -> Picker:
                    return BALANCERS[policy](nodes, weights, balancing(policy), rng)

                made = ladder(nodes, build, kind == ZONES[1]) if kind in ZONES else build(nodes, weights)
                pickers.append((made, Asks(dice.random)))
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
