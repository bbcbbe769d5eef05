"""Endpoints that do as they are told: real gRPC servers on one loop, each with behaviour of its own.

All of them answer the method `/oracle.Oracle/Call`, with bytes. What an endpoint does, it does to every caller
alike, so the same faults can be put before the mesh, before grpcio's own channel and before an Envoy.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

METHOD = "/oracle.Oracle/Call"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Does:
    """What an endpoint does with a call: after `after` seconds it ends with `code`."""

    code: int = 0
    after: float = 0.0
    in_trailers: bool = False
    """An error after headers that were sent: most servers fail so, once they have begun to answer. Else the error is
    all of the answer ("Trailers-Only"), which a proxy sees as headers."""
    silent: bool = False
    """Never answers: a black hole that listens."""
    trailers: tuple[tuple[str, str], ...] = ()


WELL = Does()
SILENT = Does(silent=True)
FAILS = Does(14)
FAILS_IN_TRAILERS = Does(14, in_trailers=True)


class Endpoint:
    """One server. `next` is what it does with the calls to come, in order; then `does` holds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.does = WELL
        self.next: deque[Does] = deque()
        self.calls = 0
        self.previous: list[int] = []
        """`grpc-previous-rpc-attempts` of each call."""
        self.address = ""
        self.server: Any = None

    async def call(self, _request: bytes, context: Any) -> bytes:
        self.calls += 1
        sent = dict(context.invocation_metadata())
        self.previous.append(int(sent.get("grpc-previous-rpc-attempts", 0)))
        does = self.next.popleft() if self.next else self.does
        if does.silent:
            await asyncio.sleep(3600)
        if does.after:
            await asyncio.sleep(does.after)
        if does.code:
            if does.in_trailers:
                await context.send_initial_metadata((("x-begun", "yes"),))
            await context.abort(_CODES[does.code], "as it was told", does.trailers)
        return self.name.encode()


class Fleet:
    """Endpoints `0`, `1`, …, on a loop in a thread of their own."""

    def __init__(self, size: int, host: str = "127.0.0.1") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="oracle-fleet")
        self._thread.start()
        self.endpoints = [Endpoint(str(number)) for number in range(size)]
        self._on_loop(self._start(host))

    @property
    def addresses(self) -> list[str]:
        return [one.address for one in self.endpoints]

    @property
    def calls(self) -> list[int]:
        """How many calls each endpoint has had."""
        return [one.calls for one in self.endpoints]

    def numbers(self, addresses: Sequence[str] | set[str]) -> list[int]:
        """Which endpoints these are."""
        return sorted(self.addresses.index(address) for address in addresses)

    def all_do(self, does: Does) -> None:
        """From now on."""
        for one in self.endpoints:
            one.does = does

    def __getitem__(self, number: int) -> Endpoint:
        return self.endpoints[number]

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_error: object) -> None:
        self._on_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    async def _start(self, host: str) -> None:
        for one in self.endpoints:
            one.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            handler: Any = grpc.unary_unary_rpc_method_handler(one.call)
            service, _, method = METHOD[1:].partition("/")
            one.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
            one.address = f"{host}:{one.server.add_insecure_port(f'{host}:0')}"
            await one.server.start()

    async def _stop(self) -> None:
        await asyncio.gather(*(one.server.stop(None) for one in self.endpoints))
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20.0)


def calling(channel: grpc.Channel, method: str = METHOD) -> Any:
    """What makes calls over that channel."""
    call: Any = channel.unary_unary(method)
    return call


def code_of(channel: grpc.Channel, timeout: float = 5.0, metadata: Any = None, method: str = METHOD) -> int:
    """How one call over that channel ended."""
    return ask(channel, timeout, metadata, method)[0]


def ask(channel: grpc.Channel, timeout: float = 5.0, metadata: Any = None, method: str = METHOD) -> tuple[int, str]:
    """How one call ended, and the name of the endpoint that answered it or the details of its error."""
    try:
        answer: bytes = calling(channel, method)(b"", timeout=timeout, metadata=metadata)
    except grpc.RpcError as error:
        return error.code().value[0], str(error.details())
    return 0, answer.decode()
