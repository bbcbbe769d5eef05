"""A caller that goes away, on the way down a chain of services: what is done for it ends, or is not begun."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import proxyless
from tests.wire.chain import ASYNCIO, BOTH, PASS, THREADS, WAIT, Build, Chain, each_kind, each_streaming
from tests.wire.echo import eventually


def ends_with_its_caller(chain: Chain, begin: Callable[[], Any], running: list[str]) -> None:
    """Of a call that `begin` begins nothing is left 50 ms after it is cancelled: no handler, no attempt.

    The best of three: a busy machine is no work left behind.
    """
    took = []
    for _ in range(3):
        call = begin()
        eventually(lambda: chain.running == running)
        at = time.monotonic()
        call.cancel()
        eventually(lambda: chain.running == [] and chain.inflight == 0)
        took.append(time.monotonic() - at)
        if took[-1] <= 0.05:
            return
    pytest.fail(f"work was left running for {min(took) * 1000:.0f} ms")


@each_kind
def test_a_cancelled_caller_leaves_no_work_running(build: Build, kinds: tuple[str, str, str]) -> None:
    """50 ms later no service is at work any more, and no call is under way: on threads, on asyncio, and mixed.

    On threads C itself does what a handler has to that blocks: it looks whether its caller is there still.
    """
    chain = build(*kinds)
    ends_with_its_caller(chain, lambda: chain.begin(WAIT), ["a", "b", "c"])


@pytest.mark.parametrize("kind", [THREADS, BOTH])
def test_a_blocking_upload_is_cancelled_with_the_caller(build: Build, kind: str) -> None:
    """A stream of requests, too, whatever its iterator is doing."""
    chain = build(kind, THREADS, ASYNCIO)
    chain.a.instead = lambda request, _context: chain.to("c", "Take")(iter([request]))
    ends_with_its_caller(chain, lambda: chain.begin(WAIT), ["a", "c"])


@each_streaming
def test_a_cancelled_stream_ends_all_the_way_down(build: Build, kinds: tuple[str, str, str]) -> None:
    """On threads, too: a stream can be cancelled while its handler waits for the next answer."""
    chain = build(*kinds)
    ends_with_its_caller(chain, lambda: chain.begin(WAIT, "Watch"), ["a", "b", "c"])


@each_streaming
def test_a_deadline_ends_the_work_all_the_way_down(build: Build, kinds: tuple[str, str, str]) -> None:
    """Each service ends with its own, which is its caller's."""
    chain = build(*kinds)
    call = chain.begin(WAIT, "Watch", timeout=0.2)
    with pytest.raises(grpc.RpcError) as failed:
        list(call)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: chain.running == [] and chain.inflight == 0, within=0.5)


# -- the caller goes while a handler is at work on threads


@pytest.mark.parametrize("kinds", [(THREADS, THREADS, ASYNCIO), (BOTH, BOTH, ASYNCIO)], ids="-".join)
def test_a_future_is_cancelled_with_the_caller(build: Build, kinds: tuple[str, str, str]) -> None:
    """It waits in a thread that nobody can interrupt; the call can be."""
    chain = build(*kinds)

    def work(_request: Any, _context: Any) -> bytes:
        future = chain.to("c").future(WAIT)
        with pytest.raises(grpc.FutureCancelledError):
            future.result(timeout=5.0)
        return b"nobody hears this"

    chain.a.instead = work
    ends_with_its_caller(chain, lambda: chain.begin(PASS), ["a", "c"])


@pytest.mark.parametrize("kind", [THREADS, BOTH])
def test_after_the_caller_has_gone_no_call_is_made(build: Build, kind: str) -> None:
    """The blocking call that the handler waits in ends CANCELLED; those that follow are refused, unless shielded."""
    chain = build(kind, THREADS, THREADS)
    after: list[Any] = []

    def work(_request: Any, _context: Any) -> bytes:
        with pytest.raises(grpc.RpcError) as ended:
            chain.to("c")(WAIT)
        after.append(ended.value)
        for call in (
            chain.to("b"),
            chain.to("b").future,
            lambda request: list(chain.to("b", "Watch")(request)),
        ):
            try:
                answer: Any = call(PASS)
                answer.result()
            except grpc.RpcError as error:
                after.append(error)
        with proxyless.shield():
            after.append(chain.to("c")(PASS))
        return b"nobody hears this"

    chain.a.instead = work
    call = chain.begin(PASS)
    eventually(lambda: chain.running == ["a", "c"])
    call.cancel()
    eventually(lambda: not chain.running)
    cancelled, *refused, shielded = after
    assert (cancelled.code(), cancelled.details()) == (
        grpc.StatusCode.CANCELLED,
        "Locally cancelled by application!",
    )
    assert [(error.code(), error.reason) for error in refused] == [(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline")] * 3
    assert shielded == b"done"
    assert chain.b.visits == []


def test_a_blocking_call_is_not_retried_for_a_caller_who_has_gone(build: Build) -> None:
    """UNAVAILABLE would be, by default, but nobody waits for it."""
    chain = build(THREADS, THREADS, THREADS)

    def fail(_request: Any, context: Any) -> None:
        chain.over.wait(5.0)
        context.abort(grpc.StatusCode.UNAVAILABLE, "said so")

    chain.c.instead = fail
    chain.a.instead = lambda request, _context: chain.to("c")(request)
    call = chain.begin(PASS)
    eventually(lambda: chain.running == ["a", "c"])
    call.cancel()
    eventually(lambda: chain.running == ["c"])
    chain.over.set()
    eventually(lambda: not chain.running)
    assert [error.code() for error in chain.a.errors] == [grpc.StatusCode.CANCELLED]
    assert len(chain.c.visits) == 1


def test_a_blocking_call_that_waits_for_its_next_attempt_does_not_make_it(build: Build) -> None:
    """Its caller goes while it pauses, as long as the server has asked it to: it waits no longer."""
    chain = build(THREADS, THREADS, THREADS)

    def fail(_request: Any, context: Any) -> None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "20000"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    chain.c.instead = fail
    chain.a.instead = lambda request, _context: chain.to("c")(request)

    def begun() -> Any:
        visits = len(chain.c.visits)
        call = chain.begin(PASS)
        eventually(lambda: len(chain.c.visits) > visits and chain.inflight == 1)  # that of A
        return call

    ends_with_its_caller(chain, begun, ["a"])
    assert {type(error) for error in chain.a.errors} == {proxyless.MeshRpcError}
    assert {error.reason for error in chain.a.errors} == {"deadline"}
    assert len(chain.c.visits) == len(chain.a.errors)


def test_a_blocking_call_that_waits_for_an_endpoint_ends_with_the_caller(build: Build) -> None:
    """Whatever it waits for."""
    chain = build(THREADS, THREADS, THREADS)
    chain.a.instead = lambda request, _context: chain.to("nowhere")(request, wait_for_ready=True)

    def begun() -> Any:
        call = chain.begin(PASS)
        time.sleep(0.1)  # it finds nobody, and looks again from then on
        return call

    ends_with_its_caller(chain, begun, ["a"])
    error = chain.a.errors[0]
    assert isinstance(error, proxyless.MeshRpcError)
    assert error.reason == "deadline"
    assert "/chain.Chain/Go of nowhere" in error.details()


# -- the caller goes while a handler is at work on asyncio


@pytest.mark.parametrize("kinds", [(ASYNCIO, ASYNCIO, ASYNCIO), (ASYNCIO, THREADS, ASYNCIO)], ids="-".join)
def test_calls_that_nobody_awaits_are_cancelled_with_the_caller(build: Build, kinds: tuple[str, str, str]) -> None:
    """Neither those of tasks that the handler has made, nor those that it merely holds, nor its streams."""
    chain = build(*kinds)

    async def work(_request: Any, _context: Any) -> None:
        task = asyncio.create_task(_awaiting(chain.aio_to("c")(WAIT)))
        held = [chain.aio_to("c")(WAIT), chain.aio_to("c", "Watch")(WAIT)]
        try:
            await asyncio.gather(chain.aio_to("c")(WAIT), chain.aio_to("c")(WAIT))
        finally:
            ended.extend([task, *held])

    ended: list[Any] = []
    chain.a.instead = work
    ends_with_its_caller(chain, lambda: chain.begin(PASS), ["a"] + ["c"] * 5)
    assert ended
    assert all(one.cancelled() for one in ended)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task can't be asked whether it was cancelled")
def test_a_coroutine_that_goes_on_when_its_caller_has_gone_makes_no_call(build: Build) -> None:
    """As on threads: it has caught its cancellation, and is refused, unless it shields what must be done."""
    chain = build(ASYNCIO, ASYNCIO, ASYNCIO)
    after: list[Any] = []

    async def work(_request: Any, _context: Any) -> bytes:
        try:
            await asyncio.sleep(10.0)
        except asyncio.CancelledError:
            with pytest.raises(grpc.RpcError) as refused:
                await chain.aio_to("b")(PASS)
            after.append(refused.value)
            with proxyless.shield():
                after.append(await chain.aio_to("c")(PASS))
        return b"nobody hears this"

    chain.a.instead = work
    call = chain.begin(PASS)
    eventually(lambda: chain.running == ["a"])
    call.cancel()
    eventually(lambda: not chain.running)
    refused, shielded = after
    assert isinstance(refused, proxyless.MeshRpcError)
    assert (refused.code(), refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline")
    assert shielded == b"done"
    assert chain.b.visits == []


async def _awaiting(call: Any) -> Any:
    return await call


@pytest.mark.parametrize("kind", [THREADS, ASYNCIO, BOTH])
def test_what_a_handler_leaves_running_when_it_answers_goes_on(build: Build, kind: str) -> None:
    """Its caller is served; that the call is over then is no reason to stop."""
    chain = build(kind, THREADS, THREADS)
    left: list[Any] = []

    def work(_request: Any, _context: Any) -> bytes:
        left.append(chain.to("c").future(WAIT))
        return b"answered"

    async def aio_work(_request: Any, _context: Any) -> bytes:
        left.append(asyncio.create_task(_awaiting(chain.aio_to("c")(WAIT))))
        return b"answered"

    chain.a.instead = aio_work if kind == ASYNCIO else work
    assert chain.go(PASS, timeout=5.0) == b"answered"
    eventually(lambda: chain.running == ["c"])
    chain.over.set()
    eventually(left[0].done)
    assert left[0].result() == b"done"
