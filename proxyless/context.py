"""What the calls of this process inherit from the call that it is serving: deadline, metadata, and its end.

Three ContextVars hold it, so it follows `await`s, tasks, and threads that are given a copied context
(`asyncio.to_thread` does; `ThreadPoolExecutor.submit` does not). The server interceptors set all three from
an incoming call, mesh channels read them for every outgoing one; `deadline()` and `shield()` change them by
hand.
"""

from __future__ import annotations

import logging
import re
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, TypeAlias

log = logging.getLogger("proxyless")

Pairs: TypeAlias = tuple[tuple[str, "str | bytes"], ...]


class Scope:
    """The calls that are made while one incoming call is served: they end when its caller goes too early.

    It has no lock: whichever of `join` and `leave` comes last ends the call, and twice does no harm.
    """

    __slots__ = ("__weakref__", "_answered", "_calls", "_over", "gone")

    def __init__(self, over: Callable[[], object] | None = None) -> None:
        """`over`: whether the caller's call is over, to be asked; None where `leave` is called in time."""
        self.gone = False
        """Whether the caller went (cancelled, timed out, lost the connection) before it was answered."""
        self._over = over
        self._answered = False
        self._calls: dict[weakref.ref[Any], Callable[[Any], object]] = {}

    def join(self, call: Any, end: Callable[[Any], object]) -> None:
        """Call `end(call)` when the caller goes, from any thread; at once if it has. Keeps no call alive."""
        self._calls[weakref.ref(call, self._forget)] = end
        if self.gone:
            end(call)

    def _forget(self, call: weakref.ref[Any]) -> None:
        self._calls.pop(call, None)

    def has_gone(self) -> bool:
        """`gone`, by the latest news."""
        if not self.gone and self._over is not None and not self._answered and self._over():
            self.leave()
        return self.gone

    def answered(self) -> None:
        """The handler is through. What it has left running was meant to go on."""
        self._answered = True
        self._calls = {}

    def leave(self, *_: object) -> None:
        """The caller's call is over; unless it was answered, so are the calls that were made for it."""
        if self._answered or self.gone:
            return
        self.gone = True
        for reference, end in list(self._calls.items()):
            call = reference()
            if call is not None:
                try:
                    end(call)
                except Exception:
                    log.exception("a call whose caller has gone could not be cancelled")


DEADLINE: ContextVar[float | None] = ContextVar("proxyless_deadline", default=None)
"""An instant of the monotonic clock, or None."""
CARRIED: ContextVar[Pairs] = ContextVar("proxyless_carried", default=())
"""What is added to the metadata of every call: see `propagate`."""
SCOPE: ContextVar[Scope | None] = ContextVar("proxyless_scope", default=None)
"""The incoming call that calls are made for."""


def caller_has_gone() -> bool:
    """Whether this is done for an incoming call whose caller waits no longer."""
    scope = SCOPE.get()
    return scope is not None and scope.has_gone()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Bound every call made inside by `seconds` from now; an earlier bound that is already there stays.

    In asynchronous code, too, this is a plain `with`.
    """
    at = time.monotonic() + seconds
    earlier = DEADLINE.get()
    token = DEADLINE.set(at if earlier is None else min(at, earlier))
    try:
        yield
    finally:
        _reset(DEADLINE, token)


def remaining() -> float | None:
    """Seconds that are left of the ambient deadline (0.0 once it has passed), or None if there is none."""
    at = DEADLINE.get()
    return None if at is None else max(0.0, at - time.monotonic())


@contextmanager
def shield() -> Iterator[None]:
    """Make calls inside as nobody's: for work that must go on after the caller has gone.

    They inherit no deadline and are not cancelled with the caller; propagated metadata they keep. It stops no
    task from being cancelled: on asyncio, what must go on is given a task of its own (`asyncio.shield`).
    """
    token, scope = DEADLINE.set(None), SCOPE.set(None)
    try:
        yield
    finally:
        _reset(SCOPE, scope)
        _reset(DEADLINE, token)


def _reset(variable: ContextVar[Any], token: Token[Any]) -> None:
    try:
        variable.reset(token)
    except ValueError:
        # A generator that was dropped halfway is closed wherever the collector happens to run: what was set,
        # was set in another context, and that one has gone.
        pass


# -- metadata that is carried on

_NAMES: set[str] = set()
_NAME = re.compile(r"[0-9a-z_.-]+")
_OF_THE_CONNECTION = frozenset(
    "connection content-length content-type host keep-alive proxy-connection te transfer-encoding upgrade "
    "user-agent".split()
)
"""Each hop has its own of these (RFC 9113, 8.2.2; gRPC over HTTP/2, "Requests")."""


def propagate(*names: str) -> None:
    """Carry these keys of an incoming call's metadata on to the calls that are made while it is served.

    Process-wide, from now on, added to what was named before; the server interceptors read the incoming
    call. All values of a key are carried, and none where the outgoing call sets the key itself. Raises
    ValueError for a name that can't be carried. Tracing needs none of it: OpenTelemetry's propagator carries
    its own headers.
    """
    for name in names:
        why = _why_not(name)
        if why:
            raise ValueError(f"propagate({name!r}): {why}")
    _NAMES.update(names)


def _why_not(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "the name of a metadata key is lower-case letters, digits and _ . - (gRPC sends no other)"
    if name.startswith("grpc-"):
        return 'keys that begin with "grpc-" are gRPC\'s own: each call has its own timeout and encoding'
    if name in _OF_THE_CONNECTION:
        return "this key speaks of the connection it came over; it would end, or mislead, the next one"
    return ""


def carried(read: Callable[[], Iterable[tuple[str, str | bytes]] | None]) -> Pairs:
    """What of an incoming call's metadata, which `read` returns, goes on. Read only where anything does.

    A value that HTTP/2 could not carry on is left behind: a hostile caller must not fail calls of ours.
    """
    if not _NAMES:
        return ()
    return tuple(
        (key, value)
        for key, value in read() or ()
        if key in _NAMES
        and (key.endswith("-bin") or (isinstance(value, str) and value.isascii() and value.isprintable()))
    )


def with_carried(own: Iterable[tuple[str, str | bytes]] | None, inherited: Pairs) -> Pairs:
    """A call's metadata with what it inherits; a key that it sets itself it does not inherit."""
    if not own:
        return inherited
    pairs = tuple(own)
    keys = {key for key, _ in pairs}
    return (*pairs, *(pair for pair in inherited if pair[0] not in keys))
