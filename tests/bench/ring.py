"""Laying a ring or a table out while calls are made: how long it takes, and for how long it holds a call up."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc

from proxyless.control.pickers import Pickers
from proxyless.model.snapshot import ClusterKey
from proxyless.model.topology import Endpoint
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers import BALANCERS
from proxyless.script import Send
from proxyless.state import Node
from tests.bench.calls import METHOD
from tests.worlds import balancing

ENDPOINTS = 1000
TURNS = 15
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("ring of 2,000 (the default)", "ring_hash", {"minimum_ring_size": 1024}),
    ("ring of 65,536", "ring_hash", {"minimum_ring_size": 65536}),
    ("maglev table of 65,537", "maglev", {}),
)


def measure(address: str) -> list[tuple[str, str, str, str, str]]:
    """Rows of (what, ms of its own work, ms until it is there, worst call meanwhile, worst call without)."""
    rows = []
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(METHOD)
        for _ in range(200):
            call(b"x", timeout=10)
        for what, policy, fields in VARIANTS:
            block = balancing(policy, **fields)
            works = [_alone(policy, block, turn) for turn in range(5)]
            calm, stormy, took = [], [], []
            for turn in range(TURNS):
                seconds, slowest = _beside(call, policy, block, turn)
                took.append(seconds)
                stormy.append(slowest)
                calm.append(_slowest(call, time.monotonic() + seconds))
            work, there = _ms(statistics.median(works)), _ms(statistics.median(took))
            rows.append((what, work, there, _spread(stormy), _spread(calm)))
    return rows


def _members(turn: int) -> tuple[list[Node], list[int]]:
    """A thousand endpoints, one of them another in each turn: or the table would be there already."""
    addresses = [f"10.0.{n // 256}.{n % 256}:80" for n in range(ENDPOINTS - 1)] + [f"10.9.9.{turn}:80"]
    return [Node(ClusterKey("s"), Endpoint(address), Send) for address in addresses], [1] * ENDPOINTS


def _alone(policy: str, block: LoadBalancer, turn: int) -> float:
    nodes, weights = _members(200 + turn)
    began = time.thread_time()  # of the processor: what else the machine does is no part of it
    BALANCERS[policy](nodes, weights, block, lambda: 0.0)
    return time.thread_time() - began


def _beside(call: Any, policy: str, block: LoadBalancer, turn: int) -> tuple[float, float]:
    """How long it took, as the compiler does it in a thread of its own, and the slowest call meanwhile."""
    nodes, weights = _members(turn)
    pickers = Pickers(BALANCERS, lambda: 0.0)
    took: list[float] = []

    def build() -> None:
        began = time.monotonic()
        pickers.balanced(nodes, weights, block)
        took.append(time.monotonic() - began)

    thread = threading.Thread(target=build)
    thread.start()
    slowest = 0.0
    while thread.is_alive():
        slowest = max(slowest, _one(call))
    thread.join()
    return took[0], slowest


def _slowest(call: Any, until: float) -> float:
    slowest = 0.0
    while time.monotonic() < until or not slowest:
        slowest = max(slowest, _one(call))
    return slowest


def _one(call: Any) -> float:
    began = time.perf_counter()
    call(b"x", timeout=10)
    return time.perf_counter() - began


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _spread(seconds: Sequence[float]) -> str:
    return f"{_ms(statistics.median(seconds))} (worst {_ms(max(seconds))})"
