"""Blocking calls that are made while an incoming call is served: they end when its caller goes.

grpcio gives no handle on a call that blocks. It does on a response stream; and one that is read in the caller's
own thread (`ChannelOptions.SingleThreadedUnaryStream`) costs little more than a blocking call, where `.future()`
costs several times as much: it wakes another thread. On the wire a call with one response is a stream of one.
So inside of a scope such a stream is opened, read to its end, and cancelled from outside if need be. The caller
sees what the blocking call would have shown him. Outside of a scope none of this is used.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc
import grpc.experimental

from proxyless.channel.profile import Profile
from proxyless.context import Scope


def in_one_thread(profile: Profile) -> Profile:
    """The same connections, whose response streams are read by whoever asks for the next message.

    The option is Python's alone: C-core is given the same arguments, and shares the connection.
    """
    return profile.having((grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1))


class ScopedUnary:
    """A unary-unary multicallable, made of a unary-stream one."""

    __slots__ = ("_open", "_scope")

    def __init__(self, open: Any, scope: Scope) -> None:
        self._open = open
        self._scope = scope

    def __call__(self, *arguments: Any) -> Any:
        return self.with_call(*arguments)[0]

    def with_call(self, *arguments: Any) -> tuple[Any, Any]:
        """(response, call); raises how the call failed."""
        call = self._open(*arguments)
        self._scope.join(call, _cancel)
        try:
            response = next(call, None)
            for _ in call:  # its end, and with it the status
                pass
        except grpc.RpcError:
            raise _untied(call) from None
        return response, _ended(call)


class ScopedStream:
    """A stream-unary multicallable, made of its futures: its requests are read by another thread anyway."""

    __slots__ = ("_native", "_scope")

    def __init__(self, native: Any, scope: Scope) -> None:
        self._native = native
        self._scope = scope

    def __call__(self, *arguments: Any) -> Any:
        return self.with_call(*arguments)[0]

    def with_call(
        self,
        requests: Any,
        timeout: Any = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: Any = None,
        compression: Any = None,
    ) -> tuple[Any, Any]:
        """(response, call); raises how the call failed."""
        call = self._native.future(
            requests, timeout, _compressed(metadata, compression), credentials, wait_for_ready, compression
        )
        self._scope.join(call, _cancel)
        try:
            return call.result(), _ended(call)
        except (grpc.RpcError, grpc.FutureCancelledError):
            raise _untied(call) from None


def _untied(call: Any) -> Any:
    """A failed call's error. grpcio raises the call itself, which then knows the frames that it came through, and
    these know it: the garbage collector would have to find them."""
    if isinstance(call, BaseException):
        call.__traceback__ = None
    return as_blocking(call)


def pause(scope: Scope, seconds: float) -> None:
    """Sleep, at most until the caller has gone."""
    bell = threading.Event()
    scope.join(bell, threading.Event.set)
    bell.wait(seconds)


def _cancel(call: Any) -> None:
    call.cancel()


# What grpcio has no public words for (1.85.1). Without them the caller sees the stream's own error, which has the
# same methods and another name; `tests/wire/test_scoped.py` notices.


def _compressed(metadata: Any, compression: Any) -> Any:
    """With what tells C-core the compression of one call: `future` of a stream of requests forgets to (1.85.1)."""
    try:
        from grpc import _compression

        return _compression.augment_metadata(metadata, compression)
    except (ImportError, AttributeError):
        return metadata


def as_blocking(error: Any) -> Any:
    """The error that grpcio's blocking call raises, with the same status."""
    try:
        from grpc import _channel

        made: Any = _channel._InactiveRpcError
        return made(error._state)
    except (ImportError, AttributeError):
        return error


def _ended(call: Any) -> Any:
    """A call that has no time remaining, for it is over: that of a blocking call never had any."""
    if hasattr(call, "_deadline"):
        call._deadline = None
    return call
