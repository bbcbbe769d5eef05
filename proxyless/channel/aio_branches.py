"""Attempts of one asyncio call that are under way at once: each a script of its own, with a task that carries it.

Only hedged calls come here. What a branch holds never includes the call: a stream that its reader lets go of is
cancelled, with whatever is under way for it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel.aio_endings import ending
from proxyless.channel.aio_shadow import cast
from proxyless.channel.news import await_news
from proxyless.model.codes import Code
from proxyless.script import OPEN, Adopt, Outcome, Race, Send, Shadow, Sleep, Spawn, Wait

if TYPE_CHECKING:
    from proxyless.channel.aio_call import Driven


class AioBegun(AsyncIterator[Any]):
    """A stream of responses whose first message may have been read; otherwise grpcio's own."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._first: list[Any] = []

    async def begins(self) -> bool:
        """Wait for the first message; False if there is none."""
        try:
            first = await self._native.read()
        except grpc.aio.AioRpcError:
            return False  # how it ended is asked next
        self._first = [] if first is grpc.aio.EOF else [first]
        return bool(self._first)

    async def read(self) -> Any:
        return self._first.pop() if self._first else await self._native.read()

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._native.add_done_callback(lambda _native: callback(self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


class AioBranch:
    """One of the attempts (`script.Branch`)."""

    def __init__(self, branches: AioBranches, effect: Spawn) -> None:
        self.rpc = effect.rpc
        self.outcome: Outcome | None = None
        self.native: Any = None
        self._branches = branches
        self._script = effect.service(effect.rpc)
        self._over = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take the first step; a misuse that grpcio reports is raised here."""
        try:
            effect = self._step(None)
        except BaseException:
            self.cancel()
            raise
        if not self._over:
            self._task = self._branches.loop.create_task(self._carry(effect))

    def _step(self, reply: Any) -> Any:
        """Resume the script, and begin what it asks for."""
        self.rpc.now = self._branches.channel.clock()
        try:
            effect = self._script.send(reply)
        except StopIteration as stop:
            self._over = True
            self.outcome = stop.value
            return None
        if isinstance(effect, Send):
            self.native = self._branches.send(self.rpc)
        return effect

    async def _carry(self, effect: Any) -> None:
        try:
            while not self._over:
                reply = await self._perform(effect)
                if not self._over:
                    effect = self._step(reply)
        except Exception as error:
            if not self._over:
                self.cancel()
                self.outcome = Outcome(Code.INTERNAL, f"the call could not be carried on: {error}", error=error)
        self._branches.news.set()

    async def _perform(self, effect: Any) -> Any:
        if isinstance(effect, Send):
            return await self._answered()
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, Wait):
            return await await_news(self._branches.channel, effect)
        self._branches.news.set()  # a Drain: the stream has begun
        outcome = await ending(self.rpc, self.native)
        if outcome.code != 0:
            outcome.committed = True
        return outcome

    async def _answered(self) -> Outcome:
        """How the attempt ended, or that its stream has begun."""
        if self._branches.streams and await self.native.begins():
            self.outcome = OPEN  # "committed": nobody may try again from now on (gRFC A6)
            return OPEN
        return await ending(self.rpc, self.native)

    def attempt_over(self, outcome: Outcome) -> None:
        """Whoever reads has seen the end of the stream."""
        if not self._over:
            self._step(outcome)
            self._stop()

    def forget(self) -> None:
        """Close its script, so that what stands in `finally` runs."""
        self._over = True
        self.rpc.now = self._branches.channel.clock()
        self._script.close()

    def cancel(self) -> None:
        """Nobody needs it any more: close its script, and end its attempt."""
        if self._over:
            return
        self.forget()
        if self.native is not None:
            self.native.cancel()
        self._stop()

    def _stop(self) -> None:
        task = self._task
        if task is not None and task is not asyncio.current_task(self._branches.loop):
            task.cancel()


class AioBranches:
    """All attempts of one call, and whoever waits for the first of them."""

    def __init__(self, call: Driven) -> None:
        self.channel = call._channel
        self.loop = call._loop
        self.streams = call._wires.streams
        """Whether the response is a stream."""
        self.news = asyncio.Event()
        self._wires = call._wires
        self._request = call._request
        self._options = {"credentials": call._credentials, "compression": call._compression}
        self._all: list[AioBranch] = []
        self._over = False

    def send(self, rpc: Any) -> Any:
        """Make an attempt."""
        left = None if rpc.deadline is None else rpc.deadline - rpc.now
        native = self._wires.of(rpc, self.loop)(self._request, timeout=left, metadata=rpc.metadata, **self._options)
        return AioBegun(native) if self.streams else native

    def spawn(self, effect: Spawn) -> AioBranch:
        """Begin another."""
        branch = AioBranch(self, effect)
        self._all.append(branch)
        branch.start()
        return branch

    async def race(self, effect: Race) -> Any:
        """The first that has something to say; None if that instant comes first."""
        while not self._over:
            self.news.clear()
            for branch in effect.branches:
                if branch.outcome is not None:
                    return branch
            timer = None
            if effect.until is not None:
                left = effect.until - self.channel.clock()
                if left <= 0:
                    return None
                timer = self.loop.call_later(left, self.news.set)
            try:
                await self.news.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        return None

    def adopt(self, chosen: Any) -> AioBranch:
        """Keep this one, cancel the others."""
        for branch in self._all:
            if branch is not chosen:
                branch.cancel()
        adopted: AioBranch = chosen
        return adopted

    def end(self) -> None:
        """Cancel all."""
        self._over = True
        for branch in self._all:
            branch.cancel()
        self.news.set()

    def abandon(self) -> None:
        """The same in whichever thread the garbage collector runs, or when the loop has ended."""
        try:
            if asyncio._get_running_loop() is self.loop:
                self.end()
            else:
                self.loop.call_soon_threadsafe(self.end)
        except RuntimeError:
            for branch in self._all:
                branch.forget()


def beside(call: Driven, effect: Any) -> None:
    """Perform, for `call`, what has to do with more than its one attempt."""
    if isinstance(effect, Shadow):
        cast(call, effect)
        call._step(None)
        return
    branches = call._branches
    if branches is None:
        branches = call._branches = AioBranches(call)
    if isinstance(effect, Spawn):
        try:
            branch = branches.spawn(effect)
        except BaseException:
            call._close_script()
            raise
        call._step(branch)
    elif isinstance(effect, Race):
        call._channel.streams.add(call)  # no attempt stands for it now, and closing the channel ends it too
        known = (lambda: call) if call._kept else weakref.ref(call)
        call._rest = call._loop.create_task(_raced(known, branches, effect))
    else:
        assert isinstance(effect, Adopt)
        branch = branches.adopt(effect.branch)
        call._native = branch.native
        if branch.outcome is OPEN:
            call._adopted = branch
            call._committed = True
            call._watch(branch.native)
        else:
            call._settled = branch.native
            call._step(branch.outcome)


async def _raced(known: Callable[[], Driven | None], branches: AioBranches, effect: Race) -> None:
    said = await branches.race(effect)
    call = known()
    if call is None:
        return
    call._rest = None
    call._rpc.now = call._channel.clock()
    try:
        call._step(said)
    except Exception as error:
        call._break_off(error)
