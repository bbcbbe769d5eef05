"""How an attempt ends, in the words that grpcio has for asyncio."""

from __future__ import annotations

from typing import Any

import grpc

from proxyless.channel import wire
from proxyless.script import OK, Outcome, Rpc


async def ending(rpc: Rpc, native: Any) -> Outcome:
    """How a native call ended, when it has; never raises what it ended with."""
    code = await native.code()
    if code is grpc.StatusCode.OK:
        return wire.success(await native.trailing_metadata()) if wire.reads_trailers(rpc) else OK
    error = grpc.aio.AioRpcError(
        code,
        await native.initial_metadata(),
        await native.trailing_metadata(),
        await native.details(),
        await native.debug_error_string(),
    )
    return wire.failure(rpc, error)


def cancel(native: Any) -> None:
    """End an attempt from outside, and with it the waiting of whoever writes to it: grpcio's `write` waits until the
    initial metadata is sent, and for ever where the call is cancelled before. It keeps that event in private (1.85.3);
    where it no longer does, we are no better than it."""
    native.cancel()
    sent = getattr(native, "_metadata_sent", None)
    if sent is not None:
        sent.set()


def anew(error: BaseException) -> BaseException:
    """An error of grpcio's for whoever asks, as its own calls make one each time. An error that was raised knows the
    frames that it came through, and these know the call: did the call know it, all three would wait for the garbage
    collector, and every failure on a bad day with them."""
    if error.__class__ is not grpc.aio.AioRpcError:
        return error
    known: Any = error
    return grpc.aio.AioRpcError(
        known.code(),
        known.initial_metadata(),
        known.trailing_metadata(),
        known.details(),
        known.debug_error_string(),
    )
