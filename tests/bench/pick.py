"""A pick, for every balancer, over 10 and over 10,000 endpoints; alone, and on the ladder of localities.

Balancers that learn have learnt something different of every endpoint; those that place by a hash are asked for
one key after the other. Time passes as in a process that makes a call every 10 us.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from proxyless.model.snapshot import ClusterKey, Picker
from proxyless.model.topology import Endpoint
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.balancers.load_report import TEXT
from proxyless.policy.locality import Ladder, Rung
from proxyless.script import OK, Outcome, Send
from proxyless.state import Node
from tests.fakes import START
from tests.worlds import balancing

SIZES = (10, 10_000)
PICKS = 20_000
TURNS = 7
APART = 1e-5
"""Seconds between two picks: a busy process."""

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {"minimum_ring_size": 1024}) for name in BALANCERS),
    ("ring_hash", {"minimum_ring_size": 1024, "hash_balance_factor": 150}),
    ("maglev", {"hash_balance_factor": 150}),
)


class Call:
    """A call as a picker sees it."""

    __slots__ = ("hash", "now", "rng")

    def __init__(self, rng: Callable[[], float]) -> None:
        self.rng = rng
        self.now = START
        self.hash: int | None = None


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
    for name, fields in VARIANTS:
        bounded = "hash_balance_factor" in fields
        for kind in ("equal", "1 to 10", *(() if bounded else ZONES)):
            few, many, ratio = _compared([_picker(name, fields, kind, size, bounded) for size in SIZES])
            shown = f"{name}, bounded" if bounded else name
            rows.append((shown, kind, f"{few * 1e9:.0f}", f"{many * 1e9:.0f}", f"{ratio:.2f}"))
    return rows


def _picker(name: str, fields: dict[str, Any], kind: str, size: int, busy: bool) -> tuple[Picker, Call]:
    dice = random.Random(7)
    nodes = [
        Node(ClusterKey("s"), Endpoint(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}:80"), Send) for n in range(size)
    ]
    weights = [n % 10 + 1 if kind == "1 to 10" else 1 for n in range(size)]
    block, call = balancing(name, **fields), Call(dice.random)

    def build(nodes: Sequence[Node], weights: Sequence[int]) -> Picker:
        return BALANCERS[name](nodes, weights, block, dice.random)

    picker = ladder(nodes, build, kind == ZONES[1]) if kind in ZONES else build(nodes, weights)
    for node in nodes:
        if busy:
            node.inflight = dice.randrange(5)
        if node.feedback is not None:
            report = ((TEXT, f"cpu_utilization:{dice.uniform(0.1, 0.9)},rps_fractional:100"),)
            told = Outcome(0, trailers=report) if node.feedback.reads_trailers else OK
            for at in (call.now - 20, call.now):
                node.feedback.observe(told, dice.uniform(0.001, 0.1), at)
    for _ in range(2 * size // 8):
        picker.pick(call)
    return picker, call


def _compared(pickers: list[tuple[Picker, Call]]) -> tuple[float, float, float]:
    """Seconds of a pick by each, and the second as a multiple of the first; medians."""
    times: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for which, (picker, call) in enumerate(pickers):
            times[which].append(_timed(picker.pick, call) - _timed(_nothing, call))
    few, many = (statistics.median(t) for t in times)
    return few, many, statistics.median(b / a for a, b in zip(*times, strict=True))


def _timed(pick: Callable[[Any], object], call: Call) -> float:
    key = 0
    began = time.thread_time()  # of the processor: what else the machine does is no part of it
    for _ in range(PICKS):
        key = (key + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        call.hash = key
        call.now += APART
        pick(call)
    return (time.thread_time() - began) / PICKS


def _nothing(_call: Call) -> None:
    return None
