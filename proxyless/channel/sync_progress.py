"""How far a response stream has come, for threads: its script, and the attempt that is being made.

Callbacks of grpcio, timers and the snapshot slot keep this object alive, and it must not keep the caller's
(`StreamCall`) alive in turn: a stream that its caller lets go of is cancelled, as grpcio's own are.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.callbacks import call_back
from proxyless.channel.news import Waiter
from proxyless.channel.sync_branches import RACING, Branch, Branches, break_off, ended
from proxyless.channel.sync_shadow import cast
from proxyless.channel.wires import SyncWires
from proxyless.model.codes import Code
from proxyless.script import OPEN, Adopt, Outcome, Race, Rpc, Send, Shadow, Sleep, Spawn, Wait

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel

CANCELLED = Outcome(Code.CANCELLED, wire.LOCALLY_CANCELLED, refused="cancelled")


class Progress:
    """How far the script has come. The lock is re-entrant: an attempt may end inside the call that starts it."""

    branches: Branches | None = None
    """The attempts of a hedged call."""
    adopted: Branch | None = None
    """The one of them whose answer has begun, and is the call's."""

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
        self.ended = 0
        """The number of the last attempt whose end the script was told of."""
        self.callbacks: list[Any] = []
        self.reading: Any = None
        """The attempt whose first message somebody waits for."""
        self.missed = False
        """Whether that attempt has ended meanwhile."""
        self.owner: weakref.ref[Any] = lambda: None  # type: ignore[assignment]

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
            if self.outcome is None:
                details = f"the call could not be carried on: {error}"
                self.finish(Outcome(Code.INTERNAL, details, error=error))
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
                self._close_script()
                raise
        elif isinstance(effect, Sleep):
            self.channel.timers.after(effect.seconds, lambda: self.resume(None))
        elif isinstance(effect, Wait):
            Waiter(self.channel, effect, self.resume)
        elif isinstance(effect, Shadow):
            cast(self.channel, self.wires, effect, self.arguments)
            self._step(None)
        elif isinstance(effect, (Spawn, Race, Adopt)):
            self._beside(effect)
        # else Drain: the caller reads on, and the end of the attempt is what comes next

    def _beside(self, effect: Spawn | Race | Adopt) -> None:
        """Perform what has to do with several attempts at once."""
        if self.branches is None:
            self.branches = Branches(self.channel, self.wires, self.arguments, streams=True)
        if isinstance(effect, Spawn):
            self._step(self.branches.spawn(effect, self._close_script))
        elif isinstance(effect, Race):
            said = self.branches.race(effect, self.resume)
            if said is not RACING:
                self._step(said)
        else:
            self._adopt(self.branches.adopt(effect.branch))

    def _adopt(self, branch: Branch) -> None:
        owner = self.owner()
        if owner is None:
            self.abandon()
        elif branch.outcome is OPEN:
            self.adopted = branch
            self.committed = True
            self._follow(owner, branch.native)
        else:
            owner.native = branch.native
            self.changed.notify_all()
            self._step(branch.outcome)

    def _begin_attempt(self) -> None:
        owner = self.owner()
        if owner is None:
            self.abandon()
            return
        rpc = self.rpc
        request, credentials, compression = self.arguments
        left = None if rpc.deadline is None else rpc.deadline - rpc.now
        self._follow(owner, self.wires.of(rpc)(request, left, rpc.metadata, credentials, None, compression))

    def _follow(self, owner: Any, native: Any) -> None:
        """Have the caller read this attempt, and be told when it ends."""
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
                native = native_ref()
                if native is not None and native is self.reading and self.outcome is None:
                    self.missed = True
                    return
                self._ended(number, native)
        except BaseException as error:
            self._break_off(error)
        self.call_back()

    def reader_saw_end_of(self, native: Any) -> None:
        """So did the caller, who may know before grpcio's thread does (or alone: a response that can't be read)."""
        with self.changed:
            owner = self.owner()
            if owner is not None and owner.native is native:
                self._ended(self.attempt, native)
        self.call_back()

    def _ended(self, number: int, native: Any) -> None:
        if number != self.attempt or number == self.ended or self.outcome is not None:
            return
        self.ended = number
        if native is None:
            self.abandon()
        else:
            if self.adopted is not None:
                self.adopted.attempt_over(native)
            outcome = ended(self.rpc, native)
            if outcome.code != 0:
                outcome.committed = self.committed or wire.began(native)
            self._step(outcome)

    def first(self, native: Any) -> Any:
        """The first message of an attempt, for whoever reads; raises the attempt's end if there is none.

        While it is waited for, an end of the attempt is the reader's to tell: grpcio may report a failure that
        came right after the message before the reader has the message, and a retry would send it again.
        """
        with self.changed:
            self.reading = native
        try:
            message = next(native)
        except (StopIteration, grpc.RpcError):  # whoever reads tells of the end
            self._read(native, False)
            raise
        except BaseException:
            self._read(native, True)
            raise
        self.commit(native)
        self._read(native, True)
        return message

    def _read(self, native: Any, tell: bool) -> None:
        """Nobody waits for the first message any more: an end that came meanwhile is told now."""
        with self.changed:
            self.reading, missed, self.missed = None, self.missed, False
            if missed and tell:
                self._ended(self.attempt, native)
        self.call_back()

    def commit(self, native: Any) -> bool:
        """The caller sees something of this attempt's answer: nobody may try again from now on (gRFC A6).

        False if another attempt is being made already.
        """
        with self.changed:
            owner = self.owner()
            if owner is None or owner.native is not native:
                return False
            if not self.committed and self.outcome is None:
                if self.ended == self.attempt:
                    return False
                self.committed = True
                if self.rpc.replay is not None:
                    self.rpc.replay.commit()
                self._step(OPEN)
            return True

    def abandon(self, outcome: Outcome = CANCELLED) -> None:
        """The caller has gone: close the script, so that what stands in `finally` runs."""
        with self.changed:
            if self.outcome is None:
                self.rpc.now = self.channel.clock()
                self._close_script()
                self.finish(outcome)

    def _close_script(self) -> None:
        break_off(self.script, self.branches)

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
