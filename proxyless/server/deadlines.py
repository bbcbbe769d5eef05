"""Deadlines in, on threads: what a caller allows reaches the handler, and every call the handler makes.

grpcio asks an interceptor before there is a deadline to read: it is given the method's name and the metadata,
from which `grpc-timeout` has been taken out. So the handler itself is wrapped. What the wrapper finds in the
call's context it puts where mesh channels look (`context.py`), and takes it away again afterwards.

Expired work is dropped: a call whose caller has given up is not begun. Without that an overloaded server
spends its capacity on answers that nobody waits for, and stays overloaded ("Metastable Failures in
Distributed Systems", HotOS '21).
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator
from contextvars import Context, Token, copy_context
from types import GeneratorType
from typing import Any

import grpc

from proxyless.context import CARRIED, DEADLINE, SCOPE, Pairs, Scope, carried
from proxyless.errors import ConfigError

FOREVER = 1e8
"""Seconds. A call without a deadline has 9.2e18 of them left, in grpcio's server for threads (grpc#26236)."""

CLOSE = 0.01
"""Seconds. Timers of C-core go by milliseconds and by another clock than ours."""

MOST_METHODS = 1000
"""How many wrapped handlers are kept: a server may accept whatever name it is called by."""


def server_interceptor(*, reserve: float = 0.0) -> grpc.ServerInterceptor:
    """Hand on the deadlines of incoming calls, for a `grpc.server`: list it first.

    The handler and all calls it makes through the mesh have what its caller has left, less `reserve` seconds
    for the way back. A call that has expired by the time its turn comes is refused with DEADLINE_EXCEEDED.
    Metadata named with `proxyless.propagate` goes on to the calls that the handler makes.

    When the caller goes, the calls that the handler has under way through mesh channels are cancelled: streams,
    futures, and the blocking call that it waits in (CANCELLED). Every later one is refused at once (`deadline`),
    unless it stands inside `proxyless.shield()`. Where the mesh is a plain interceptor of a channel of grpcio's,
    a blocking call can't be cancelled: it ends with its own deadline, no later than the caller's.
    """
    return DeadlineInterceptor(checked(reserve))


class DeadlineInterceptor(grpc.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """What `server_interceptor` makes."""

    def __init__(self, reserve: float) -> None:
        self._reserve = reserve
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Wrap the method's handler; the same one is wrapped once."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = replaced(handler, wrap(handler, method, self._reserve, scope_of_call))
        if known is not None or len(self._wrapped) < MOST_METHODS:
            self._wrapped[method] = (handler, wrapped)
        return wrapped


def checked(reserve: float) -> float:
    """The reserve, once it is known to shorten deadlines; raises ConfigError."""
    if not 0.0 <= reserve < FOREVER:
        raise ConfigError(f"reserve={reserve!r}: the seconds that deadlines are shortened by, 0 or more")
    return float(reserve)


def behaviour_of(handler: Any) -> str:
    """The name of the one attribute that does the work."""
    requests = "stream" if handler.request_streaming else "unary"
    return f"{requests}_{'stream' if handler.response_streaming else 'unary'}"


def replaced(handler: Any, behaviour: Any) -> Any:
    """The same handler, whatever else it has, with another behaviour."""
    if hasattr(handler, "_replace"):  # grpcio's own are named tuples
        return handler._replace(**{behaviour_of(handler): behaviour})
    handler = copy.copy(handler)
    setattr(handler, behaviour_of(handler), behaviour)
    return handler


def scope_of_call(context: Any) -> Scope:
    """The scope of a call on threads: grpcio says when the call is over, in a thread of its own."""
    scope = Scope()
    if context.add_callback(scope.leave) is False:  # it is over already
        scope.leave()
    return scope


class Inheritance:
    """What the calls that are made for one incoming call inherit."""

    __slots__ = ("deadline", "metadata", "scope")

    def __init__(self, context: Any, left: float | None, now: float, reserve: float, scope: Scope) -> None:
        self.deadline = instant(left, now, reserve)
        self.metadata = carried(context.invocation_metadata)
        self.scope = scope

    def enter(self) -> tuple[Token[float | None], Token[Pairs], Token[Scope | None]]:
        """Let it hold from here on, in this context. A bound that is there already, if earlier, stays."""
        at, earlier = self.deadline, DEADLINE.get()
        if earlier is not None and (at is None or earlier < at):
            at = earlier
        return DEADLINE.set(at), CARRIED.set(self.metadata), SCOPE.set(self.scope)

    def ended_by(self, error: BaseException) -> bool:
        """Whether `error` is a call that ran out of the time that it inherited: then so has this one."""
        if self.deadline is None or not isinstance(error, grpc.RpcError):
            return False
        code = getattr(error, "code", None)  # the ones that grpcio's servers raise have none
        late = time.monotonic() >= self.deadline - CLOSE
        return late and code is not None and code() is grpc.StatusCode.DEADLINE_EXCEEDED


def leave(tokens: tuple[Token[float | None], Token[Pairs], Token[Scope | None]]) -> None:
    """Undo `enter`, in the same context."""
    DEADLINE.reset(tokens[0])
    CARRIED.reset(tokens[1])
    SCOPE.reset(tokens[2])


def instant(left: float | None, now: float, reserve: float) -> float | None:
    """When the handler's time is up, of whose call `left` seconds are left; None for never."""
    if left is None or left > FOREVER:
        return None
    return now + left - rounding(left) - reserve


def rounding(left: float) -> float:
    """How much of `left` seconds may have been added on the way.

    A hop must never lengthen a deadline (Finagle's `Deadline.combined` takes the earlier), but C-core does: it sends a
    timeout in whole milliseconds and three digits, both rounded up (`timeout_encoding.cc`), so that 5 s arrive as
    5.01 s. A tenth of it may have passed since, and with it a digit.
    """
    exponent = math.floor(math.log10(left * 1.1)) if left > 1.0 / 1.1 else -1
    return float(10.0 ** (exponent - 2)) + 0.001


def expired(method: str) -> str:
    """What a caller is told whose time was up before."""
    return f"proxyless: deadline: the time of the call was up before {method} was begun; it was not"


def ran_out(method: str) -> str:
    """What a caller is told whose time was up meanwhile; without a word of ours it would be told UNKNOWN."""
    return f"proxyless: deadline: the time of the call was up while {method} waited for a call of its own"


# -- wrappers


def wrap(handler: Any, method: str, reserve: float, scope_of: Callable[[Any], Scope]) -> Any:
    """A handler's behaviour on threads, with what it inherits. `scope_of` makes or finds its call's scope."""
    behave = getattr(handler, behaviour_of(handler))
    # A non-blocking one is given a function to send its answers with, and returns nothing.
    if handler.response_streaming and not getattr(behave, "experimental_non_blocking", False):
        return _many_answers(behave, method, reserve, scope_of)
    return _one_answer(behave, method, reserve, scope_of)


def _one_answer(behave: Any, method: str, reserve: float, scope_of: Callable[[Any], Scope]) -> Any:
    @functools.wraps(behave)
    def served(request: Any, context: Any, *send: Any) -> Any:
        inherited = _admitted(context, method, reserve, scope_of)
        if inherited is None:
            return None
        tokens = inherited.enter()
        try:
            answer = behave(request, context, *send)
        except BaseException as error:
            _failed(error, context, method, inherited)
            raise
        finally:
            leave(tokens)
        inherited.scope.answered()
        return answer

    return served


def _many_answers(behave: Any, method: str, reserve: float, scope_of: Callable[[Any], Scope]) -> Any:
    @functools.wraps(behave)
    def served(request: Any, context: Any) -> Iterator[Any]:
        inherited = _admitted(context, method, reserve, scope_of)
        if inherited is None:
            return iter(())
        # A context of its own: the handler runs a step at a time, between steps of whoever takes its answers.
        inside = copy_context()
        inside.run(inherited.enter)
        try:
            answers = inside.run(behave, request, context)
        except BaseException as error:
            _failed(error, context, method, inherited)
            raise
        return _steps(answers, inside, context, method, inherited)

    return served


def _steps(answers: Iterator[Any], inside: Context, context: Any, method: str, inherited: Inheritance) -> Iterator[Any]:
    try:
        while True:
            try:
                answer = inside.run(next, answers)
            except StopIteration:
                break
            yield answer
    except GeneratorExit:  # nobody takes the rest
        inherited.scope.leave()
        if isinstance(answers, GeneratorType):
            inside.run(answers.close)
        raise
    except BaseException as error:
        _failed(error, context, method, inherited)
        raise
    inherited.scope.answered()


def _admitted(context: Any, method: str, reserve: float, scope_of: Callable[[Any], Scope]) -> Inheritance | None:
    """What a call hands on; None if it is not worth beginning, which its caller has been told then."""
    now = time.monotonic()
    left = context.time_remaining()
    if left is not None and left <= 0.0:
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, expired(method))
        return None  # not every context's `abort` raises
    scope = scope_of(context)
    if scope.gone:
        context.abort(grpc.StatusCode.CANCELLED, f"proxyless: the caller of {method} had gone")
        return None
    return Inheritance(context, left, now, reserve, scope)


def _failed(error: BaseException, context: Any, method: str, inherited: Inheritance) -> None:
    """The handler raised: because its caller has gone, or else that was its answer."""
    is_active = getattr(context, "is_active", None)
    if inherited.scope.gone or (is_active is not None and not is_active()):
        inherited.scope.leave()
        return
    inherited.scope.answered()
    if inherited.ended_by(error):
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, ran_out(method))
