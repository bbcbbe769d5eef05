"""`Mesh.aio_interceptors(service)`: the mesh as plain interceptors of a `grpc.aio` channel.

    channel = grpc.aio.insecure_channel(target, interceptors=mesh.aio_interceptors("orders"))

Four objects, for grpcio's asyncio stack takes one that is of several kinds for the first of them alone
(grpc#31442). None awaits how a call ends: below a stream of requests that its caller writes, that end would
wait for the caller and the caller for it (grpc#34530).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from proxyless.channel.aio import AioMeshChannel
from proxyless.channel.aio_method import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from proxyless.channel.continuations import AioContinued
from proxyless.channel.interceptors import KnownMethods, given_links, options_of
from proxyless.channel.wire import name_of


def aio_interceptors(
    mesh: Any,
    service: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
    compression: grpc.Compression | None = None,
) -> list[Any]:
    """The mesh as interceptors for `grpc.aio.insecure_channel(…, interceptors=…)`, the last in that list.

    What they do with a call is what `Mesh.interceptors` says.
    """
    channel = mesh.aio_channel(service, credentials=credentials, options=options, compression=compression)
    links = given_links(mesh._links, service)
    given = AioMeshChannel(service, links, None, (), None, ())
    links.join(given)
    calls = _Calls(channel, given)
    return [kind(calls) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]


class _Calls:
    """Begins calls, for the four."""

    def __init__(self, channel: AioMeshChannel, given: AioMeshChannel) -> None:
        self._known = KnownMethods(channel)
        self.given = given

    def begin(self, arity: str, continuation: Any, details: Any, request: Any) -> Any:
        """The call, begun; how it ends is for whoever holds it."""
        method = name_of(details.method)
        callee = self._known.find(arity, method, request)
        if callee is None:
            callee = _GIVEN[arity](self.given, method, AioContinued(arity, continuation, details), [])
        return callee(request, **options_of(details))


class _OneArity:
    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def __repr__(self) -> str:
        return f"<asyncio interceptor of the mesh for {self._calls.given.service!r}>"


class _UnaryUnary(_OneArity, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._calls.begin("unary_unary", continuation, client_call_details, request)


class _UnaryStream(_OneArity, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._calls.begin("unary_stream", continuation, client_call_details, request)


class _StreamUnary(_OneArity, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._calls.begin("stream_unary", continuation, client_call_details, request_iterator)


class _StreamStream(_OneArity, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._calls.begin("stream_stream", continuation, client_call_details, request_iterator)


_GIVEN: dict[str, Any] = {
    "unary_unary": UnaryUnary,
    "unary_stream": UnaryStream,
    "stream_unary": StreamUnary,
    "stream_stream": StreamStream,
}
"""A method on the channel that was wrapped, for one call: its attempts are made by the continuation."""
