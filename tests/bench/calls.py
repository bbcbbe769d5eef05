"""CPU per unary call: bare grpcio, an empty interceptor, the mesh; sync, and asyncio with 32 in flight.

The mesh is measured three times: with what holds where no document says otherwise, with nothing armed (no retry,
no budget, no outlier detection, no breaker), and with all of it and a circuit breaker on top. None of these has
anything to do on the success path, and that is what it costs. And twice more with somebody to tell.

Like is compared with like. Nine of ten calls go to a subset that has nine of ten endpoints, so every endpoint gets as
many calls from the mesh as from `round_robin`: bare grpcio, too, pays more where calls crowd (up to 1.25 x, by hand
over three channels, when 90 % go to two of three servers), for answers come singly where a server has a queue. Who
takes his turn when is drawn anew for each turn, for each leaves the machine warm for the next.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc

import proxyless
from tests.bench.telling import providers

METHOD = "/bench.Echo/Call"
REQUEST = b"x" * 64
IN_FLIGHT = 32
ROUND_ROBIN = [("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}))]


UNARMED = {
    "retry": {"attempts": 0},
    "trafficPolicy": {
        "outlierDetection": {"maxEjectionPercent": 0, "consecutive5xx": 0, "consecutiveLocalOriginFailures": 0}
    },
}
ARMED = {"retry": {"attempts": 3}, "trafficPolicy": {"circuitBreaker": {}}}
NOTHING_ARMED = "proxyless, nothing armed"
MESHES: dict[str, dict[str, Any]] = {
    "proxyless": {},
    NOTHING_ARMED: UNARMED,
    "proxyless, everything armed": ARMED,
}
TELLING = {"proxyless, metrics on": False, "proxyless, metrics and 1 % of traces": True}
"""The default mesh, telling OpenTelemetry; whether of traces, too."""


def document(addresses: list[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """Ten routes, the last of which matches, with a 90/10 split over subsets of as many endpoints and the default
    balancer."""
    others = [
        {"name": f"r{n}", "match": [{"headers": {"x-user": {"exact": f"u{n}"}}}], "split": [{"subset": "canary"}]}
        for n in range(4)
    ] + [
        {"name": f"p{n}", "match": [{"path": {"prefix": f"/bench.Other{n}/"}}], "split": [{"subset": "canary"}]}
        for n in range(5)
    ]
    last = {"name": "all", "split": [{"subset": "stable", "weight": 90}, {"subset": "canary", "weight": 10}]}
    versions = ["v2", *["v1"] * (len(addresses) - 1)]
    return {
        "mesh": {"defaults": defaults},
        "services": {
            "bench": {
                "subsets": {"stable": {"labels": {"version": "v1"}}, "canary": {"labels": {"version": "v2"}}},
                "routes": [*others, last],
            }
        },
        "endpoints": {
            "bench": [
                {"address": address, "labels": {"version": version}}
                for address, version in zip(addresses, versions, strict=True)
            ]
        },
    }


def meshed(addresses: list[str], defaults: dict[str, Any] | None = None, **given: Any) -> proxyless.Mesh:
    """A mesh over the servers, from a file that nobody changes."""
    folder = Path(tempfile.mkdtemp(prefix="proxyless-bench-"))
    path = folder / "mesh.json"
    path.write_text(json.dumps(document(addresses, defaults or {})))
    mesh = proxyless.connect(f"file:{path}", **given)
    assert mesh.ready("bench", timeout=10)
    return mesh


def _meshes(addresses: list[str]) -> tuple[dict[str, proxyless.Mesh], dict[str, Callable[[], object]]]:
    """Every mesh that is measured; and what those that tell somebody have to do besides making calls."""
    meshes = {name: meshed(addresses, defaults) for name, defaults in MESHES.items()}
    besides = {}
    for name, traces in TELLING.items():
        given, besides[name] = providers(traces=traces)
        meshes[name] = meshed(addresses, **given)
    return meshes, besides


def _nothing() -> None:
    """What most variants do besides."""


class _Empty(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)


class _AioEmpty(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


T = TypeVar("T")


def _turns(variants: dict[str, T], turns: int) -> Iterator[tuple[int, str, T]]:
    """(number of the turn, name, variant): each once a turn, in an order of its own. In turn 0 all connect and warm
    up."""
    order = random.Random(7)
    for turn in range(turns + 1):
        for name in order.sample(list(variants), len(variants)):
            yield turn, name, variants[name]


Measured = dict[str, tuple[list[float], list[float]]]
"""By variant: microseconds of CPU per call, one figure a turn; and the latency of every call."""


def sync(addresses: list[str], turns: int, calls: int) -> Measured:
    """Blocking calls, one after the other."""
    target = f"ipv4:{','.join(addresses)}"
    meshes, besides = _meshes(addresses)
    bare = grpc.insecure_channel(target, options=ROUND_ROBIN)
    inner = grpc.insecure_channel(target, options=[*ROUND_ROBIN, ("bench.own", 1)])
    variants = {
        "bare grpcio, round_robin": bare.unary_unary(METHOD),
        "one empty interceptor": grpc.intercept_channel(inner, _Empty()).unary_unary(METHOD),
        **{name: mesh.channel("bench").unary_unary(METHOD) for name, mesh in meshes.items()},
    }
    measured: Measured = {name: ([], []) for name in variants}
    for turn, name, call in _turns(variants, turns):
        latencies = []
        cpu = time.process_time()
        for _ in range(calls):
            began = time.perf_counter()
            call(REQUEST, timeout=10)
            latencies.append(time.perf_counter() - began)
        besides.get(name, _nothing)()
        cpu = time.process_time() - cpu
        if turn:
            measured[name][0].append(cpu / calls * 1e6)
            measured[name][1].extend(latencies)
    for mesh in meshes.values():
        mesh.close()
    bare.close()
    inner.close()
    return measured


async def aio(addresses: list[str], turns: int, calls: int) -> Measured:
    """asyncio calls, `IN_FLIGHT` at a time."""
    target = f"ipv4:{','.join(addresses)}"
    meshes, besides = _meshes(addresses)
    bare = grpc.aio.insecure_channel(target, options=ROUND_ROBIN)
    inner = grpc.aio.insecure_channel(target, options=[*ROUND_ROBIN, ("bench.own", 1)], interceptors=[_AioEmpty()])
    variants: dict[str, Callable[..., Awaitable[Any]]] = {
        "bare grpcio, round_robin": bare.unary_unary(METHOD),
        "one empty interceptor": inner.unary_unary(METHOD),
        **{name: mesh.aio_channel("bench").unary_unary(METHOD) for name, mesh in meshes.items()},
    }
    measured: Measured = {name: ([], []) for name in variants}

    async def worker(call: Callable[..., Awaitable[Any]], latencies: list[float]) -> None:
        for _ in range(calls // IN_FLIGHT):
            began = time.perf_counter()
            await call(REQUEST, timeout=10)
            latencies.append(time.perf_counter() - began)

    for turn, name, call in _turns(variants, turns):
        latencies: list[float] = []
        cpu = time.process_time()
        await asyncio.gather(*(worker(call, latencies) for _ in range(IN_FLIGHT)))
        besides.get(name, _nothing)()
        cpu = time.process_time() - cpu
        if turn:
            measured[name][0].append(cpu / (calls // IN_FLIGHT * IN_FLIGHT) * 1e6)
            measured[name][1].extend(latencies)
    await bare.close()
    await inner.close()
    for mesh in meshes.values():
        mesh.close()
    return measured


def rows(measured: Measured) -> list[tuple[str, ...]]:
    """(variant, CPU us per call, ratio of CPU, the same over the mesh with nothing armed, p50 ms, p99 ms).

    Ratios are the median over turns, pair by pair: what the machine does meanwhile, it does to both.
    """
    base_cpu, _ = next(iter(measured.values()))
    unarmed_cpu, _ = measured[NOTHING_ARMED]
    table: list[tuple[str, ...]] = []
    for name, (cpu, latencies) in measured.items():
        ratios = [
            statistics.median(mine / base for mine, base in zip(cpu, bases, strict=True))
            for bases in (base_cpu, unarmed_cpu)
        ]
        cuts = statistics.quantiles(latencies, n=100)
        over_unarmed = f"{ratios[1]:.2f}" if name.startswith("proxyless") else ""
        table.append(
            (
                name,
                f"{statistics.median(cpu):.0f}",
                f"{ratios[0]:.2f}",
                over_unarmed,
                f"{cuts[49] * 1e3:.3f}",
                f"{cuts[98] * 1e3:.2f}",
            )
        )
    return table
