"""Deadlines in, on asyncio: what a caller allows reaches the handler, and every call the handler makes.

The same as `deadlines.py`, for a server that also runs handlers which know nothing of asyncio. Those are
executed by threads of a pool, into which grpc.aio lets no context through (grpc#37881): they get it there,
call by call, and leave nothing of it behind.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

from proxyless.context import CARRIED, DEADLINE, SCOPE, Scope
from proxyless.server.deadlines import (
    MOST_METHODS,
    Inheritance,
    behaviour_of,
    checked,
    expired,
    leave,
    ran_out,
    replaced,
    wrap,
)


def aio_server_interceptor(*, reserve: float = 0.0) -> grpc.aio.ServerInterceptor:
    """Hand on the deadlines of incoming calls, for a `grpc.aio.server`: list it first.

    The handler and all calls it makes through the mesh have what its caller has left, less `reserve` seconds
    for the way back. A call that has expired by the time its turn comes is refused with DEADLINE_EXCEEDED.
    Metadata named with `proxyless.propagate` goes on to the calls that the handler makes.

    When the caller goes, grpc.aio cancels the handler's task, and with it the call that it awaits; all other
    calls that the handler has made, in whichever task, are cancelled when that task has ended. For handlers
    that are no coroutines, what `server_interceptor` says holds here, too.
    """
    return AioDeadlineInterceptor(checked(reserve))


class AioDeadlineInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """What `aio_server_interceptor` makes."""

    def __init__(self, reserve: float) -> None:
        self._reserve = reserve
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the method's handler, in the task that serves the call; a coroutine is wrapped once."""
        # That task descends from the one that started the server: a bound on the start is none on the calls.
        DEADLINE.set(None)
        CARRIED.set(())
        SCOPE.set(None)
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        behave = getattr(handler, behaviour_of(handler))
        if inspect.iscoroutinefunction(behave):
            wrapped = replaced(handler, _one_answer(behave, method, self._reserve))
        elif inspect.isasyncgenfunction(behave):
            wrapped = replaced(handler, _many_answers(behave, method, self._reserve))
        else:
            return replaced(handler, self._on_threads(handler, method))
        if known is not None or len(self._wrapped) < MOST_METHODS:
            self._wrapped[method] = (handler, wrapped)
        return wrapped

    def _on_threads(self, handler: Any, method: str) -> Any:
        """For this call alone: that the caller has gone is told to its task, not to a handler on a thread."""
        scope = Scope()
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(scope.leave)
        served = wrap(handler, method, self._reserve, lambda _context: scope)
        return _begun_on_a_thread(served) if handler.response_streaming else served


def _begun_on_a_thread(served: Callable[[Any, Any], Iterator[Any]]) -> Any:
    """grpc.aio calls a function for many answers on the loop, and only takes the answers on a thread."""

    @functools.wraps(served)
    def begun(request: Any, context: Any) -> Iterator[Any]:
        yield from served(request, context)

    return begun


def _one_answer(behave: Any, method: str, reserve: float) -> Any:
    """Also many answers, where the handler writes them to its context."""

    @functools.wraps(behave)
    async def served(request: Any, context: Any) -> Any:
        inherited = await _admitted(context, method, reserve)
        if inherited is None:
            return None
        tokens = inherited.enter()
        try:
            answer = await behave(request, context)
        except Exception as error:  # an answer, too; not so a cancellation
            await _failed(error, context, method, inherited)
            raise
        finally:
            leave(tokens)
        inherited.scope.answered()
        return answer

    return served


def _many_answers(behave: Any, method: str, reserve: float) -> Any:
    @functools.wraps(behave)
    async def served(request: Any, context: Any) -> AsyncIterator[Any]:
        inherited = await _admitted(context, method, reserve)
        if inherited is None:
            return
        answers: AsyncGenerator[Any, None] = behave(request, context)
        try:
            while True:
                # The task that serves the call keeps what is entered, and ends with it. But whoever takes the
                # answers may take each in a task of its own, as `asyncio.wait_for` does before Python 3.12.
                if SCOPE.get() is not inherited.scope:
                    inherited.enter()
                try:
                    answer = await answers.__anext__()
                except StopAsyncIteration:
                    break
                yield answer
        except Exception as error:
            await _failed(error, context, method, inherited)
            raise
        except BaseException:  # cancelled, or dropped: then this is a task of the garbage collector's
            inherited.scope.leave()
            if SCOPE.get() is not inherited.scope:
                inherited.enter()
            await answers.aclose()
            raise
        inherited.scope.answered()

    return served


async def _admitted(context: Any, method: str, reserve: float) -> Inheritance | None:
    """What a call hands on; None if it is not worth beginning, which its caller has been told then."""
    now = time.monotonic()
    left = context.time_remaining()
    if left is not None and left <= 0.0:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, expired(method))
        return None
    # grpc.aio tells of the end when the handler has ended, and that may go on though its task was cancelled. Python
    # can be asked since 3.11; `asyncio.timeout` and its like take their own cancellations back.
    scope = Scope(getattr(asyncio.current_task(), "cancelling", None))
    context.add_done_callback(scope.leave)
    return Inheritance(context, left, now, reserve, scope)


async def _failed(error: Exception, context: Any, method: str, inherited: Inheritance) -> None:
    inherited.scope.answered()
    if inherited.ended_by(error):
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, ran_out(method))
