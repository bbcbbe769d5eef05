"""How an incoming call ends for its handler: answered, out of time, or without its caller."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

import proxyless
from proxyless.context import SCOPE
from proxyless.model.codes import Code
from tests.server.incoming import (
    NEVER,
    Aborted,
    AioContext,
    Child,
    Context,
    aio_at_every_step,
    aio_serve,
    at_every_step,
    each_arity,
    handler,
    intercepted,
    serve,
)

# -- the time runs out


def refusal(code: Code) -> proxyless.MeshRpcError:
    """What a call of the handler's ends with."""
    return proxyless.MeshRpcError(code, "deadline", "said so")


@pytest.mark.parametrize(
    ("left", "error", "ended"),
    [
        (0.001, refusal(Code.DEADLINE_EXCEEDED), True),
        (3.0, refusal(Code.DEADLINE_EXCEEDED), False),  # a timeout of the handler's own
        (NEVER, refusal(Code.DEADLINE_EXCEEDED), False),
        (0.001, refusal(Code.UNAVAILABLE), False),
        (0.001, grpc.RpcError(), False),  # grpcio's servers raise it, of requests that end too early
        (0.001, TimeoutError(), False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
@pytest.mark.parametrize("kind", [Context, AioContext])
async def test_a_handler_that_ran_out_of_time_fails_with_that(
    kind: type[Context], arity: str, left: float, error: Exception, ended: bool
) -> None:
    """Not with UNKNOWN, which is what grpcio makes of an exception; and of any other it still does."""
    context = kind(left)

    def fail() -> None:
        raise error

    raised = Aborted if ended else type(error)
    if isinstance(context, AioContext):
        with pytest.raises(raised):
            await aio_serve(proxyless.aio_server_interceptor(), arity, aio_at_every_step(arity, fail), context)
    else:
        with pytest.raises(raised):
            serve(proxyless.server_interceptor(), arity, at_every_step(arity, fail), context)
    refused = context.refused and context.refused[0]
    assert refused is (grpc.StatusCode.DEADLINE_EXCEEDED if ended else None)


# -- the caller goes


def test_when_the_caller_goes_the_calls_made_for_it_are_cancelled() -> None:
    """And one that begins a moment later, too."""
    context = Context()

    def behave(_request: Any, _context: Any) -> list[int]:
        first = Child.begin()
        context.end()
        second = Child.begin()
        return [first.cancelled, second.cancelled]

    assert serve(proxyless.server_interceptor(), "unary_unary", behave, context) == [[1, 1]]


@each_arity
def test_calls_that_a_handler_leaves_running_when_it_has_answered_go_on(arity: str) -> None:
    """Its call is over as well, but not because its caller went."""
    context = Context()
    children = serve(proxyless.server_interceptor(), arity, at_every_step(arity, Child.begin), context)
    context.end()
    assert [child.cancelled for child in children] == [0] * len(children)


@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream"])
def test_a_handler_that_raises_has_answered_too_if_its_caller_is_there(arity: str, gone: bool) -> None:
    """An error is an answer; but what it raised may have been that its caller has gone."""
    context = Context()
    begun: list[Child] = []

    def fail() -> None:
        begun.append(Child.begin())
        context.over = gone  # grpcio's callbacks come later
        raise LookupError

    with pytest.raises(LookupError):
        serve(proxyless.server_interceptor(), arity, at_every_step(arity, fail), context)
    context.end()
    assert [child.cancelled for child in begun] == [int(gone)]


def test_a_stream_that_nobody_takes_any_more_has_lost_its_caller() -> None:
    """grpcio lets go of the answers, perhaps before it calls back."""
    served = intercepted(
        proxyless.server_interceptor(), handler("unary_stream", at_every_step("unary_stream", Child.begin))
    ).unary_stream
    answers = served("request", Context())
    child = next(answers)
    assert child.cancelled == 0
    del answers
    assert child.cancelled == 1


def test_a_call_that_nobody_holds_any_more_is_not_kept_for_the_sake_of_its_end() -> None:
    """A stream of thousands of calls must not pile them up."""

    def behave(_request: Any, _context: Any) -> int:
        for _ in range(1000):
            Child.begin()
        scope = SCOPE.get()
        assert scope is not None
        return len(scope._calls)

    (kept,) = serve(proxyless.server_interceptor(), "unary_unary", behave, Context())
    assert kept <= 1
