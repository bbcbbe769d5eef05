"""Calls with a stream of responses, for threads: the script sleeps while the caller iterates.

Three parties touch such a call: the caller who pulls messages, grpcio's thread that reports the end of an
attempt, and the garbage collector when the caller lets go. So the call is two objects: `StreamCall` is the
caller's, `Progress` is what the others hold.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel.requests import Requests
from proxyless.channel.sync_endings import trailers_of
from proxyless.channel.sync_progress import CANCELLED, Progress
from proxyless.channel.wire import CODES
from proxyless.channel.wires import SyncWires
from proxyless.errors import MeshRpcError
from proxyless.model.codes import Code
from proxyless.script import Outcome, Rpc

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel


class StreamCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A response stream under way: an iterator of messages, a `grpc.Call` and a `grpc.Future`."""

    def __init__(self, channel: MeshChannel, wires: SyncWires, rpc: Rpc, arguments: tuple[Any, Any, Any]) -> None:
        self.native: Any = None
        self._progress = progress = Progress(channel, wires, rpc, arguments)
        progress.owner = weakref.ref(self)
        try:
            progress.advance(None)
        except BaseException:  # a misuse that grpcio reports
            progress.abandon()
            raise
        channel.began(self)

    def __iter__(self) -> StreamCall:
        return self

    def __next__(self) -> Any:
        progress = self._progress
        while True:
            native = self.native
            if native is None:
                self._await_news_after(None)
                if self.native is None:
                    raise self._end()
                continue
            try:
                return next(native) if progress.committed else progress.first(native)
            except (StopIteration, grpc.RpcError):
                # The end of this attempt. What it means is the script's to say: the end of the call, or not.
                progress.reader_saw_end_of(native)
                self._await_news_after(native)
                if self.native is native:
                    raise self._end() from None

    def _await_news_after(self, native: Any, timeout: float | None = None) -> bool:
        """Wait until the call is over, or another attempt than `native` is being made."""
        progress = self._progress
        with progress.changed:
            return progress.changed.wait_for(lambda: self.native is not native or progress.outcome is not None, timeout)

    def next(self) -> Any:
        """`next(call)`, by its old name."""
        return self.__next__()

    def _end(self) -> BaseException:
        outcome = self._progress.outcome
        assert outcome is not None
        if outcome.ok:
            return StopIteration()
        if outcome.error is not None:
            return outcome.error
        native = self.native
        if outcome.refused == "cancelled" and native is not None and native.code() is grpc.StatusCode.CANCELLED:
            return getattr(native, "plain", native)  # type: ignore[no-any-return]  # grpcio's streams are errors
        return MeshRpcError(outcome.code, outcome.refused, outcome.details)

    def __del__(self) -> None:
        progress = getattr(self, "_progress", None)
        if progress is not None and progress.outcome is None:
            progress.abandon()  # first: what ends a branch of it is not the branch's own failure
            if self.native is not None:
                self.native.cancel()

    # -- grpc.Call and grpc.Future

    def cancel(self) -> bool:
        return self._leave(CANCELLED)

    def close(self) -> None:
        """The channel is closed, and its calls with it."""
        self._leave(Outcome(Code.CANCELLED, "Channel closed!", refused="closed"))

    def _leave(self, outcome: Outcome) -> bool:
        """End the call from outside; callbacks come from the attempt's own end, as with grpcio."""
        progress = self._progress
        with progress.changed:
            if progress.outcome is not None:
                return False
            native = self.native
            progress.abandon(outcome)
            following = native is not None and native.cancel()
        if not following:
            progress.channel.timers.after(0, progress.call_back)
        return True

    def cancelled(self) -> bool:
        outcome = self._progress.outcome
        return outcome is not None and outcome.refused == "cancelled"

    def is_active(self) -> bool:
        return self._progress.outcome is None

    def running(self) -> bool:
        return self._progress.outcome is None

    def done(self) -> bool:
        return self._progress.outcome is not None

    def time_remaining(self) -> float | None:  # type: ignore[override]
        deadline = self._progress.rpc.deadline
        return None if deadline is None else max(0.0, deadline - self._progress.channel.clock())

    def add_callback(self, callback: Any) -> bool:
        progress = self._progress
        with progress.changed:
            if progress.outcome is None:
                progress.callbacks.append(callback)
                return True
        return False

    def add_done_callback(self, fn: Any) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    def initial_metadata(self) -> Any:
        while True:
            self._await_news_after(None)
            native = self.native
            if native is None:
                return ()
            metadata = native.initial_metadata()
            if native.is_active() and self._progress.commit(native):
                return metadata
            # That attempt is over, and if another follows, its metadata will be the call's.
            self._await_news_after(native)
            if self.native is native:
                return metadata

    def trailing_metadata(self) -> Any:
        outcome = self._final(None)
        if outcome.refused or self.native is None:
            return trailers_of(outcome)
        return self.native.trailing_metadata()

    def code(self) -> Any:
        return CODES[self._final(None).code]

    def details(self) -> Any:
        outcome = self._final(None)
        return outcome.details if outcome.refused or self.native is None else self.native.details()

    def debug_error_string(self) -> Any:
        """What the transport says of the failure."""
        outcome = self._final(None)
        return outcome.details if outcome.refused or self.native is None else self.native.debug_error_string()

    def _final(self, timeout: float | None) -> Outcome:
        progress = self._progress
        until = None if timeout is None else progress.channel.clock() + timeout
        while progress.outcome is None:
            native = self.native
            if native is not None:
                # A stream that no thread reads for us (SingleThreadedUnaryStream) raises UsageError here, as it would
                # for whoever asked grpcio.
                try:
                    native.exception(timeout=0)
                except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
                    pass
            left = None if until is None else until - progress.channel.clock()
            if not self._await_news_after(native, left):
                raise grpc.FutureTimeoutError()
        return progress.outcome

    def _done(self, timeout: float | None) -> Outcome:
        outcome = self._final(timeout)
        if outcome.refused == "cancelled":
            raise grpc.FutureCancelledError()
        return outcome

    def result(self, timeout: float | None = None) -> Any:
        """None, as grpcio's: the messages went to whoever iterated."""
        if self._done(timeout).ok:
            return self.native.result()
        raise self._end()

    def exception(self, timeout: float | None = None) -> Any:
        return None if self._done(timeout).ok else self._end()

    def traceback(self, timeout: float | None = None) -> Any:
        if self._done(timeout).ok:
            return None
        try:
            raise self._end()
        except grpc.RpcError as error:
            return error.__traceback__

    def __repr__(self) -> str:
        progress = self._progress
        outcome = progress.outcome
        state = "under way" if outcome is None else Code(outcome.code).name
        return f"<proxyless stream of {progress.rpc.service} {progress.rpc.method}: {state}>"


class _StreamResponse:
    """What unary-stream and stream-stream have in common."""

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
    ) -> StreamCall:
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, None)
        return StreamCall(self._channel, self._wires, rpc, (request, credentials, compression))


class UnaryStream(_StreamResponse, grpc.UnaryStreamMultiCallable):  # type: ignore[misc, type-arg]
    """`channel.unary_stream(...)`"""


class StreamStream(_StreamResponse, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """`channel.stream_stream(...)`"""

    def __call__(  # type: ignore[override]
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> StreamCall:
        requests = Requests(request_iterator, self._channel.replay_cap)
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, requests)
        return StreamCall(self._channel, self._wires, rpc, (requests, credentials, compression))
