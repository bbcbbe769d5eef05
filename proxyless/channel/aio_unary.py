"""asyncio calls with one response: what `await` sees."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import grpc

from proxyless.channel import wire
from proxyless.channel.aio_call import Driven
from proxyless.channel.aio_writing import Writing
from proxyless.script import OK


def _awaited(call: Driven) -> Generator[Any, Any, Any]:
    """`await call`, for calls with one response: the usual way to the end of a call."""
    while True:
        outcome = call._outcome
        native = call._native
        if outcome is not None:
            if outcome.code == 0 and native is not None:
                return (yield from native.__await__())
            raise call._error(outcome)
        rest = call._rest
        if rest is not None:
            try:
                yield from asyncio.wait((rest,)).__await__()
            except asyncio.CancelledError:
                call.cancel()
                raise
            _raise_failure(rest)
            continue
        call._attended += 1
        try:
            response = yield from native.__await__()
        except grpc.aio.AioRpcError as error:
            call._attempt_over(native, wire.failure(call._rpc, error.with_traceback(None)))  # see `anew`
        except BaseException:
            # The awaiting task was cancelled, or the call was, or the answer could not be read.
            call.cancel()
            raise
        else:
            reply = OK
            if call._rpc.node.feedback is not None and wire.reads_trailers(call._rpc):
                reply = wire.success((yield from native.trailing_metadata().__await__()))
            call._attempt_over(native, reply)
            if call._outcome is OK:
                return response
        finally:
            call._attended -= 1


class UnaryUnaryCall(Driven, grpc.aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """A unary call under way."""

    __await__ = _awaited


class StreamUnaryCall(Writing, grpc.aio.StreamUnaryCall):  # type: ignore[type-arg]
    """A call under way that sends a stream: from an iterator, or message by message with `write`."""

    __await__ = _awaited


def _raise_failure(task: asyncio.Task[None]) -> None:
    """A task that carried the call on must not fail in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
