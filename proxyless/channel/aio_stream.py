"""asyncio calls with a stream of responses: the script sleeps while the caller reads."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc

from proxyless.channel import wire
from proxyless.channel.aio_call import Driven
from proxyless.channel.aio_writing import Writing
from proxyless.script import OPEN, Outcome

_MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."


class StreamResponse(Driven):
    """Reading, one message at a time, from whichever attempt answers.

    A stream that its reader has let go of can't be read to its end by anybody: it is cancelled. The call is
    its own iterator for that reason: a generator would know the call and the call the generator, and an
    abandoned stream would go on until the garbage collector's next round.
    """

    _style: str | None = None
    _exhausted = False
    _kept = False

    def _watch(self, native: Any) -> None:
        self._channel.streams.add(self)
        native.add_done_callback(_Notice(self))

    def __aiter__(self) -> AsyncIterator[Any]:
        self._choose("iterate")
        return self

    async def __anext__(self) -> Any:
        if self._exhausted:
            raise StopAsyncIteration
        self._exhausted = True  # whatever ends the iteration ends it once
        message = await self._next()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        self._exhausted = False
        return message

    async def read(self) -> Any:
        if self._outcome is not None and self._style is None:
            self._raise_failure()
            return grpc.aio.EOF
        self._choose("read")
        return await self._next()

    def _choose(self, style: str) -> None:
        if self._style is None:
            self._style = style
        elif self._style != style:
            raise grpc.aio.UsageError(_MIXED)

    async def _next(self) -> Any:
        """The next message, or EOF; an attempt that fails before its first may be followed by another."""
        while True:
            if self._outcome is not None and self._native is None:
                self._raise_failure()
            native = await self._present()
            self._attended += 1
            try:
                message = await self._read(native)
            except grpc.aio.AioRpcError:
                message = grpc.aio.EOF  # how it ended is asked below, whoever noticed first
            except BaseException:
                self.cancel()
                raise
            finally:
                self._attended -= 1
            if message is not grpc.aio.EOF:
                self._commit(native)
                return message
            if not await self._goes_on_after(native):
                self._raise_failure()
                return grpc.aio.EOF

    def _attempt_over(self, native: Any, reply: Outcome) -> None:
        if reply.code != 0 and wire.began(reply.error):
            self._committed = True
        super()._attempt_over(native, reply)

    def _commit(self, native: Any) -> None:
        if not self._committed:
            super()._commit(native)
            if self._outcome is None and self._settled is not native:
                self._rpc.now = self._channel.clock()
                self._step(OPEN)

    async def _read(self, native: Any) -> Any:
        if self._style == "read":
            return await native.read()
        try:
            return await native.__aiter__().__anext__()
        except StopAsyncIteration:
            return grpc.aio.EOF

    def _raise_failure(self) -> None:
        assert self._outcome is not None
        if self._outcome.code != 0:
            raise self._error(self._outcome)


class _Notice:
    """Tells a call that its attempt has ended, without keeping the call alive for as long as that takes."""

    __slots__ = ("_call",)

    def __init__(self, call: Driven) -> None:
        self._call = weakref.ref(call)

    def __call__(self, native: Any) -> None:
        call = self._call()
        if call is not None:
            call._noticed(native)


class UnaryStreamCall(StreamResponse, grpc.aio.UnaryStreamCall):  # type: ignore[type-arg]
    """A server stream under way."""


class StreamStreamCall(Writing, StreamResponse, grpc.aio.StreamStreamCall):  # type: ignore[type-arg]
    """Streams both ways, under way: requests from an iterator, or message by message with `write`."""
