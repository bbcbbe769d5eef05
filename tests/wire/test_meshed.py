"""`@meshed`: a client's own channels, opened by its own code, are the mesh's. On what: `test_meshed_forms.py`."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import proxyless
from proxyless import ConfigError, meshed
from proxyless.channel.sync import MeshChannel
from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request
from tests.wire.test_meshed_forms import Lazy, Library, Transport, is_ours
from tests.wire.ways import NOWHERE, Net

# -- what stays as it is


class Own(Library):
    """A client of ours."""


def test_a_class_stays_the_class_it_is(net: Net) -> None:
    """The very object: name, docstring, signature, isinstance, subclasses and pickle see no difference."""
    net.server()
    before = inspect.signature(Own), Own.__doc__, Own.__qualname__
    assert meshed("echo", mesh=net.mesh)(Own) is Own
    assert (inspect.signature(Own), Own.__doc__, Own.__qualname__) == before
    assert Own.__init__.__doc__ == "Connects to `target`."
    client = Own("t:1", name="mine")
    assert (client.name, isinstance(client, Library), type(client)) == ("mine", True, Own)
    assert is_ours(client.channel)
    assert vars(client).keys() == {"name", "channel"}
    client.channel = None
    assert pickle.loads(pickle.dumps(client)).name == "mine"

    class Below(Own):
        def __init__(self) -> None:
            super().__init__("below:1")
            self.second = grpc.insecure_channel("second:1")

    assert is_ours(Below().channel)
    assert is_ours(Below().second)
    assert not is_ours(Library().channel)  # its base is nobody's


def test_the_decorator_of_the_instance_s_own_class_counts(net: Net) -> None:
    """A subclass that is decorated anew goes its own way, in the constructor that it inherits too."""
    net.server()
    first = meshed("first", mesh=net.mesh)(type("First", (Library,), {}))
    second = meshed("second", mesh=net.mesh)(type("Second", (first,), {}))
    assert (first().channel.service, second().channel.service) == ("first", "second")


def test_a_function_stays_the_function_it_is() -> None:
    """Name, docstring and signature are its own."""

    def make(target: str, *, size: int = 3) -> Library:
        """Makes one."""
        return Library(target)

    wrapped = meshed("echo")(make)
    assert (wrapped.__name__, wrapped.__doc__) == ("make", "Makes one.")
    assert inspect.signature(wrapped) == inspect.signature(make)


def test_an_error_in_the_constructor_is_the_constructor_s(net: Net) -> None:
    """It comes out as it is, and what was in effect is not any more."""
    net.server()

    @meshed("echo", mesh=net.mesh)
    class Broken:
        def __init__(self) -> None:
            raise KeyError("no")

    with pytest.raises(KeyError):
        Broken()
    assert not is_ours(grpc.insecure_channel(NOWHERE))


def test_a_generator_is_driven_as_it_would_be(net: Net) -> None:
    """Sending, throwing, closing and the returned value all reach the generator that is wrapped."""
    net.server()
    log: list[Any] = []

    @meshed("echo", mesh=net.mesh)
    def body() -> Any:
        try:
            log.append((yield 1))
            try:
                yield 2
            except KeyError as error:
                log.append(error.args[0])
            yield 3
            return "end"
        finally:
            log.append("closed")

    steps = body()
    assert (next(steps), steps.send("sent"), steps.throw(KeyError("thrown"))) == (1, 2, 3)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "end"
    other = body()
    next(other)
    other.close()
    assert log == ["sent", "thrown", "closed", "closed"]


# -- whose channels, and whose not


def test_threads_and_tasks_are_apart(net: Net) -> None:
    """What is being constructed in one thread or task means nothing in another that runs meanwhile."""
    net.server()
    deco = meshed("echo", mesh=net.mesh)
    inside, seen = threading.Event(), threading.Event()

    @deco
    def slow() -> Any:
        inside.set()
        assert seen.wait(5.0)
        return grpc.insecure_channel(NOWHERE)

    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(slow()))
    thread.start()
    assert inside.wait(5.0)
    assert not is_ours(grpc.insecure_channel(NOWHERE))
    seen.set()
    thread.join()
    assert is_ours(made[0])

    async def scene() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @deco
        async def slow_task() -> Any:
            begun.set()
            await go_on.wait()
            return grpc.aio.insecure_channel(NOWHERE)

        task = asyncio.create_task(slow_task())
        await begun.wait()
        assert not is_ours(grpc.aio.insecure_channel(NOWHERE))
        go_on.set()
        assert is_ours(await task)

    asyncio.run(scene())


def test_constructions_nest(net: Net) -> None:
    """The innermost decides; what its rules don't know, the one around it may."""
    net.server()
    inner = meshed(rules={"a:1": "alpha"}, mesh=net.mesh)
    with meshed("echo", mesh=net.mesh), inner:
        assert grpc.insecure_channel("a:1").service == "alpha"
        assert grpc.insecure_channel("b:1").service == "echo"
        with meshed("deepest", mesh=net.mesh):
            assert grpc.insecure_channel("a:1").service == "deepest"
    with inner:
        assert not isinstance(grpc.insecure_channel("b:1"), MeshChannel)


def test_rules_come_before_the_service(net: Net) -> None:
    """A client that opens several: rules say which is which, the service takes the rest."""
    net.server()

    @meshed("echo", rules={"users:*": "users", "cache": "cache"}, mesh=net.mesh)
    class Several:
        def __init__(self) -> None:
            self.services = [grpc.insecure_channel(t).service for t in ("users:1", "cache:2", "orders:3")]

    assert Several().services == ["users", "cache", "echo"]


def test_what_an_object_has_others_open_is_its_own(net: Net) -> None:
    """A client that opens its channel when it is first used does so through objects of its library's own."""
    net.server()
    lazy = meshed("echo", mesh=net.mesh)(type("Own", (Lazy,), {}))()
    assert is_ours(lazy.through())
    assert not is_ours(Transport(NOWHERE).channel)


def test_the_innermost_decides_whatever_it_is(net: Net) -> None:
    """An object that opens its channel while another is constructed keeps its own; so does a block inside a method."""
    net.server()
    users = meshed("users", mesh=net.mesh)(type("Users", (Lazy,), {}))()

    @meshed("orders", mesh=net.mesh)
    class Orders:
        def __init__(self) -> None:
            self.services = [users.through().service, grpc.insecure_channel(NOWHERE).service]

        def later(self) -> str:
            with meshed("block", mesh=net.mesh):
                return str(grpc.insecure_channel(NOWHERE).service)

    assert Orders().services == ["users", "orders"]
    assert Orders().later() == "block"
    with meshed("around", mesh=net.mesh):
        assert users.through().service == "users"
        assert Transport(NOWHERE).channel.service == "around"


def test_a_task_has_the_construction_that_began_it(net: Net) -> None:
    """What a client starts while it is made goes on in a task of its own, and opens the client's channels there."""
    net.server()

    async def opened() -> Any:
        await asyncio.sleep(0)
        return grpc.aio.insecure_channel(NOWHERE)

    @meshed("echo", mesh=net.mesh)
    async def make() -> Any:
        return asyncio.create_task(opened())

    async def scene() -> None:
        assert is_ours(await (await make()))

    asyncio.run(scene())


def test_by_the_names_of_targets(net: Net) -> None:
    """Without service and rules a target leads where its name says, if the mesh knows that; else it is left alone."""
    net.server()

    @meshed(mesh=net.mesh)
    def make(target: str) -> Any:
        return grpc.insecure_channel(target)

    assert make("echo:50051").service == "echo"
    assert make("dns:///echo.service.consul:50051").service == "echo"
    assert not isinstance(make("other:50051"), MeshChannel)
    assert not isinstance(make(NOWHERE), MeshChannel)


# -- what is kept


def test_what_the_client_asks_of_its_channel_is_kept(net: Net) -> None:
    """Options, credentials, compression and the target's name go into the mesh's channel; so do interceptors."""
    net.server()
    credentials = grpc.local_channel_credentials()
    options = [("grpc.max_receive_message_length", 77)]
    with meshed("echo", mesh=net.mesh):
        plain = grpc.insecure_channel("shop.test:443", options, grpc.Compression.Gzip)
        secure = grpc.secure_channel(target="dns:///shop.test:443", credentials=credentials, options=tuple(options))
        renamed = grpc.insecure_channel("shop.test:443", options=[("grpc.default_authority", "mine")])
        aliased = grpc.insecure_channel("shop.test:443", options=[("grpc.ssl_target_name_override", "cert")])
    assert plain.profile.compression is grpc.Compression.Gzip
    assert dict(plain.profile.options) == {
        "grpc.max_receive_message_length": 77,
        "grpc.default_authority": "shop.test:443",
    }
    assert (secure.profile.credentials, secure.authority) == (credentials, "shop.test:443")
    assert (renamed.authority, aliased.authority) == ("mine", "cert")


def test_servers_see_the_name_that_the_client_said(net: Net) -> None:
    """The `:authority` is the client's own target, on which routes may match too; without the mesh it was the same."""
    net.server()
    net.document("{routes: [{match: [{authority: {exact: shop.test}}], split: [{service: echo}]}]}")
    assert net.mesh.ready("echo", timeout=5.0)
    with meshed("echo", mesh=net.mesh):
        right, wrong = grpc.insecure_channel("shop.test"), grpc.insecure_channel("other.test")
    assert echo_pb2_grpc.EchoStub(right).Unary(Request(message="m")).message == "m"
    with pytest.raises(grpc.RpcError):
        echo_pb2_grpc.EchoStub(wrong).Unary(Request(message="m"))


def test_the_client_s_own_interceptors_run(net: Net) -> None:
    """Those it passes, those it wraps around, and those it appends to the lists of an asyncio channel."""
    server = net.server()

    class Counting(grpc.aio.UnaryUnaryClientInterceptor):
        calls = 0

        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            Counting.calls += 1
            return await continuation(details, request)

    async def scene() -> None:
        with meshed("echo", mesh=net.mesh):
            channel = grpc.aio.insecure_channel(NOWHERE, None, None, [Counting()])
        channel._unary_unary_interceptors.append(Counting())
        await echo_pb2_grpc.EchoStub(channel).Unary(Request(message="m"))

    asyncio.run(scene())
    assert (Counting.calls, len(server.seen)) == (2, 1)


def test_wrong_arguments_are_told_by_grpcio(net: Net) -> None:
    """What grpcio would not take is refused by grpcio, in its own words."""
    net.server()
    with meshed("echo", mesh=net.mesh), pytest.raises(TypeError, match="secure_channel"):
        grpc.secure_channel("a:1")


def test_a_method_that_opens_a_channel_keeps_nothing_that_it_drops(net: Net) -> None:
    """Who asks whose method runs must not hold its variables; and what the method itself made of them stays whole."""

    class Thing:
        pass

    class Program:
        def serve(self) -> tuple[bool, bool]:
            thing = Thing()
            known = weakref.ref(thing)
            grpc.insecure_channel("else.test:1").close()
            del thing
            return known() is None, self.renders()

        def renders(self) -> bool:
            word = "kept"
            mine: dict[str, str] = locals()
            grpc.insecure_channel("else.test:1").close()
            return mine["word"] == word

    proxyless.install({"echo.test": "echo"}, mesh=net.mesh)
    assert Program().serve() == (True, True)


# -- mistakes


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: meshed(""),
        lambda: meshed(7),
        lambda: meshed(rules={"": "x"}),
        lambda: meshed(rules=["a:1"]),
        lambda: meshed("echo", mesh="file:mesh.yaml"),
        lambda: meshed("echo", mesh=proxyless),
        lambda: proxyless.install({"a:1": "echo"}, mesh="file:mesh.yaml"),
    ],
)
def test_what_can_not_be_meant_is_said_at_once(wrong: Callable[[], Any]) -> None:
    """A service or a rule without a name, and a mesh that is none, are errors where they are written."""
    with pytest.raises(ConfigError):
        wrong()


def test_what_can_not_be_decorated_is_said_at_once() -> None:
    """Neither a value nor a class of C's."""
    with pytest.raises(TypeError, match="a class or a function"):
        meshed("echo")(7)
    with pytest.raises(TypeError, match="decorate a function that makes one"):
        meshed("echo")(dict)
