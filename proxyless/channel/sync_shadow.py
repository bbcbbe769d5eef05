"""Copies of requests, for threads: sent by the timers' thread, so that the caller's goes on with the call.

The request is serialized when the call is made, for its caller may change it afterwards. The answer is not even
deserialized: a stream of it is read, for otherwise the shadow could not go on, and thrown away.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.requests import Requests
from proxyless.channel.wires import SyncWires
from proxyless.script import Drain, Send, Shadow

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel

log = logging.getLogger("proxyless")

BUFFER = 256 * 1024
"""Bytes of a request stream that wait for a shadow which is slower than the call: as much as C-core keeps of a
call for its retries (`grpc.per_rpc_retry_buffer_size`). What is slower still is dropped, not waited for."""
ENTRY = 64
"""Bytes that a message in that buffer costs beside its own."""


def cast(channel: MeshChannel, wires: SyncWires, effect: Shadow, arguments: tuple[Any, Any, Any]) -> None:
    """Send a copy, soon; nothing that goes wrong with it is the caller's affair."""
    request, _, compression = arguments  # call credentials are the caller's, and stay here
    copy = _Copy(channel, wires, effect, compression)
    serialize = wires.signature[1]
    try:
        if isinstance(request, Requests):
            copy.feed = feed = Feed(copy.cancel)
            copy.request = feed
            begins = copy.begin()
            if begins:
                request.source = teed(request.source, serialize, feed)
        else:
            copy.request = request if serialize is None else serialize(request)
            begins = copy.begin()
    except Exception:
        log.debug("a copy of %s was not sent", effect.rpc.method, exc_info=True)
        copy.cancel()
        return
    if begins:
        channel.timers.after(0.0, copy.send)


class _Copy:
    """One copy under way."""

    def __init__(self, channel: MeshChannel, wires: SyncWires, effect: Shadow, compression: Any) -> None:
        self._channel = channel
        self._rpc = effect.rpc
        self._wires = wires
        self._compression = compression
        self._script = effect.service(effect.rpc)
        self._lock = threading.RLock()
        self._over = False
        self._native: Any = None
        self.request: Any = None
        self.feed: Feed | None = None

    def begin(self) -> bool:
        """Choose where it goes; False if it goes nowhere: no room under its cap, nobody to send it to."""
        try:
            effect = self._script.send(None)
        except StopIteration:
            self._over = True
            return False
        if not isinstance(effect, Send):
            self.cancel()  # a shadow waits for nothing
            return False
        return True

    def send(self) -> None:
        """In the timers' thread."""
        try:
            with self._lock:
                if not self._over:
                    self._send()
        except Exception:
            log.debug("a copy of %s was not sent", self._rpc.method, exc_info=True)
            self.cancel()

    def _send(self) -> None:
        rpc = self._rpc
        rpc.now = self._channel.clock()
        assert rpc.deadline is not None, "the mirror filter gives every copy a deadline"
        wires = self._wires.shadow(rpc.authority)
        method = wires.of(rpc)
        if not wires.streams:
            method = method.future
        request = self.request
        native = method(request, rpc.deadline - rpc.now, rpc.metadata, None, None, self._compression)
        self._native = native
        self.request = None
        if wires.streams:
            threading.Thread(target=_discard, args=(native,), name="proxyless shadow", daemon=True).start()
        if not native.add_callback(self._ended):
            self._ended()

    def _ended(self) -> None:
        """grpcio says so. Its callbacks keep the copy alive until then."""
        native = self._native
        outcome = wire.ended(self._rpc, native)
        with self._lock:
            if not self._over:
                self._over = True
                self._rpc.now = self._channel.clock()
                try:
                    ended = self._script.send(outcome)
                    assert not isinstance(ended, Drain)
                except StopIteration:
                    pass
                finally:
                    self._script.close()
        if self.feed is not None:
            self.feed.end()

    def cancel(self) -> None:
        """Drop it."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._rpc.now = self._channel.clock()
            self._script.close()
        if self._native is not None:
            self._native.cancel()
        if self.feed is not None:
            self.feed.end()


def _discard(native: Any) -> None:
    try:
        for _ in native:
            pass
    except grpc.RpcError:
        pass  # how it ended is told by its callback


class Feed(Iterator[bytes]):
    """The requests that wait for a shadow: the call puts them in and goes on, grpcio's thread takes them out."""

    def __init__(self, too_slow: Callable[[], None]) -> None:
        self._too_slow = too_slow
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False

    def put(self, data: bytes) -> None:
        """One more; never blocks. One at a time always fits, however large."""
        size = len(data) + ENTRY
        with self._changed:
            if self._ended:
                return
            full = self._bytes and self._bytes + size > BUFFER
            if not full:
                self._waiting.append(data)
                self._bytes += size
                self._changed.notify()
        if full:
            self.break_off()

    def break_off(self) -> None:
        """Half a stream must not look like a whole one: the copy is cancelled."""
        self._too_slow()
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __next__(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                raise StopIteration
            data = self._waiting.popleft()
            self._bytes -= len(data) + ENTRY
            return data


def teed(source: Iterator[Any], serialize: Callable[[Any], bytes] | None, feed: Feed) -> Iterator[Any]:
    """`source`, which feeds a copy as it is read. Serialized at once: its owner may use a message again."""
    whole = False
    try:
        while True:
            try:
                request = next(source)
            except StopIteration:
                whole = True
                return
            try:
                feed.put(request if serialize is None else serialize(request))
            except Exception:
                feed.break_off()  # the call will say what is wrong with it
            yield request
    finally:
        if whole:
            feed.end()
        else:
            feed.break_off()
