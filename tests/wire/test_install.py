"""`install` and `uninstall`: rules for a whole process; and the process's own mesh."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.channel import adopt
from proxyless.channel.sync import MeshChannel
from proxyless.protos import echo_pb2_grpc
from tests.wire.echo import Request
from tests.wire.test_native import _wrapped
from tests.wire.ways import NOWHERE, Net

FACTORIES = {"grpc.insecure_channel", "grpc.secure_channel", "grpc.aio.insecure_channel", "grpc.aio.secure_channel"}


@pytest.fixture
def library() -> Iterator[Any]:
    """A library that bound grpcio's factories when it was imported."""
    module: Any = types.ModuleType("bound_library")
    exec("from grpc import insecure_channel\nfrom grpc.aio import insecure_channel as aio_channel", vars(module))
    sys.modules["bound_library"] = module
    yield module
    del sys.modules["bound_library"]


@pytest.fixture
def own_mesh(net: Net, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """A source for the process's own mesh, which is closed afterwards."""
    net.server()
    monkeypatch.setenv("PROXYLESS_SOURCE", net.source)
    monkeypatch.setattr(adopt, "_default", None)
    yield net
    if adopt._default is not None:
        adopt._default.close()


def test_what_is_rebound_is_reported_and_given_back(net: Net, library: Any) -> None:
    """Every name that is bound to a factory is rebound and named, once; `uninstall` gives each back what it was."""
    net.server()
    before = grpc.insecure_channel, library.insecure_channel, library.aio_channel
    rebound = proxyless.install({"echo.test": "echo"}, mesh=net.mesh)
    assert set(rebound) >= FACTORIES | {"bound_library.insecure_channel", "bound_library.aio_channel"}
    assert proxyless.install({"other.test": "echo"}, mesh=net.mesh) == []
    assert library.insecure_channel("echo.test:1").service == "echo"
    assert not isinstance(library.insecure_channel("else.test:1"), MeshChannel)
    assert grpc.insecure_channel.__wrapped__ is before[0]
    assert sorted(proxyless.uninstall()) == sorted(rebound)
    assert (grpc.insecure_channel, library.insecure_channel, library.aio_channel) == before
    assert proxyless.uninstall() == []
    assert not isinstance(grpc.insecure_channel("echo.test:1"), MeshChannel)


def test_the_newest_rules_come_first(net: Net) -> None:
    """Two parts of a program may install rules; the later one decides where both do."""
    net.server()
    proxyless.install({"a.test": "first", "b.test": "first"}, mesh=net.mesh)
    proxyless.install({"a.test": "second"}, mesh=net.mesh)
    assert [grpc.insecure_channel(f"{host}.test:1").service for host in "ab"] == ["second", "first"]


def test_a_decorated_construction_serves_bound_names_too(net: Net, library: Any) -> None:
    """The decorator finds the names that a library bound at import, also of one imported after it was applied."""
    net.server()

    @proxyless.meshed("echo", mesh=net.mesh)
    def make(module: Any) -> Any:
        return module.insecure_channel(NOWHERE)

    assert make(library).service == "echo"
    later: Any = types.ModuleType("bound_later")
    later.insecure_channel = grpc.insecure_channel.__wrapped__  # as if it had been imported before everything
    sys.modules["bound_later"] = later
    try:
        assert make(later).service == "echo"
    finally:
        del sys.modules["bound_later"]
    assert proxyless.uninstall() == []  # a decorator still needs them


@pytest.mark.parametrize("first", ["instrumentation", "install"])
def test_beside_instrumentation(net: Net, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Whoever else wraps the factories, before or after: our channels are ours, theirs go through what they set up."""
    net.server()
    calls: list[str] = []

    def instrument() -> None:
        monkeypatch.setattr(grpc, "insecure_channel", _wrapped(grpc.insecure_channel, calls))

    if first == "instrumentation":
        instrument()
    proxyless.install({"echo.test": "echo"}, mesh=net.mesh)
    if first == "install":
        instrument()
    channel = grpc.insecure_channel("echo.test:1")
    assert channel.service == "echo"
    assert echo_pb2_grpc.EchoStub(channel).Unary(Request(message="m")).message == "m"
    calls.clear()
    grpc.insecure_channel("else.test:1").close()
    assert calls == ["insecure_channel"]
    proxyless.uninstall()
    assert not isinstance(grpc.insecure_channel("echo.test:1"), MeshChannel)
    monkeypatch.undo()


def test_a_module_that_lets_nothing_be_set(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that checks its settings: the name that it bound is rebound, and nobody's install fails half done."""

    class Closed(types.ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"no setting of the name {name}")

    module = Closed("closed_library")
    vars(module)["opens"] = native = grpc.insecure_channel
    monkeypatch.setitem(sys.modules, "closed_library", module)
    assert "closed_library.opens" in proxyless.install({"echo.test": "echo"}, mesh=net.mesh)
    assert isinstance(module.opens("echo.test:1"), MeshChannel)
    proxyless.uninstall()
    assert module.opens is native


def test_the_process_s_own_mesh(own_mesh: Net) -> None:
    """Connected by the first channel and not before; one for all; anew after somebody closed it."""
    make = proxyless.meshed("echo")(lambda: grpc.insecure_channel(NOWHERE))
    assert adopt._default is None
    channel = make()
    mesh = adopt._default
    assert echo_pb2_grpc.EchoStub(channel).Unary(Request(message="m"), timeout=5.0).message == "m"
    proxyless.install({"echo.test": "echo"})
    grpc.insecure_channel("echo.test:1")
    assert adopt._default is mesh
    mesh.close()
    assert echo_pb2_grpc.EchoStub(make()).Unary(Request(message="m"), timeout=5.0).message == "m"
    assert adopt._default is not mesh


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("used", [False, True])
def test_a_forked_child_adopts_by_itself(own_mesh: Net, tmp_path: Path, used: bool) -> None:
    """What was decorated before a fork makes working clients after it, whether the parent made one or not."""
    make = proxyless.meshed("echo")(lambda: grpc.insecure_channel(NOWHERE))
    if used:
        echo_pb2_grpc.EchoStub(make()).Unary(Request(message="m"), timeout=5.0)
    child = os.fork()
    if not child:
        code = 1
        try:
            stub = echo_pb2_grpc.EchoStub(make())
            code = 0 if stub.Unary(Request(message="m"), timeout=10.0).message == "m" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_rule_that_can_not_be_meant_installs_nothing(library: Any) -> None:
    """A mistake is said before any name is rebound."""
    own = library.insecure_channel
    with pytest.raises(proxyless.ConfigError):
        proxyless.install({"": "x"})
    assert library.insecure_channel is own
