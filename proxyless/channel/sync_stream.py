"""Calls with a stream of responses, for threads: the script sleeps while the caller iterates.

Three parties touch such a call: the caller who pulls messages, grpcio's thread that reports the end of an
attempt, and the garbage collector when the caller lets go. So the call is two objects. `_Progress` holds the
script and is what callbacks keep alive; `StreamCall` is the caller's, and when it goes the attempt is
cancelled and the script closed, as grpcio does with its own.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.sync_future import _CODES, LOCALLY_CANCELLED, _Waiter, call_back, trailers_of
from proxyless.channel.wires import SyncWires
from proxyless.errors import MeshRpcError
from proxyless.model.codes import Code
from proxyless.script import OK, OPEN, Outcome, Rpc, Send, Sleep, Wait

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel


_CANCELLED = Outcome(Code.CANCELLED, LOCALLY_CANCELLED, refused="cancelled")


class _Progress:
    """How far the script has come. The lock is re-entrant: an attempt may end inside the call that starts it."""

    def __init__(self, channel: MeshChannel, wires: SyncWires, rpc: Rpc, arguments: tuple[Any, Any, Any]) -> None:
        self.channel = channel
        self.wires = wires
        self.rpc = rpc
        self.arguments = arguments
        self.script = channel.entry(rpc)
        self.changed = threading.Condition(threading.RLock())
        self.outcome: Outcome | None = None
        self.committed = False
        self.attempt = 0
        self.callbacks: list[Any] = []
        self.owner: weakref.ref[StreamCall] = lambda: None  # type: ignore[assignment]

    def advance(self, reply: Any) -> None:
        """Resume the script with `reply` and set going what it asks for next."""
        with self.changed:
            self._step(reply)
        self.call_back()

    def resume(self, reply: Any) -> None:
        """The same in a thread that is not the caller's, where nothing may be raised."""
        try:
            self.advance(reply)
        except BaseException as error:
            self._break_off(error)

    def _break_off(self, error: BaseException) -> None:
        with self.changed:
            self.finish(Outcome(Code.INTERNAL, f"the call could not be carried on: {error}", error=error))
        self.call_back()

    def _step(self, reply: Any) -> None:
        if self.outcome is not None:
            return
        self.rpc.now = self.channel.clock()
        try:
            effect = self.script.send(reply)
        except StopIteration as stop:
            self.finish(stop.value)
            return
        if isinstance(effect, Send):
            try:
                self._begin_attempt()
            except BaseException:  # a misuse that grpcio reports: the node must not stay engaged
                self.script.close()
                raise
        elif isinstance(effect, Sleep):
            self.channel.timers.after(effect.seconds, lambda: self.resume(None))
        elif isinstance(effect, Wait):
            _Waiter(self.channel, effect, self.resume)
        # else Drain: the caller reads on, and the end of the attempt is what comes next

    def _begin_attempt(self) -> None:
        owner = self.owner()
        if owner is None:
            self.abandon()
            return
        rpc = self.rpc
        request, credentials, compression = self.arguments
        left = None if rpc.deadline is None else rpc.deadline - rpc.now
        native = self.wires.of(rpc)(request, left, rpc.metadata, credentials, None, compression)
        self.attempt += 1
        number = self.attempt
        owner.native = native
        self.changed.notify_all()
        # Callbacks live as long as the attempt: they must hold neither the caller's object nor grpcio's, or
        # letting go of a stream would never end it.
        native_ref = weakref.ref(native)
        if not native.add_callback(lambda: self._attempt_over(number, native_ref)):
            self._ended(number, native)

    def _attempt_over(self, number: int, native_ref: Any) -> None:
        """grpcio says so, in its own thread, which must not be given an exception."""
        try:
            with self.changed:
                self._ended(number, native_ref())
        except BaseException as error:
            self._break_off(error)
        self.call_back()

    def _ended(self, number: int, native: Any) -> None:
        if number != self.attempt or self.outcome is not None:
            return
        if native is None:
            self.abandon()
        else:
            self._step(OK if native.code() is grpc.StatusCode.OK else self._failure(native))

    def _failure(self, native: Any) -> Outcome:
        outcome = wire.failure(native)
        outcome.committed = self.committed
        return outcome

    def commit(self) -> None:
        """The first message is here: nobody may try again from now on (gRFC A6)."""
        with self.changed:
            if not self.committed and self.outcome is None:
                self.committed = True
                self._step(OPEN)

    def abandon(self, outcome: Outcome = _CANCELLED) -> None:
        """The caller has gone: close the script, so that what stands in `finally` runs."""
        with self.changed:
            if self.outcome is None:
                self.script.close()
                self.finish(outcome)

    def finish(self, outcome: Outcome) -> None:
        """The script has returned, or will not be asked again."""
        self.outcome = outcome
        self.changed.notify_all()

    def call_back(self) -> None:
        """Tell who wanted to be told, if the call is over; without the lock, for they may do as they like."""
        with self.changed:
            if self.outcome is None or not self.callbacks:
                return
            callbacks, self.callbacks = self.callbacks, []
        call_back(callbacks)


class StreamCall(grpc.Call, grpc.Future):  # type: ignore[misc]
    """A response stream under way: an iterator of messages, a `grpc.Call` and a `grpc.Future`."""

    def __init__(self, channel: MeshChannel, wires: SyncWires, rpc: Rpc, arguments: tuple[Any, Any, Any]) -> None:
        self.native: Any = None
        self._progress = progress = _Progress(channel, wires, rpc, arguments)
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
                with progress.changed:
                    progress.changed.wait_for(lambda: self.native is not None or progress.outcome is not None)
                    if self.native is None:
                        raise self._end()
                continue
            try:
                message = next(native)
            except (StopIteration, grpc.RpcError):
                # The end of this attempt. What it means is the script's to say: the end of the call, or not.
                with progress.changed:
                    progress.changed.wait_for(lambda: self.native is not native or progress.outcome is not None)  # noqa: B023
                    if self.native is native:
                        raise self._end() from None
                continue
            if not progress.committed:
                progress.commit()
            return message

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
            return native  # type: ignore[no-any-return]  # grpcio's streams are their own errors
        return MeshRpcError(outcome.code, outcome.refused, outcome.details)

    def __del__(self) -> None:
        progress = getattr(self, "_progress", None)
        if progress is not None and progress.outcome is None:
            if self.native is not None:
                self.native.cancel()
            progress.abandon()

    # -- grpc.Call and grpc.Future

    def cancel(self) -> bool:
        return self._leave(_CANCELLED)

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
            following = native is not None and native.cancel()
            progress.abandon(outcome)
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

    def time_remaining(self) -> float | None:
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
        progress = self._progress
        while True:
            with progress.changed:
                progress.changed.wait_for(lambda: self.native is not None or progress.outcome is not None)
                native = self.native
            if native is None:
                return ()
            metadata = native.initial_metadata()
            with progress.changed:
                if progress.outcome is not None or native.is_active():
                    return metadata
                # That attempt is over, and if another follows its metadata will be the call's.
                progress.changed.wait_for(lambda: self.native is not native or progress.outcome is not None)  # noqa: B023
                if self.native is native:
                    return metadata

    def trailing_metadata(self) -> Any:
        outcome = self._final(None)
        if outcome.refused or self.native is None:
            return trailers_of(outcome)
        return self.native.trailing_metadata()

    def code(self) -> Any:
        return _CODES[self._final(None).code]

    def details(self) -> Any:
        outcome = self._final(None)
        return outcome.details if outcome.refused or self.native is None else self.native.details()

    def debug_error_string(self) -> Any:
        """What the transport says of the failure."""
        outcome = self._final(None)
        return outcome.details if outcome.refused or self.native is None else self.native.debug_error_string()

    def _final(self, timeout: float | None) -> Outcome:
        progress = self._progress
        with progress.changed:
            if not progress.changed.wait_for(lambda: progress.outcome is not None, timeout):
                raise grpc.FutureTimeoutError()
            assert progress.outcome is not None
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

    _arity: str
    _replayable: bool
    """Whether the request can be sent again: a stream is gone once it has been read."""

    def __init__(self, channel: MeshChannel, method: str, serialize: Any, deserialize: Any, registered: Any) -> None:
        self._channel = channel
        self._method = method
        signature = (method, serialize, deserialize, bool(registered))
        self._wires = SyncWires(self._arity, signature, channel.profile, channel.subchannels)

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> StreamCall:
        rpc = self._channel.rpc(self._method, timeout, metadata, wait_for_ready, self._replayable)
        return StreamCall(self._channel, self._wires, rpc, (request, credentials, compression))


class UnaryStream(_StreamResponse, grpc.UnaryStreamMultiCallable):  # type: ignore[misc]
    """`channel.unary_stream(...)`"""

    _arity = "unary_stream"
    _replayable = True


class StreamStream(_StreamResponse, grpc.StreamStreamMultiCallable):  # type: ignore[misc]
    """`channel.stream_stream(...)`"""

    _arity = "stream_stream"
    _replayable = False
