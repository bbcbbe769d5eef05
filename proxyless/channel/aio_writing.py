"""asyncio calls that send a stream of requests: what their callers write, message by message."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc

from proxyless.channel.aio_call import Driven
from proxyless.channel.aio_requests import Written
from proxyless.channel.requests import Requests

_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
_FINISHED = "RPC already finished."


class Writing(Driven):
    """A call under way that sends a stream: from an iterator, or message by message with `write`."""

    async def write(self, request: Any) -> None:
        for feed in self._feeds:
            feed.put(request)
        await _write(self, request)

    async def done_writing(self) -> None:
        for feed in self._feeds:
            feed.end()
        await _done_writing(self)

    @property
    def _done_writing_flag(self) -> bool:
        """grpcio asks this of a call that an interceptor returned, before it takes what its caller writes."""
        return _ended(self._request)


async def _write(call: Driven, request: Any) -> None:
    """Send one more request; where the attempt fails and another follows, that one sends it."""
    requests: Requests = call._request
    written = requests.source
    if written.__class__ is not Written:
        await (await call._present()).write(request)  # grpcio has words for who writes beside an iterator
        return
    native = await call._present()
    if call.done():
        raise asyncio.InvalidStateError(_FINISHED)
    if written.closed:
        raise asyncio.InvalidStateError(_HALF_CLOSED)
    number = written.count
    written.count += 1
    if written.attempts == 1:
        requests.settle()
        requests.passed(number)
        request = requests.add(request)
    else:
        written.put(request)
    while True:
        try:
            if written.attempts == 1:
                await native.write(request)
            else:
                await _handed(written, number, native)
            return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            if not native.done():
                raise
            if not await call._goes_on_after(native):
                _raise_end(call, error, written.attempts)
        except asyncio.CancelledError:
            call.cancel()
            raise
        native = await call._present()


def _raise_end(call: Driven, error: Exception, attempts: int) -> NoReturn:
    """The call ended while a message was being written: whoever writes is told how, as by grpcio. How that attempt
    ended may be something else; and who began to write when it was over already is told that."""
    outcome = call._outcome
    if outcome is None or outcome.code == 0 or (attempts == 1 and not isinstance(error, grpc.aio.AioRpcError)):
        raise error
    raise call._error(outcome) from None


async def _handed(written: Written, number: int, native: Any) -> None:
    """Wait until the attempt has handed that message to its connection, as grpcio's own `write` does."""
    while written.given <= number:
        if native.done():
            raise asyncio.InvalidStateError(_FINISHED)
        await written.change()


async def _done_writing(call: Driven) -> None:
    """No more will be written; an attempt that is fed sees it when it has been given all."""
    requests: Requests = call._request
    written = requests.source
    native = await call._present()
    if written.__class__ is not Written:
        await native.done_writing()
        return
    written.close()
    if written.attempts == 1:
        await native.done_writing()


def _ended(requests: Requests) -> bool:
    """Whether the caller has no more to send: his iterator has come to its end, or he has said so."""
    written = requests.source
    return requests.ending is not None or (written.__class__ is Written and written.closed)
