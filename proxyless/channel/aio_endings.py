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
    return wire.failure(error)
