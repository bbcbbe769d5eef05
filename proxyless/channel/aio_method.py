"""The four asyncio multicallables: what a generated stub calls. Interceptors go around, the mesh is below."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import aio_intercept
from proxyless.channel.aio_call import Driven
from proxyless.channel.aio_requests import aio_requests
from proxyless.channel.aio_stream import StreamStreamCall, UnaryStreamCall
from proxyless.channel.aio_unary import StreamUnaryCall, UnaryUnaryCall
from proxyless.context import SCOPE

if TYPE_CHECKING:
    from proxyless.channel.aio import AioMeshChannel


class _Method:
    """One method of a service, called through one channel."""

    _call: type[Driven]
    _intercepted: Callable[..., Any]

    def __init__(self, channel: AioMeshChannel, method: str, wires: Any, interceptors: list[Any]) -> None:
        """`wires` are `AioWires`, or where the calls stay on a channel that was given to the mesh, `AioContinued`;
        `interceptors` the channel's own list: libraries append to it after the stub was made."""
        self._channel = channel
        self._method = method
        self._wires = wires
        self._interceptors = interceptors

    def _direct(
        self,
        request: Any,
        timeout: Any,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
    ) -> Any:
        channel = self._channel
        rpc = channel.rpc(self._method, timeout, metadata, wait_for_ready, None)
        loop = asyncio.get_running_loop()
        call = self._call(channel, self._wires, rpc, request, credentials, compression, loop)
        if SCOPE.get() is not None:
            channel.began(call)
        return call

    def _direct_stream(
        self,
        request: Any,
        timeout: Any,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
    ) -> Any:
        channel = self._channel
        requests = aio_requests(request, channel.replay_cap)
        rpc = channel.rpc(self._method, timeout, metadata, wait_for_ready, requests)
        loop = asyncio.get_running_loop()
        call = self._call(channel, self._wires, rpc, requests, credentials, compression, loop)
        if SCOPE.get() is not None:
            channel.began(call)
        return call

    def _around(
        self,
        request: Any,
        timeout: Any,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
    ) -> Any:
        def invoke(
            method: str,
            request: Any,
            *,
            timeout: Any = None,
            metadata: Any = None,
            credentials: Any = None,
            wait_for_ready: Any = None,
        ) -> Any:
            callee = self if method == self._method else self._renamed(method)
            return callee._direct(request, timeout, metadata, credentials, wait_for_ready, compression)

        intercepted = type(self)._intercepted
        return intercepted(
            list(self._interceptors),
            invoke,
            self._method,
            request,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
        )

    def _renamed(self, method: str) -> _Method:
        """An interceptor changed the method's name: the same call, of another method."""
        return type(self)(self._channel, method, self._wires.renamed(method), self._interceptors)


class UnaryUnary(_Method, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """`channel.unary_unary(...)`"""

    _call = UnaryUnaryCall
    _intercepted = staticmethod(aio_intercept.unary_unary)

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        call = self._around if self._interceptors else self._direct
        return call(request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStream(_Method, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """`channel.unary_stream(...)`"""

    _call = UnaryStreamCall
    _intercepted = staticmethod(aio_intercept.unary_stream)

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        call = self._around if self._interceptors else self._direct
        return call(request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnary(_Method, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """`channel.stream_unary(...)`"""

    _direct = _Method._direct_stream
    _call = StreamUnaryCall
    _intercepted = staticmethod(aio_intercept.stream_unary)

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        call = self._around if self._interceptors else self._direct
        return call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)


class StreamStream(_Method, grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """`channel.stream_stream(...)`"""

    _direct = _Method._direct_stream
    _call = StreamStreamCall
    _intercepted = staticmethod(aio_intercept.stream_stream)

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        call = self._around if self._interceptors else self._direct
        return call(request_iterator, timeout, metadata, credentials, wait_for_ready, compression)
