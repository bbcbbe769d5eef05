"""The asyncio driver: performs a call's script without a task of its own for as long as all goes well.

A call starts when it is made, as grpcio's own do: the constructor drives the script to its first attempt.
Whoever awaits the call carries it on from there; if nobody does when an attempt ends, or when the script
wants to pause, a task is made for the rest. So the usual call costs no task and no future beyond grpcio's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.aio_branches import AioBranch, AioBranches, beside
from proxyless.channel.aio_endings import anew, cancel, ending
from proxyless.channel.aio_shadow import AioFeed
from proxyless.channel.callbacks import call_back
from proxyless.channel.news import await_news
from proxyless.channel.wires import AioWires
from proxyless.errors import AioMeshRpcError
from proxyless.model.codes import Code
from proxyless.script import Drain, Outcome, Rpc, Send, Sleep, Wait

if TYPE_CHECKING:
    from proxyless.channel.aio import AioMeshChannel


class Driven:
    """A call under way: its script, the attempt that is being made, and how it ended."""

    # What most calls never change stands on the class: a call is made in fewer steps so.
    _native: Any = None
    """The attempt that is, or was last, being made: a call of grpcio's."""
    _attended = 0
    """How many coroutines are waiting for that attempt's end, and will carry the call on."""
    _settled: Any = None
    """The last attempt whose end the script has been told of."""
    _rest: asyncio.Task[None] | None = None
    """The task that carries the call on while nobody attends to it."""
    _outcome: Outcome | None = None
    _callbacks: list[Any] | None = None
    _committed = False
    _branches: AioBranches | None = None
    """The attempts of a hedged call."""
    _adopted: AioBranch | None = None
    """The one of them whose answer has begun, and is the call's."""
    _feeds: tuple[AioFeed, ...] = ()
    """Where the copies of this call are given what is written."""
    _kept = True
    """Whether a call that nobody holds is carried on all the same."""
    _watch: Callable[[Any], None]
    """Where it is not: has the call told when an attempt ends, without keeping it for that."""

    def __init__(
        self,
        channel: AioMeshChannel,
        wires: AioWires,
        rpc: Rpc,
        request: Any,
        credentials: Any,
        compression: Any,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._channel = channel
        self._wires = wires
        self._rpc = rpc
        self._request = request
        self._credentials = credentials
        self._compression = compression
        self._loop = loop
        self._script = channel.entry(rpc)
        self._step(None)

    # -- the driver

    def _step(self, reply: Any) -> None:
        """Resume the script with `reply`, and set going what it asks for next."""
        try:
            effect = self._script.send(reply)
        except StopIteration as stop:
            self._outcome = stop.value
            if self._callbacks is not None:
                self._call_back()
            return
        if effect.__class__ is Send:
            rpc = self._rpc
            left = None if rpc.deadline is None else rpc.deadline - rpc.now
            try:
                native = self._wires.of(rpc, self._loop)(
                    self._request,
                    timeout=left,
                    metadata=wire.NO_PAIRS if rpc.metadata is None else wire.Pairs(rpc.metadata),
                    credentials=self._credentials,
                    compression=self._compression,
                )
            except BaseException:  # a misuse that grpcio reports: the node must not stay engaged
                self._close_script()
                raise
            self._native = native
            if self._kept:
                # Be told when it ends. The channel keeps the call until then: who lets go of it without awaiting it
                # wants it made all the same, as with grpcio.
                channel = self._channel
                channel.calls[native] = self
                native.add_done_callback(channel.attempt_over)
            else:
                self._watch(native)
        elif effect.__class__ is Sleep or effect.__class__ is Wait:
            self._channel.streams.add(self)  # no attempt stands for it now, and closing the channel ends it too
            self._rest = self._loop.create_task(self._pause(effect))
        elif effect.__class__ is not Drain:
            beside(self, effect)

    async def _pause(self, effect: Any) -> None:
        """Perform the effects that take time but no wire."""
        if isinstance(effect, Sleep):
            await asyncio.sleep(effect.seconds)
            reply = None
        else:
            reply = await await_news(self._channel, effect)
        self._rest = None
        self._rpc.now = self._channel.clock()
        try:
            self._step(reply)
        except Exception as error:
            self._break_off(error)

    def _attempt_over(self, native: Any, reply: Outcome) -> None:
        """`native` has ended; told by whoever noticed first."""
        if self._settled is native or self._outcome is not None:
            return
        self._settled = native
        if reply.code != 0:
            reply.committed = self._committed
        if self._adopted is not None:
            self._adopted.attempt_over(reply)
        self._rpc.now = self._channel.clock()
        try:
            self._step(reply)
        except Exception as error:
            self._break_off(error)

    def _noticed(self, native: Any) -> None:
        """grpcio says that an attempt has ended. Whoever attends to it will see; else a task does."""
        if not self._attended and self._settled is not native and self._outcome is None:
            self._rest = self._loop.create_task(self._attend(native))

    async def _attend(self, native: Any) -> None:
        outcome = await ending(self._rpc, native)
        self._rest = None
        self._attempt_over(native, outcome)

    def _commit(self, _native: Any) -> None:
        """The caller sees something of this attempt's answer: nobody may try again from now on (gRFC A6)."""
        self._committed = True
        if self._rpc.replay is not None:
            self._rpc.replay.commit()

    async def _present(self) -> Any:
        """The attempt that is being made, once there is one; raises how the call ended if there will be none."""
        while self._native is None:
            if self._outcome is not None:
                raise self._error(self._outcome)
            assert self._rest is not None
            await asyncio.wait((self._rest,))
        return self._native

    def _break_off(self, error: Exception) -> None:
        """The call can't be carried on (its mesh is closed): whoever waits for it must not wait for ever."""
        self._finish(Outcome(Code.INTERNAL, f"the call could not be carried on: {error}", error=error))

    def _close_script(self) -> None:
        """It will not be resumed, and nor will what it has spawned."""
        self._script.close()
        if self._branches is not None:
            self._branches.end()
        for feed in self._feeds:
            feed.break_off()

    async def _complete(self) -> Outcome:
        """Carry the call to its end, whoever else is doing so; for `code()`, `details()` and their like."""
        while self._outcome is None:
            rest = self._rest
            if rest is not None:
                await asyncio.wait((rest,))
                continue
            await self._see_off(self._native)
        return self._outcome

    async def _see_off(self, native: Any) -> None:
        """Wait for the end of an attempt, and carry the call on from there."""
        self._attended += 1
        try:
            reply = await ending(self._rpc, native)
        except BaseException:  # whoever asked was cancelled, perhaps just as the attempt ended
            self._attended -= 1
            if native.done():
                self._noticed(native)
            raise
        self._attended -= 1
        self._attempt_over(native, reply)

    async def _goes_on_after(self, native: Any) -> bool:
        """Whether another attempt follows `native`, which is ending; waits until that is known."""
        await self._see_off(native)
        while self._outcome is None and self._native is native:
            assert self._rest is not None
            await asyncio.wait((self._rest,))
        return self._outcome is None

    def _finish(self, outcome: Outcome) -> None:
        """It has ended, and not by its script."""
        self._outcome = outcome
        self._call_back()

    def _call_back(self) -> None:
        callbacks, self._callbacks = self._callbacks, None
        call_back(callbacks or (), self)

    def _error(self, outcome: Outcome) -> BaseException:
        if outcome.error is not None:
            return anew(outcome.error)
        if outcome.refused == "cancelled":
            return asyncio.CancelledError()
        return AioMeshRpcError(outcome.code, outcome.refused, outcome.details)

    # -- grpc.aio.Call

    def cancel(self) -> bool:
        if self._outcome is not None:
            return False
        self._outcome = Outcome(Code.CANCELLED, wire.LOCALLY_CANCELLED, refused="cancelled")
        self._rpc.now = self._channel.clock()
        self._close_script()
        if self._native is not None:
            cancel(self._native)
        if self._rest is not None:
            self._rest.cancel()
        self._finish(self._outcome)
        return True

    def cancelled(self) -> bool:
        return self._outcome is not None and self._outcome.refused == "cancelled"

    def done(self) -> bool:
        return self._outcome is not None

    def add_done_callback(self, callback: Any) -> None:
        if self._outcome is not None:
            callback(self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        deadline = self._rpc.deadline
        return None if deadline is None else max(0.0, deadline - self._channel.clock())

    async def initial_metadata(self) -> Any:
        while True:
            native = self._native
            if native is None and self._outcome is None:
                assert self._rest is not None
                await asyncio.wait((self._rest,))
                continue
            if native is None or (self._outcome is not None and self._outcome.refused):
                outcome = await self._complete()
                if self._native is None or outcome.refused:
                    return grpc.aio.Metadata()
                continue
            metadata = await native.initial_metadata()
            if native.done():  # the answer, or a failure after which there may be another attempt
                await self._complete()
            elif self._native is native:
                self._commit(native)
            if self._native is native:
                return metadata

    async def trailing_metadata(self) -> Any:
        outcome = await self._complete()
        if not outcome.refused and self._native is not None:
            return await self._native.trailing_metadata()
        if outcome.refused in ("", "cancelled"):
            return grpc.aio.Metadata()
        return grpc.aio.Metadata(("proxyless-reason", outcome.refused))

    async def code(self) -> grpc.StatusCode:
        return wire.CODES[(await self._complete()).code]

    async def details(self) -> str:
        outcome = await self._complete()
        if outcome.refused or outcome.code != 0 or self._native is None:
            return outcome.details
        return await self._native.details()  # type: ignore[no-any-return]

    async def debug_error_string(self) -> str:
        """What the transport says of the failure."""
        outcome = await self._complete()
        if outcome.refused or self._native is None:
            return outcome.details
        return await self._native.debug_error_string()  # type: ignore[no-any-return]

    async def wait_for_connection(self) -> None:
        while True:
            while self._native is None and self._outcome is None:
                assert self._rest is not None
                await asyncio.wait((self._rest,))
            native = self._native
            if native is None:
                assert self._outcome is not None
                raise self._error(self._outcome)
            try:
                return await native.wait_for_connection()  # type: ignore[no-any-return]
            except grpc.aio.AioRpcError as error:
                if not await self._goes_on_after(native):
                    assert self._outcome is not None
                    raise (self._error(self._outcome) if self._outcome.code else error) from None

    def __repr__(self) -> str:
        state = "under way" if self._outcome is None else Code(self._outcome.code).name
        return f"<proxyless call of {self._rpc.service} {self._rpc.method}: {state}>"

    def abandon(self) -> None:
        """Nobody will see the call's end: its caller has let go of it, or its loop has ended."""
        script = getattr(self, "_script", None)
        if self._outcome is not None or script is None:  # has ended, or was never begun
            return
        self._outcome = Outcome(Code.CANCELLED, wire.LOCALLY_CANCELLED, refused="cancelled")
        self._rpc.now = self._channel.clock()
        script.close()
        if self._branches is not None:
            self._branches.abandon()
        if self._native is None:
            return
        try:
            if asyncio._get_running_loop() is self._loop:
                self._native.cancel()
            else:  # the garbage collector runs in whichever thread it likes
                self._loop.call_soon_threadsafe(self._native.cancel)
        except RuntimeError:
            pass  # the loop is closed, and what ran on it has ended

    def __del__(self) -> None:
        if self._outcome is None:
            self.abandon()
