"""The Consul source and rights: tokens that are narrowed, deleted and replaced, and never shown; TLS."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

import pytest

from proxyless.control.consul_http import ConsulClient
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.watcher import Unanswered
from tests.agent import ROOT_TOKEN, ConsulAgent
from tests.consul.lying_proxy import echoing, late, lying_proxy
from tests.consul.recorder import HOLD, WAIT, WEB, following, is_empty, mesh_is

READ = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } '


def rewrite(agent: ConsulAgent, secret: str, rules: str) -> None:
    """Give the token's policy other rules."""
    (policy,) = agent.do("GET", "acl/token/self", token=secret).json()["Policies"]
    agent.do("PUT", f"acl/policy/{policy['ID']}", {"Name": policy["Name"], "Rules": rules})


def test_rights_that_are_taken_away_take_nothing_else_with_them(guarded: ConsulAgent) -> None:
    """A narrowed policy shows an empty catalog and KV: all stays and is said; given back, it goes on."""
    rules = READ + 'key_prefix "proxyless/" { policy = "read" }'
    token = guarded.create_token(rules)
    with following(guarded.address, WEB, wait=1.0, environ={"CONSUL_HTTP_TOKEN": token}) as (_, sink):
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        started = time.monotonic()
        rewrite(guarded, token, 'key_prefix "elsewhere/" { policy = "read" }')
        sink.until("suspicious", lambda reason: "may no longer read proxyless/v1/" in reason)
        sink.until("suspicious", lambda reason: "no instance is listed any more" in reason)
        guarded.register("web", 5002)
        guarded.put_kv("proxyless/v1/mesh", "new")
        time.sleep(HOLD + 1.0)
        assert len(sink.all("documents")) == len(sink.all("endpoints")) == 1
        rewrite(guarded, token, rules)
        sink.until("documents", mesh_is("new"))
        sink.until("endpoints", lambda addresses: len(addresses) == 2)
        assert sink.all("stale") == []
        assert len(sink.all("fresh", "documents", since=started)) == 1


def test_a_document_that_a_token_may_no_longer_read_stays_in_effect(guarded: ConsulAgent) -> None:
    """KV goes on showing the others, as if the one had been deleted; deleted it is when its right is back."""
    whole = READ + 'key_prefix "proxyless/" { policy = "read" }'
    token = guarded.create_token(whole)
    guarded.put_kv("proxyless/v1/services/web", "routes: []")
    with following(guarded.address, wait=1.0, environ={"CONSUL_HTTP_TOKEN": token}) as (_, sink):
        sink.until("documents", lambda documents: len(documents) == 2)
        rewrite(guarded, token, READ + 'key "proxyless/v1/mesh" { policy = "read" }')
        sink.until("suspicious", lambda reason: "may no longer read services/web" in reason)
        guarded.put_kv("proxyless/v1/mesh", "new")
        sink.until("documents", mesh_is("new"))
        assert all("services/web" in documents for documents in sink.all("documents"))
        guarded.delete_kv("proxyless/v1/services/web")
        rewrite(guarded, token, whole)
        guarded.put_kv("proxyless/v1/mesh", "newer")
        sink.until("documents", lambda documents: documents == {"mesh": "newer"})
        assert sink.all("stale") == []


def test_a_token_is_replaced_in_its_file_while_we_run(guarded: ConsulAgent, tmp_path: Path) -> None:
    """A deleted one is 403, which is an outage; the new one counts with the next attempt."""
    rules = READ + 'key_prefix "proxyless/" { policy = "read" }'
    (path := tmp_path / "token").write_text(token := guarded.create_token(rules))
    path.chmod(0o644)
    with following(guarded.address, WEB, query=f"?token_file={path}") as (_, sink):
        sink.until("suspicious", lambda reason: "everybody on this machine can read" in reason)
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        guarded.delete_token(token)
        for watch in ("documents", "web"):
            sink.until("stale", lambda reason: "403" in reason and "ACL not found" in reason, watch=watch)
        path.write_text(guarded.create_token(rules))
        guarded.put_kv("proxyless/v1/mesh", "new")
        sink.until("documents", mesh_is("new"), within=7.0)
        assert len(sink.all("endpoints")) == 1


def test_a_token_that_may_not_read_the_documents_is_an_outage_and_not_an_empty_mesh(
    guarded: ConsulAgent,
) -> None:
    """KV says 404 to it, as if there were none."""
    token = guarded.create_token(READ)
    with following(guarded.address, WEB, environ={"CONSUL_HTTP_TOKEN": token}) as (_, sink):
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        sink.until("stale", lambda reason: 'grant it key_prefix "proxyless/v1/"' in reason)
        assert sink.all("documents") == []


@pytest.mark.parametrize("rules", ['node_prefix "" { policy = "read" }', 'service_prefix "" { policy = "read" }'])
def test_a_service_that_may_not_be_seen_is_said_to_be(guarded: ConsulAgent, rules: str) -> None:
    """Without service:read or without node:read the list is empty; nobody waits, and the way out is named."""
    token = guarded.create_token(rules + ' key_prefix "proxyless/" { policy = "read" }')
    with following(guarded.address, WEB, environ={"CONSUL_HTTP_TOKEN": token}) as (_, sink):
        sink.until("endpoints", is_empty)
        sink.until("suspicious", lambda reason: 'service "web" { policy = "read" }' in reason)


def test_the_token_is_sent_and_never_shown(
    guarded: ConsulAgent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a log, a repr, the status, a reason or an exception; not even if a proxy shows it to us."""
    caplog.set_level(logging.DEBUG)
    token = guarded.create_token(READ + 'key_prefix "proxyless/" { policy = "read" }')
    with lying_proxy(guarded.http_port) as proxy:
        proxy_settings = ConsulSettings.parse(f"consul://{proxy.address}", {"CONSUL_HTTP_TOKEN": token})
        with following(proxy.address, WEB, environ={"CONSUL_HTTP_TOKEN": token}) as (source, sink):
            sink.until("documents", mesh_is("old"))
            proxy.lie = echoing
            sink.until("stale", lambda reason: "<token>" in reason, within=WAIT + 1)
            shown = [repr(source), str(source.status()), source.name, str(sink.told), repr(proxy_settings)]
        client = ConsulClient(proxy_settings)
        proxy.lie = late(10.0)
        with pytest.raises(Unanswered) as caught:
            client.read("kv/x", timeout=0.1)
        client.close()
        shown += [str(caught.value), repr(caught.value), repr(client), str(vars(client)), caplog.text]
    assert proxy.tokens == {token}
    assert [text for text in shown if token in text] == []


def test_py_consul_itself_works_over_our_transport(guarded: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading, writing, registering; CONSUL_HTTP_TOKEN does not beat the settings' token."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "not-this-one")
    settings = ConsulSettings.parse(f"consul://{guarded.address}", {"CONSUL_HTTP_TOKEN": ROOT_TOKEN})
    client = ConsulClient(settings)
    try:
        assert client.kv.put("proxyless/v1/services/web", "text", cas=0)
        assert client.kv.get("proxyless/v1/services/web")[1]["Value"] == b"text"
        assert client.agent.service.register("api", port=5003, address="127.0.0.1")
        assert client.catalog.service("api")[1][0]["ServicePort"] == 5003
    finally:
        client.close()
    with pytest.raises(Unanswered, match="closed"):
        client.read("status/leader")


# --- TLS


def test_tls_is_verified_with_the_agents_own_authority_and_name(consul_bin: str, tmp_path: Path) -> None:
    """CA, client certificate and server name from Consul's environment; where one is wrong, that one is named."""
    for folder in ("", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        run = [consul_bin, "tls"]
        subprocess.run([*run, "ca", "create"], cwd=tmp_path / folder, check=True, capture_output=True)
    for kind in ("-server", "-client"):
        subprocess.run([*run, "cert", "create", kind], cwd=tmp_path, check=True, capture_output=True)
    ca, cert = tmp_path / "consul-agent-ca.pem", "dc1-{}-consul-0"
    agent = ConsulAgent(consul_bin, tmp_path)
    agent.hcl = (
        f'ca_file = "{ca}"  cert_file = "{tmp_path / cert.format("server")}.pem"',
        f'key_file = "{tmp_path / cert.format("server")}-key.pem"  verify_incoming_https = true',
        f"ports {{ https = {agent.http_port + 1} }}",
    )
    environ = {
        "CONSUL_HTTP_ADDR": f"https://127.0.0.1:{agent.http_port + 1}",
        "CONSUL_CACERT": str(ca),
        "CONSUL_CLIENT_CERT": str(tmp_path / f"{cert.format('client')}.pem"),
        "CONSUL_CLIENT_KEY": str(tmp_path / f"{cert.format('client')}-key.pem"),
        "CONSUL_TLS_SERVER_NAME": "server.dc1.consul",
    }
    with agent:
        agent.put_kv("proxyless/v1/mesh", "sealed")
        with following("", environ=environ) as (source, sink):
            sink.until("documents", mesh_is("sealed"))
            time.sleep(0.1)
            closing = time.monotonic()
            source.close()
            assert time.monotonic() - closing < 0.1
        for wrong, says in (
            ({"CONSUL_CACERT": str(tmp_path / "other" / ca.name)}, "TLS failed: unable to get"),
            ({"CONSUL_CACERT": str(tmp_path / "other" / ca.name)}, "CONSUL_CACERT names a file with it"),
            ({"CONSUL_TLS_SERVER_NAME": "other.dc1.consul"}, "TLS failed: hostname mismatch"),
            ({"CONSUL_TLS_SERVER_NAME": "other.dc1.consul"}, "'; CONSUL_TLS_SERVER_NAME says which name it is for"),
            ({"CONSUL_CLIENT_CERT": "", "CONSUL_CLIENT_KEY": ""}, "the agent may want a certificate of ours"),
            ({"CONSUL_CLIENT_KEY": environ["CONSUL_CLIENT_KEY"].replace("client", "server")}, "is not the key of"),
            ({"CONSUL_HTTP_ADDR": f"https://127.0.0.1:{agent.http_port}"}, "speaks no TLS"),
        ):
            with following("", environ=environ | wrong) as (_, sink):
                sink.until("stale", lambda reason, says=says: says.lower() in reason.lower())  # type: ignore[misc]
                assert sink.all("documents") == []
