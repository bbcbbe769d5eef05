"""The URL of a Consul source and Consul's own environment: who wins, what is refused, what is never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxyless.control.consul_settings import ConsulSettings

SECRET = "5ec4e7-marked-token"


def parse(url: str = "consul://", **environ: str) -> ConsulSettings:
    return ConsulSettings.parse(url, environ)


def refusal(url: str = "consul://", **environ: str) -> str:
    with pytest.raises(ValueError, match=r"\w+") as caught:
        parse(url, **environ)
    return str(caught.value)


def test_nothing_said_is_the_local_agent() -> None:
    """Without a host and without an environment: the agent on this machine, any server may answer."""
    settings = parse()
    assert settings.name == "consul://127.0.0.1:8500"
    assert settings.prefix == "proxyless/v1"
    assert settings.stale
    assert settings.local
    assert settings.current_token() == ""


def test_every_parameter_has_its_place() -> None:
    """As in the README's one long example."""
    settings = parse(
        "consul+https://consul.example:8443?prefix=/shop/v2/&dc=dc2&ns=team&partition=p1&token_file=/run/t&stale=false"
        "&entries=false&snapshot=/var/lib/x"
    )
    assert settings == ConsulSettings(
        host="consul.example",
        port=8443,
        tls=True,
        prefix="shop/v2",
        dc="dc2",
        ns="team",
        partition="p1",
        token_file="/run/t",
        stale=False,
        snapshot="/var/lib/x",
    )
    assert settings.name == "consul+https://consul.example:8443"


@pytest.mark.parametrize(
    ("url", "address", "tls"),
    [
        ("consul://10.0.0.1:8501", "10.0.0.1:8501", False),
        ("consul://agent", "agent:8500", False),
        ("consul://agent/", "agent:8500", False),
        ("consul://[::1]:8500", "[::1]:8500", False),
        ("consul://[2001:db8::1]", "[2001:db8::1]:8500", False),
        ("consul+https://agent", "agent:8501", True),
        ("consul+https://", "127.0.0.1:8501", True),
    ],
)
def test_an_address_may_leave_out_its_port(url: str, address: str, tls: bool) -> None:
    """8500 plain and 8501 with TLS are Consul's own."""
    settings = parse(url)
    assert (settings.address, settings.tls) == (address, tls)


@pytest.mark.parametrize(
    ("given", "address", "tls"),
    [
        ("10.0.0.1:8501", "10.0.0.1:8501", False),
        ("10.0.0.1", "10.0.0.1:8500", False),
        ("localhost:8500", "localhost:8500", False),
        ("[::1]:8500", "[::1]:8500", False),
        ("[::1]", "[::1]:8500", False),
        ("::1", "[::1]:8500", False),
        ("http://agent:8500", "agent:8500", False),
        ("https://agent:8501/", "agent:8501", True),
        ("https://consul.example", "consul.example:443", True),
        ("http://consul.example", "consul.example:80", False),
        ("https://[2001:db8::1]:8501", "[2001:db8::1]:8501", True),
    ],
)
def test_the_environments_address_comes_in_many_forms(given: str, address: str, tls: bool) -> None:
    """With and without scheme and port; with a scheme it is a URL with a URL's port, as to Consul."""
    settings = parse(CONSUL_HTTP_ADDR=given)
    assert (settings.address, settings.tls) == (address, tls)


def test_an_explicit_value_wins_over_the_environment() -> None:
    """Address, namespace, partition and token."""
    settings = parse(
        "consul://a:1?ns=n1&partition=p1&token_file=/t1",
        CONSUL_HTTP_ADDR="b:2",
        CONSUL_NAMESPACE="n2",
        CONSUL_PARTITION="p2",
        CONSUL_HTTP_TOKEN=SECRET,
        CONSUL_HTTP_TOKEN_FILE="/t2",
    )
    assert (settings.address, settings.ns, settings.partition, settings.token_file) == (
        "a:1",
        "n1",
        "p1",
        "/t1",
    )
    assert settings.token == ""


def test_the_environment_fills_what_is_not_said() -> None:
    """All of Consul's variables; an empty one is none."""
    settings = parse(
        CONSUL_HTTP_ADDR="b:2",
        CONSUL_NAMESPACE="n2",
        CONSUL_PARTITION="p2",
        CONSUL_HTTP_TOKEN=SECRET,
        CONSUL_CACERT="",
    )
    assert (settings.address, settings.ns, settings.partition) == ("b:2", "n2", "p2")
    assert settings.current_token() == SECRET
    assert parse(CONSUL_HTTP_ADDR="", CONSUL_HTTP_TOKEN="") == ConsulSettings()


def test_the_process_environment_is_asked_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `connect()` does."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "10.9.9.9:1234")
    assert ConsulSettings.parse("consul://").address == "10.9.9.9:1234"


@pytest.mark.parametrize("url", ["consul://", "consul://agent:8500"])
@pytest.mark.parametrize("ssl", ["true", "1", "TRUE"])
def test_tls_that_the_environment_asks_for_is_never_given_up(url: str, ssl: str) -> None:
    """Consul's own clients don't either (api/api.go): a token would go over the wire in clear."""
    assert parse(url, CONSUL_HTTP_SSL=ssl).tls
    assert parse(url, CONSUL_HTTP_SSL=ssl, CONSUL_HTTP_ADDR="http://b:2").tls
    assert not parse(url, CONSUL_HTTP_SSL="false").tls


def test_certificates_come_from_the_environment_and_only_with_tls(tmp_path: Path) -> None:
    """A path that can't be read is said at once; without TLS nobody looks."""
    (ca := tmp_path / "ca.pem").write_text("")
    (cert := tmp_path / "cert.pem").write_text("")
    (key := tmp_path / "key.pem").write_text("")
    environ = {
        "CONSUL_CACERT": str(ca),
        "CONSUL_CLIENT_CERT": str(cert),
        "CONSUL_CLIENT_KEY": str(key),
        "CONSUL_TLS_SERVER_NAME": "server.dc1.consul",
    }
    settings = parse("consul+https://a", **environ)
    assert (settings.ca_cert, settings.client_cert, settings.client_key) == (str(ca), str(cert), str(key))
    assert settings.server_name == "server.dc1.consul"
    assert parse("consul://a", **environ) == parse("consul://a")
    assert "CONSUL_CACERT names /nowhere" in refusal("consul+https://a", CONSUL_CACERT="/nowhere")
    assert "CONSUL_CLIENT_KEY" in refusal("consul+https://a", CONSUL_CLIENT_CERT=str(cert))
    assert "CONSUL_CLIENT_CERT" in refusal("consul+https://a", CONSUL_CLIENT_KEY=str(key))


@pytest.mark.parametrize(
    "url",
    [
        f"consul://{SECRET}@agent:8500",
        f"consul://user:{SECRET}@agent",
        f"consul://agent?token={SECRET}",
        f"consul://agent?Token={SECRET}&dc=dc1",
        f"consul://agent?dc=dc1&acl_token={SECRET}",
        f"consul+https://:{SECRET}@",
    ],
)
def test_a_token_in_the_url_is_refused_with_the_way_out(url: str) -> None:
    """URLs end up in process lists and logs; the message doesn't repeat it."""
    message = refusal(url)
    assert "token_file" in message
    assert "CONSUL_HTTP_TOKEN" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("consul://a?prefx=x", "did you mean 'prefix'?"),
        ("consul://a?datacenter=x", "known are prefix, dc"),
        ("consul://a?tokenfile=x", "did you mean 'token_file'?"),
        ("consul://a?entries=true", "not supported yet"),
        ("consul://a?stale=maybe", "must be true or false"),
        ("consul://a?dc=dc1&dc=dc2", "given twice"),
        ("consul://a?prefix=", "must not be empty"),
        ("consul://a?prefix=/", "path in KV"),
        ("consul://a?prefix=a/../b", "path in KV"),
        ("consul://a?prefix=a//b", "path in KV"),
        ("consul://a?dc=dc/1", "dc must be"),
        ("consul://a?ns=a%0Ab", "ns must be"),
        ("consul://a:0", "port"),
        ("consul://a:70000", "port"),
        ("consul://a:http", "port"),
        ("consul://a:", "port"),
        ("consul://[::1", "no URL"),
        ("consul://[nonsense]:1", "no URL|IPv6"),
        ("consul://a b:1", "must be host:port"),
        ("consul://a/kv/prefix", "neither a path"),
        ("consul://a#x", "neither a path"),
        ("http://a:8500", "must begin with consul://"),
        ("consul:a:8500", "neither a path"),
        ("", "must begin with consul://"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(url: str, says: str) -> None:
    """The nearest known name, the range, the form."""
    with pytest.raises(ValueError, match=says):
        parse(url)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("unix:///var/run/consul.sock", "unix socket"),
        ("ftp://a", "must begin with http://"),
        ("https://a/consul", "host:port"),
        ("a:b:c", "no valid port"),
        (f"http://x:{SECRET}@a:1", "credentials"),
    ],
)
def test_an_address_in_the_environment_that_cannot_be_used_is_named(address: str, says: str) -> None:
    """With the variable's name, for nobody typed it here."""
    message = refusal(CONSUL_HTTP_ADDR=address)
    assert "CONSUL_HTTP_ADDR" in message
    assert says in message
    assert SECRET not in message


def test_a_token_file_is_read_every_time(tmp_path: Path) -> None:
    """It can be replaced while we run, and wins over a token, as in Consul's own clients."""
    (path := tmp_path / "token").write_text("one\n")
    settings = parse(CONSUL_HTTP_TOKEN_FILE=str(path), CONSUL_HTTP_TOKEN=SECRET)
    assert settings.current_token() == "one"
    path.write_text("two")
    assert settings.current_token() == "two"


def test_a_token_file_without_a_token_is_an_error_and_not_no_token(tmp_path: Path) -> None:
    """Asked without a token Consul answers, with nothing in it: an empty file must not empty the mesh."""
    settings = parse(f"consul://a?token_file={tmp_path}/token")
    with pytest.raises(ValueError, match="can't be read: No such file"):
        settings.current_token()
    (tmp_path / "token").write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        settings.current_token()
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not text"):
        settings.current_token()


@pytest.mark.parametrize("token", [f"{SECRET}\nX-Evil: 1", f"{SECRET} two", f"{SECRET}é"])
def test_a_token_that_would_break_the_header_is_refused_unseen(tmp_path: Path, token: str) -> None:
    """Newlines smuggle headers; the message says where, not what."""
    assert SECRET not in refusal(CONSUL_HTTP_TOKEN=token)
    (path := tmp_path / "token").write_text(token)
    with pytest.raises(ValueError, match="characters that a token can't have") as caught:
        parse(f"consul://a?token_file={path}").current_token()
    assert SECRET not in str(caught.value)


def test_a_token_file_that_everybody_can_read_is_a_risk(tmp_path: Path) -> None:
    """It is named with what to do; a private one, a missing one and none are not."""
    (path := tmp_path / "token").write_text(SECRET)
    settings = parse(f"consul://a?token_file={path}")
    path.chmod(0o644)
    assert f"everybody on this machine can read the token file {path}" in settings.token_file_risk()
    path.chmod(0o640)
    assert settings.token_file_risk() == ""
    os.unlink(path)
    assert settings.token_file_risk() == ""
    assert parse().token_file_risk() == ""


def test_settings_never_show_their_token() -> None:
    """Neither printed nor formatted, nor in the name."""
    settings = parse(CONSUL_HTTP_TOKEN=SECRET)
    assert SECRET not in f"{settings!r} {settings} {settings.name}"
