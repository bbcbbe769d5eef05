"""What the command line shows of a real Consul: its catalog, its silence, rights that it doesn't give."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyless
from tests.agent import ACL_HCL, ROOT_TOKEN, ConsulAgent
from tests.cli.invoking import call, forget_the_machine, timed

SHOP = "service: shop\nsubsets: {canary: {labels: {version: v2}}}\n"


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own settings."""
    forget_the_machine(monkeypatch, tmp_path / "cache")


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_document_at_a_place_that_nobody_reads_is_told(consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by hand, one letter beside: it has no effect, and `status` says so."""
    monkeypatch.setenv("PROXYLESS_SOURCE", f"consul://{consul.address}?prefix=slips/v1")
    consul.put_kv("slips/v1/service/web", "routes: []")
    status = call("status")
    assert status.exit_code == 0
    assert "No client reads: service/web" in status.stdout
    consul.put_kv("slips/v1/services/web", "routes: [{directResponse: {status: NOT_FOUND}}]")
    told = json.loads(call("status", "-o", "json").stdout)
    assert told["source"]["watches"]["documents"]["unread"] == ["service/web"]
    assert [document["document"] for document in told["documents"]] == ["services/web"]


def test_what_a_client_sees_comes_from_kv_and_catalog(
    consul: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """services, status, endpoints and explain, against the catalog; and where a service is down, why."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul.address)
    name = "half-down"
    for number, (label, state) in enumerate([("v1", "passing"), ("v2", "critical")]):
        consul.register(name, 9100 + number, meta={"version": label}, tags=["grpc"], status=state)
    document = (
        f"service: {name}\nsubsets: {{a: {{labels: {{version: v1}}}}, b: {{labels: {{version: v2}}}}}}\n"
        "routes: [{name: half, split: [{subset: a}, {subset: b}]}]\n"
    )
    assert call("apply", "-f", file(tmp_path, "x.yaml", document)).exit_code == 0

    listed = {one["service"]: one for one in json.loads(call("services", "-o", "json").stdout)}
    assert listed[name]["tags"] == ["grpc"]
    assert listed[name]["accepted"] is True
    assert listed["consul"]["document"] is None

    endpoints = call("endpoints", name)
    assert endpoints.exit_code == 1
    assert "127.0.0.1:9100" in endpoints.stdout
    why = (
        f"{name}/b has no endpoint that may be called; Consul's instances of {name}: 1 critical, 1 passing; "
        "of these, 1: its checks are critical"
    )
    assert why in endpoints.stderr
    status = call("status")
    assert (status.exit_code, why in status.stderr) == (1, True)
    assert f"Left out of {name}/b, 1: its checks are critical" in status.stdout
    made = json.loads(call("explain", name, "/a.B/C", "-o", "json").stdout)
    assert [one["address"] for one in made["endpoints"]] == ["127.0.0.1:9100"]


def test_why_a_destination_is_empty_is_said_as_it_is(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not "no instance" where there are some: a subset that chooses none, or a token that is not shown them."""
    document = "service: web\nsubsets: {b: {labels: {version: v2}}}\nroutes: [{split: [{subset: b}]}]\n"
    readable = 'key_prefix "proxyless/" { policy = "read" } '
    commands = (("status",), ("endpoints", "web"), ("explain", "web", "/a.B/C"))

    def said(rules: str) -> list[str]:
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", agent.create_token(rules))
        return [call(*command).output for command in commands]

    with ConsulAgent(consul_bin, tmp_path, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent:
        monkeypatch.setenv("PROXYLESS_SOURCE", f"consul://{agent.address}?snapshot=off")
        agent.register("web", 9300, meta={"version": "v1"})
        agent.put_kv("proxyless/v1/services/web", document)
        see = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
        for text in said(readable + see):
            assert "1 passing; none of them is in the subset b: see its labels or filter" in text
        for text in said(readable + 'service_prefix "" { policy = "read" }'):
            assert "the service web has instances, but the token may not see them; it needs" in text
        for text in said(readable):
            assert "the token may not read the service web; it needs" in text


def test_names_from_the_catalog_are_shown_as_text(consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may register a service chooses its name, and a terminal must not obey it."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul.address)
    consul.register("evil\x1b]0;x\x07", 9200)
    result = call("services")
    assert result.exit_code == 0
    assert "evil\\x1b]0;x\\x07" in result.stdout
    assert "\x1b" not in result.output


def test_rights_that_are_missing_are_named_and_no_token_is(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No right to read, none to write, a token nobody knows: exit code 3, what to grant, nothing written."""
    folder = tmp_path / "agent"
    folder.mkdir()
    with ConsulAgent(consul_bin, folder, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent:
        shop = file(tmp_path, "shop.yaml", SHOP)
        reader = agent.create_token('key_prefix "proxyless/v1/" { policy = "read" }')
        nobody = agent.create_token('key_prefix "elsewhere/" { policy = "read" }')
        unknown = "5ec7e700-0000-4000-8000-000000000009"
        monkeypatch.setenv("PROXYLESS_SOURCE", f"consul://{agent.address}")
        cases = [
            (reader, ("apply", "-f", shop), 'grant it key_prefix "proxyless/v1/" { policy = "write" }'),
            (nobody, ("get",), 'grant it key_prefix "proxyless/v1/" { policy = "read" }'),
            (nobody, ("status",), 'grant it key_prefix "proxyless/v1/" { policy = "read" }'),
            (unknown, ("get",), "the token is unknown, expired or may not read this"),
            (unknown, ("status",), "the token is unknown, expired or may not read this"),
            (unknown, ("delete", "shop", "--yes"), "the token is unknown, expired or may not read this"),
        ]
        for token, command, says in cases:
            monkeypatch.setenv("CONSUL_HTTP_TOKEN", token)
            result = call(*command)
            assert result.exit_code == 3, result.output
            assert says in result.stderr
            assert token not in result.output
        assert agent.get_kv("proxyless/v1/services/shop") is None
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", ROOT_TOKEN)
        assert call("apply", "-f", shop).exit_code == 0
        for command in (("status",), ("get", "shop"), ("services",), ("endpoints", "shop")):
            assert ROOT_TOKEN not in call(*command).output


def test_a_frozen_agent_is_shown_from_disk_and_said_to_be_silent(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier process wrote down, as clients have it; exit code 3, and nothing is written to it."""
    folder = tmp_path / "agent"
    folder.mkdir()
    with ConsulAgent(consul_bin, folder) as agent:
        source = f"consul://{agent.address}"
        monkeypatch.setenv("PROXYLESS_SOURCE", source)
        shop = file(tmp_path, "shop.yaml", SHOP)
        agent.register("shop", 9300)
        assert call("apply", "-f", shop).exit_code == 0
        with proxyless.connect(source, services=["shop"]) as mesh:
            assert mesh.ready("shop", timeout=5)
            time.sleep(1.3)  # the state goes to disk a second after it changed
        agent.pause()
        for command in (("status",), ("explain", "shop", "/a.B/C")):
            result = call(*command)
            assert result.exit_code == 3
            assert "127.0.0.1:9300" in result.stdout or "1 healthy" in result.stdout
            assert "is not answering: it has said nothing for 2 s" in result.stderr
            assert "this is what an earlier process wrote to disk" in result.stderr
        written, seconds = timed(lambda: call("apply", "-f", shop), within=3.0)
        assert seconds < 3.0
        assert written.exit_code == 3
        assert f"no state from {source}: no answer within 2.0 s" in written.stderr
        agent.cont()


def test_a_consul_that_answers_is_not_said_to_be_silent(consul: ConsulAgent, prefix: str) -> None:
    """One document names a datacenter that is not there: which one is said, and what to look at; the rest is shown."""
    consul.put_kv(f"{prefix}/services/lost", "discovery: {datacenter: dc9}")
    consul.put_kv(f"{prefix}/services/shop", "routes: []")
    result = call("status", "--source", f"consul://{consul.address}?prefix={prefix}")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[0].endswith("ANSWERS IN PART ONLY")
    assert "services/shop" in result.stdout
    assert "is not answering" not in result.stderr
    assert result.stderr == (
        f"note: consul://{consul.address} answers in part only: Consul answered 500 'No path to datacenter'; it knows "
        "no datacenter of that name, or has lost the way there: see `consul members -wan` (asked where lost@dc9 is)\n"
    )


@pytest.fixture
def no_consul() -> Iterator[str]:
    """The address of a web server that is not a Consul, and has nothing."""

    class NotFound(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_answer_that_is_not_consuls_is_not_taken_for_an_empty_kv(
    no_consul: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A web server's 404 would read as "no document", and apply would then create what is there already."""
    monkeypatch.setenv("PROXYLESS_SOURCE", f"consul://{no_consul}")
    for command in (("get",), ("status",), ("apply", "-f", file(tmp_path, "shop.yaml", SHOP))):
        result = call(*command)
        assert result.exit_code == 3
        assert "is that really Consul?" in result.stderr
