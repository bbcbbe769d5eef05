"""The ambient deadline by hand, and metadata that is carried on: what a call made here and now inherits."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from proxyless import context
from proxyless.context import CARRIED, DEADLINE, SCOPE, Pairs, Scope, with_carried
from tests.server.incoming import AioContext, Context, aio_serve, serve


@pytest.fixture(autouse=True)
def nothing_is_propagated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test names is forgotten with it."""
    monkeypatch.setattr(context, "_NAMES", set())


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[proxyless.Mesh]:
    """A mesh without servers: these calls are only looked at."""
    file = tmp_path / "mesh.yaml"
    file.write_text('endpoints: {echo: [{address: "127.0.0.1:1"}]}\n')
    with proxyless.connect(f"file:{file}", services=["echo"]) as mesh:
        yield mesh


def sent(channel: Any, metadata: Any = None, timeout: float | None = None) -> Any:
    """The record of a call that is made here and now."""
    return channel.rpc("/echo.Echo/Unary", timeout, metadata, None, True)


# -- propagate


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "lower-case"),
        ("X-Tenant", "lower-case"),
        ("x tenant", "lower-case"),
        (":authority", "lower-case"),
        ("x-tenant\n", "lower-case"),
        ("grpc-timeout", "gRPC's own"),
        ("grpc-trace-bin", "gRPC's own"),
        ("te", "connection"),
        ("content-type", "connection"),
        ("user-agent", "connection"),
        ("host", "connection"),
        (7, "lower-case"),
    ],
)
def test_a_name_that_cannot_be_carried_is_refused(name: Any, why: str) -> None:
    """With the reason, and the good ones beside it are not taken either."""
    with pytest.raises(ValueError, match=why):
        proxyless.propagate("x-good", name)
    assert not context._NAMES


INCOMING: Pairs = (
    ("x-tenant", "acme"),
    ("x-other", "not named"),
    ("x-path", "a"),
    ("x-path", "b"),
    ("x-blob-bin", b"\x00\xff"),
    ("x-hostile", "line\nbreak"),
    ("x-hostile", "kr\u00f8ll"),
    ("x-hostile", "harmless"),
)
CARRIED_ON = (
    ("x-tenant", "acme"),
    ("x-path", "a"),
    ("x-path", "b"),
    ("x-blob-bin", b"\x00\xff"),
    ("x-hostile", "harmless"),
)


def test_named_keys_of_an_incoming_call_are_carried_on() -> None:
    """All values of a key, in their order, bytes too; but nothing that would fail the calls that carry it."""
    proxyless.propagate("x-tenant", "x-path")
    proxyless.propagate("x-blob-bin", "x-hostile")
    call = Context(metadata=INCOMING)
    (seen,) = serve(proxyless.server_interceptor(), "unary_unary", lambda _r, _c: CARRIED.get(), call)
    assert seen == CARRIED_ON
    assert CARRIED.get() == ()


async def test_named_keys_are_carried_on_by_asyncio_servers_too() -> None:
    """In the same way."""
    proxyless.propagate("x-tenant", "x-path", "x-blob-bin", "x-hostile")

    async def behave(_request: Any, _context: Any) -> Pairs:
        return CARRIED.get()

    call = AioContext(metadata=INCOMING)
    assert await aio_serve(proxyless.aio_server_interceptor(), "unary_unary", behave, call) == [CARRIED_ON]


def test_where_nothing_is_named_the_metadata_is_not_even_read() -> None:
    """To read it costs a copy on some servers."""

    class Unread(Context):
        def invocation_metadata(self) -> Pairs:
            raise AssertionError

    interceptor = proxyless.server_interceptor()
    assert serve(interceptor, "unary_unary", lambda _r, _c: CARRIED.get(), Unread()) == [()]


@pytest.mark.parametrize("own", [None, (), [], grpc.aio.Metadata()])
def test_a_call_without_metadata_has_what_it_inherits(own: Any) -> None:
    """And no more."""
    assert with_carried(own, CARRIED_ON) == CARRIED_ON


@pytest.mark.parametrize(
    "own",
    [
        (("x-path", "own"), ("x-new", "1")),
        [("x-path", "own"), ("x-new", "1")],
        grpc.aio.Metadata(("x-path", "own"), ("x-new", "1")),
    ],
)
def test_a_key_that_a_call_sets_itself_it_does_not_inherit(own: Any) -> None:
    """Its own come first, and no key is there from both."""
    assert with_carried(own, CARRIED_ON) == (
        ("x-path", "own"),
        ("x-new", "1"),
        ("x-tenant", "acme"),
        ("x-blob-bin", b"\x00\xff"),
        ("x-hostile", "harmless"),
    )


@pytest.mark.parametrize("kind", ["channel", "aio_channel"])
def test_calls_through_the_mesh_carry_it(mesh: proxyless.Mesh, kind: str) -> None:
    """Routes see it as well: it is part of the call's metadata."""
    channel = getattr(mesh, kind)("echo")
    assert sent(channel).metadata is None
    assert sent(channel, [("k", "v")]).metadata == [("k", "v")]
    token = CARRIED.set((("x-tenant", "acme"),))
    assert sent(channel).metadata == (("x-tenant", "acme"),)
    assert sent(channel, [("k", "v")]).metadata == (("k", "v"), ("x-tenant", "acme"))
    CARRIED.reset(token)


# -- the deadline, and whose call it is


@pytest.mark.parametrize("kind", ["channel", "aio_channel"])
def test_a_call_has_the_earlier_of_its_own_and_the_inherited_deadline(mesh: proxyless.Mesh, kind: str) -> None:
    """`timeout=` can shorten what is inherited, and not lengthen it."""
    channel = getattr(mesh, kind)("echo")
    with proxyless.deadline(5.0):
        inherited = DEADLINE.get()
        for timeout in (None, 9.0):
            assert sent(channel, timeout=timeout).deadline == inherited
        rpc = sent(channel, timeout=2.0)
        assert rpc.deadline == rpc.now + 2.0
    assert sent(channel).deadline is None


@pytest.mark.parametrize("kind", ["channel", "aio_channel"])
def test_for_a_caller_that_has_gone_no_call_has_time_left(mesh: proxyless.Mesh, kind: str) -> None:
    """Whatever its timeout: it will be refused before it is sent. Not so what is shielded from the caller."""
    channel = getattr(mesh, kind)("echo")
    scope = Scope()
    token = SCOPE.set(scope)
    assert sent(channel).deadline is None
    scope.leave()
    for timeout in (None, 9.0):
        rpc = sent(channel, timeout=timeout)
        assert rpc.deadline == rpc.now
    with proxyless.shield():
        assert sent(channel).deadline is None
    SCOPE.reset(token)


def test_a_shield_lets_metadata_through() -> None:
    """Work that goes on is still the same tenant's."""
    token = CARRIED.set((("x-tenant", "acme"),))
    with proxyless.deadline(5.0):
        with proxyless.shield():
            assert proxyless.remaining() is None
            assert CARRIED.get() == (("x-tenant", "acme"),)
            with proxyless.deadline(9.0):
                assert proxyless.remaining() > 8.0  # type: ignore[operator]
        assert proxyless.remaining() <= 5.0  # type: ignore[operator]
    CARRIED.reset(token)


@pytest.mark.parametrize("bound", [lambda: proxyless.deadline(1.0), proxyless.shield])
def test_a_bound_may_end_in_another_context_than_it_began_in(bound: Any) -> None:
    """The collector closes a dropped generator anywhere; that neither raises, nor undoes a bound there."""

    def steps() -> Generator[None, None, None]:
        with bound():
            yield

    generator = steps()
    contextvars.Context().run(next, generator)
    with proxyless.deadline(3.0):
        there = DEADLINE.get()
        generator.close()
        assert DEADLINE.get() == there


async def test_a_task_inherits_what_held_where_it_was_made() -> None:
    """And a bound of its own stays its own."""

    async def work() -> float | None:
        inherited = proxyless.remaining()
        with proxyless.deadline(0.5):
            await asyncio.sleep(0)
        return inherited

    with proxyless.deadline(3.0):
        task = asyncio.create_task(work())
    assert proxyless.remaining() is None
    left = await task
    assert left is not None
    assert 2.5 < left <= 3.0


# -- the scope


class Call:
    """Something that can be ended."""

    def __init__(self) -> None:
        self.ends = 0

    def end(self) -> None:
        self.ends += 1


def test_one_call_that_cannot_be_ended_does_not_save_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; grpcio's thread, which brings the news, gets no exception."""
    scope, calls = Scope(), [Call(), Call(), Call()]

    def end(call: Call) -> None:
        call.end()
        if call is calls[1]:
            raise OSError

    for call in calls:
        scope.join(call, end)
    scope.leave()
    scope.leave()
    assert [call.ends for call in calls] == [1, 1, 1]
    assert "could not be cancelled" in caplog.text


def test_a_caller_that_was_answered_has_not_gone() -> None:
    """Whatever is said of its call afterwards, and whatever is begun."""
    scope, early, late = Scope(), Call(), Call()
    scope.join(early, Call.end)
    scope.answered()
    scope.leave()
    scope.join(late, Call.end)
    assert not scope.gone
    assert (early.ends, late.ends) == (0, 0)
