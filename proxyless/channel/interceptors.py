"""`Mesh.interceptors(service)`: the mesh as a plain interceptor, for channels that somebody else makes.

    channel = grpc.intercept_channel(existing, *mesh.interceptors("orders"))

An interceptor is told neither the channel nor how messages are written. For a protobuf method that is no
loss: its message classes are found by its name, and the call goes to the mesh's endpoints, wherever `existing`
leads. Any other call goes on through `existing`, by every policy but the choice of an endpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc

from proxyless.channel.continuations import Continued, is_blocking
from proxyless.channel.given import GivenSlot
from proxyless.channel.links import Links
from proxyless.channel.messages import Messages, messages_of
from proxyless.channel.sync import MeshChannel
from proxyless.channel.sync_stream import StreamStream, UnaryStream
from proxyless.channel.sync_unary import StreamUnary, UnaryUnary
from proxyless.channel.wire import name_of
from proxyless.errors import Finished

log = logging.getLogger("proxyless")


def interceptors(
    mesh: Any,
    service: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
    compression: grpc.Compression | None = None,
) -> list[Interceptor]:
    """The mesh as interceptors for `grpc.intercept_channel`; splat the list into it, in the innermost place.

    On a protobuf method the call is sent to the mesh's endpoints, whatever the channel's own target is; on a
    method that protobuf doesn't know it stays on the channel, by every policy but the choice of an endpoint,
    and one warning says so. `credentials`, `options` and `compression` are for the connections to endpoints,
    as in `Mesh.channel`: those of the wrapped channel can't be seen from here.
    """
    channel = mesh.channel(service, credentials=credentials, options=options, compression=compression)
    links = given_links(mesh._links, service)
    given = MeshChannel(service, links, None, (), None)
    links.join(given)
    return [Interceptor(channel, given)]


def given_links(links: Links, service: str) -> Links:
    """What channels are given by the mesh, for calls that stay on a channel of somebody else's."""
    slot: Any = GivenSlot(links.slot, service, links.compose)
    return replace(links, slot=slot)


_TOLD: set[tuple[str, str]] = set()
"""Of which methods it has been said that they stay where they are: once a process, whoever makes interceptors."""


class KnownMethods:
    """The methods of one interceptor that lead to the mesh's endpoints, made once each."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._made: dict[tuple[str, str], tuple[Any, Messages]] = {}

    def find(self, arity: str, method: str, request: Any) -> Any:
        """The multicallable; None, and one warning for each method, where the call has to stay where it is."""
        made = self._made.get((arity, method))
        if made is None:
            messages = messages_of(method, arity)
            if messages is None:
                self._tell(method, "protobuf's descriptor pool has no such method")
                return None
            callee = getattr(self._channel, arity)(method, messages.serialize, messages.deserialize, True)
            made = self._made[arity, method] = callee, messages
        callee, messages = made
        if arity.startswith("unary") and not isinstance(request, messages.request):
            kind = f"{type(request).__module__}.{type(request).__qualname__}"
            self._tell(method, f"its request is a {kind}, not the {messages.request.__name__} of protobuf's pool")
            return None
        return callee

    def _tell(self, method: str, why: str) -> None:
        if (self._channel.service, method) not in _TOLD:
            _TOLD.add((self._channel.service, method))
            log.warning(
                "calls of %s stay on the channel that was given to grpcio: %s; every policy of %s applies to them "
                "but the choice of an endpoint",
                method,
                why,
                self._channel.service,
            )


class Interceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """All four arities: unlike its asyncio stack, grpcio's sync one calls an object for each kind it is."""

    def __init__(self, channel: MeshChannel, given: MeshChannel) -> None:
        self._known = KnownMethods(channel)
        self._given = given

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._one_response("unary_unary", continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._one_response("stream_unary", continuation, client_call_details, request_iterator)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        callee = self._callee("unary_stream", continuation, client_call_details, request)
        return callee(request, **options_of(client_call_details))

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        callee = self._callee("stream_stream", continuation, client_call_details, request_iterator)
        return callee(request_iterator, **options_of(client_call_details))

    def _one_response(self, arity: str, continuation: Any, details: Any, request: Any) -> Any:
        callee = self._callee(arity, continuation, details, request)
        if is_blocking(continuation):
            return Answer(*callee.with_call(request, **options_of(details)))
        return callee.future(request, **options_of(details))

    def _callee(self, arity: str, continuation: Any, details: Any, request: Any) -> Any:
        method = name_of(details.method)
        known = self._known.find(arity, method, request)
        return known or _GIVEN[arity](self._given, method, Continued(arity, continuation, details))

    def __repr__(self) -> str:
        return f"<interceptor of the mesh for {self._given.service!r}>"


def options_of(details: Any) -> dict[str, Any]:
    """How the call is to be made. What may be missing is: other interceptors make details of their own."""
    names = ("timeout", "metadata", "credentials", "wait_for_ready", "compression")
    return {name: getattr(details, name, None) for name in names}


_GIVEN: dict[str, Any] = {
    "unary_unary": UnaryUnary,
    "unary_stream": UnaryStream,
    "stream_unary": StreamUnary,
    "stream_stream": StreamStream,
}
"""A method on the channel that was wrapped, for one call: its attempts are made by the continuation."""


class Answer(Finished):
    """The response that a blocking call ended with, in the shape in which interceptors return it."""

    def __init__(self, response: Any, call: Any) -> None:
        self._response = response
        self._call = call

    def result(self, timeout: float | None = None) -> Any:
        return self._response

    def exception(self, timeout: float | None = None) -> None:
        return None

    def traceback(self, timeout: float | None = None) -> None:
        return None

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return self._call.time_remaining()  # type: ignore[no-any-return]

    def initial_metadata(self) -> Any:
        return self._call.initial_metadata()

    def trailing_metadata(self) -> Any:
        return self._call.trailing_metadata()

    def code(self) -> Any:
        return self._call.code()

    def details(self) -> Any:
        return self._call.details()
