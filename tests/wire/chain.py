"""Three services, A -> B -> C, each on a server of its own; every call to the next one goes through the mesh.

A service runs on threads, on asyncio, or as functions on threads in a server on asyncio. All of them do the
same: note what they see, do what the request says, and pass it on.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

import proxyless
from proxyless.context import caller_has_gone
from tests.wire.echo import dead_address, eventually

THREADS, ASYNCIO, BOTH = "threads", "asyncio", "threads in asyncio"

PASS, WAIT, LATE = b"pass it on", b"wait in c", b"pass it on when it is too late"

KINDS = [
    (THREADS, THREADS, THREADS),
    (ASYNCIO, ASYNCIO, ASYNCIO),
    (ASYNCIO, THREADS, ASYNCIO),
    (THREADS, ASYNCIO, BOTH),
    (BOTH, BOTH, THREADS),
]
each_kind = pytest.mark.parametrize("kinds", KINDS, ids="-".join)

# For streams that end early. grpc.aio (1.85.1) leaves a thread blocked for good for each that a function on
# threads has begun and that its caller cancels, whoever intercepts it.
STREAMING = [(THREADS, THREADS, THREADS), (ASYNCIO, ASYNCIO, ASYNCIO), (ASYNCIO, THREADS, ASYNCIO)]
each_streaming = pytest.mark.parametrize("kinds", [*STREAMING, (THREADS, ASYNCIO, THREADS)], ids="-".join)

_ARITY = {"Go": "unary_unary", "Watch": "unary_stream", "Take": "stream_unary"}


class Visit(NamedTuple):
    """What a service saw of a call: seconds left by its context, and by the mesh; and the call's metadata."""

    left: float | None
    remaining: float | None
    metadata: tuple[tuple[str, str | bytes], ...]


class Hop:
    """One of the services. Subclasses say how it runs."""

    def __init__(self, name: str, chain: Chain) -> None:
        self.name = name
        self.chain = chain
        self.following = {"a": "b", "b": "c"}.get(name)
        self.visits: list[Visit] = []
        self.running = 0
        self.errors: list[grpc.RpcError] = []
        self.own_metadata: tuple[tuple[str, str], ...] = ()
        self.instead: Any = None
        """What `Go` does in place of the usual."""
        self._lock = threading.Lock()

    @contextmanager
    def visited(self, context: Any) -> Iterator[None]:
        """Around everything that a handler does."""
        visit = Visit(context.time_remaining(), proxyless.remaining(), tuple(context.invocation_metadata()))
        with self._lock:
            self.visits.append(visit)
            self.running += 1
        try:
            yield
        except grpc.RpcError as error:
            self.errors.append(error)
            raise
        finally:
            with self._lock:
                self.running -= 1

    def handlers(self, go: Any, watch: Any, take: Any) -> Any:
        """For a server."""
        methods: dict[str, Any] = {
            "Go": grpc.unary_unary_rpc_method_handler(go),
            "Watch": grpc.unary_stream_rpc_method_handler(watch),
            "Take": grpc.stream_unary_rpc_method_handler(take),
        }
        return (grpc.method_handlers_generic_handler("chain.Chain", methods),)


class OnThreads(Hop):
    """As functions, which block."""

    def go(self, request: bytes, context: Any) -> bytes:
        with self.visited(context):
            if self.instead is not None:
                return self.instead(request, context)  # type: ignore[no-any-return]
            if request == WAIT and self.name == "c":
                while not self.chain.over.wait(0.002) and not caller_has_gone():
                    pass
            if request == LATE and self.name == "b":
                eventually(lambda: proxyless.remaining() == 0.0)
            if self.following is None:
                return b"done"
            answer: bytes = self.chain.to(self.following)(request, metadata=self.own_metadata)
            return answer

    def take(self, requests: Iterator[bytes], context: Any) -> bytes:
        *_, last = requests
        return self.go(last, context)

    def watch(self, request: bytes, context: Any) -> Iterator[bytes]:
        with self.visited(context):
            if self.following:
                yield from self.chain.to(self.following, "Watch")(request)
                return
            while True:
                yield b"tick"
                time.sleep(0.005)


class OnAsyncio(Hop):
    """As coroutines."""

    async def go(self, request: bytes, context: Any) -> bytes:
        with self.visited(context):
            if self.instead is not None:
                return await self.instead(request, context)  # type: ignore[no-any-return]
            if request == WAIT and self.name == "c":
                await asyncio.sleep(10.0)
            if request == LATE and self.name == "b":
                await self._stay_too_long()
            if self.following is None:
                return b"done"
            answer: bytes = await self.chain.aio_to(self.following)(request, metadata=self.own_metadata)
            return answer

    async def take(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        last = [request async for request in requests][-1]
        return await self.go(last, context)

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        with self.visited(context):
            if self.following:
                async for answer in self.chain.aio_to(self.following, "Watch")(request):
                    yield answer
                return
            while True:
                yield b"tick"
                await asyncio.sleep(0.005)

    async def _stay_too_long(self) -> None:
        """Until the deadline has passed, though grpc.aio cancels the task then."""
        while proxyless.remaining() != 0.0:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass


class Chain:
    """The servers, the mesh that knows them from a file, and a loop in a thread for what is on asyncio."""

    def __init__(self, folder: Path, *kinds: str, reserve: float = 0.0) -> None:
        self.over = threading.Event()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="chain-loop")
        self._thread.start()
        self._stop: list[Callable[[], Any]] = []
        self.hops: list[Any] = []
        endpoints = {"nowhere": [{"address": dead_address()}]}
        for name, kind in zip("abc", kinds, strict=True):
            hop = (OnAsyncio if kind == ASYNCIO else OnThreads)(name, self)
            port = self._serve(hop, reserve) if kind == THREADS else self.on_loop(self._serve_aio(hop, reserve))
            endpoints[name] = [{"address": f"127.0.0.1:{port}"}]
            self.hops.append(hop)
        self.a, self.b, self.c = self.hops
        file = folder / "mesh.yaml"
        file.write_text(json.dumps({"services": {}, "endpoints": endpoints}))
        self.mesh = proxyless.connect(f"file:{file}", services=["a", "b", "c", "nowhere"])
        assert self.mesh.ready(timeout=5.0)

    def _serve(self, hop: Any, reserve: float) -> int:
        pool = futures.ThreadPoolExecutor(8)
        server = grpc.server(pool, interceptors=[proxyless.server_interceptor(reserve=reserve)])
        server.add_generic_rpc_handlers(hop.handlers(hop.go, hop.watch, hop.take))
        port: int = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._stop += [lambda: server.stop(None).wait(), pool.shutdown]
        return port

    async def _serve_aio(self, hop: Any, reserve: float) -> int:
        pool = futures.ThreadPoolExecutor(8)
        server = grpc.aio.server(pool, interceptors=[proxyless.aio_server_interceptor(reserve=reserve)])
        server.add_generic_rpc_handlers(hop.handlers(hop.go, hop.watch, hop.take))
        port: int = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stop += [lambda: self.on_loop(server.stop(None)), pool.shutdown]
        return port

    def on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do it there, and wait for what comes of it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20.0)

    # -- calls

    def to(self, service: str, method: str = "Go") -> Any:
        """What calls a service through the mesh, on threads."""
        return getattr(self.mesh.channel(service), _ARITY[method])(f"/chain.Chain/{method}")

    def aio_to(self, service: str, method: str = "Go") -> Any:
        """The same on asyncio."""
        return getattr(self.mesh.aio_channel(service), _ARITY[method])(f"/chain.Chain/{method}")

    def go(self, request: bytes, timeout: float | None = None, metadata: Any = None) -> Any:
        """Call A, and wait."""
        return self.to("a")(request, timeout=timeout, metadata=metadata)

    def begin(self, request: bytes, method: str = "Go", timeout: float | None = None) -> Any:
        """Call A, and hold the call."""
        call = self.to("a", method)
        return (call if method == "Watch" else call.future)(request, timeout=timeout)

    @property
    def running(self) -> list[str]:
        """The services in which handlers are at work, each as often as there are any."""
        return [hop.name for hop in self.hops for _ in range(hop.running)]

    @property
    def inflight(self) -> int:
        """Attempts under way through the mesh."""
        return sum(node.inflight for node in self.mesh._nodes.all())

    def close(self) -> None:
        """Everything; nothing may be left under way."""
        self.over.set()
        eventually(lambda: not self.running and not self.inflight)
        self.mesh.close()
        for stop in self._stop:
            stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)
        left = asyncio.all_tasks(self.loop)
        self.loop.close()
        assert not left, f"tasks are left: {left}"


Build = Callable[..., Chain]
"""Makes a chain of services of the three kinds given; the fixture `build`."""
