"""An incoming call as the test says: what is left of its time, what came with it, when its caller goes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest

from proxyless.context import CARRIED, DEADLINE, SCOPE, Pairs, Scope

ARITIES = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
each_arity = pytest.mark.parametrize("arity", ARITIES)

NEVER = 9.2e18
"""Seconds that are left of a call without a deadline, in grpcio's server for threads (grpc#26236)."""


class Aborted(Exception):
    """What `abort` raises."""


class Details(NamedTuple):
    """All that an interceptor is told of a call."""

    method: str = "/shop.Products/Get"
    invocation_metadata: Pairs = ()


class Context:
    """A servicer context on threads."""

    def __init__(self, left: float | None = NEVER, metadata: Pairs = ()) -> None:
        self.left = left
        self.metadata = metadata
        self.over = False
        self.refused: tuple[grpc.StatusCode, str] | None = None
        self.callbacks: list[Callable[[], object]] = []

    def time_remaining(self) -> float | None:
        return self.left

    def invocation_metadata(self) -> Pairs:
        return self.metadata

    def is_active(self) -> bool:
        return not self.over

    def add_callback(self, callback: Callable[[], object]) -> bool:
        if self.over:
            return False
        self.callbacks.append(callback)
        return True

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.refused = (code, details)
        raise Aborted

    def end(self) -> None:
        """The call is over, however it ended."""
        self.over = True
        for callback in self.callbacks:
            callback()


class AioContext(Context):
    """A servicer context on asyncio."""

    async def abort(self, code: grpc.StatusCode, details: str) -> None:  # type: ignore[override]
        super().abort(code, details)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self.callbacks.append(lambda: callback(self))


class Inherited(NamedTuple):
    """What a call would inherit that were made here and now."""

    deadline: float | None
    metadata: Pairs
    scope: Scope | None


NOTHING = Inherited(None, (), None)


def inherited() -> Inherited:
    """Here and now."""
    return Inherited(DEADLINE.get(), CARRIED.get(), SCOPE.get())


class Child:
    """A call that a handler has under way."""

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1

    @classmethod
    def begin(cls) -> Child:
        """As a mesh channel begins one."""
        child, scope = cls(), SCOPE.get()
        assert scope is not None
        scope.join(child, cls.cancel)
        return child


def handler(arity: str, behave: Any, **serializers: Any) -> Any:
    """A method handler of grpcio's own."""
    return getattr(grpc, f"{arity}_rpc_method_handler")(behave, **serializers)


def intercepted(interceptor: Any, handler: Any, details: Details = Details()) -> Any:  # noqa: B008
    """What becomes of `handler` in a server with `interceptor`."""
    return interceptor.intercept_service(lambda _details: handler, details)


def serve(interceptor: Any, arity: str, behave: Any, context: Context) -> list[Any]:
    """Serve one call as grpcio's server does: all answers of it."""
    served = getattr(intercepted(interceptor, handler(arity, behave)), arity)
    answers = served("request", context)
    return list(answers) if arity.endswith("stream") else [answers]


async def aio_serve(interceptor: Any, arity: str, behave: Any, context: AioContext) -> list[Any]:
    """The same in a task of its own, as grpc.aio's does."""

    async def find(_details: Details) -> Any:
        return handler(arity, behave)

    async def call() -> list[Any]:
        wrapped = await interceptor.intercept_service(find, Details())
        answers = getattr(wrapped, arity)("request", context)
        if arity.endswith("stream"):
            return [answer async for answer in answers]
        return [await answers]

    return await asyncio.create_task(call())


def at_every_step(arity: str, look: Callable[[], Any]) -> Any:
    """A handler's function that answers with what `look` sees: streams at three steps of theirs."""

    def once(_request: Any, _context: Any) -> Any:
        return look()

    def thrice(_request: Any, _context: Any) -> Iterator[Any]:
        for _ in range(3):
            yield look()

    return thrice if arity.endswith("stream") else once


def aio_at_every_step(arity: str, look: Callable[[], Any]) -> Any:
    """The same on asyncio."""

    async def once(_request: Any, _context: Any) -> Any:
        return look()

    async def thrice(_request: Any, _context: Any) -> Any:
        for _ in range(3):
            yield look()
            await asyncio.sleep(0)

    return thrice if arity.endswith("stream") else once
