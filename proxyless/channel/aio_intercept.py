"""Client interceptors for a `grpc.aio.Channel` of our own: the chain between a multicallable and its RPC.

Client libraries append interceptors to an asyncio channel long after it was built (google-api-core and
pymilvus do), so our channel must run them. grpcio's `Intercepted*Call` classes cannot be borrowed: they end
in a private C-core channel. This file rebuilds what they promise on public classes alone: interceptors run
in order, and each may change the call's details, go on as often as it likes, or answer by itself.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, cast

import grpc

from proxyless.channel.aio_intercepted_calls import (
    RPC_FINISHED,
    STYLES_MIXED,
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
    LocalStatus,
    WrittenRequests,
)
from proxyless.channel.wire import name_of

Invoke = Callable[..., grpc.aio.Call]
"""`(method, request, *, timeout, metadata, credentials, wait_for_ready)`, giving the RPC itself, begun."""

_Adopt = Callable[["_Chain", Any, Any], Any]


def unary_unary(
    interceptors: Sequence[grpc.aio.UnaryUnaryClientInterceptor],
    invoke: Invoke,
    method: str,
    request: Any,
    timeout: float | None,
    metadata: Any,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
) -> grpc.aio.UnaryUnaryCall[Any, Any]:
    """Starts one unary-unary call through `interceptors`, first in the list outermost."""
    chain = _Chain(interceptors, "intercept_unary_unary", invoke, _call_or_response)
    details = _details(method, timeout, metadata, credentials, wait_for_ready)
    return InterceptedUnaryUnaryCall(chain.run(details, request))


def unary_stream(
    interceptors: Sequence[grpc.aio.UnaryStreamClientInterceptor],
    invoke: Invoke,
    method: str,
    request: Any,
    timeout: float | None,
    metadata: Any,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
) -> grpc.aio.UnaryStreamCall[Any, Any]:
    """Starts one unary-stream call through `interceptors`, first in the list outermost."""
    chain = _Chain(interceptors, "intercept_unary_stream", invoke, _call_or_stream)
    details = _details(method, timeout, metadata, credentials, wait_for_ready)
    return InterceptedUnaryStreamCall(chain.run(details, request))


def stream_unary(
    interceptors: Sequence[grpc.aio.StreamUnaryClientInterceptor],
    invoke: Invoke,
    method: str,
    request_iterator: Any,
    timeout: float | None,
    metadata: Any,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
) -> grpc.aio.StreamUnaryCall[Any, Any]:
    """Starts one stream-unary call; without a request iterator the caller writes."""
    written = WrittenRequests() if request_iterator is None else None
    requests = request_iterator if written is None else written
    chain = _Chain(interceptors, "intercept_stream_unary", invoke, _awaitable_or_response)
    details = _details(method, timeout, metadata, credentials, wait_for_ready)
    return InterceptedStreamUnaryCall(chain.run(details, requests), written)


def stream_stream(
    interceptors: Sequence[grpc.aio.StreamStreamClientInterceptor],
    invoke: Invoke,
    method: str,
    request_iterator: Any,
    timeout: float | None,
    metadata: Any,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
) -> grpc.aio.StreamStreamCall[Any, Any]:
    """Starts one stream-stream call; without a request iterator the caller writes."""
    written = WrittenRequests() if request_iterator is None else None
    requests = request_iterator if written is None else written
    chain = _Chain(interceptors, "intercept_stream_stream", invoke, _call_or_stream)
    details = _details(method, timeout, metadata, credentials, wait_for_ready)
    return InterceptedStreamStreamCall(chain.run(details, requests), written)


def _details(
    method: str,
    timeout: float | None,
    metadata: Any,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
) -> grpc.aio.ClientCallDetails:
    """What interceptors are told, as grpcio tells it: a method in bytes (grpc#31092), metadata never None."""
    if not metadata:
        metadata = grpc.aio.Metadata()
    elif not isinstance(metadata, grpc.aio.Metadata):
        metadata = grpc.aio.Metadata.from_tuple(tuple(metadata))
    name = cast(str, method.encode())  # the type stubs believe in str
    return grpc.aio.ClientCallDetails(name, timeout, metadata, credentials, wait_for_ready)


class _Chain:
    """The interceptors of one call, copied when the call is made, and the last RPC they sent."""

    def __init__(self, interceptors: Sequence[Any], hook: str, invoke: Invoke, adopt: _Adopt) -> None:
        self._interceptors = tuple(interceptors)
        self._hook = hook
        self._invoke = invoke
        self._adopt = adopt
        self.sent: grpc.aio.Call | None = None

    async def run(self, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """The call that all interceptors agreed on.

        Where they fail or are cancelled instead, nobody can reach the RPC that they began, yet the traceback
        keeps it alive: it is cancelled here. grpcio leaves that to the garbage collector.
        """
        try:
            return await self._proceed(0, details, request)
        except BaseException:
            if self.sent is not None:
                self.sent.cancel()
            raise

    async def _proceed(self, position: int, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """A `continuation`. It consumes nothing, so a retrying interceptor may call it again (grpc#32587)."""
        if position == len(self._interceptors):
            self.sent = self._send(details, request)
            return self.sent
        interceptor = self._interceptors[position]
        continuation = functools.partial(self._proceed, position + 1)
        answer = await getattr(interceptor, self._hook)(continuation, details, request)
        return self._adopt(self, interceptor, answer)

    def _send(self, details: grpc.aio.ClientCallDetails, request: Any) -> grpc.aio.Call:
        method: str | bytes = details.method
        return self._invoke(
            name_of(method),
            request,
            timeout=details.timeout,
            metadata=details.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


def _call_or_response(_chain: _Chain, _interceptor: Any, answer: Any) -> Any:
    return answer if isinstance(answer, grpc.aio.UnaryUnaryCall) else LocalResponse(answer)


def _awaitable_or_response(_chain: _Chain, _interceptor: Any, answer: Any) -> Any:
    """For stream-unary grpcio takes any answer for a call, so look-alikes pass; no message is awaitable."""
    return answer if hasattr(answer, "__await__") else LocalResponse(answer)


def _call_or_stream(chain: _Chain, interceptor: Any, answer: Any) -> Any:
    if isinstance(answer, (grpc.aio.UnaryStreamCall, grpc.aio.StreamStreamCall)):
        return answer
    if hasattr(answer, "__aiter__"):
        return ReplacedStream(answer, chain)
    raise TypeError(
        f"client interceptor {interceptor!r} answered a call that has a stream of responses with a"
        f" {type(answer).__name__}: return what `await continuation(...)` gave, another call, or an async"
        " iterator of responses (is a `return` missing?)"
    )


class LocalResponse(LocalStatus, grpc.aio.UnaryUnaryCall[Any, Any], grpc.aio.StreamUnaryCall[Any, Any]):
    """A response that an interceptor gave without a call around it, for both arities that have one."""

    def __init__(self, response: Any) -> None:
        super().__init__(grpc.StatusCode.OK)
        self._response = response

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self._response

    async def write(self, request: Any) -> None:
        raise asyncio.InvalidStateError(RPC_FINISHED)

    async def done_writing(self) -> None:
        """There is nobody to tell."""


class ReplacedStream(grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
    """Responses from an interceptor's own async iterator, over the RPC that the iterator reads from.

    The messages are the interceptor's, status and cancellation are the RPC's. An iterator that sends its RPC
    at its first step, or none at all, is served too: until there is an RPC the call counts as done and OK.
    """

    def __init__(self, responses: Any, chain: _Chain) -> None:
        self._source = responses
        self._chain = chain
        self._responses: AsyncIterator[Any] | None = None

    @property
    def _rpc(self) -> grpc.aio.Call:
        return LocalStatus(grpc.StatusCode.OK) if self._chain.sent is None else self._chain.sent

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._responses is None:
            self._responses = aiter(self._source)
        return self._responses

    async def read(self) -> Any:
        try:
            return await anext(aiter(self))
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def write(self, request: Any) -> None:
        raise grpc.aio.UsageError(STYLES_MIXED)  # below an interceptor requests always come from an iterator

    async def done_writing(self) -> None:
        raise grpc.aio.UsageError(STYLES_MIXED)

    def cancelled(self) -> bool:
        return self._rpc.cancelled()

    def done(self) -> bool:
        return self._rpc.done()

    def time_remaining(self) -> float | None:
        return self._rpc.time_remaining()

    def cancel(self) -> bool:
        return self._rpc.cancel()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._rpc.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return await self._rpc.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return await self._rpc.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        return await self._rpc.code()

    async def details(self) -> str:
        return await self._rpc.details()

    async def debug_error_string(self) -> str:
        text: str = await cast(Any, self._rpc).debug_error_string()
        return text

    async def wait_for_connection(self) -> None:
        await self._rpc.wait_for_connection()
