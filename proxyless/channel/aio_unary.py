"""asyncio calls with one response: what `await` sees."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import grpc

from proxyless.channel.aio_call import Driven, awaited


class UnaryUnaryCall(Driven, grpc.aio.UnaryUnaryCall):  # type: ignore[misc]
    """A unary call under way."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return awaited(self)


class StreamUnaryCall(Driven, grpc.aio.StreamUnaryCall):  # type: ignore[misc]
    """A call under way that sends a stream: from an iterator, or message by message with `write`."""

    def __await__(self) -> Generator[Any, Any, Any]:
        return awaited(self)

    async def write(self, request: Any) -> None:
        await write(self, request)

    async def done_writing(self) -> None:
        await (await attempt(self)).done_writing()


async def attempt(call: Driven) -> Any:
    """The attempt that `call` is making, once there is one; raises how the call ended if there will be none."""
    while call._native is None:
        if call._outcome is not None:
            raise call._error(call._outcome)
        assert call._rest is not None
        await asyncio.wait((call._rest,))
    return call._native


async def write(call: Driven, request: Any) -> None:
    """Send one more request; where the attempt could not be connected and another follows, on that one."""
    while True:
        native = await attempt(call)
        try:
            return await native.write(request)  # type: ignore[no-any-return]
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            if not native.done() or not await call._goes_on_after(native):
                raise
