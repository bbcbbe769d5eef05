"""Attempts of one call that are under way at once, for threads: each a script of its own, driven by callbacks.

Only hedged calls come here, whichever way their caller waits. A branch has a lock of its own, under which its
script is resumed; the call's own lock may be held when a branch's is taken, never the other way round: a branch
tells its news when it has let go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc

from proxyless.channel import wire
from proxyless.channel.news import LOOK, Waiter
from proxyless.channel.sync_shadow import cast
from proxyless.channel.wires import SyncWires
from proxyless.context import Scope
from proxyless.errors import MeshRpcError
from proxyless.model.codes import Code
from proxyless.script import OPEN, Adopt, Outcome, Race, Rpc, Script, Send, Shadow, Sleep, Spawn, Wait

if TYPE_CHECKING:
    from proxyless.channel.sync import MeshChannel

RACING = object()
"""What `Branches.race` returns when nobody has anything to say yet: it will call."""


class Begun(Iterator[Any]):
    """A stream of responses whose first message may have been read; otherwise grpcio's own."""

    def __init__(self, native: Any) -> None:
        self.plain = native
        self._first: list[Any] = []

    def begins(self) -> bool:
        """Wait for the first message; False if there is none."""
        try:
            self._first = [next(self.plain)]
        except (StopIteration, grpc.RpcError):
            return False
        return True

    def __next__(self) -> Any:
        return self._first.pop() if self._first else next(self.plain)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


def ended(rpc: Rpc, native: Any) -> Outcome:
    """How an attempt that is over ended; what it raised is grpcio's own object."""
    return wire.ended(rpc, native.plain if native.__class__ is Begun else native)


class Branch:
    """One of the attempts (`script.Branch`)."""

    def __init__(self, branches: Branches, effect: Spawn) -> None:
        self.rpc = effect.rpc
        self.outcome: Outcome | None = None
        self.native: Any = None
        self._branches = branches
        self._script = effect.service(effect.rpc)
        self._lock = threading.RLock()
        self._over = False
        self.waits = False
        """Whether it has no attempt under way, but waits until it may make one."""
        self._unread = False
        """Whether a thread waits for the first message of the stream: what it sees comes before the end."""

    def start(self) -> None:
        """Take the first step, in the caller's thread; a misuse that grpcio reports is raised here."""
        try:
            with self._lock:
                self._step(None)
        except BaseException:
            self.cancel()
            raise

    def _resume(self, reply: Any) -> None:
        """A later step, in a thread that must not be given an exception."""
        try:
            with self._lock:
                self._step(reply)
        except BaseException as error:
            self._break_off(error)
        self._branches.news()

    def _break_off(self, error: BaseException) -> None:
        with self._lock:
            self._over = True
            self._script.close()
            self.outcome = Outcome(Code.INTERNAL, f"the call could not be carried on: {error}", error=error)

    def _step(self, reply: Any) -> None:
        while not self._over:
            self.rpc.now = self._branches.channel.clock()
            try:
                effect = self._script.send(reply)
            except StopIteration as stop:
                self._over = True
                self.outcome = stop.value
                return
            self.waits = isinstance(effect, (Sleep, Wait))
            if isinstance(effect, Send):
                reply = self._attempt()
                if reply is not None:
                    continue
            elif isinstance(effect, Sleep):
                self._branches.channel.timers.after(effect.seconds, lambda: self._resume(None))
            elif isinstance(effect, Wait):
                Waiter(self._branches.channel, effect, self._resume)
            # else Drain: the end of the stream is what comes next
            return

    def _attempt(self) -> Outcome | None:
        """Send it; returns how it ended, if it has already."""
        rpc, branches = self.rpc, self._branches
        request, credentials, compression = branches.arguments
        left = None if rpc.deadline is None else rpc.deadline - rpc.now
        method = branches.wires.of(rpc)
        if not branches.streams:
            method = method.future
        native = method(request, left, rpc.metadata, credentials, None, compression)
        if branches.streams:
            native = Begun(native)
            self._unread = True
            threading.Thread(target=self._read, args=(native,), name="proxyless hedge", daemon=True).start()
        self.native = native
        ends = native.add_callback(lambda: self.attempt_over(native))
        return None if ends or self._unread else ended(rpc, native)

    def attempt_over(self, native: Any) -> None:
        """The attempt has ended; told by whoever noticed."""
        try:
            with self._lock:
                if self._over or self._unread or native is not self.native:
                    return
                outcome = ended(self.rpc, native)
                if outcome.code != 0:
                    outcome.committed = self.outcome is OPEN
                self._step(outcome)
        except BaseException as error:
            self._break_off(error)
        self._branches.news()

    def _read(self, native: Begun) -> None:
        """In a thread of its own, for grpcio calls nobody back for a message: has the stream begun?"""
        begun = native.begins()
        try:
            with self._lock:
                self._unread = False
                if begun and not self._over:
                    self.outcome = OPEN  # "committed": nobody may try again from now on (gRFC A6)
                    self._step(OPEN)
        except BaseException as error:
            self._break_off(error)
        self._branches.news()
        if not native.is_active():  # it ended while its first message was waited for
            self.attempt_over(native)

    def cancel(self) -> None:
        """Nobody needs it any more: close its script, so that what stands in `finally` runs, and its attempt."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self.rpc.now = self._branches.channel.clock()
            self._script.close()
        if self.native is not None:
            self.native.cancel()


def break_off(script: Script[Outcome], branches: Branches | None) -> None:
    """A call's script will not be resumed, and nor will what it has spawned."""
    script.close()
    if branches is not None:
        branches.end()


class _Racing:
    """Who waits for the first of several branches."""

    __slots__ = ("branches", "forget", "resume")

    def __init__(self, branches: Sequence[Any], resume: Callable[[Any], None]) -> None:
        self.branches, self.resume = branches, resume
        self.forget: Callable[[], None] = _nothing
        """Lets go of the alarm that ends the wait."""


def _nothing() -> None:
    """There is none."""


class Branches:
    """All attempts of one call, and whoever waits for the first of them."""

    def __init__(
        self, channel: MeshChannel, wires: SyncWires, arguments: tuple[Any, Any, Any], streams: bool = False
    ) -> None:
        self.channel = channel
        self.wires = wires
        self.arguments = arguments
        self.streams = streams
        """Whether the response is a stream."""
        self._lock = threading.Lock()
        self._all: list[Branch] = []
        self._racing: _Racing | None = None
        self._over = False
        self._adopted: Branch | None = None

    def spawn(self, effect: Spawn, give_up: Callable[[], None] = lambda: None) -> Branch:
        """Begin another; on a misuse that grpcio reports, `give_up` and raise it."""
        branch = Branch(self, effect)
        self._all.append(branch)
        try:
            branch.start()
        except BaseException:
            give_up()
            raise
        return branch

    def race(self, effect: Race, resume: Callable[[Any], None]) -> Any:
        """The first that has something to say, or `RACING`: then `resume` is called with it, or with None."""
        with self._lock:
            if self._over:
                return None
            for branch in effect.branches:
                if branch.outcome is not None:
                    return branch
            self._racing = racing = _Racing(effect.branches, resume)
        if effect.until is not None:
            left = effect.until - self.channel.clock()
            racing.forget = self.channel.timers.alarm(max(0.0, left), lambda: self._late(racing))
            if self._racing is not racing:  # it was decided meanwhile
                racing.forget()
        return RACING

    def news(self) -> None:
        """Some branch has something to say."""
        with self._lock:
            if self._racing is None:
                return
            racing = self._racing
            said = next((branch for branch in racing.branches if branch.outcome is not None), None)
            if said is None:
                return
            self._racing = None
        racing.forget()
        racing.resume(said)

    def _late(self, racing: _Racing) -> None:
        with self._lock:
            if self._racing is not racing:
                return
            self._racing = None
        racing.resume(None)

    def adopt(self, chosen: Any) -> Branch:
        """Keep this one, cancel the others."""
        for branch in self._all:
            if branch is not chosen:
                branch.cancel()
        adopted: Branch = chosen
        self._adopted = adopted
        return adopted

    def end(self) -> bool:
        """Cancel all. Returns whether the call's script was waiting for them: nothing else will resume it then."""
        with self._lock:
            self._over = True
            racing, self._racing = self._racing, None
        if racing is not None:
            racing.forget()
        for branch in list(self._all):
            branch.cancel()
        return racing is not None

    def perform(self, effect: Any, scope: Scope | None) -> Any:
        """Here and now, for a thread that waits for one response; not longer than its own caller does."""
        if isinstance(effect, Shadow):
            return cast(self.channel, self.wires, effect, self.arguments)
        if isinstance(effect, Spawn):
            return self.spawn(effect)
        if isinstance(effect, Adopt):
            return self.adopt(effect.branch).outcome
        assert isinstance(effect, Race)
        said: SimpleQueue[Any] = SimpleQueue()
        if scope is not None:
            scope.join(said, _wake)
        first = self.race(effect, said.put)
        while first is RACING:
            try:
                first = said.get(timeout=LOOK)
            except Empty:
                if self.channel.closed and all(branch.waits for branch in self._all if branch.outcome is None):
                    raise MeshRpcError(Code.CANCELLED, "closed", "Channel closed!") from None
        return first

    def answer(self, response: Any, with_call: bool) -> Any:
        """What the caller is given: of the attempt that won, where the call was hedged; else `response`."""
        if self._adopted is None:
            return response
        native = self._adopted.native
        return (native.result(), native) if with_call else native.result()


def _wake(said: SimpleQueue[Any]) -> None:
    said.put(None)
