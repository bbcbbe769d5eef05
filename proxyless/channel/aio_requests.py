"""Streams of requests that can be sent again, on a loop: from an iterator of either kind, or from `write`.

What is kept, and for how long, `requests.py` says. What the caller writes goes to the first attempt as it is
written; an attempt that follows is fed from what was kept, and then with what is written from there on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from proxyless.channel.requests import MORE, Kept, Requests


class AioReader(AsyncIterator[Any]):
    """What one attempt reads, in a task of its own."""

    __slots__ = ("_next", "_number", "_plain", "_requests", "over")

    def __init__(self, requests: Requests, plain: bool) -> None:
        self._requests = requests
        self._next = 0
        self._plain = plain
        self.over = False
        """Whether the attempt has ended; known where the requests are written."""
        self._number = requests.begins()

    async def __anext__(self) -> Any:
        requests, number = self._requests, self._next
        if requests.direct == self._number and requests.source.__class__ is not Written:
            return await _read(requests)
        request = requests.nth(number)
        if request is MORE:
            written = requests.source if requests.source.__class__ is Written else None
            if written is not None and requests.latest == self._number:
                written.handed(number)
            async with requests.lock:
                request = requests.nth(number)  # an attempt that has failed may have read it meanwhile
                if request is MORE:
                    if written is not None and not await written.ready(self):
                        raise StopAsyncIteration
                    requests.settle()
                    if requests.latest == self._number:
                        requests.passed(number)
                    request = requests.add(await _read(requests))
        self._next = number + 1
        return request.message if self._plain and request.__class__ is Kept else request


async def _read(requests: Requests) -> Any:
    """One more from the caller; it is remembered how there came to be no more."""
    try:
        return await _next(requests)
    except BaseException as ending:
        requests.end(ending)
        raise


async def _next(requests: Requests) -> Any:
    if requests.iterator is None:
        source = requests.source
        requests.iterator = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
    if isinstance(requests.iterator, AsyncIterator):
        return await requests.iterator.__anext__()
    for request in requests.iterator:
        return request
    raise StopAsyncIteration


class Written(AsyncIterator[Any]):
    """What the caller writes while the attempt is not the first: it waits here until that attempt asks for it."""

    __slots__ = ("_changed", "_waiting", "attempts", "closed", "count", "given")

    def __init__(self) -> None:
        self.attempts = 0
        self.count = 0
        """Messages written so far, to whichever attempt."""
        self.given = 0
        """Messages that the present attempt has taken and handed to its connection."""
        self.closed = False
        self._waiting: list[Any] = []
        self._changed = asyncio.Event()

    def put(self, request: Any) -> None:
        """For an attempt that is fed."""
        self._waiting.append(request)
        self.pulse()

    def close(self) -> None:
        """No more will be written."""
        self.closed = True
        self.pulse()

    def handed(self, number: int) -> None:
        """The attempt asks for this number, and is through with all before it."""
        self.given = number
        self.pulse()

    def pulse(self) -> None:
        """Whoever waits looks again, whoever comes later waits."""
        self._changed.set()
        self._changed.clear()

    async def change(self) -> None:
        """Wait until something happens."""
        await self._changed.wait()

    async def ready(self, reader: AioReader) -> bool:
        """Wait for a message, or for the end of them; False if the reader's attempt has ended before."""
        while not self._waiting and not self.closed and not reader.over:
            await self._changed.wait()
        return not reader.over

    async def __anext__(self) -> Any:
        if not self._waiting:
            raise StopAsyncIteration
        return self._waiting.pop(0)


class AioFeeding:
    """A multicallable of grpcio's that takes `Requests` where it would take an iterator, or none."""

    __slots__ = ("_native", "_plain")

    def __init__(self, native: Any, plain: bool = False) -> None:
        self._native = native
        self._plain = plain

    def __call__(self, requests: Requests, **options: Any) -> Any:
        written = requests.source
        if written.__class__ is not Written:
            return self._native(AioReader(requests, self._plain), **options)
        written.attempts += 1
        if written.attempts == 1:
            return self._native(None, **options)
        written.given = 0
        reader = AioReader(requests, self._plain)
        native = self._native(reader, **options)

        def over(_native: Any) -> None:
            reader.over = True
            written.pulse()

        native.add_done_callback(over)
        return native


def aio_requests(source: Any, cap: int) -> Requests:
    """What `AioFeeding` takes, from what the caller gave: None, where the caller is going to `write`."""
    return Requests(Written() if source is None else source, cap, asyncio.Lock())
