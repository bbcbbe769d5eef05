"""What `@meshed` goes on: classes, functions, generators, context managers, coroutines, blocks."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from proxyless import meshed
from proxyless.channel.aio import AioMeshChannel
from proxyless.channel.sync import MeshChannel
from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request
from tests.wire.ways import NOWHERE, Net


class Transport:
    """A client library's own: what it opens, it opens out of sight of whoever made the client."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)


class Library:
    """A client as libraries have them: it takes a target and opens its channel when it is made."""

    def __init__(self, target: str = NOWHERE, *, name: str = "library") -> None:
        """Connects to `target`."""
        self.name = name
        self.channel = Transport(target).channel


class Entered:
    """A client that opens its channel when it is entered."""

    channel: Any = None

    async def __aenter__(self) -> Entered:
        await asyncio.sleep(0)
        self.channel = self._open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.channel.close()

    def __enter__(self) -> Entered:
        self.channel = Transport(NOWHERE).channel
        return self

    def __exit__(self, *_error: object) -> None: ...

    @staticmethod
    def _open() -> Any:
        return grpc.aio.insecure_channel(NOWHERE)


class Lazy:
    """A client that opens its channel when it is first needed."""

    @functools.cached_property
    def channel(self) -> Any:
        return _open(NOWHERE)

    def open(self) -> Any:
        return grpc.secure_channel(NOWHERE, grpc.local_channel_credentials())

    async def open_soon(self) -> Any:
        await asyncio.sleep(0)
        return grpc.aio.insecure_channel(NOWHERE)

    @classmethod
    def opened(cls) -> Any:
        return grpc.insecure_channel(NOWHERE)

    def through(self, other: Transport | None = None) -> Any:
        return (other or Transport(NOWHERE)).channel


def _open(target: str) -> Any:
    return grpc.insecure_channel(target)


def _library() -> Library:
    return Library()


def _lazy() -> Lazy:
    return Lazy()


def _entered() -> Entered:
    return Entered()


def _promising(make: Callable[[], Any]) -> Callable[[], Any]:
    """No coroutine function, but one that returns what a coroutine function gave."""

    def promise() -> Any:
        return make()

    return promise


def is_ours(channel: Any) -> bool:
    return isinstance(channel, (MeshChannel, AioMeshChannel)) and channel.service == "echo"


# -- what can be decorated


def _subclass(deco: Any) -> Any:
    return deco(type("Own", (Library,), {}))().channel


def _dataclass(deco: Any, first: bool) -> Any:
    class Made:
        target: str = NOWHERE
        channel: Any = None

        def __post_init__(self) -> None:
            self.channel = grpc.insecure_channel(self.target)

    Made.__annotations__ = {"target": str, "channel": Any}
    made: Any = dataclasses.dataclass(deco(Made)) if first else deco(dataclasses.dataclass(Made))
    return made("other:1").channel


def _new(deco: Any) -> Any:
    class Made:
        channel: Any

        def __new__(cls, target: str) -> Any:
            self = super().__new__(cls)
            self.channel = Transport(target).channel
            return self

    return deco(Made)(NOWHERE).channel


def _static(deco: Any) -> Any:
    class Factory:
        @staticmethod
        @deco
        def below() -> Any:
            return Transport(NOWHERE).channel

        @deco
        @staticmethod
        def above() -> Any:
            return Transport(NOWHERE).channel

        @deco
        @classmethod
        def of_class(cls) -> Any:
            return Transport(NOWHERE).channel

    made = [Factory.below(), Factory.above(), Factory.of_class()]
    assert all(map(is_ours, made))
    return made[0]


def _generator(deco: Any) -> Any:
    @deco
    def clients() -> Iterator[Any]:
        yield grpc.insecure_channel(NOWHERE)

    return next(clients())


def _manager(deco: Any, above: bool) -> Any:
    def body() -> Iterator[Any]:
        with Transport(NOWHERE).channel as channel:
            yield channel

    make = deco(contextlib.contextmanager(body)) if above else contextlib.contextmanager(deco(body))
    with make() as channel:
        assert not is_ours(grpc.insecure_channel(NOWHERE))  # nothing of it holds while the body is suspended
        return channel


def _partial(deco: Any) -> Any:
    return deco(functools.partial(Library, "other:1"))().channel


def _block(deco: Any) -> Any:
    with deco:
        return Transport(NOWHERE).channel


FORMS: dict[str, Callable[[Any], Any]] = {
    "a class": lambda deco: deco(type("Own", (), {"__init__": Library.__init__}))().channel,
    "a subclass": _subclass,
    "a dataclass": lambda deco: _dataclass(deco, first=False),
    "what will be a dataclass": lambda deco: _dataclass(deco, first=True),
    "a class with __new__": _new,
    "a class that opens when entered": lambda deco: deco(type("Own", (Entered,), {}))().__enter__().channel,
    "a function that makes a client": lambda deco: deco(_library)().channel,
    "a function that makes a channel": lambda deco: deco(lambda: grpc.insecure_channel(NOWHERE))(),
    "static and class methods": _static,
    "a generator": _generator,
    "a context manager": lambda deco: _manager(deco, above=False),
    "over a context manager": lambda deco: _manager(deco, above=True),
    "a partial": _partial,
    "a block": _block,
    "a property of a lazy client": lambda deco: deco(type("Own", (Lazy,), {}))().channel,
    "a method of a lazy client": lambda deco: deco(type("Own", (Lazy,), {}))().open(),
    "a class method of a lazy client": lambda deco: deco(type("Own", (Lazy,), {})).opened(),
    "what a function made, later": lambda deco: deco(_lazy)().open(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_can_be_decorated(net: Net, form: Callable[[Any], Any]) -> None:
    """Whatever makes a client can be decorated, and its calls arrive though its target does not exist."""
    server = net.server()
    channel = form(meshed("echo", mesh=net.mesh))
    assert isinstance(channel, MeshChannel)
    stub = echo_pb2_grpc.EchoStub(channel)
    if channel.profile.credentials is None and not channel.closed:
        assert stub.Unary(Request(message="m")).message == "m"
        assert server.seen
    assert not isinstance(grpc.insecure_channel(NOWHERE), MeshChannel)


async def _coroutine(deco: Any) -> Any:
    @deco
    async def make() -> Any:
        await asyncio.sleep(0)
        return grpc.aio.insecure_channel(NOWHERE)

    assert inspect.iscoroutinefunction(make)
    return await make()


async def _returned_coroutine(deco: Any) -> Any:
    async def make() -> Any:
        await asyncio.sleep(0)
        return grpc.aio.insecure_channel(NOWHERE)

    return await deco(_promising(make))()


async def _aio_manager(deco: Any, above: bool) -> Any:
    async def body() -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(NOWHERE):
            yield grpc.aio.insecure_channel(NOWHERE)

    make = deco(contextlib.asynccontextmanager(body)) if above else contextlib.asynccontextmanager(deco(body))
    async with make() as channel:
        assert not is_ours(grpc.aio.insecure_channel(NOWHERE))
        return channel


async def _aio_block(deco: Any) -> Any:
    async with deco:
        return grpc.aio.insecure_channel(NOWHERE)


async def _async_generator(deco: Any) -> Any:
    @deco
    async def clients() -> AsyncIterator[Any]:
        yield grpc.aio.insecure_channel(NOWHERE)

    async for channel in clients():
        return channel


async def _entered_later(deco: Any) -> Any:
    return (await deco(_entered)().__aenter__()).channel


AIO_FORMS: dict[str, Callable[[Any], Any]] = {
    "a coroutine": _coroutine,
    "a function that returns a coroutine": _returned_coroutine,
    "a context manager": lambda deco: _aio_manager(deco, above=False),
    "over a context manager": lambda deco: _aio_manager(deco, above=True),
    "a block": _aio_block,
    "a generator": _async_generator,
    "a class that opens when entered": lambda deco: _enter(deco(type("Own", (Entered,), {}))()),
    "a method of a lazy client": lambda deco: deco(type("Own", (Lazy,), {}))().open_soon(),
    "what a function made, when it is entered": _entered_later,
}


async def _enter(client: Entered) -> Any:
    async with client as entered:
        return entered.channel


@pytest.mark.parametrize("form", AIO_FORMS.values(), ids=AIO_FORMS)
def test_what_can_be_decorated_on_asyncio(net: Net, form: Callable[[Any], Any]) -> None:
    """The same for what asyncio programs make clients with: which channel it is follows from what they call."""
    net.server()

    async def scene() -> None:
        channel = await form(meshed("echo", mesh=net.mesh))
        assert isinstance(channel, AioMeshChannel)
        if channel.get_state() is not grpc.ChannelConnectivity.SHUTDOWN:
            assert (await echo_pb2_grpc.EchoStub(channel).Unary(Request(message="m"))).message == "m"
        assert not isinstance(grpc.aio.insecure_channel(NOWHERE), AioMeshChannel)

    asyncio.run(scene())
