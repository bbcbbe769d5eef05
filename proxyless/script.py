"""The language a call is written in: filters compose scripts, scripts yield effects, drivers perform them.

A **Script** is a generator. It yields an **Effect** whenever something has to happen in the world, and is
resumed with what came of it; what it returns is the call's **Outcome**. Four drivers perform effects: the
blocking one and the `.future()` one (`channel/sync*.py`), the asyncio one (`channel/aio*.py`), and the one in
virtual time that the tests use. So every decision is written once, and no decision can wait, sleep or send
by itself. The set of effects is closed: a new one has to be taught to all four drivers.

A driver owes a script three things: it sets `rpc.now` to the present before every resumption, and before it
closes the script; it resumes with the reply that the effect promises; and it closes the script when the caller
walks away, so that what stands in `finally:` runs exactly once. What a script
spawns is a script in turn, and is owed the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from proxyless.model.codes import Code
from proxyless.model.snapshot import Cluster, NodeState, PlannedRoute, Snapshot

T = TypeVar("T")

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


class Outcome:
    """How an attempt, or the whole call, ended.

    `committed`: something of the answer reached the caller, so nobody may try again (gRFC A6).
    `unsent`: the request never left this process. `unseen`: it reached a server that was closing the connection
    and says that it did nothing with it. `refused`: the mesh's own refusal, with the reason's word
    (CONTRACT section 6); it is never an endpoint's failure. `homemade`: it failed here, by the caller's own doing
    (a message that can't be written), and is no endpoint's failure either. `error` is what the wire raised,
    passed on unchanged. `open`: a response stream has begun and its end is still to come (reply to `Send` only).
    """

    __slots__ = ("code", "committed", "details", "error", "homemade", "open", "refused", "trailers", "unseen", "unsent")

    def __init__(
        self,
        code: int,
        details: str = "",
        *,
        trailers: Metadata = (),
        committed: bool = False,
        unsent: bool = False,
        unseen: bool = False,
        refused: str = "",
        homemade: bool = False,
        error: BaseException | None = None,
        open: bool = False,
    ) -> None:
        self.code = code
        self.details = details
        self.trailers = trailers
        self.committed = committed
        self.unsent = unsent
        self.unseen = unseen
        self.refused = refused
        self.homemade = homemade
        self.error = error
        self.open = open

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.code == 0

    def __repr__(self) -> str:
        marks = " ".join(m for m in ("committed", "unsent", "unseen", "homemade", "open") if getattr(self, m))
        why = f" refused={self.refused}" if self.refused else ""
        return f"<Outcome {Code(self.code).name}{why}{' ' + marks if marks else ''} {self.details[:120]!r}>"


OK = Outcome(0, committed=True)
"""The outcome of nearly every call; one object, so that success allocates nothing."""

OPEN = Outcome(0, committed=True, open=True)
"""A response stream has begun."""

ABANDONED = Outcome(Code.CANCELLED, "the caller walked away", committed=True)
"""What an attempt ends with when its caller cancels, or lets go of the call."""

MOVED = Outcome(Code.UNAVAILABLE, refused="moved", unsent=True)
"""While the call waited for its destination the documents came to lead elsewhere. No caller ever sees this: the
route filter decides anew."""


class Send:
    """Make one attempt on `node`, within `rpc.deadline`. Reply: Outcome.

    A node makes its `Send` once and yields it for every call: this is the one effect of the hot path.
    """

    __slots__ = ("node",)

    def __init__(self, node: NodeState) -> None:
        self.node = node

    def __repr__(self) -> str:
        return f"Send({self.node.address})"


class Drain:
    """The response stream is the caller's now; say how it ends. Reply: Outcome."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Drain()"


DRAIN = Drain()


class Sleep:
    """Let `seconds` pass. Reply: None."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __repr__(self) -> str:
        return f"Sleep({self.seconds:g})"


class Wait:
    """Wait for a snapshot newer than `version`, at most until the instant `until`. Reply: it, or None."""

    __slots__ = ("until", "version")

    def __init__(self, version: int, until: float | None) -> None:
        self.version, self.until = version, until

    def __repr__(self) -> str:
        return f"Wait(newer than {self.version}, until {self.until})"


class Branch(Protocol):
    """One of several attempts of a call that are under way at the same time."""

    @property
    def rpc(self) -> Rpc:
        """The attempt's own record."""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; `OPEN` once its answer has begun; None while there is nothing to say."""


class Spawn:
    """Begin `service(rpc)` beside this script, up to its first wait. Reply: its `Branch`.

    The branch belongs to the script: one that is under way when the script ends, is closed, or adopts another,
    is cancelled.
    """

    __slots__ = ("rpc", "service")

    def __init__(self, service: Service, rpc: Rpc) -> None:
        self.service, self.rpc = service, rpc

    def __repr__(self) -> str:
        return f"Spawn({self.rpc.method})"


class Race:
    """Wait until one of `branches` has an outcome, at most until the instant `until`. Reply: that one, or None."""

    __slots__ = ("branches", "until")

    def __init__(self, branches: Sequence[Branch], until: float | None) -> None:
        self.branches, self.until = branches, until

    def __repr__(self) -> str:
        return f"Race({len(self.branches)} branches, until {self.until})"


class Adopt:
    """This branch's answer is the call's; all others are cancelled. Reply: its Outcome, when it has ended."""

    __slots__ = ("branch",)

    def __init__(self, branch: Branch) -> None:
        self.branch = branch

    def __repr__(self) -> str:
        return f"Adopt({self.branch.outcome})"


class Shadow:
    """Send a copy of the request on its own, as `service(rpc)` says and under `rpc.authority`. Reply: None.

    Nobody waits for it, nobody hears how it ends, and it is never the reason why the call waits. What it is
    made of is the request alone: neither the caller's call credentials nor its hold on the call.
    """

    __slots__ = ("rpc", "service")

    def __init__(self, service: Service, rpc: Rpc) -> None:
        self.service, self.rpc = service, rpc

    def __repr__(self) -> str:
        return f"Shadow({self.rpc.authority})"


Effect: TypeAlias = Send | Drain | Sleep | Wait | Spawn | Race | Adopt | Shadow
Script: TypeAlias = Generator[Effect, Any, T]


class Replay(Protocol):
    """Whether a request that is a stream can be sent again: a question whose answer changes while it is sent."""

    def keep(self) -> None:
        """It may have to be: keep what is read of it. To be said before the first attempt."""

    def possible(self) -> bool:
        """Whether all that was read of it is still there; asked when an attempt has failed."""

    def commit(self) -> None:
        """Nobody will try again: the caller has seen something of the answer."""


class Rpc:
    """One call. Every field has one writer, named here; filters read all of them.

    Driver: `service` `method` `authority` `metadata` (the caller's, and what is sent) `wait_for_ready`
    `replay` (of a stream of requests; None for a single one, which can always be sent again) `deadline`
    (instant, or None) `now` `rng` `snapshot` `channel` (64 random bits that are the channel's own). Route filter:
    `route` `cluster` `metadata` (edits). Hash filter: `hash` (for the balancers that go by it).
    Deadline filter: `deadline` (only ever earlier). Retry filter: `deadline` and `metadata` of each attempt,
    `tried` (nodes to keep away from). Hedge and mirror filters: those of the twins they send. Balance filter:
    `node`. Watch filter: `watch`, None while nobody watches; who makes a copy of an Rpc for another attempt of
    the same call (a hedge) copies it too, and who makes a call of its own from it (a mirror) does not.
    """

    __slots__ = (
        "authority",
        "channel",
        "cluster",
        "deadline",
        "hash",
        "metadata",
        "method",
        "node",
        "now",
        "replay",
        "rng",
        "route",
        "service",
        "snapshot",
        "tried",
        "wait_for_ready",
        "watch",
    )

    cluster: Cluster
    node: NodeState
    route: PlannedRoute

    def __init__(
        self,
        service: str,
        method: str,
        authority: str,
        metadata: Metadata | None,
        wait_for_ready: bool | None,
        deadline: float | None,
        now: float,
        rng: Callable[[], float],
        snapshot: Snapshot,
        replay: Replay | None = None,
        channel: int = 0,
    ) -> None:
        self.service = service
        self.method = method
        self.authority = authority
        self.metadata = metadata
        self.wait_for_ready = wait_for_ready
        self.deadline = deadline
        self.now = now
        self.rng = rng
        self.snapshot = snapshot
        self.replay = replay
        self.channel = channel
        self.hash: int | None = None
        self.tried: tuple[NodeState, ...] | None = None
        self.watch: Watch | None = None

    @property
    def replayable(self) -> bool:
        """Whether the request can be sent again: to be asked when an attempt has failed."""
        return self.replay is None or self.replay.possible()

    def twin(self) -> Rpc:
        """The same call once more, for an attempt or a copy beside this one: its fields change apart from ours."""
        other = object.__new__(Rpc)
        for name in Rpc.__slots__:
            if hasattr(self, name):
                setattr(other, name, getattr(self, name))
        return other


class Watch(Protocol):
    """What somebody who watches keeps of one call while it is under way.

    Called in whichever thread the call has come to; it must not block, and must not raise: the call would fail.
    """

    def attempt(self, rpc: Rpc) -> None:
        """An attempt begins, on `rpc.node` of `rpc.cluster`, now. A hedged call has several at once, an Rpc each."""

    def attempted(self, rpc: Rpc, began: float, outcome: Outcome) -> None:
        """The attempt of this Rpc, which began at that instant, has ended; ABANDONED if nobody waits for it."""

    def ended(self, rpc: Rpc, outcome: Outcome) -> None:
        """The call has ended. It has no `route`, `cluster` or `node` where it was refused before it got one."""


Watcher: TypeAlias = "Callable[[Rpc], Watch | None]"
"""Sees a call begin: before its route is chosen, in its caller's thread, task and context. It may add to
`rpc.metadata`; like a Watch, it must neither block nor raise. None: it has seen enough of this call."""

Service: TypeAlias = Callable[[Rpc], Script[Outcome]]
Filter: TypeAlias = Callable[[Rpc, Service], Script[Outcome]]


def sleep(seconds: float) -> Script[None]:
    """`yield from sleep(d)`: the typed door to `Sleep`."""
    yield Sleep(seconds)


def wait(version: int, until: float | None) -> Script[Snapshot | None]:
    """`yield from wait(version, until)`: the typed door to `Wait`."""
    newer: Snapshot | None = yield Wait(version, until)
    return newer


def refuse(code: int, reason: str, details: str) -> Script[Outcome]:
    """End the call by our own decision. `details` says what and where; the reason's word is put before it."""
    return Outcome(code, f"proxyless: {reason}: {details}", refused=reason, unsent=True)
    yield  # makes this a script: it ends before its first effect
