"""Callers that go on through whatever happens: sync threads and an asyncio client, each call counted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

import grpc

import proxyless
from proxyless.protos import echo_pb2, echo_pb2_grpc

PATIENCE = 5.0
"""Seconds that a call may take; one that was held up for longer counts as lost."""


class Call(NamedTuple):
    """A call that was answered."""

    began: float
    ended: float
    served_by: str


class Callers:
    """Begin to call when entered and stop when left. `lost` has a text for every call that failed."""

    def __init__(self, mesh: proxyless.Mesh, *, threads: int = 2, tasks: int = 2, pause: float = 0.003) -> None:
        self._mesh, self._tasks, self._pause = mesh, tasks, pause
        self._stop = threading.Event()
        self.sync: list[Call] = []
        self.aio: list[Call] = []
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._call, name=f"caller-{n}") for n in range(threads)]
        if tasks:
            self._threads.append(threading.Thread(target=lambda: asyncio.run(self._loop()), name="caller-aio"))

    @property
    def calls(self) -> list[Call]:
        """All that were answered."""
        return [*self.sync, *self.aio]

    @property
    def count(self) -> int:
        return len(self.sync) + len(self.aio)

    def served(self, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        """By which servers the calls that began in that stretch of time were answered."""
        return Counter(call.served_by for call in self.calls if since <= call.began < until)

    def until_served(self, calls: int, *, since: float = 0.0, by: str = "", within: float = 20.0) -> None:
        """Wait until so many calls that began after `since` were answered, by anybody or `by` one server."""
        deadline = time.monotonic() + within
        while (self.served(since)[by] if by else self.served(since).total()) < calls:
            lost = f", {len(self.lost)} were lost: {self.lost[:3]}" if self.lost else ""
            assert time.monotonic() < deadline, f"only {self.served(since)} after {within:g} s{lost}"
            time.sleep(0.002)

    @property
    def slowest(self) -> float:
        """Seconds that the slowest call took."""
        return max(call.ended - call.began for call in self.calls)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _call(self) -> None:
        stub = echo_pb2_grpc.EchoStub(self._mesh.channel("echo"))
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                reply = stub.Unary(echo_pb2.EchoRequest(), timeout=PATIENCE)
                self.sync.append(Call(began, time.monotonic(), reply.served_by))
            except Exception as error:
                self._failed("sync", began, error)
            if self._pause:
                time.sleep(self._pause)

    async def _loop(self) -> None:
        async with self._mesh.aio_channel("echo") as channel:
            stub = echo_pb2_grpc.EchoStub(channel)
            await asyncio.gather(*(self._call_aio(stub) for _ in range(self._tasks)))

    async def _call_aio(self, stub: Any) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                reply = await stub.Unary(echo_pb2.EchoRequest(), timeout=PATIENCE)
                self.aio.append(Call(began, time.monotonic(), reply.served_by))
            except Exception as error:
                self._failed("aio", began, error)
            if self._pause:
                await asyncio.sleep(self._pause)

    def _failed(self, kind: str, began: float, error: Exception) -> None:
        what = f"{error.code()}: {error.details()}" if isinstance(error, grpc.RpcError) else repr(error)
        self.lost.append(f"{kind} after {time.monotonic() - began:.3f} s: {what}")
