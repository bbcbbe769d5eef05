"""The calls that a caller holds while interceptors run above them.

Interceptors are coroutines, so a call must be handed out before there is an RPC to ask. Each class here
stands on the task that runs the chain of interceptors: until it ends, `cancel()` cancels that task;
afterwards every question goes to the call that the chain returned. Behaviour follows grpcio's own
intercepted calls (grpc/aio/_interceptor.py), except where those raise NotImplementedError, lose a
cancellation or wait for each other; every difference is told where it is made.

There is no `__del__`: the task holds nothing of the call above it, so a stream that is dropped takes its RPC
along, which cancels itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import grpc

# grpcio's own words: people search for them, and some compare them.
CANCELLED_LOCALLY = "Locally cancelled by application!"
RPC_FINISHED = "RPC already finished."
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
STYLES_MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."


class LocalStatus(grpc.aio.Call):
    """The status of a call that no server answers for: it ended above the wire. Over from the start."""

    def __init__(self, code: grpc.StatusCode, details: str = "", error: grpc.aio.AioRpcError | None = None) -> None:
        self._code = code
        self._details = details
        self._error = error

    def cancelled(self) -> bool:
        return self._code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None

    def cancel(self) -> bool:
        return False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return (self._error and self._error.initial_metadata()) or grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return (self._error and self._error.trailing_metadata()) or grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        return self._code

    async def details(self) -> str:
        return self._details

    async def debug_error_string(self) -> str:
        return (self._error and self._error.debug_error_string()) or ""

    async def wait_for_connection(self) -> None:
        """Nothing to wait for."""


def _led_to(chain: asyncio.Task[Any]) -> Any:
    """The call that answers for a finished chain: the one it returned, or the status of its failure."""
    if chain.cancelled():
        return LocalStatus(grpc.StatusCode.CANCELLED, CANCELLED_LOCALLY)
    error = chain.exception()
    if error is None:
        return chain.result()
    if isinstance(error, grpc.aio.AioRpcError):
        return LocalStatus(error.code(), error.details() or "", error)
    return LocalStatus(grpc.StatusCode.UNKNOWN, repr(error))


def _when_over(chain: asyncio.Task[Any], over: Callable[[], None]) -> None:
    """Runs `over` as soon as the call behind a finished chain has ended.

    A call that has ended isn't asked for callbacks: grpcio's UnaryUnaryCallResponse refuses (grpc#40998).
    """
    call = _led_to(chain)
    if call.done():
        over()
    else:
        call.add_done_callback(lambda _: over())


def _retrieve(chain: asyncio.Task[Any]) -> None:
    """Looks at the exception, so that asyncio has no complaint when the caller never does."""
    if not chain.cancelled():
        chain.exception()


class InterceptedCall(grpc.aio.Call):
    """Status, metadata and cancellation: what all four arities share."""

    def __init__(self, chain: Coroutine[Any, Any, Any]) -> None:
        self._chain: asyncio.Task[Any] = asyncio.get_running_loop().create_task(chain)
        self._chain.add_done_callback(_retrieve)

    async def _settled(self) -> Any:
        """The call that the chain led to, once it is known; an interceptor's own exception is raised.

        Who only asks for a status must not end the call by giving up, nor be told CANCELLED when it was the
        asking that was cancelled (grpcio's intercepted calls do both, its plain ones neither): hence `wait`,
        which leaves the task alone.
        """
        if not self._chain.done():
            await asyncio.wait((self._chain,))
        try:
            return self._chain.result()
        except (asyncio.CancelledError, grpc.aio.AioRpcError):
            return _led_to(self._chain)

    def cancel(self) -> bool:
        return bool(_led_to(self._chain).cancel() if self._chain.done() else self._chain.cancel())

    def cancelled(self) -> bool:
        return self._chain.done() and bool(_led_to(self._chain).cancelled())

    def done(self) -> bool:
        return self._chain.done() and bool(_led_to(self._chain).done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        def over() -> None:
            callback(self)

        if self._chain.done():
            _when_over(self._chain, over)
        else:
            self._chain.add_done_callback(lambda chain: _when_over(chain, over))

    def time_remaining(self) -> float | None:
        """None until the interceptors are through: only then does an RPC, and so its clock, surely exist."""
        remaining: float | None = _led_to(self._chain).time_remaining() if self._chain.done() else None
        return remaining

    async def initial_metadata(self) -> grpc.aio.Metadata:
        metadata: grpc.aio.Metadata = await (await self._settled()).initial_metadata()
        return metadata

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        metadata: grpc.aio.Metadata = await (await self._settled()).trailing_metadata()
        return metadata

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await (await self._settled()).code()
        return code

    async def details(self) -> str:
        details: str = await (await self._settled()).details()
        return details

    async def debug_error_string(self) -> str:
        """Not in the public class, but logged everywhere; a call of another make may lack it."""
        ask = getattr(await self._settled(), "debug_error_string", None)
        text: str = "" if ask is None else await ask()
        return text

    async def wait_for_connection(self) -> None:
        await (await self._chain).wait_for_connection()


class _UnaryResponse(InterceptedCall):
    """One response. The chain is awaited as it is, so a caller that is cancelled cancels chain and RPC."""

    def __await__(self) -> Generator[Any, None, Any]:
        call = yield from self._chain.__await__()
        return (yield from call.__await__())


class _StreamResponse(InterceptedCall):
    """A stream of responses. As in grpcio's intercepted calls, `read()` and iteration share a source.

    The call is its own iterator: a generator would know the call and the call the generator, and only the
    cycle collector could end an abandoned stream.
    """

    _responses: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._responses is None:
            self._responses = aiter(await self._chain)
        return await self._responses.__anext__()

    async def read(self) -> Any:
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return grpc.aio.EOF


class WrittenRequests:
    """What the caller writes, as the request iterator that interceptors expect. It holds one; more must wait.

    It opens when somebody asks for a request or the interceptors are through, whichever is first. grpcio
    knows only the second, so an interceptor that awaits the outcome before it returns, as OpenTelemetry's
    does, leaves writer and RPC waiting for each other (grpc#34530).
    """

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self._changed = asyncio.Event()
        self._place: list[Any] = []
        self._closed = False
        self._over = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        self.opened.set()
        while not self._place and not self._closed and not self._over:
            await self._changed.wait()
        if not self._place:
            raise StopAsyncIteration
        request = self._place.pop()
        self._wake()
        return request

    async def put(self, request: Any) -> None:
        """Returns once `request` has the place, or once nobody will ever ask for it."""
        while self._place and not self._over and not self._closed:
            await self._changed.wait()
        if self._closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        if not self._over:
            self._place.append(request)
            self._wake()

    def close(self) -> None:
        """No more requests; the one in place is still delivered."""
        self._closed = True
        self._wake()

    def follow(self, chain: asyncio.Task[Any]) -> None:
        """Opens because the chain has finished, and ends with its call: nobody waits for the other side."""
        self.opened.set()
        _when_over(chain, self._end)

    def _end(self) -> None:
        self._over = True
        self._wake()

    def _wake(self) -> None:
        """A pulse: whoever waits looks again, whoever comes later waits."""
        self._changed.set()
        self._changed.clear()


class _StreamRequest(InterceptedCall):
    """A stream of requests, from the caller's iterator (`written` is None) or from `write()`."""

    def __init__(self, chain: Coroutine[Any, Any, Any], written: WrittenRequests | None) -> None:
        super().__init__(chain)
        self._written = written
        if written is not None:
            self._chain.add_done_callback(written.follow)

    async def _opened(self) -> WrittenRequests:
        """Waits until writing makes sense; raises what the interceptors raised.

        A writer that is cancelled cancels the call, here and in `write`, as on grpcio's plain calls.
        """
        if self._written is None:
            raise grpc.aio.UsageError(STYLES_MIXED)
        try:
            await self._written.opened.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._chain.cancelled():
            raise asyncio.InvalidStateError(RPC_FINISHED)
        if self._chain.done():
            self._chain.result()
        return self._written

    async def write(self, request: Any) -> None:
        try:
            written = await self._opened()
        except grpc.aio.AioRpcError as refusal:
            raise asyncio.InvalidStateError(RPC_FINISHED) from refusal
        if self.done():
            raise asyncio.InvalidStateError(RPC_FINISHED)
        try:
            await written.put(request)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.done():
            raise asyncio.InvalidStateError(RPC_FINISHED)

    async def done_writing(self) -> None:
        (await self._opened()).close()


class InterceptedUnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""


class InterceptedUnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class InterceptedStreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""


class InterceptedStreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """Streams both ways."""
