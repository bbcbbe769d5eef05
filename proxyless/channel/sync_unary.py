"""Blocking calls with one response: the driver that waits in the caller's own thread.

Also where `.future()` begins, whose driver is `sync_future.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.news import block_for_news
from proxyless.channel.requests import Requests
from proxyless.channel.sync_branches import Branches, break_off
from proxyless.channel.sync_future import CallFuture
from proxyless.channel.sync_scoped import pause
from proxyless.context import SCOPE, caller_has_gone
from proxyless.errors import MeshRpcError
from proxyless.model.codes import Code
from proxyless.script import OK, Outcome, Race, Rpc, Send, Sleep, Wait

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel


_TAKE_TIME = (Sleep, Wait, Race)


class _UnaryResponse:
    """What unary-unary and stream-unary have in common: everything but what the first argument is."""

    def __init__(self, channel: MeshChannel, method: str, wires: Any) -> None:
        """`wires` are `SyncWires`, or where the calls stay on a channel that was given to the mesh, `Continued`."""
        self._channel = channel
        self._method = method
        self._wires = wires

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, None)
        return self._drive(rpc, False, request, credentials, compression)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, None)
        return self._drive(rpc, True, request, credentials, compression)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> CallFuture:
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, None)
        return self._begin(rpc, request, credentials, compression)

    def _begin(self, rpc: Rpc, request: Any, credentials: Any, compression: Any) -> CallFuture:
        call = CallFuture(self._channel, self._wires, rpc, request, credentials, compression)
        call.start()
        return call

    def _drive(self, rpc: Rpc, with_call: bool, request: Any, credentials: Any, compression: Any) -> Any:
        """Perform the script's effects here and now, one after the other."""
        channel = self._channel
        script, scope = channel.entry(rpc), SCOPE.get()
        response: Any = None
        reply: Any = None
        branches: Branches | None = None
        try:
            while True:
                effect = script.send(reply)
                if effect.__class__ is Send:
                    native = self._wires.of(rpc) if scope is None else self._wires.within(scope, rpc)
                    reports = wire.reads_trailers(rpc)
                    if with_call or reports:
                        native = native.with_call
                    left = None if rpc.deadline is None else rpc.deadline - rpc.now
                    try:
                        response = native(request, left, rpc.metadata, credentials, None, compression)
                        reply = OK
                        if reports:
                            reply = wire.success(response[1].trailing_metadata())
                            if not with_call:
                                response = response[0]
                    except grpc.RpcError as error:
                        reply = wire.failure(rpc, error)
                        reply.committed = caller_has_gone()  # nobody waits for another attempt
                else:
                    if effect.__class__ is Sleep:
                        channel.pause(effect.seconds) if scope is None else pause(scope, effect.seconds)
                        reply = None
                    elif effect.__class__ is Wait:
                        reply = block_for_news(channel, effect)
                    else:
                        branches = branches or Branches(channel, self._wires, (request, credentials, compression))
                        reply = branches.perform(effect, scope)
                    if effect.__class__ in _TAKE_TIME:
                        _unless_forsaken(rpc)
                rpc.now = channel.clock()
        except StopIteration as stop:
            outcome: Outcome = stop.value
        except BaseException:  # an interrupt, or a misuse that grpcio reports: the node must not stay engaged
            rpc.now = channel.clock()
            break_off(script, branches)
            raise
        if outcome.code == 0:
            return response if branches is None else branches.answer(response, with_call)
        try:
            raise error_of(outcome)
        finally:
            # The error knows this frame: if the frame knew it too, both would wait for the garbage collector.
            del outcome, reply, branches


class UnaryUnary(_UnaryResponse, grpc.UnaryUnaryMultiCallable):  # type: ignore[misc, type-arg]
    """`channel.unary_unary(...)`"""


class StreamUnary(_UnaryResponse, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """`channel.stream_unary(...)`"""

    # As above, with the first argument's own name: callers may give it by name.

    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        requests = Requests(request_iterator, self._channel.replay_cap)
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, requests)
        return self._drive(rpc, False, requests, credentials, compression)

    def with_call(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        requests = Requests(request_iterator, self._channel.replay_cap)
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, requests)
        return self._drive(rpc, True, requests, credentials, compression)

    def future(  # type: ignore[override]
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> CallFuture:
        requests = Requests(request_iterator, self._channel.replay_cap)
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, requests)
        return self._begin(rpc, requests, credentials, compression)


def error_of(outcome: Outcome) -> BaseException:
    """What the caller gets to see: the wire's own error unchanged, or our refusal."""
    if outcome.error is not None:
        return outcome.error
    return MeshRpcError(outcome.code or Code.UNKNOWN, outcome.refused, outcome.details)


def _unless_forsaken(rpc: Rpc) -> None:
    """After a pause: what the caller's caller no longer waits for is not sent."""
    if caller_has_gone():
        where = f"{rpc.method} of {rpc.service} was to be sent"
        raise MeshRpcError(
            Code.DEADLINE_EXCEEDED, "deadline", f"proxyless: deadline: the caller for whom {where} has gone"
        )
