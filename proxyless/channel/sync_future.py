"""`.future()`: the driver that is driven by callbacks, so that a call under way parks no thread.

grpcio calls back when an attempt is over, the timers when a pause is, the snapshot slot when there is news;
each resumes the script where it stands. Only one of them is outstanding at a time, and the lock guards the
rest: a caller who cancels, or asks for the result, from another thread.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.callbacks import call_back
from proxyless.channel.news import Waiter
from proxyless.channel.sync_branches import RACING, Branches, break_off
from proxyless.channel.sync_endings import trailers_of
from proxyless.channel.sync_shadow import cast
from proxyless.channel.wires import SyncWires
from proxyless.errors import MeshRpcError
from proxyless.model.codes import Code
from proxyless.script import Adopt, Outcome, Race, Rpc, Send, Shadow, Sleep, Spawn, Wait

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel


class CallFuture(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """One call under way, as grpcio's own futures are: a `grpc.Call` and a `grpc.Future` at once.

    And as with those, a call that nobody holds any more is cancelled, unless somebody is to be called back.
    """

    _branches: Branches | None = None
    """The attempts of a hedged call."""

    def __init__(
        self,
        channel: MeshChannel,
        wires: SyncWires,
        rpc: Rpc,
        request: Any,
        credentials: Any,
        compression: Any,
    ) -> None:
        self._channel = channel
        self._wires = wires
        self._rpc = rpc
        self._arguments = (request, credentials, compression)
        self._script = channel.entry(rpc)
        self._changed = threading.Condition()
        self._native: Any = None
        self._outcome: Outcome | None = None
        self._cancelled = self._committed = False
        self._callbacks: list[Any] = []
        self._notice: _Notice | None = None

    def start(self) -> None:
        """Take the first step, in the caller's thread; a misuse that grpcio reports is raised here."""
        self._advance(None)
        self._channel.began(self)

    # -- the driver

    def _resume(self, reply: Any) -> None:
        """Take a later step, in a thread of grpcio's, of the timers' or of the source's: it must never raise."""
        try:
            self._advance(reply)
        except BaseException as error:
            self._finish(Outcome(Code.INTERNAL, f"the call could not be carried on: {error}", error=error))

    def _advance(self, reply: Any) -> None:
        """Resume the script with `reply` and set going what it asks for next."""
        self._rpc.now = self._channel.clock()
        try:
            if self._outcome is not None:
                self._close_script()
                self._call_back()
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
            self._channel.timers.after(effect.seconds, lambda: self._resume(None))
        elif isinstance(effect, Wait):
            Waiter(self._channel, effect, self._resume)
        elif isinstance(effect, Shadow):
            cast(self._channel, self._wires, effect, self._arguments)
            self._advance(None)
        else:
            self._beside(effect)

    def _beside(self, effect: Any) -> None:
        """Perform what has to do with several attempts at once."""
        branches = self._branches
        if branches is None:
            branches = self._branches = Branches(self._channel, self._wires, self._arguments)
        if isinstance(effect, Spawn):
            self._advance(branches.spawn(effect, self._close_script))
        elif isinstance(effect, Race):
            said = branches.race(effect, self._noticed())
            if said is not RACING:
                self._advance(said)
        elif isinstance(effect, Adopt):
            adopted = branches.adopt(effect.branch)
            with self._changed:
                self._native = adopted.native
                self._changed.notify_all()
            self._advance(adopted.outcome)

    def _noticed(self) -> _Notice:
        notice = _Notice(self)
        with self._changed:
            self._notice = notice
            if self._callbacks:
                notice.kept = self
        return notice

    def _close_script(self) -> None:
        break_off(self._script, self._branches)

    def _attempt(self) -> None:
        rpc = self._rpc
        request, credentials, compression = self._arguments
        left = None if rpc.deadline is None else rpc.deadline - rpc.now
        native = self._wires.of(rpc).future(request, left, rpc.metadata, credentials, None, compression)
        notice = self._noticed()
        with self._changed:
            self._native = native
            over = self._outcome is not None
            self._changed.notify_all()
        if over:
            native.cancel()
        try:
            under_way = native.add_callback(notice)
        except NotImplementedError:  # not a call but an error, as grpcio gives it to interceptors: it is over
            under_way = False
        if not under_way:
            notice()

    def attempted(self) -> None:
        """grpcio says that the attempt has ended."""
        native = self._native
        outcome = wire.ended(self._rpc, native)
        if outcome.code != 0:
            with self._changed:
                outcome.committed = self._committed
        self._resume(outcome)

    def _finish(self, outcome: Outcome) -> None:
        with self._changed:
            if self._outcome is None:
                self._outcome = outcome
                self._changed.notify_all()
        self._call_back()

    def _call_back(self) -> None:
        with self._changed:
            callbacks, self._callbacks = self._callbacks, []
        call_back(callbacks)

    def _end(self, outcome: Outcome) -> bool:
        """End the call from outside; the attempt's own end, which follows, calls back and frees the node."""
        with self._changed:
            if self._outcome is not None:
                return False
            self._cancelled = outcome.refused == "cancelled"
            self._outcome = outcome
            native = self._native
            self._changed.notify_all()
        if self._branches is not None and self._branches.end():
            self._channel.timers.after(0, lambda: self._resume(None))
            return True
        if native is None or not native.cancel():  # between attempts: nothing else will come back soon
            self._channel.timers.after(0, self._call_back)
        return True

    def close(self) -> None:
        """The channel is closed, and its calls with it."""
        self._end(Outcome(Code.CANCELLED, "Channel closed!", refused="closed"))

    def __del__(self) -> None:
        # The attempt goes with us, and grpcio cancels it.
        if getattr(self, "_outcome", self) is None:
            self._rpc.now = self._channel.clock()
            self._close_script()

    # -- grpc.Future

    def cancel(self) -> bool:
        return self._end(Outcome(Code.CANCELLED, wire.LOCALLY_CANCELLED, refused="cancelled"))

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
        with self._changed:
            if self._outcome is None:
                self._callbacks.append(lambda: fn(self))
                if self._notice is not None:
                    self._notice.kept = self
                return
        fn(self)

    @staticmethod
    def _error(outcome: Outcome) -> Any:
        return outcome.error or MeshRpcError(outcome.code, outcome.refused, outcome.details)

    # -- grpc.Call

    def is_active(self) -> bool:
        return self.running()

    def time_remaining(self) -> float | None:  # type: ignore[override]
        deadline = self._rpc.deadline
        return None if deadline is None else max(0.0, deadline - self._channel.clock())

    def add_callback(self, callback: Any) -> bool:
        with self._changed:
            if self._outcome is None:
                self._callbacks.append(callback)
                return True
        return False

    def initial_metadata(self) -> Any:
        while True:
            native = self._attempt_after(None)
            if native is None:
                return ()
            metadata = native.initial_metadata()
            # Where that attempt is over and another follows, its metadata will be the call's.
            if self._saw(native) or self._attempt_after(native) is native:
                return metadata

    def _saw(self, native: Any) -> bool:
        """The caller sees something of an answer: nobody may try again from now on (gRFC A6)."""
        with self._changed:
            if not native.is_active() or self._native is not native:
                return False
            self._committed = True
        if self._rpc.replay is not None:
            self._rpc.replay.commit()
        return True

    def _attempt_after(self, native: Any) -> Any:
        """The attempt that follows `native`; the last there was, once the call is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._native is not native or self._outcome is not None)
            return self._native

    def trailing_metadata(self) -> Any:
        outcome = self._final()
        if outcome.refused or self._native is None:
            return trailers_of(outcome)
        return self._native.trailing_metadata()

    def code(self) -> Any:
        return wire.CODES[self._final().code]

    def details(self) -> Any:
        outcome = self._final()
        return outcome.details if outcome.refused or self._native is None else self._native.details()

    def debug_error_string(self) -> Any:
        """What the transport says of the failure."""
        outcome = self._final()
        return outcome.details if outcome.refused or self._native is None else self._native.debug_error_string()

    def _final(self) -> Outcome:
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None)
            assert self._outcome is not None
            return self._outcome

    def __repr__(self) -> str:
        outcome = self._outcome
        state = "under way" if outcome is None else Code(outcome.code).name
        return f"<proxyless call of {self._rpc.service} {self._rpc.method}: {state}>"


class _Notice:
    """Tells a future that its attempt has ended, without keeping it alive for as long as that takes."""

    __slots__ = ("_future", "kept")

    def __init__(self, future: CallFuture) -> None:
        self._future = weakref.ref(future)
        self.kept: CallFuture | None = None
        """The future itself, once somebody is to be called back."""

    def __call__(self, *said: Any) -> None:
        future = self._future()
        self.kept = None
        if future is not None:
            if said:
                future._resume(*said)
            else:
                future.attempted()
