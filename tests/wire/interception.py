"""A real asyncio server, and the two ways to call it through interceptors: grpcio's own, and ours."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest

from proxyless.channel import aio_intercept

ARITIES = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
Body = Callable[[Any, Any, Any], Awaitable[Any]]
_BASES: dict[str, type] = {
    "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
    "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
    "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
    "stream_stream": grpc.aio.StreamStreamClientInterceptor,
}

both = pytest.mark.parametrize("way", ["grpcio", "ours"])
each_arity = pytest.mark.parametrize("arity", ARITIES)
one_response = pytest.mark.parametrize("arity", ["unary_unary", "stream_unary"])
many_responses = pytest.mark.parametrize("arity", ["unary_stream", "stream_stream"])
many_requests = pytest.mark.parametrize("arity", ["stream_unary", "stream_stream"])


def interceptor(arity: str, body: Body) -> Any:
    """An interceptor of that arity around `await body(continuation, details, request)`."""

    async def intercept(_: Any, continuation: Any, details: Any, request: Any) -> Any:
        return await body(continuation, details, request)

    return type("Interceptor", (_BASES[arity],), {f"intercept_{arity}": intercept})()


async def passing(continuation: Any, details: Any, request: Any) -> Any:
    """The interceptor that changes nothing."""
    return await continuation(details, request)


async def refusing(continuation: Any, details: Any, request: Any) -> Any:
    """The interceptor that refuses every call."""
    initial, trailing = grpc.aio.Metadata(("start", "mine")), grpc.aio.Metadata(("end", "mine"))
    code = grpc.StatusCode.PERMISSION_DENIED
    raise grpc.aio.AioRpcError(code, initial, trailing, "not on a Monday", "calendar")


async def stuck(continuation: Any, details: Any, request: Any) -> Any:
    """The interceptor that never gets to the RPC."""
    await asyncio.Event().wait()


async def talk(call: Any) -> bytes:
    """All that the server answers, in one piece."""
    if hasattr(call, "__aiter__"):
        return b"".join([response async for response in call])
    response: bytes = await call
    return response


async def soon(event: asyncio.Event) -> None:
    """Waits for what must happen by itself."""
    await asyncio.wait_for(event.wait(), 5.0)


class Wire(grpc.GenericRpcHandler):
    """The server. `/wire.<Behaviour>/<arity>` echoes byte by byte (Echo; Flaky, the third time), fails in
    the end (Fail) or at once (Refuse), hangs (Hang), or hangs after its first byte (Drip)."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, dict[str, str]]] = []
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._server: Any = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self._target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._channels: list[grpc.aio.Channel] = []

    async def __aenter__(self) -> Wire:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops everything, and looks for tasks that were left behind."""
        for channel in self._channels:
            await channel.close()
        await self._server.stop(None)
        del self._server
        deadline = time.monotonic() + 5.0
        while len(asyncio.all_tasks()) > 1 and time.monotonic() < deadline:
            gc.collect()
            await asyncio.sleep(0.01)
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        assert not leaked, f"the test left tasks behind: {leaked}"

    def call(
        self,
        way: str,
        arity: str,
        interceptors: Sequence[Any],
        request: bytes | None = b"ab",
        *,
        behaviour: str = "Echo",
        target: str | None = None,
        **options: Any,
    ) -> Any:
        """Begins a call; where requests are streamed each byte is one, and None leaves them to `write()`."""
        sent: Any = _each(request) if arity.startswith("stream") and request is not None else request
        method = f"/wire.{behaviour}/{arity}"
        if way == "grpcio":
            channel = grpc.aio.insecure_channel(target or self._target, interceptors=list(interceptors))
            self._channels.append(channel)
            return getattr(channel, arity)(method)(sent, **options)
        channel = grpc.aio.insecure_channel(target or self._target)
        self._channels.append(channel)

        def invoke(method: str, request: Any, **options: Any) -> Any:
            assert isinstance(method, str)
            return getattr(channel, arity)(method)(request, **options)

        arguments = [options.get(name) for name in ("timeout", "metadata", "credentials", "wait_for_ready")]
        return getattr(aio_intercept, arity)(interceptors, invoke, method, sent, *arguments)

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        """The handler for a method; every call is noted with its metadata."""
        behaviour, arity = call.method.removeprefix("/wire.").split("/")
        self.tried.append((call.method, {key: str(value) for key, value in call.invocation_metadata}))
        handler = getattr(grpc, f"{arity}_rpc_method_handler")

        async def one(request: Any, context: Any) -> bytes:
            return b"".join([response async for response in self._answer(behaviour, request, context)])

        async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
            async for response in self._answer(behaviour, request, context):
                yield response

        return handler(many if arity.endswith("stream") else one)

    async def _answer(self, behaviour: str, request: Any, context: Any) -> AsyncIterator[bytes]:
        context.set_trailing_metadata((("end", "trailer"),))
        if behaviour == "Fail":
            # Only when all is heard: grpcio turns a request that can't be sent any more into INTERNAL.
            _ = [request async for request in _each(request)]
        if behaviour in {"Fail", "Refuse"}:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing", (("end", "trailer"),))
        if behaviour == "Flaky" and len(self.tried) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        if behaviour == "Hang":
            await self._hang()
        await context.send_initial_metadata((("start", "header"),))
        async for byte in _each(request):
            yield byte
            if behaviour == "Drip":
                await self._hang()

    async def _hang(self) -> None:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def _each(requests: Any) -> AsyncIterator[bytes]:
    if isinstance(requests, bytes):
        for byte in requests:
            yield bytes([byte])
    else:
        async for request in requests:
            yield request
