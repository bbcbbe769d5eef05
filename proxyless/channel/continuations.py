"""What an interceptor goes on with, as something a driver of ours can send an attempt on.

grpcio gives an interceptor a function that makes the call on the channel that was wrapped. To a driver that is
a multicallable like any other, with one question open which grpcio's public API does not answer: does the
caller wait in this thread, or will it be called back? This file is the one place that knows how to tell.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import grpc

from proxyless.channel.aio_intercepted_calls import (
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
)
from proxyless.channel.aio_requests import AioFeeding
from proxyless.channel.requests import Feeding


def is_blocking(continuation: Any) -> bool:
    """Whether a call with one response was made by calling the stub: its caller waits here.

    grpcio names the two functions after the methods that make them (`grpc/_interceptor.py`). Where that is no
    longer so, the answer is False, which serves both: a future can be waited for too, at a higher price.
    `tests/wire/test_interceptors.py` notices.
    """
    return "._with_call.<locals>." in getattr(continuation, "__qualname__", "")


class Details(
    namedtuple("Details", "method timeout metadata credentials wait_for_ready compression"),
    grpc.ClientCallDetails,
):
    """What grpcio tells and is told of a call to be made."""


class Continued:
    """For threads: an attempt is the rest of the chain of interceptors, on the channel that was wrapped."""

    def __init__(self, arity: str, continuation: Callable[..., Any], details: Any) -> None:
        self._continuation = continuation
        self._method = details.method
        self._wait_for_ready = getattr(details, "wait_for_ready", None)
        self._native: Any = Feeding(self, plain=True) if arity.startswith("stream") else self

    def of(self, _rpc: Any) -> Any:
        """The multicallable, whichever node was picked: there is one."""
        return self._native

    def within(self, _scope: Any, _rpc: Any) -> Any:
        """The same within a scope: how the wrapped channel makes a blocking call is not ours to change."""
        return self._native

    def __call__(
        self, request: Any, timeout: Any, metadata: Any, credentials: Any, _ready: Any, compression: Any
    ) -> Any:
        details = Details(self._method, timeout, metadata, credentials, self._wait_for_ready, compression)
        return _opened(self._continuation(details, request))

    future = __call__

    def with_call(self, *arguments: Any) -> tuple[Any, Any]:
        """(response, call); raises how the call failed."""
        call = self(*arguments)
        return call.result(), call


def _opened(answer: Any) -> Any:
    """What an interceptor after ours raised, out of the parcel in which grpcio returns it, which says INTERNAL of all
    that is in there: the failure of a call is that attempt's end, and anything else is raised again."""
    if isinstance(answer, grpc.RpcError) and isinstance(answer, grpc.Future) and answer.done():
        raised = answer.exception()
        if isinstance(raised, grpc.RpcError):
            return raised
        if raised is not None:
            raise raised
    return answer


_AIO_CALLS = {
    "unary_unary": InterceptedUnaryUnaryCall,
    "unary_stream": InterceptedUnaryStreamCall,
    "stream_unary": lambda chain: InterceptedStreamUnaryCall(chain, None),
    "stream_stream": lambda chain: InterceptedStreamStreamCall(chain, None),
}


class AioContinued:
    """The same on a loop, where the rest of the chain is a coroutine: the call is handed out before it is made."""

    def __init__(self, arity: str, continuation: Callable[..., Any], details: Any) -> None:
        self._continuation = continuation
        self._method = details.method
        self._wait_for_ready = getattr(details, "wait_for_ready", None)
        self._call: Callable[..., Any] = _AIO_CALLS[arity]
        self._native: Any = AioFeeding(self, plain=True) if arity.startswith("stream") else self

    def of(self, _rpc: Any, _loop: Any) -> Any:
        """As above."""
        return self._native

    def __call__(self, request: Any, *, timeout: Any, metadata: Any, credentials: Any, compression: Any) -> Any:
        # The compression is in the metadata: grpcio's asyncio stack tells interceptors in no other way.
        # And whoever comes after us asks it, and adds to it: it is a mapping of this attempt's own.
        metadata = grpc.aio.Metadata(*(metadata or ()))
        details = grpc.aio.ClientCallDetails(self._method, timeout, metadata, credentials, self._wait_for_ready)
        return self._call(self._continuation(details, request))
