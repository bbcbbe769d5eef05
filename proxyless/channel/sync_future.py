"""`.future()`: the driver that is driven by callbacks, so that a call under way parks no thread.

grpcio calls back when an attempt is over, the timers when a pause is, the snapshot slot when there is news;
each resumes the script where it stands. Only one of them is outstanding at a time, and the lock guards the
rest: a caller who cancels, or asks for the result, from another thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.wires import SyncWires
from proxyless.errors import MeshRpcError
from proxyless.model.codes import Code
from proxyless.script import OK, Outcome, Rpc, Send, Sleep, Wait

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel


class CallFuture(grpc.Call, grpc.Future):  # type: ignore[misc]
    """One call under way, as grpcio's own futures are: a `grpc.Call` and a `grpc.Future` at once."""

    def __init__(
        self, channel: MeshChannel, wires: SyncWires, rpc: Rpc, request: Any, credentials: Any, compression: Any
    ) -> None:
        self._channel = channel
        self._wires = wires
        self._rpc = rpc
        self._arguments = (request, credentials, compression)
        self._script = channel.entry(rpc)
        self._changed = threading.Condition()
        self._native: Any = None
        self._outcome: Outcome | None = None
        self._cancelled = False
        self._callbacks: list[Any] = []

    def start(self) -> None:
        """Take the first step, in the caller's thread."""
        self._advance(None)

    # -- the driver

    def _advance(self, reply: Any) -> None:
        """Resume the script with `reply` and set going what it asks for next."""
        self._rpc.now = self._channel.clock()
        try:
            if self._cancelled:
                self._script.close()
                return
            effect = self._script.send(reply)
        except StopIteration as stop:
            self._finish(stop.value)
            return
        if isinstance(effect, Send):
            try:
                self._attempt()
            except BaseException:
                self._script.close()
                raise
        elif isinstance(effect, Sleep):
            self._channel.timers.after(effect.seconds, lambda: self._advance(None))
        else:
            assert isinstance(effect, Wait)
            _Waiter(self._channel, effect, self._advance)

    def _attempt(self) -> None:
        rpc = self._rpc
        request, credentials, compression = self._arguments
        left = None if rpc.deadline is None else rpc.deadline - rpc.now
        native = self._wires.of(rpc).future(request, left, rpc.metadata, credentials, None, compression)
        with self._changed:
            self._native = native
            cancelled = self._cancelled
            self._changed.notify_all()
        if cancelled:
            native.cancel()
        native.add_done_callback(self._attempted)

    def _attempted(self, native: Any) -> None:
        code = native.code()
        self._advance(OK if code is grpc.StatusCode.OK else wire.failure(native))

    def _finish(self, outcome: Outcome) -> None:
        with self._changed:
            if self._outcome is not None:
                return
            self._outcome = outcome
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        for callback in callbacks:
            callback()

    # -- grpc.Future

    def cancel(self) -> bool:
        with self._changed:
            if self._outcome is not None:
                return False
            self._cancelled = True
            native = self._native
        if native is not None:
            native.cancel()
        self._finish(Outcome(Code.CANCELLED, "Locally cancelled by application!", refused="cancelled"))
        return True

    def cancelled(self) -> bool:
        with self._changed:
            return self._cancelled and self._outcome is not None

    def running(self) -> bool:
        with self._changed:
            return self._outcome is None

    def done(self) -> bool:
        with self._changed:
            return self._outcome is not None

    def _wait(self, timeout: float | None) -> Outcome:
        with self._changed:
            if not self._changed.wait_for(lambda: self._outcome is not None, timeout):
                raise grpc.FutureTimeoutError()
            if self._cancelled:
                raise grpc.FutureCancelledError()
            assert self._outcome is not None
            return self._outcome

    def result(self, timeout: float | None = None) -> Any:
        outcome = self._wait(timeout)
        if outcome.ok:
            return self._native.result()
        raise self._error(outcome)

    def exception(self, timeout: float | None = None) -> Any:
        outcome = self._wait(timeout)
        return None if outcome.ok else self._error(outcome)

    def traceback(self, timeout: float | None = None) -> Any:
        outcome = self._wait(timeout)
        if outcome.ok:
            return None
        try:
            raise self._error(outcome)
        except grpc.RpcError as error:
            return error.__traceback__

    def add_done_callback(self, fn: Any) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    @staticmethod
    def _error(outcome: Outcome) -> Any:
        return outcome.error or MeshRpcError(outcome.code, outcome.refused, outcome.details)

    # -- grpc.Call

    def is_active(self) -> bool:
        return self.running()

    def time_remaining(self) -> float | None:
        deadline = self._rpc.deadline
        return None if deadline is None else max(0.0, deadline - self._channel.clock())

    def add_callback(self, callback: Any) -> bool:
        with self._changed:
            if self._outcome is None:
                self._callbacks.append(callback)
                return True
        return False

    def initial_metadata(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._native is not None or self._outcome is not None)
        return () if self._native is None else self._native.initial_metadata()

    def trailing_metadata(self) -> Any:
        outcome = self._final()
        if outcome.refused:
            return () if self._cancelled else self._error(outcome).trailing_metadata()
        return self._native.trailing_metadata()

    def code(self) -> Any:
        return _CODES[self._final().code]

    def details(self) -> Any:
        outcome = self._final()
        return outcome.details if outcome.refused else self._native.details()

    def debug_error_string(self) -> Any:
        """What the transport says of the failure."""
        outcome = self._final()
        return outcome.details if outcome.refused else self._native.debug_error_string()

    def _final(self) -> Outcome:
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None)
            assert self._outcome is not None
            return self._outcome

    def __repr__(self) -> str:
        outcome = self._outcome
        state = "under way" if outcome is None else Code(outcome.code).name
        return f"<proxyless call of {self._rpc.service} {self._rpc.method}: {state}>"


_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Waiter:
    """Waits for a snapshot without a thread: woken by the slot or, at the latest, by a timer."""

    def __init__(self, channel: MeshChannel, effect: Wait, resume: Any) -> None:
        self._slot = channel.slot
        self._version = effect.version
        self._resume = resume
        self._lock = threading.Lock()
        self._over = False
        self._slot.subscribe(self._look)
        if effect.until is not None:
            channel.timers.after(max(0.0, effect.until - channel.clock()), lambda: self._end(None))
        self._look()

    def _look(self) -> None:
        if self._slot.current.version > self._version:
            self._end(self._slot.current)

    def _end(self, reply: Any) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._slot.unsubscribe(self._look)
        self._resume(reply)
