"""What `register()` refuses, and what it does where there is nothing to register with."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import proxyless
from proxyless.model.findings import Invalid
from proxyless.model.instance import Instance
from proxyless.server.presence import Presence


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh that lives in a file."""
    (tmp_path / "mesh.yaml").write_text("apiVersion: proxyless/v1\n")
    monkeypatch.setenv("PROXYLESS_SOURCE", f"file:{tmp_path / 'mesh.yaml'}")
    monkeypatch.delenv("PROXYLESS_LOCALITY", raising=False)


@pytest.fixture
def server() -> Iterator[grpc.Server]:
    """A server that is not started."""
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        yield server
        server.stop(None)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"service": ""}, "service: must have 1 to 128 characters"),
        ({"service": "a/b"}, "service: must be letters, digits and inner . _ -"),
        ({"port": 0}, "port: must be the port that the server listens on"),
        ({"port": 0}, "got 0: `add_insecure_port` says which one it chose"),
        ({"port": "50051"}, "port: must be the port that the server listens on, 1 to 65535, got '50051'"),
        (
            {"address": "0.0.0.0"},
            "address: must not be a link-local, multicast, broadcast or unspecified address",
        ),
        ({"address": "localhost"}, "address: must not be localhost"),
        ({"meta": {"app.version": "v1"}}, "meta['app.version']: must be a key of letters, digits, _ and -"),
        ({"meta": {"k" * 129: "v"}}, "at most 128 of them"),
        ({"meta": {"k": "é" * 257}}, "meta['k']: must have at most 512 bytes, got 514"),
        ({"meta": {"version": 2}}, "meta['version']: must be text, got 2: write '2'"),
        ({"meta": {"consul-version": "1"}}, "must not begin with consul-"),
        ({"meta": {f"k{n}": "" for n in range(65)}}, "meta: must have at most 64 keys, got 65"),
        (
            {"meta": {"proxyless_locality": "eu"}, "locality": "eu"},
            "is what locality= sets; give one of them",
        ),
        ({"tags": "blue"}, "tags: must be a list of words, got 'blue'"),
        ({"tags": ["blue", ""]}, "tags: must be words"),
        ({"weight": 0}, "weight: must be a whole number from 1 to 65535, got 0"),
        ({"weight": 1.5}, "weight: must be a whole number from 1 to 65535, got 1.5"),
        ({"locality": "a/b/c/d"}, "locality: must be region/zone/subzone, got 'a/b/c/d'"),
        ({"drain": -1}, "drain: must be 0 or more seconds, got -1"),
        ({"grace": float("inf")}, "grace: must be 0 or more seconds, got inf"),
        ({"interval": 0}, "interval: must be more than 0 seconds, got 0"),
    ],
)
def test_what_cant_be_registered_is_refused_with_a_reason(
    server: grpc.Server, wrong: dict[str, Any], says: str
) -> None:
    """The error names the argument and says what it must be."""
    arguments: dict[str, Any] = {"service": "shop", "port": 50051} | wrong
    with pytest.raises(proxyless.ConfigError) as error:
        proxyless.register(server, arguments.pop("service"), **arguments)
    assert says in str(error.value)


def test_all_that_is_wrong_is_said_at_once(server: grpc.Server) -> None:
    """One error has every finding."""
    with pytest.raises(proxyless.ConfigError) as error:
        proxyless.register(server, "shop", port=-1, weight=-1, meta={"a.b": "c"}, drain=-1.0, locality="/a b")
    assert [finding.path for finding in error.value.findings] == [
        "drain",
        "locality",
        "port",
        "weight",
        "meta['a.b']",
    ]


def test_what_consul_takes_is_taken() -> None:
    """The limits themselves are allowed."""
    meta = {"k" * 128: "v" * 512, "A-z_09": "any/thing é"}
    instance = Instance("shop", 65535, "::1", meta, ("a b",), 65535)
    assert instance.id == "shop-::1-65535"
    assert instance.target == "[::1]:65535"


def test_what_is_no_server_is_refused() -> None:
    """The first argument is the server, not a channel or its address."""
    with pytest.raises(proxyless.ConfigError, match=r"must be a grpc.server\(\) or grpc.aio.server\(\), got '"):
        proxyless.register("localhost:50051", "shop", port=50051)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["consol://127.0.0.1", "consul://host:port"])
def test_a_source_that_cant_be_meant_is_refused(server: grpc.Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt PROXYLESS_SOURCE must not leave a server unregistered in silence."""
    monkeypatch.setenv("PROXYLESS_SOURCE", url)
    with pytest.raises(proxyless.ConfigError, match=r"register\('shop'\): "):
        proxyless.register(server, "shop", port=50051)


def test_the_health_service_of_the_other_kind_of_server_is_refused(server: grpc.Server) -> None:
    """A synchronous server can't answer with asyncio's servicer."""
    with pytest.raises(proxyless.ConfigError, match=r"health= must be a grpc_health.v1.health.HealthServicer"):
        proxyless.register(server, "shop", port=50051, health=health.aio.HealthServicer())


def test_without_a_registry_it_serves_health_and_stops(server: grpc.Server, caplog: pytest.LogCaptureFixture) -> None:
    """With a file as the source one line says that nothing is registered; the rest is as ever."""
    caplog.set_level("INFO", "proxyless")
    port = server.add_insecure_port("127.0.0.1:0")
    with proxyless.register(server, "shop", port=port, drain=0.0) as registration:
        server.start()
        assert registration.ready(timeout=0)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            reply = check(health_pb2.HealthCheckRequest(service="shop"), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    assert server.wait_for_termination(timeout=0) is False  # it did not have to wait
    (line,) = [r.getMessage() for r in caplog.records if "is no registry" in r.getMessage()]
    assert line.startswith("shop is not registered: file:")


class Register:
    """A registry whose answers are written down beforehand; `done` when all of them were given."""

    name = "test"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.heard: list[str] = []
        self.done = threading.Event()

    def _answer(self, said: str) -> Any:
        self.heard.append(said)
        answer = self.answers.pop(0) if self.answers else None
        if not self.answers:
            self.done.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def address(self) -> str:
        return str(self._answer("address"))

    def register(self, instance: Instance, *, passing: bool) -> None:
        self._answer(f"register {instance.id} {'passing' if passing else 'critical'}")

    def has(self, id: str) -> bool:
        return self.done.is_set() or bool(self._answer(f"has {id}"))

    def deregister(self, id: str) -> None:
        self._answer(f"deregister {id}")

    def close(self) -> None:
        self.heard.append("close")


def heard(
    registry: Register, instance: Instance, doubts: Iterable[str] = (), *, shared: bool = False, haste: bool = False
) -> list[str]:
    """What a registry hears until it has answered everything and the presence has left.

    `doubts` are what its server's health is found to lack, until it lacks nothing; `shared`: somebody else serves at
    its address, too."""
    found = iter(doubts)
    presence = Presence(
        instance,
        lambda: registry,
        interval=0.01,
        doubt=lambda *_: next(found, ""),
        another=lambda _: shared,
        rng=lambda: 1.0,
    )
    presence.start()
    assert registry.done.wait(5)
    assert presence.ready.wait(5) or not shared
    presence.leave(haste=haste)
    return registry.heard


def test_an_address_that_nobody_could_dial_is_not_registered(caplog: pytest.LogCaptureFixture) -> None:
    """An agent that advertises nonsense is no reason to register nonsense."""
    found = heard(Register("0.0.0.0", "10.0.0.5", None), Instance("shop", 1))
    id = "shop-10.0.0.5-1"
    assert found == ["address", "address", f"register {id} passing", f"deregister {id}", "close"]
    assert "shop is not registered yet, trying on: address: must not be a link-local" in caplog.text


def test_an_answer_that_never_came_may_have_been_a_yes() -> None:
    """Who tried to register, and never heard, deregisters all the same."""
    found = heard(Register(OSError("no answer")), Instance("shop", 1, "10.0.0.5"))
    assert found[0] == "register shop-10.0.0.5-1 passing"
    assert found[-2:] == ["deregister shop-10.0.0.5-1", "close"]


def test_an_entry_that_another_process_has_as_well_stays(caplog: pytest.LogCaptureFixture) -> None:
    """Workers share a port, a restart overlaps: the entry is also theirs. At the interpreter's end nobody looks."""
    caplog.set_level("INFO", "proxyless")
    instance = Instance("shop", 1, "10.0.0.5")
    register, leave = "register shop-10.0.0.5-1 passing", "deregister shop-10.0.0.5-1"
    assert [one for one in heard(Register(None), instance, shared=True) if not one.startswith("has")] == [
        register,
        "close",
    ]
    assert caplog.messages[-1] == "shop-10.0.0.5-1 stays registered: another process serves there"
    assert heard(Register(None), instance, shared=True, haste=True)[-2:] == [leave, "close"]


def test_an_entry_that_cant_be_looked_up_is_not_made_again(caplog: pytest.LogCaptureFixture) -> None:
    """One line per outage, and a new entry only if the old one is known to be gone."""
    register, has = "register shop-10.0.0.5-1 passing", "has shop-10.0.0.5-1"
    answers = Register(None, True, OSError("down"), OSError("down"), True, False, None)
    found = heard(answers, Instance("shop", 1, "10.0.0.5"))
    assert found == [register, *[has] * 5, register, "deregister shop-10.0.0.5-1", "close"]
    assert caplog.messages == ["shop can't be confirmed as registered, trying on: down"]


def test_a_server_that_does_not_answer_is_registered_as_failing_until_it_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consul may reach what we can't, so it is entered; but nobody is sent there on our word."""
    monkeypatch.setattr("proxyless.server.presence.AGAIN", 0.01)
    found = heard(Register(None, True, True, None), Instance("shop", 1, "10.0.0.5"), ["no answer"] * 2)
    id = "shop-10.0.0.5-1"
    assert found[:4] == [f"register {id} critical", f"has {id}", f"has {id}", f"register {id} passing"]
    assert caplog.messages == [f"{id} is registered, but not as healthy: no answer"]


def test_an_instance_checks_itself() -> None:
    """Whoever builds one gets every problem with the field it is in."""
    with pytest.raises(Invalid) as error:
        Instance("shop", 0, weight=0)
    assert [field for field, _ in error.value.problems] == ["port", "weight"]
