"""The mesh at work with marked secrets: none of them is in anything that it says or writes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.store import Change, KvStore
from proxyless.control.watcher import Unanswered
from proxyless.protos import echo_pb2_grpc
from tests.agent import ConsulAgent
from tests.cli.invoking import call, forget_the_machine
from tests.consul.fleet import Fleet, Request, called, clean, eventually, stub
from tests.consul.lying_proxy import LyingProxy, echoing, failing, honest, lying_proxy, resetting

MARK = "S3CR3T"
TOKEN = f"{MARK}-token-0123456789abcdef"
ACLS = f'acl {{ enabled = true, default_policy = "deny", tokens {{ master = "{TOKEN}" }} }}'
BEARER = (("authorization", f"Bearer {MARK}-caller"), ("x-trace-bin", f"{MARK}-bin".encode()))
METHOD = "/proxyless.Echo/Unary"
DOCUMENT = """
subsets:
  nobody: {labels: {version: v9}}
routes:
- {name: not-this, match: [{headers: {authorization: {prefix: "Basic "}}}]}
- {name: answer, match: [{headers: {x-want: {exact: answer}}}], directResponse: {status: PERMISSION_DENIED}}
- {name: nobody, match: [{headers: {x-want: {exact: nobody}}}], split: [{subset: nobody}]}
- {name: rest, match: [{headers: {x-want: {present: false}}}]}
"""


class Said:
    """All that was said: to callers, logs, files, terminals."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []

    def by(self, who: str, *things: object) -> None:
        """Keep what these look like, in every way in which they may be shown."""
        for thing in things:
            self._texts += [(who, text) for text in (str(thing), repr(thing))]
            if isinstance(thing, BaseException):
                self._texts.append((who, "".join(traceback.format_exception(thing))))
                self._texts.append((who, str(vars(thing))))
            if isinstance(thing, grpc.RpcError):
                self._texts.append((who, f"{thing.details()} {thing.trailing_metadata()}"))

    @contextlib.contextmanager
    def raising(self, who: str, *kinds: type[BaseException]) -> Iterator[None]:
        """The block raises one of these."""
        with pytest.raises(kinds) as caught:
            yield
        self.by(who, caught.value)

    @property
    def who(self) -> set[str]:
        return {who for who, _ in self._texts}

    def told_on(self) -> list[str]:
        """Who gave a secret away, and the words around it."""
        return sorted(
            f"{who}: …{text[max(0, text.index(MARK) - 60) : text.index(MARK) + 40]}…"
            for who, text in set(self._texts)
            if MARK in text
        )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Nothing may be given away: in what the test notes, in the logs at DEBUG, on the process's output."""
    caplog.set_level(logging.DEBUG)
    said = Said()
    yield said
    said.by("logs", *caplog.messages, *(record.__dict__ for record in caplog.records), caplog.text)
    said.by("output", *capfd.readouterr())
    assert len(said.who) > 4, "nothing was noted"
    assert said.told_on() == []


@pytest.fixture
def guarded(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ConsulAgent, Fleet, LyingProxy]]:
    """An agent that wants the marked token, a service on it, and a proxy before it."""
    forget_the_machine(monkeypatch, tmp_path / "cache")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", TOKEN)
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(ConsulAgent(consul_bin, tmp_path, hcl=[ACLS], token=TOKEN))
        fleet = stack.enter_context(Fleet(agent))
        proxy = stack.enter_context(lying_proxy(agent.http_port))
        fleet.add("old")
        fleet.document(DOCUMENT)
        yield agent, fleet, proxy


def test_the_mesh_keeps_its_secrets(guarded: tuple[ConsulAgent, Fleet, LyingProxy], said: Said, tmp_path: Path) -> None:
    """The token and the callers' metadata, in good times and bad: calls, status, explain, disk."""
    agent, fleet, proxy = guarded
    folder = tmp_path / "snapshot"
    with proxyless.connect(f"consul://{proxy.address}?snapshot={folder}") as mesh:
        echo = stub(mesh)
        assert echo.Unary(Request(), metadata=BEARER, timeout=5).served_by == "old"
        assert fleet.servers[0].metadata.items() >= dict(BEARER).items()
        for want in ("answer", "nobody", "nothing that is there"):
            with said.raising(f"a call that wants {want}", grpc.RpcError):
                echo.Unary(Request(), metadata=(*BEARER, ("x-want", want)), timeout=0.3)
            with said.raising("an asyncio call", grpc.RpcError):
                asyncio.run(_call(mesh, (*BEARER, ("x-want", want))))
        for hostile in (("authorization", f"{MARK}\n"), (f"X-{MARK.lower()}", "x"), ("te", MARK)):
            with said.raising("metadata that can't be sent", ValueError):
                echo.Unary(Request(), metadata=[hostile], timeout=5)
        known = mesh.explain("echo", METHOD, BEARER)
        said.by("explain", known, known.to_dict())
        fleet.document({"routes": [{"headers": {"set": {"authorization": f"{MARK}\n", "x": [MARK]}}}]})
        eventually(lambda: not clean(mesh))
        eventually(lambda: len(list(folder.glob("*/*"))) == 2)
        for lie in (echoing, failing, resetting):
            proxy.lie = lie
            agent.put_kv("proxyless/v1/mesh", lie.__name__)  # what is being read is answered, by the lie
            eventually(lambda: mesh.status()["stale"])
            said.by("status", mesh.status(), json.dumps(mesh.status()))
            proxy.lie = honest
            eventually(lambda: not mesh.status()["stale"], within=10)
        said.by(
            "repr",
            mesh,
            mesh.channel("echo"),
            mesh.aio_channel("echo"),
            mesh.source,
            mesh._feed,
            mesh._feed.loop,
            mesh._feed._cache,
        )
        said.by(
            "attributes", *(vars(one) for one in (mesh, mesh._feed, mesh._feed.loop, mesh.source, mesh._feed._saver))
        )
        said.by("disk", *(str(path) for path in folder.rglob("*")))
        said.by("disk", *(path.read_text() for path in folder.glob("*/*")))
        assert called(echo) == "old"
    assert proxy.tokens == {TOKEN}


async def _call(mesh: proxyless.Mesh, metadata: Any) -> None:
    async with mesh.aio_channel("echo") as channel:
        await echo_pb2_grpc.EchoStub(channel).Unary(Request(), metadata=metadata, timeout=0.3)


def test_a_token_in_the_wrong_place_is_refused_and_not_repeated(said: Said, tmp_path: Path) -> None:
    """In the URL, in a file that everybody can read or that holds more than a token, with a newline."""
    for url in (
        f"consul://{MARK}@127.0.0.1",
        f"consul://me:{MARK}@127.0.0.1:1",
        f"consul://127.0.0.1:1?token={MARK}",
        f"consul://127.0.0.1:1?acl_token={MARK}&prefix=x",
        f"consul://127.0.0.1:{MARK}",
    ):
        with said.raising(f"connect {url.replace(MARK, '*')}", proxyless.ConfigError):
            proxyless.connect(url)
    (file := tmp_path / "token").write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    for content in (TOKEN, f"token = {TOKEN}", f"{TOKEN}\n{TOKEN}", ""):
        file.write_text(content)
        with proxyless.connect(f"consul://127.0.0.1:1?token_file={file}&snapshot=off", services=["echo"]) as mesh:
            eventually(lambda: mesh.status()["stale"])
            said.by(f"a file with {content.replace(TOKEN, '*')!r}", mesh, mesh.status())


def test_servers_and_writers_keep_the_token(guarded: tuple[ConsulAgent, Fleet, LyingProxy], said: Said) -> None:
    """`register`, and what reads and writes documents: served, refused, lied to, not answered."""
    _, fleet, proxy = guarded
    url = f"consul://{proxy.address}"
    other = ConsulSettings.parse(url, {"CONSUL_HTTP_TOKEN": f"{MARK}-other"})
    own = ConsulSettings.parse(url, {"CONSUL_HTTP_TOKEN": TOKEN})
    with proxyless.connect(f"{url}?snapshot=off") as mesh, KvStore(own) as store:
        server = fleet.start("registered")
        here = partial(proxyless.register, service="echo", address="127.0.0.1", mesh=mesh, drain=0, grace=0)
        registration = here(server.grpc, port=server.port)
        assert registration.ready(5.0)
        said.by("register", registration, vars(registration))
        said.by("store", store, store.settings, store.documents(), store.write([Change("mesh", b"{}")]))
        with KvStore(other) as refused, said.raising("a store with an unknown token", Unanswered):
            refused.documents()
        proxy.lie = echoing
        with said.raising("a store lied to", Unanswered):
            store.documents()
        with said.raising("a store lied to", Unanswered):
            store.write([Change("services/x", b"{}")])
        lied_to = here(fleet.start("lied to").grpc, port=1)
        assert not lied_to.ready(0.3)
        proxy.lie = resetting
        with said.raising("a store without an answer", Unanswered):
            store.documents()
        for one in (registration, lied_to):
            one.close()
        said.by("register", registration, lied_to)


@pytest.mark.parametrize("consul_is", ["well", "refusing the token", "echoing", "dead"])
def test_the_commands_keep_the_token(
    guarded: tuple[ConsulAgent, Fleet, LyingProxy],
    said: Said,
    consul_is: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of them, whatever comes of it, and in both formats where something does."""
    agent, fleet, proxy = guarded
    address = agent.address if consul_is == "dead" else proxy.address
    fleet.split(1, 1)
    (file := tmp_path / "new.yaml").write_text("service: new\nroutes: [{name: a}]\n")
    if consul_is == "refusing the token":
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", f"{MARK}-other")
    elif consul_is == "echoing":
        proxy.lie = echoing
    elif consul_is == "dead":
        agent.kill9()
    codes = set()
    for command in (
        "status",
        "services",
        "routes echo",
        "endpoints echo",
        f"explain echo {METHOD} -H authorization={MARK}-caller",
        "get echo",
        "get",
        f"diff -f {file}",
        f"apply -f {file}",
        "delete new --yes",
        f"validate -f {file}",
    ):
        for output in ("table", "json") if consul_is == "well" else ("table",):
            words = [*command.split(), *(["-o", output] if command != "get echo" else [])]
            if not command.startswith("validate"):
                words += ["--source", f"consul://{address}?snapshot=off"]
            result = call(*words)
            codes.add(result.exit_code)
            said.by(f"{command.split()[0]} {output}", result.output, result.stderr, result.exception)
    assert 2 not in codes
    assert (3 in codes) == (consul_is != "well")
