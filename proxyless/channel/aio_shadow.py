"""Copies of requests, on a loop: each a task that begins when the call itself has been sent.

The request is serialized when the call is made, for its caller may change it afterwards. The answer is not even
deserialized: a stream of it is read, for otherwise the shadow could not go on, and thrown away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel.aio_endings import ending
from proxyless.channel.aio_requests import Written
from proxyless.channel.requests import Requests
from proxyless.channel.sync_shadow import BUFFER, ENTRY
from proxyless.channel.wires import AioWires
from proxyless.script import Send, Shadow

if TYPE_CHECKING:
    from proxyless.channel.aio_call import Driven

log = logging.getLogger("proxyless")

_UNDER_WAY: set[asyncio.Task[None]] = set()
"""A loop holds its tasks weakly, and nobody else knows of these."""


def cast(call: Driven, effect: Shadow) -> None:
    """Send a copy, soon; nothing that goes wrong with it is the caller's affair."""
    script = effect.service(effect.rpc)
    serialize = call._wires.signature[1]
    request: Any = call._request
    try:
        if isinstance(request, Requests):
            feed: AioFeed | None = AioFeed(serialize)
            data: Any = feed
        else:
            feed = None
            data = request if serialize is None else serialize(request)
        effect_ = script.send(None)
    except StopIteration:
        return  # no room under its cap, or nobody to send it to
    except Exception:
        log.debug("a copy of %s was not sent", effect.rpc.method, exc_info=True)
        script.close()
        return
    if not isinstance(effect_, Send):
        script.close()  # a shadow waits for nothing
        return
    task = call._loop.create_task(_send(call._channel.clock, call._wires, effect, script, data, call._compression))
    _UNDER_WAY.add(task)
    task.add_done_callback(_UNDER_WAY.discard)
    if feed is not None:
        feed.too_slow = task.cancel
        if isinstance(request.source, Written):
            call._feeds = (*call._feeds, feed)
        else:
            request.source = teed(request.source, feed)


async def _send(
    clock: Callable[[], float], wires: AioWires, effect: Shadow, script: Any, data: Any, compression: Any
) -> None:
    rpc = effect.rpc
    native = None
    try:
        rpc.now = clock()
        assert rpc.deadline is not None, "the mirror filter gives every copy a deadline"
        shadow = wires.shadow(rpc.authority)
        method = shadow.of(rpc, asyncio.get_running_loop())
        native = method(data, timeout=rpc.deadline - rpc.now, metadata=rpc.metadata, compression=compression)
        if shadow.streams:
            await _discard(native)
        outcome = await ending(rpc, native)
        rpc.now = clock()
        script.send(outcome)
    except StopIteration:
        pass
    except Exception:
        log.debug("a copy of %s came to nothing", rpc.method, exc_info=True)
    finally:
        rpc.now = clock()
        script.close()
        if native is not None:
            native.cancel()
        if isinstance(data, AioFeed):
            data.end()


async def _discard(native: Any) -> None:
    try:
        while await native.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass  # how it ended is asked next


class AioFeed(AsyncIterator[bytes]):
    """The requests that wait for a shadow: the call puts them in and goes on, the copy takes them out."""

    def __init__(self, serialize: Callable[[Any], bytes] | None) -> None:
        self.too_slow: Callable[[], Any] = lambda: None
        self._serialize = serialize
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ended = self._broken = False
        self._changed = asyncio.Event()

    def put(self, request: Any) -> None:
        """One more; serialized at once, for its owner may use the message again. One always fits, however large."""
        if self._ended:
            return
        try:
            data = request if self._serialize is None else self._serialize(request)
        except Exception:
            self.break_off()  # the call will say what is wrong with it
            return
        size = len(data) + ENTRY
        if self._bytes and self._bytes + size > BUFFER:
            self.break_off()
            return
        self._waiting.append(data)
        self._bytes += size
        self._changed.set()

    def break_off(self) -> None:
        """Half a stream must not look like a whole one: the copy is cancelled."""
        if not self._ended:
            self._ended = self._broken = True
            self._waiting.clear()
            self.too_slow()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._changed.set()

    async def __anext__(self) -> bytes:
        while not self._waiting:
            if self._broken:
                await asyncio.get_running_loop().create_future()  # until the copy is cancelled, and this with it
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        data = self._waiting.popleft()
        self._bytes -= len(data) + ENTRY
        return data


async def teed(source: Any, feed: AioFeed) -> AsyncIterator[Any]:
    """`source`, of either kind, which feeds a copy as it is read."""
    whole = False
    try:
        if isinstance(source, AsyncIterable):
            async for request in source:
                feed.put(request)
                yield request
        else:
            for request in source:
                feed.put(request)
                yield request
        whole = True
    finally:
        if whole:
            feed.end()
        else:
            feed.break_off()
