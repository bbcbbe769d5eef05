"""What the interceptor for threads hands on to a handler at every step; afterwards nothing of it is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxyless
from proxyless.server.deadlines import instant, rounding
from tests.server.incoming import (
    NEVER,
    NOTHING,
    Aborted,
    Context,
    Details,
    at_every_step,
    each_arity,
    handler,
    inherited,
    intercepted,
    serve,
)

# What was left of a call when grpcio's server was asked at once, by the timeout that was sent: the largest of
# 20 calls on loopback, grpcio 1.85.1. It is more than was sent: C-core rounds up (`timeout_encoding.cc`).
SENT_AND_SEEN = [
    (0.05, 0.05082),
    (0.5, 0.50077),
    (0.9931, 0.99488),
    (2.99, 2.9998),
    (2.9931, 2.99983),
    (2.9999, 3.00982),
    (9.991, 9.99981),
    (50.0, 50.09986),
    (50.03, 50.09979),
    (120.2, 120.99984),
    (5000.5, 5009.99984),
    (99999.0, 100199.99983),
]


@pytest.mark.parametrize(("sent", "seen"), SENT_AND_SEEN)
def test_a_hop_never_lengthens_a_deadline(sent: float, seen: float) -> None:
    """What C-core may have added is taken off again, and little more: 2 % at most, from 0.15 s on."""
    at = instant(seen, 1000.0, reserve=0.0)
    assert at is not None
    assert sent * 0.98 - 0.003 <= at - 1000.0 <= sent


@pytest.mark.parametrize(
    ("seen", "digit"),
    [(0.02, 0.001), (0.9, 0.001), (0.95, 0.01), (5.0, 0.01), (9.5, 0.1), (99.0, 1.0), (1e4, 100.0)],
)
def test_what_may_have_been_added_is_one_in_the_third_digit_and_1_ms(seen: float, digit: float) -> None:
    """Near the next power of ten that digit counts ten times as much: some time has passed on the way."""
    assert rounding(seen) == pytest.approx(digit + 0.001)


# "combined.deadline <= each.deadline; a hop never lengthens a deadline": vectors/14, combine-property, from
# twitter/finagle finagle-core DeadlineTest.scala "Deadline.combined".
@given(left=st.floats(0.0, 1e8), reserve=st.floats(0.0, 1e3), now=st.floats(0.0, 1e6))
def test_what_is_handed_on_is_never_more_than_there_is(left: float, reserve: float, now: float) -> None:
    """Whatever is left, handed on is less, by the reserve at least."""
    at = instant(left, now, reserve)
    assert at is not None
    assert at < now + left - reserve + 1e-6


@pytest.mark.parametrize("left", [None, NEVER, 1.0001e8])
def test_a_call_without_a_deadline_has_none(left: float | None) -> None:
    """Neither None, as on asyncio, nor 9.2e18, as on threads, is taken for a number of seconds."""
    assert instant(left, 1000.0, 0.25) is None


@each_arity
def test_a_handler_sees_its_callers_deadline_at_every_step(arity: str) -> None:
    """Less the reserve; afterwards, and for whoever takes the answers, there is none."""
    before = time.monotonic()
    interceptor = proxyless.server_interceptor(reserve=0.5)
    seen = serve(interceptor, arity, at_every_step(arity, inherited), Context(3.0))
    after = time.monotonic()
    assert len(seen) == (3 if arity.endswith("stream") else 1)
    for deadline, _, scope in seen:
        assert before + 2.5 - 0.0111 <= deadline <= after + 2.5
        assert scope is not None
    assert inherited() == NOTHING


@each_arity
def test_a_handler_without_a_deadline_is_bounded_by_nothing(arity: str) -> None:
    """9.2e18 seconds are not handed on."""
    behave = at_every_step(arity, proxyless.remaining)
    assert set(serve(proxyless.server_interceptor(), arity, behave, Context(NEVER))) == {None}


@each_arity
def test_expired_work_is_dropped(arity: str) -> None:
    """The handler is not run, and the refusal says so."""
    context = Context(0.0)
    with pytest.raises(Aborted):
        serve(proxyless.server_interceptor(), arity, at_every_step(arity, pytest.fail), context)
    assert context.refused is not None
    assert context.refused[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert context.refused[1].startswith("proxyless: deadline: ")
    assert "/shop.Products/Get" in context.refused[1]


@each_arity
def test_work_whose_caller_has_gone_is_dropped(arity: str) -> None:
    """It went while its call waited for a thread."""
    context = Context(3.0)
    context.end()
    with pytest.raises(Aborted):
        serve(proxyless.server_interceptor(), arity, at_every_step(arity, pytest.fail), context)
    assert context.refused is not None
    assert context.refused[0] is grpc.StatusCode.CANCELLED


def test_with_less_left_than_the_reserve_a_handler_is_run_but_makes_no_calls() -> None:
    """It may have its answer at hand: the reserve is what its calls do without."""
    interceptor = proxyless.server_interceptor(reserve=1.0)
    assert serve(interceptor, "unary_unary", lambda _r, _c: proxyless.remaining(), Context(0.5)) == [0.0]


def test_an_earlier_bound_that_is_there_stays() -> None:
    """Interceptors that come first may have set one."""
    with proxyless.deadline(1.0):
        bound = inherited().deadline
        for left in (3.0, NEVER):
            interceptor = proxyless.server_interceptor()
            seen = serve(interceptor, "unary_unary", lambda _r, _c: inherited().deadline, Context(left))
            assert seen == [bound]


def test_what_a_stream_sets_itself_lasts_from_step_to_step_and_is_nobody_elses() -> None:
    """A `with deadline()` around a `yield` is still there after it."""

    def behave(_request: Any, _context: Any) -> Iterator[float | None]:
        with proxyless.deadline(1.0):
            yield inherited().deadline
            yield inherited().deadline
        yield inherited().deadline

    served = intercepted(proxyless.server_interceptor(), handler("unary_stream", behave)).unary_stream
    answers = served("request", Context(3.0))
    first = next(answers)
    assert inherited() == NOTHING
    assert next(answers) == first
    assert next(answers) > first + 1.5


def test_a_stream_that_is_dropped_halfway_is_closed_where_it_ran() -> None:
    """So what stands in its `finally` still has the deadline, and its `with` blocks end where they began."""
    seen: list[float | None] = []

    def behave(_request: Any, _context: Any) -> Iterator[str]:
        with proxyless.deadline(1.0):
            try:
                yield "one"
                yield "two"
            finally:
                seen.append(proxyless.remaining())

    served = intercepted(proxyless.server_interceptor(), handler("unary_stream", behave)).unary_stream
    answers = served("request", Context(3.0))
    assert next(answers) == "one"
    answers.close()
    (left,) = seen
    assert left is not None
    assert 0.5 < left <= 1.0


def test_a_function_that_returns_any_iterator_streams_too() -> None:
    """Generators are not the only ones."""

    def behave(_request: Any, _context: Any) -> Iterator[Any]:
        return iter([proxyless.remaining(), "b"])

    first, second = serve(proxyless.server_interceptor(), "unary_stream", behave, Context(3.0))
    assert 2.5 < first < 3.0
    assert second == "b"


@each_arity
def test_everything_else_about_a_handler_stays(arity: str) -> None:
    """Its arity, its serializers, and the attributes of its function that grpcio looks at."""

    def behave(_request: Any, _context: Any) -> None: ...

    behave.experimental_thread_pool = "a pool"  # type: ignore[attr-defined]
    plain = handler(arity, behave, request_deserializer=str, response_serializer=bytes)
    wrapped = intercepted(proxyless.server_interceptor(), plain)
    assert wrapped._replace(**{arity: behave}) == plain
    assert getattr(wrapped, arity).experimental_thread_pool == "a pool"


def test_a_handler_of_another_make_is_wrapped_as_well() -> None:
    """And not changed itself: it may serve another server, too."""

    class Handler(grpc.RpcMethodHandler):  # type: ignore[misc, type-arg, unused-ignore]
        request_streaming = response_streaming = False
        colour = "blue"

        def __init__(self) -> None:
            self.unary_unary: Any = lambda _request, _context: proxyless.remaining()

    own = Handler()
    wrapped = intercepted(proxyless.server_interceptor(), own)
    assert wrapped.colour == "blue"
    assert own.unary_unary("request", Context(3.0)) is None
    assert wrapped.unary_unary("request", Context(3.0)) < 3.0


def test_a_handler_that_sends_its_answers_itself_is_given_the_means_to() -> None:
    """grpcio's experimental non-blocking handlers are called with a third argument, and return nothing."""
    sent: list[float] = []

    def behave(_request: Any, _context: Any, send: Callable[[Any], None]) -> None:
        send(proxyless.remaining())

    behave.experimental_non_blocking = True  # type: ignore[attr-defined]
    served = intercepted(proxyless.server_interceptor(), handler("unary_stream", behave)).unary_stream
    assert served.experimental_non_blocking
    assert served("request", Context(3.0), sent.append) is None
    assert 2.5 < sent[0] < 3.0


def test_a_handler_is_wrapped_once() -> None:
    """But for one that is made anew for each call, the newest is what is served."""
    interceptor = proxyless.server_interceptor()
    one = handler("unary_unary", lambda _request, _context: "one")
    other = handler("unary_unary", lambda _request, _context: "other")
    assert intercepted(interceptor, one) is intercepted(interceptor, one)
    assert intercepted(interceptor, other).unary_unary("request", Context()) == "other"
    assert intercepted(interceptor, one).unary_unary("request", Context()) == "one"


def test_a_method_that_nobody_serves_is_left_alone() -> None:
    """grpcio answers UNIMPLEMENTED."""
    assert intercepted(proxyless.server_interceptor(), None) is None


def test_whatever_names_a_server_accepts_only_so_many_are_remembered() -> None:
    """A handler for every name there is must not fill the memory."""
    interceptor: Any = proxyless.server_interceptor()
    every = handler("unary_unary", lambda _request, _context: "any")
    for number in range(1200):
        served = intercepted(interceptor, every, Details(f"/any.Service/Method{number}"))
        assert served.unary_unary("request", Context()) == "any"
    assert len(interceptor._wrapped) == 1000


@pytest.mark.parametrize("reserve", [-0.1, float("nan"), float("inf")])
def test_a_reserve_can_only_shorten(reserve: float) -> None:
    """Another is refused when the server is made, not when it serves."""
    with pytest.raises(proxyless.ConfigError, match="reserve="):
        proxyless.server_interceptor(reserve=reserve)
    with pytest.raises(proxyless.ConfigError, match="reserve="):
        proxyless.aio_server_interceptor(reserve=reserve)
