"""What the interceptor for asyncio hands on to handlers: coroutines, generators, and functions on threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from ast import literal_eval
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.server.deadlines import behaviour_of, replaced
from tests.server.incoming import (
    NEVER,
    NOTHING,
    Aborted,
    AioContext,
    Child,
    Details,
    aio_at_every_step,
    aio_serve,
    at_every_step,
    each_arity,
    handler,
    inherited,
)


async def found(interceptor: Any, wanted: Any) -> Any:
    """What becomes of a handler in a server with `interceptor`."""

    async def find(_details: Details) -> Any:
        return wanted

    return await interceptor.intercept_service(find, Details())


@each_arity
async def test_a_handler_sees_its_callers_deadline_at_every_step(arity: str) -> None:
    """Less the reserve; whoever serves other calls beside it sees nothing of it."""
    before = time.monotonic()
    interceptor = proxyless.aio_server_interceptor(reserve=0.5)
    seen = await aio_serve(interceptor, arity, aio_at_every_step(arity, inherited), AioContext(3.0))
    after = time.monotonic()
    assert len(seen) == (3 if arity.endswith("stream") else 1)
    for deadline, _, scope in seen:
        assert before + 2.5 - 0.0111 <= deadline <= after + 2.5
        assert scope is not None
    assert inherited() == NOTHING


@pytest.mark.parametrize("left", [None, NEVER])
@each_arity
async def test_a_handler_without_a_deadline_is_bounded_by_nothing(arity: str, left: float | None) -> None:
    """None, as grpc.aio says, or 9.2e18, as others do."""
    behave = aio_at_every_step(arity, proxyless.remaining)
    assert set(await aio_serve(proxyless.aio_server_interceptor(), arity, behave, AioContext(left))) == {None}


@each_arity
async def test_expired_work_is_dropped(arity: str) -> None:
    """The handler is not run, and the refusal says so."""
    context = AioContext(0.0)
    with pytest.raises(Aborted):
        await aio_serve(proxyless.aio_server_interceptor(), arity, aio_at_every_step(arity, pytest.fail), context)
    assert context.refused is not None
    assert context.refused[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert context.refused[1].startswith("proxyless: deadline: ")


async def test_a_bound_on_the_start_of_a_server_is_none_on_its_calls() -> None:
    """Its tasks descend from the one that started it; a caller's deadline is the caller's."""
    with proxyless.deadline(1.0):
        behave = aio_at_every_step("unary_unary", proxyless.remaining)
        for left, expected in ((None, None), (3.0, pytest.approx(2.99, abs=0.2))):
            interceptor, context = proxyless.aio_server_interceptor(), AioContext(left)
            assert await aio_serve(interceptor, "unary_unary", behave, context) == [expected]


async def test_a_bound_that_an_outer_wrapper_sets_stays_if_it_is_earlier() -> None:
    """Interceptors compose in any order."""
    wrapped = await found(
        proxyless.aio_server_interceptor(),
        handler("unary_unary", aio_at_every_step("unary_unary", proxyless.remaining)),
    )
    with proxyless.deadline(1.0):
        bound = inherited()
        assert await wrapped.unary_unary("request", AioContext(3.0)) <= 1.0
        assert await wrapped.unary_unary("request", AioContext(None)) <= 1.0
        assert inherited() == bound


async def test_a_stream_whose_steps_are_tasks_sees_the_deadline_in_each() -> None:
    """As under an interceptor that takes each answer with a timeout of its own."""
    wrapped = await found(
        proxyless.aio_server_interceptor(),
        handler("unary_stream", aio_at_every_step("unary_stream", proxyless.remaining)),
    )
    answers = wrapped.unary_stream("request", AioContext(3.0))

    async def step() -> Any:
        return await anext(answers)

    for _ in range(3):
        left = await asyncio.create_task(step())
        assert 2.5 < left < 3.0
    await answers.aclose()


async def test_a_stream_that_is_dropped_halfway_is_closed_with_its_deadline() -> None:
    """Though that happens in another task; and its caller counts as gone."""
    seen: list[float | None] = []
    children: list[Child] = []

    async def behave(_request: Any, _context: Any) -> AsyncIterator[str]:
        children.append(Child.begin())
        try:
            yield "one"
            yield "two"
        finally:
            await asyncio.sleep(0)
            seen.append(proxyless.remaining())

    wrapped = await found(proxyless.aio_server_interceptor(), handler("unary_stream", behave))
    answers = wrapped.unary_stream("request", AioContext(3.0))
    assert await asyncio.create_task(_first(answers)) == "one"
    await asyncio.create_task(answers.aclose())
    (left,) = seen
    assert left is not None
    assert 2.5 < left < 3.0
    assert children[0].cancelled == 1


async def _first(answers: AsyncIterator[Any]) -> Any:
    return await anext(answers)


@each_arity
async def test_a_handler_stays_what_it_was(arity: str) -> None:
    """grpc.aio tells coroutines, generators and functions apart, and so must what is around them."""

    async def writes(_request: Any, _context: Any) -> None: ...

    for behave in (aio_at_every_step(arity, list), writes, at_every_step(arity, list)):
        plain = handler(arity, behave, request_deserializer=str, response_serializer=bytes)
        wrapped = await found(proxyless.aio_server_interceptor(), plain)
        assert wrapped._replace(**{arity: behave}) == plain
        around = getattr(wrapped, arity)
        for kind in (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction):
            assert kind(around) == kind(behave)


async def test_a_coroutine_is_wrapped_once() -> None:
    """A function on threads is wrapped for each call: its scope is its call's."""
    interceptor = proxyless.aio_server_interceptor()
    coroutine = handler("unary_unary", aio_at_every_step("unary_unary", list))
    function = handler("unary_unary", at_every_step("unary_unary", list))
    assert await found(interceptor, coroutine) is await found(interceptor, coroutine)
    assert await found(interceptor, function) is not await found(interceptor, function)
    assert await found(interceptor, None) is None


@pytest.mark.parametrize(
    ("ends_with", "cancelled"), [(None, 0), (LookupError(), 0), (asyncio.CancelledError(), 1)], ids=repr
)
@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
async def test_only_a_handler_that_was_cancelled_has_lost_its_caller(
    arity: str, ends_with: BaseException | None, cancelled: int
) -> None:
    """What one that has answered leaves running goes on; an error is an answer."""
    children = []

    def look() -> None:
        children.append(Child.begin())
        if ends_with is not None:
            raise ends_with

    interceptor, context = proxyless.aio_server_interceptor(), AioContext()
    behave = aio_at_every_step(arity, look)
    if ends_with is None:
        await aio_serve(interceptor, arity, behave, context)
    else:
        with pytest.raises(type(ends_with)):
            await aio_serve(interceptor, arity, behave, context)
    context.end()
    assert {child.cancelled for child in children} == {cancelled}


# -- functions on threads: only a real server runs them there


class Pool(futures.ThreadPoolExecutor):
    """One thread, so that a test can ask what was left behind in it."""

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="handlers")


async def answers_of(arity: str, behave: Any, timeout: float | None, *interceptors: Any) -> list[Any]:
    """What a function answers in a server on asyncio; and its thread holds nothing afterwards."""
    with Pool() as pool:
        server = grpc.aio.server(migration_thread_pool=pool, interceptors=interceptors)
        one = handler(arity, behave, response_serializer=lambda answer: repr(answer).encode())
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Method": one}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = getattr(channel, arity)
            call = method("/test/Method", response_deserializer=lambda answer: literal_eval(answer.decode()))
            request: Any = iter([b"request"]) if arity.startswith("stream") else b"request"
            try:
                if arity.endswith("stream"):
                    said = [answer async for answer in call(request, timeout=timeout)]
                else:
                    said = [await call(request, timeout=timeout)]
            finally:
                left = await asyncio.get_running_loop().run_in_executor(pool, inherited)
                await server.stop(None)
    assert left == NOTHING
    return said


@each_arity
async def test_a_function_on_a_thread_sees_the_deadline_and_leaves_nothing_there(arity: str) -> None:
    """grpc.aio passes no context into its threads (grpc#37881)."""

    def look() -> tuple[float | None, str]:
        return proxyless.remaining(), threading.current_thread().name

    interceptor = proxyless.aio_server_interceptor(reserve=0.5)
    said = await answers_of(arity, at_every_step(arity, look), 3.0, interceptor)
    assert len(said) == (3 if arity.endswith("stream") else 1)
    for left, thread in said:
        assert 2.0 < left < 2.5
        assert thread == "handlers_0"


@each_arity
async def test_a_function_on_a_thread_without_a_deadline_is_bounded_by_nothing(arity: str) -> None:
    """grpc.aio's context for them says None."""
    behave = at_every_step(arity, proxyless.remaining)
    assert set(await answers_of(arity, behave, None, proxyless.aio_server_interceptor())) == {None}


async def test_a_function_that_returns_an_iterator_is_called_on_its_thread() -> None:
    """grpc.aio itself would call it on the loop, where it may not block."""

    def behave(_request: Any, _context: Any) -> Iterator[list[str]]:
        return iter([[threading.current_thread().name]])

    assert await answers_of("unary_stream", behave, 3.0, proxyless.aio_server_interceptor()) == [["handlers_0"]]


class Late(grpc.aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """As if the time of calls were up when their turn comes: hard to arrange, for C-core ends them first."""

    def __init__(self, refused: list[tuple[grpc.StatusCode, str]], context: Any = None) -> None:
        self.refused = refused
        self.context = context

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        wrapped = await continuation(handler_call_details)
        served = getattr(wrapped, behaviour_of(wrapped))
        return replaced(wrapped, lambda request, context: served(request, Late(self.refused, context)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    def time_remaining(self) -> float:
        return 0.0

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.refused.append((code, details))
        try:
            self.context.abort(code, details)
        except BaseException:
            pass  # some versions raise, some return


@each_arity
async def test_expired_work_is_dropped_on_threads_too(arity: str) -> None:
    """Also where the context's `abort` returns."""
    begun: list[int] = []
    behave = at_every_step(arity, lambda: begun.append(1))
    refused: list[tuple[grpc.StatusCode, str]] = []
    # With which code is grpcio's to say: it is INTERNAL where the refusal comes before the request is sent.
    with pytest.raises(grpc.aio.AioRpcError):
        await answers_of(arity, behave, 3.0, Late(refused), proxyless.aio_server_interceptor())
    ((code, details),) = refused
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "was up before /test/Method was begun" in details
    assert begun == []
