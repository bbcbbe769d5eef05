"""The demo's callers: a thread with a sync stub, and an event loop with an asyncio one. Every call is real."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc

from proxyless.demo.shop import SERVICE
from proxyless.mesh import Mesh
from proxyless.protos import shop_pb2, shop_pb2_grpc

PREMIUM = (("x-user-tier", "premium"),)
EVERY = 10
"""Each tenth caller is a premium one."""
PAUSE = 0.004


@dataclass
class Window:
    """What happened to the calls that began in one stretch of time."""

    began: float
    plain: Counter[str] = field(default_factory=Counter)
    premium: Counter[str] = field(default_factory=Counter)
    servers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    last: dict[str, float] = field(default_factory=dict)
    """By version: when the last plain call began that it served."""
    first: dict[str, float] = field(default_factory=dict)
    """By server: when the first call began that it served."""

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return sum(self.plain.values()) + sum(self.premium.values()) + sum(self.failures.values())

    def share(self, version: str) -> float:
        """The part of the plain calls that `version` served."""
        total = sum(self.plain.values())
        return self.plain[version] / total if total else 0.0


class Traffic:
    """Both callers, until stopped."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.window = Window(time.monotonic())
        self.total = Window(self.window.began)
        self._threads = [
            threading.Thread(target=self._sync, name="demo-sync"),
            threading.Thread(target=lambda: asyncio.run(self._aio()), name="demo-aio"),
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def turn(self) -> Window:
        """Begin a new window; returns the one that ends."""
        with self._lock:
            window, self.window = self.window, Window(time.monotonic())
        return window

    def _note(self, began: float, premium: bool, reply: Any, error: grpc.RpcError | None) -> None:
        with self._lock:
            for window in (self.window, self.total):
                if began < window.began:
                    continue
                if error is not None:
                    window.failures[f"{error.code().name}: {str(error.details())[:60]}"] += 1
                    continue
                (window.premium if premium else window.plain)[reply.version] += 1
                window.servers[reply.served_by] += 1
                window.first.setdefault(reply.served_by, began)
                if not premium:
                    window.last[reply.version] = began

    def _sync(self) -> None:
        stub = shop_pb2_grpc.ProductsStub(self._mesh.channel(SERVICE))
        number = 0
        while not self._stop.is_set():
            number += 1
            premium = number % EVERY == 0
            began, reply, failed = time.monotonic(), None, None
            try:
                reply = stub.GetProduct(
                    shop_pb2.GetProductRequest(id="1"), timeout=5, metadata=PREMIUM if premium else None
                )
            except grpc.RpcError as error:
                failed = error
            self._note(began, premium, reply, failed)
            time.sleep(PAUSE)

    async def _aio(self) -> None:
        channel = self._mesh.aio_channel(SERVICE)
        stub = shop_pb2_grpc.ProductsStub(channel)
        number = 0
        while not self._stop.is_set():
            number += 1
            premium = number % EVERY == 0
            began, reply, failed = time.monotonic(), None, None
            try:
                reply = await stub.GetProduct(
                    shop_pb2.GetProductRequest(id="1"), timeout=5, metadata=PREMIUM if premium else None
                )
            except grpc.RpcError as error:
                failed = error
            self._note(began, premium, reply, failed)
            await asyncio.sleep(PAUSE)
        await channel.close()
