"""Streams of requests that outlive an attempt which was never connected.

grpcio takes a request from the caller's iterator before there is a connection to send it on. Where the
connection then can't be made, nothing has left the process and another endpoint may be tried, but that
request is gone from the iterator: the next attempt would silently begin with the second. So what the first
attempts take is kept until a connection surely carries it, and given again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

KEPT = 8
"""Requests that are kept. grpcio asks for the next one when the one before has been handed to a connection,
or when
the attempt is failing: an attempt that was never connected takes one, or two, and never so many."""


class Requests:
    """The caller's iterator, for one attempt after another; each has its own thread that asks for requests."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.iterator: Any = None
        self.lock: Any = threading.Lock()
        self.taken: list[Any] | None = []
        """All that was taken so far, in order; None once it is too much to be kept."""
        self.failure: BaseException | None = None
        """How the caller's iterator ended while an earlier attempt was asking it."""
        self.current: object = None


class _Reader(Iterator[Any]):
    """What one attempt reads."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._given = 0
        requests.current = self

    def __next__(self) -> Any:
        requests = self._requests
        if requests.taken is None and self._given:
            return next(requests.source)
        # Held while the caller's iterator thinks: an attempt that follows has to wait for the same request.
        with requests.lock:
            again = _given_again(requests, self._given)
            if again is _NEW:
                try:
                    again = next(requests.source)
                except BaseException as ending:
                    requests.failure = ending
                    raise
                _keep(requests, again)
                if requests.current is not self:
                    raise StopIteration  # this attempt is over, and the request is for the next
        self._given += 1
        return again


class _AioReader(AsyncIterator[Any]):
    """The same on a loop; the caller's iterator may be of either kind."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._given = 0
        requests.current = self

    async def __anext__(self) -> Any:
        requests = self._requests
        async with requests.lock:
            again = _given_again(requests, self._given)
            if again is _NEW:
                try:
                    again = await _next(requests)
                except BaseException as ending:
                    requests.failure = ending
                    raise
                _keep(requests, again)
                if requests.current is not self:
                    raise StopAsyncIteration
        self._given += 1
        return again


_NEW = object()


def _given_again(requests: Requests, given: int) -> Any:
    """The request that an earlier attempt took already, or `_NEW`; raises how the caller's iterator ended."""
    taken = requests.taken
    if taken is None:
        if given:
            return _NEW
        raise RuntimeError("the first requests of this stream were sent, and can't be sent again")
    if given < len(taken):
        return taken[given]
    if requests.failure is not None:
        raise requests.failure
    return _NEW


def _keep(requests: Requests, request: Any) -> None:
    if requests.taken is not None:
        requests.taken.append(request)
        if len(requests.taken) > KEPT:
            requests.taken = None


async def _next(requests: Requests) -> Any:
    if requests.iterator is None:
        source = requests.source
        requests.iterator = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
    if isinstance(requests.iterator, AsyncIterator):
        return await requests.iterator.__anext__()
    for request in requests.iterator:
        return request
    raise StopAsyncIteration


class Feeding:
    """A multicallable of grpcio's that takes a `Requests` where it would take an iterator."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def __call__(self, requests: Requests, *options: Any) -> Any:
        return self._native(_Reader(requests), *options)

    def with_call(self, requests: Requests, *options: Any) -> Any:
        return self._native.with_call(_Reader(requests), *options)

    def future(self, requests: Requests, *options: Any) -> Any:
        return self._native.future(_Reader(requests), *options)


class AioFeeding:
    """The same on a loop, where None means that the caller will `write`."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def __call__(self, requests: Requests | None, **options: Any) -> Any:
        return self._native(None if requests is None else _AioReader(requests), **options)


def aio_requests(source: Any) -> Requests | None:
    """What `AioFeeding` takes, from what the caller gave."""
    if source is None:
        return None
    requests = Requests(source)
    requests.lock = asyncio.Lock()
    return requests


def ended(requests: Any) -> bool:
    """Whether the caller's iterator has come to its end."""
    return requests is not None and requests.failure is not None
