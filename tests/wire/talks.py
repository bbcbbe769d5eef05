"""One conversation, however the call is made: four arities × (blocking, `.future()`, asyncio), in the same
words.

A blocking call with one response has no handle: it is made when its end is asked for, and can't be cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple

import grpc
import pytest

from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Pairs, Request
from tests.wire.ways import Net

CALLS = [
    ("blocking", "Unary"),
    ("blocking", "ServerStream"),
    ("blocking", "ClientStream"),
    ("blocking", "BidiStream"),
    ("future", "Unary"),
    ("future", "ClientStream"),
    ("aio", "Unary"),
    ("aio", "ServerStream"),
    ("aio", "ClientStream"),
    ("aio", "BidiStream"),
]
HANDLES = [call for call in CALLS if call not in (("blocking", "Unary"), ("blocking", "ClientStream"))]
STREAMS = [call for call in CALLS if call[1] in ("ServerStream", "BidiStream")]

each_call = pytest.mark.parametrize(("style", "method"), CALLS)
each_handle = pytest.mark.parametrize(("style", "method"), HANDLES)
each_stream = pytest.mark.parametrize(("style", "method"), STREAMS)


class Ending(NamedTuple):
    """All that a caller can learn of a call that is over."""

    messages: list[str]
    code: grpc.StatusCode
    details: str
    initial: Pairs
    trailing: Pairs
    error: BaseException | None


class SyncTalk:
    """A conversation in the caller's thread."""

    def __init__(self, stub: Any, style: str, method: str, requests: list[Request], options: dict[str, Any]) -> None:
        self._one_answer = method in ("Unary", "ClientStream")
        self._messages: list[str] = []
        self._sent: Any = iter(requests) if method in ("ClientStream", "BidiStream") else requests[0]
        self._options = options
        self._callable = getattr(stub, method)
        self._style = style
        self.call: Any = None
        if style == "future":
            self.call = self._callable.future(self._sent, **options)
        elif not self._one_answer:
            self.call = self._callable(self._sent, **options)

    def first(self) -> str:
        """The first answer of a stream."""
        self._messages.append(next(self.call).message)
        return self._messages[0]

    def cancel(self) -> bool:
        return bool(self.call.cancel())

    def drop(self) -> None:
        """Let go of the call."""
        self.call = None

    def end(self) -> Ending:
        """See the call through."""
        error: BaseException | None = None
        try:
            if self._style == "future":
                self._messages.append(self.call.result().message)
            elif self._one_answer:
                answer, self.call = self._callable.with_call(self._sent, **self._options)
                self._messages.append(answer.message)
            else:
                for answer in self.call:
                    self._messages.append(answer.message)
        except (grpc.RpcError, grpc.FutureCancelledError) as caught:
            error = caught
        call: Any = error if self.call is None else self.call
        initial, trailing = call.initial_metadata(), call.trailing_metadata()
        return Ending(self._messages, call.code(), call.details(), _ours(initial), _ours(trailing), error)

    def close(self) -> None:
        self.drop()


class AioTalk:
    """A conversation on a loop of its own, which runs while something is asked for."""

    def __init__(self, net: Net, way: str, method: str, requests: list[Request], options: dict[str, Any]) -> None:
        self._one_answer = method in ("Unary", "ClientStream")
        self._messages: list[str] = []
        self._loop = asyncio.new_event_loop()

        async def begin() -> None:
            self._channel = net.aio_channel(way)
            stub = echo_pb2_grpc.EchoStub(self._channel)
            sent: Any = iter(requests) if method in ("ClientStream", "BidiStream") else requests[0]
            self.call: Any = getattr(stub, method)(sent, **options)

        self._do(begin())

    def _do(self, part: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(part, 20.0))

    def first(self) -> str:
        """The first answer of a stream, by iteration."""

        async def read() -> None:
            async for answer in self.call:
                self._messages.append(answer.message)
                break

        self._do(read())
        return self._messages[0]

    def cancel(self) -> bool:
        async def cancel() -> bool:
            return bool(self.call.cancel())

        return bool(self._do(cancel()))

    def drop(self) -> None:
        """Let go of the call, in the loop."""

        async def drop() -> None:
            self.call = None
            await asyncio.sleep(0)

        self._do(drop())

    def end(self) -> Ending:
        """See the call through."""
        return self._do(self._end())  # type: ignore[no-any-return]

    async def _end(self) -> Ending:
        call, error = self.call, None
        try:
            if self._one_answer:
                self._messages.append((await call).message)
            else:
                async for answer in call:
                    self._messages.append(answer.message)
        except (grpc.RpcError, asyncio.CancelledError) as caught:
            error = caught
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        return Ending(self._messages, await call.code(), await call.details(), _ours(initial), _ours(trailing), error)

    def close(self) -> None:
        """End the loop as `asyncio.run` does."""
        self.call = None
        self._do(self._channel.close())
        self._do(self._loop.shutdown_asyncgens())
        self._do(asyncio.sleep(0))
        self._loop.close()


def talk(net: Net, way: str, style: str, method: str, *requests: Request, **options: Any) -> SyncTalk | AioTalk:
    """Begin a call; `net` ends the conversation with the test."""
    conversation: SyncTalk | AioTalk
    if style == "aio":
        conversation = AioTalk(net, way, method, list(requests), options)
    else:
        conversation = SyncTalk(net.stub(way), style, method, list(requests), options)
    net.closing(conversation.close)
    return conversation


def _ours(metadata: Any) -> Pairs:
    """What the server was asked to send, and our own; what grpcio adds varies with its version."""
    return [(key, value) for key, value in metadata or () if key.startswith(("x-", "proxyless-", "grpc-status-"))]
