"""Streams of requests that can be sent again: what is read from the caller is kept while that may be needed.

"As long as the entirety of the outgoing message is in the buffer, it can be resent and retried. But as soon as the
outgoing message grows too large to buffer, the gRPC client library cannot replay the entire stream of messages" -
gRFC A6. So a stream can be tried again until the caller has seen something of an answer, or until more was read than
may be kept. A message is serialized once, for however many attempts.

Without a retry policy only the first few are kept. grpcio takes a request from the caller's iterator before
there is a connection to send it on; where that can't be made, nothing has left the process and another
endpoint may be tried, but that request is gone from the iterator.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

FEW = 4
"""Requests that are kept in any case. grpcio asks for the next one when the one before has been handed to a
connection, or when the attempt is failing: an attempt that was never connected takes one, or two."""

DEFAULT_CAP = 256 * 1024
"""Bytes a call keeps so as to be tried again: C-core's `grpc.per_rpc_retry_buffer_size` (`retry_filter.h`)."""

CAP_OPTION = "grpc.per_rpc_retry_buffer_size"
"""The channel option that sets another; 0 turns the replay of streams off."""


def replay_cap(options: Iterable[tuple[str, Any]]) -> int:
    """Bytes that a call through a channel with these options may keep."""
    given = dict(options).get(CAP_OPTION, DEFAULT_CAP)
    return max(0, given) if isinstance(given, int) else DEFAULT_CAP


class Kept:
    """A message that may be sent again; once it has been serialized, its bytes."""

    __slots__ = ("data", "message")

    def __init__(self, message: Any) -> None:
        self.message = message
        self.data: bytes | None = None

    def size(self) -> float:
        """Its bytes. Before it is serialized, and where interceptors are given it unserialized, protobuf knows."""
        known = self.message if self.data is None else self.data
        if isinstance(known, bytes):
            return len(known)
        byte_size = getattr(known, "ByteSize", None)
        return float(byte_size()) if byte_size is not None else math.inf


def serializing(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], Any]:
    """What grpcio is given as the serializer of a stream. What `serialize` raises, grpcio reports as its own."""

    def serialized(request: Any) -> Any:
        if request.__class__ is not Kept:
            return request if serialize is None else serialize(request)
        data = request.data
        if data is None:
            message = request.message
            request.data = data = message if serialize is None else serialize(message)
            request.message = None
        return data

    return serialized


class Requests:
    """The requests of one call, for one attempt after another: each reads them with a reader of its own.

    What was read is in `kept`, whose first is number `first`. A reader finds there what others have read, and
    holds the lock only while it asks the caller for more: an attempt that has failed may be asking still, and
    the one that follows must not wait for it before it has to.
    """

    __slots__ = (
        "bytes",
        "cap",
        "direct",
        "ending",
        "first",
        "iterator",
        "kept",
        "latest",
        "lock",
        "source",
        "wanted",
        "whole",
    )

    def __init__(self, source: Any, cap: int, lock: Any = None) -> None:
        self.source = source
        self.iterator: Any = None
        """Of an asyncio source, once somebody has asked for it."""
        self.lock: Any = lock or threading.Lock()
        self.cap = cap
        self.kept: list[Any] = []
        self.first = 0
        self.bytes = 0.0
        """Of all that is kept, but for the last: that is counted when the next one is read."""
        self.wanted = False
        """Whether somebody may try again for more reasons than that nothing was sent."""
        self.whole = True
        """Whether all that was read is kept, so that another attempt may begin."""
        self.ending: BaseException | type[BaseException] | None = None
        """How the caller's iterator ended."""
        self.latest = 0
        """The number of the latest attempt's reader: the only one that matters. By number, for readers know the
        requests: if these knew them too, both would wait for the garbage collector."""
        self.direct = 0
        """The number of the only reader there ever was, once nothing is kept: it may ask the caller by itself."""

    # -- what filters ask (script.Replay)

    def keep(self) -> None:
        self.wanted = True

    def possible(self) -> bool:
        return self.whole and (not self.wanted or self._size() <= self.cap)

    def commit(self) -> None:
        """Nobody may try again: what is kept is dropped when the next request is read."""
        self.whole = False

    # -- what readers do

    def begins(self) -> int:
        """An attempt is made: the number of its reader."""
        self.latest += 1
        return self.latest

    def add(self, request: Any) -> Any:
        """Keep what was read from the caller; returns what grpcio is to be given."""
        kept = Kept(request) if self.wanted and self.whole else request
        self.kept.append(kept)
        return kept

    def end(self, ending: BaseException) -> None:
        """The caller's iterator has come to its end, or has failed. Of the usual ends their kind is kept: one that was
        raised knows the frames it came through, and these know the requests."""
        usual = (kind for kind in (StopIteration, StopAsyncIteration) if isinstance(ending, kind))
        self.ending = next(usual, ending)

    def settle(self) -> None:
        """Before one more is read: is all of it still to be kept?"""
        if not self.whole:
            return
        if self.wanted:
            self.bytes = self._size()
            # Those first few may not have been sent at all, however large they are.
            self.whole = self.bytes <= self.cap or self.first + len(self.kept) < FEW
        else:
            self.whole = len(self.kept) < FEW

    def passed(self, number: int) -> None:
        """The current reader is through with all requests before that number."""
        if not self.whole:
            del self.kept[: number - self.first]
            self.first = number
            if self.latest == 1:  # no attempt that has failed can be asking at the same time
                self.direct = 1

    def nth(self, number: int) -> Any:
        """The request of that number, `MORE` if it is still to be read; raises how the caller's iterator ended."""
        place = number - self.first
        if place < 0:
            raise RuntimeError("the first requests of this stream were sent, and can't be sent again")
        if place < len(self.kept):
            return self.kept[place]
        if self.ending is not None:
            raise self.ending
        return MORE

    def _size(self) -> float:
        last = self.kept[-1] if self.kept else None
        return self.bytes + (last.size() if last.__class__ is Kept else 0)


MORE = object()


class Reader(Iterator[Any]):
    """What one attempt reads, in a thread of its own."""

    __slots__ = ("_next", "_number", "_plain", "_requests")

    def __init__(self, requests: Requests, plain: bool) -> None:
        self._requests = requests
        self._next = 0
        self._plain = plain
        self._number = requests.begins()

    def __next__(self) -> Any:
        requests, number = self._requests, self._next
        if requests.direct == self._number:
            return next(requests.source)
        request = requests.nth(number)
        if request is MORE:
            with requests.lock:
                request = requests.nth(number)  # an attempt that has failed may have read it meanwhile
                if request is MORE:
                    requests.settle()
                    if requests.latest == self._number:
                        requests.passed(number)
                    try:
                        request = requests.add(next(requests.source))
                    except BaseException as ending:
                        requests.end(ending)
                        raise
        self._next = number + 1
        return request.message if self._plain and request.__class__ is Kept else request


class Feeding:
    """A multicallable of grpcio's that takes `Requests` where it would take an iterator."""

    __slots__ = ("_native", "_plain")

    def __init__(self, native: Any, plain: bool = False) -> None:
        self._native = native
        self._plain = plain
        """Whether the caller's own messages are wanted, as interceptors are given them."""

    def __call__(self, requests: Requests, *options: Any) -> Any:
        return self._native(Reader(requests, self._plain), *options)

    def with_call(self, requests: Requests, *options: Any) -> Any:
        return self._native.with_call(Reader(requests, self._plain), *options)

    def future(self, requests: Requests, *options: Any) -> Any:
        return self._native.future(Reader(requests, self._plain), *options)
