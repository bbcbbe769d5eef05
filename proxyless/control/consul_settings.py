"""Where Consul is and who we are to it: the URL of the source, and Consul's own environment variables.

What the URL says wins over the environment, with the one exception that Consul's own clients make too
(api/api.go): TLS that the environment asks for is never given up. A token has no place in a URL, which ends
up in process lists and logs.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlsplit

DEFAULT_PREFIX: Final = "proxyless/v1"
HTTP_PORT, HTTPS_PORT, HIGHEST_PORT = 8500, 8501, 65535

_PARAMETERS: Final = ("prefix", "dc", "ns", "partition", "token_file", "stale", "entries", "snapshot")
_TOKEN_NAMES: Final = ("token", "acl_token", "http_token", "x-consul-token")
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,126}[A-Za-z0-9_])?")
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}
_GO_TRUTHS: Final = {"1", "t", "T", "TRUE", "true", "True"}
_FORM: Final = "consul://host:port?prefix=proxyless/v1"


@dataclass(frozen=True, slots=True)
class ConsulSettings:
    """All that a client of one Consul has to know. Empty texts mean: as the agent has it."""

    host: str = "127.0.0.1"
    """A name or an address, IPv6 without brackets."""
    port: int = HTTP_PORT
    tls: bool = False
    prefix: str = DEFAULT_PREFIX
    dc: str = ""
    ns: str = ""
    partition: str = ""
    stale: bool = True
    """Let any server answer, not just the leader: as quick, and it survives the leader's loss."""
    token: str = field(default="", repr=False)
    token_file: str = ""
    """Read before every request, so a token can be replaced while we run. Wins over `token`, as in api.go."""
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""
    server_name: str = ""
    """The name in the agent's certificate, where it is not the host's."""
    snapshot: str = ""
    """The folder in which the last good state is kept."""

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """For people; never with a token in it."""
        return f"consul{'+https' if self.tls else ''}://{self.address}"

    @property
    def local(self) -> bool:
        """Whether the agent is on this machine, as it should be."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @classmethod
    def parse(cls, url: str = "consul://", environ: Mapping[str, str] | None = None) -> ConsulSettings:
        """Read a source URL; without a host it is the environment's. Raises ValueError, showing no secret."""
        env = {k: v for k, v in (os.environ if environ is None else environ).items() if v}
        _refuse_token(url)
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError(f"the source is no URL; write {_FORM}") from None
        if parts.scheme not in ("consul", "consul+https"):
            raise ValueError(f"the source must begin with consul:// or consul+https://, not {parts.scheme[:20]!r}")
        if parts.path not in ("", "/") or parts.fragment:
            raise ValueError(f"a Consul source has neither a path nor a #; the prefix is a parameter: {_FORM}")
        given = _parameters(parts.query)
        tls = parts.scheme == "consul+https"
        if parts.netloc:
            host, port = _host_port(parts.netloc, "the source")
        else:
            host, port, env_tls = _from_address(env.get("CONSUL_HTTP_ADDR", ""))
            tls = tls or env_tls
        tls = tls or env.get("CONSUL_HTTP_SSL", "") in _GO_TRUTHS
        if _truth(given, "entries", default=False):
            raise ValueError("entries=true (Consul's config entries) is not supported yet; leave it out")
        token_file = given.get("token_file", "")
        return cls(
            host=host,
            port=port or (HTTPS_PORT if tls else HTTP_PORT),
            tls=tls,
            prefix=_prefix(given.get("prefix", DEFAULT_PREFIX)),
            dc=_name(given.get("dc", ""), "dc"),
            ns=_name(given.get("ns") or env.get("CONSUL_NAMESPACE", ""), "ns"),
            partition=_name(given.get("partition") or env.get("CONSUL_PARTITION", ""), "partition"),
            stale=_truth(given, "stale", default=True),
            token="" if token_file else _token(env.get("CONSUL_HTTP_TOKEN", ""), "CONSUL_HTTP_TOKEN"),
            token_file=token_file or env.get("CONSUL_HTTP_TOKEN_FILE", ""),
            snapshot=given.get("snapshot", ""),
            **(_tls(env) if tls else {}),
        )

    def current_token(self) -> str:
        """The token for the next request; raises ValueError where the file has none.

        An empty file is one that is just being written. Asking without a token would be answered, with
        nothing in it.
        """
        if not self.token_file:
            return self.token
        try:
            with open(self.token_file, encoding="utf-8") as file:
                text = file.read(4096).strip()
        except (OSError, UnicodeError) as e:
            why = e.strerror if isinstance(e, OSError) else "it is not text"
            raise ValueError(f"the token file {self.token_file} can't be read: {why}") from None
        if not text:
            raise ValueError(f"the token file {self.token_file} is empty")
        return _token(text, f"the token file {self.token_file}")

    def token_file_risk(self) -> str:
        """Why the token file is not safe where it is, or ""."""
        try:
            mode = os.stat(self.token_file).st_mode if self.token_file else 0
        except OSError:
            return ""  # `current_token` says so when it matters
        if not mode & 0o004:
            return ""
        return f"everybody on this machine can read the token file {self.token_file}; chmod o-rwx it"


def _refuse_token(url: str) -> None:
    """Before anything is taken apart: no later message can show what is not accepted here."""
    before, _, query = url.partition("?")
    names = {pair.partition("=")[0].strip().lower() for pair in re.split("[&;]", query)}
    if "@" in before or names & set(_TOKEN_NAMES):
        raise ValueError(
            "a token must not be in the source URL, which ends up in process lists and logs; "
            "put it into a file and write ?token_file=PATH, or set CONSUL_HTTP_TOKEN"
        )


def _parameters(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _PARAMETERS:
            near = difflib.get_close_matches(key.lower(), _PARAMETERS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_PARAMETERS)}"
            raise ValueError(f"a Consul source has no parameter {key[:40]!r}: {hint}")
        if key in given:
            raise ValueError(f"{key} is given twice")
        if not value:
            raise ValueError(f"{key} must not be empty; leave it out for the default")
        given[key] = value
    return given


def _from_address(address: str) -> tuple[str, int, bool]:
    """CONSUL_HTTP_ADDR as host, port (0: the default) and whether it asks for TLS."""
    if not address:
        return "127.0.0.1", 0, False
    scheme, given, rest = address.partition("://")
    if not given:
        return (*_host_port(address.rstrip("/"), "CONSUL_HTTP_ADDR"), False)
    if scheme == "unix":
        raise ValueError("CONSUL_HTTP_ADDR is a unix socket, which is not supported; give the host:port")
    if scheme not in ("http", "https"):
        raise ValueError(f"CONSUL_HTTP_ADDR must begin with http:// or https:// or neither, not {scheme[:20]!r}")
    host, port = _host_port(rest.rstrip("/"), "CONSUL_HTTP_ADDR")
    # With a scheme it is a URL, and its port then the scheme's own: so Consul's clients read it.
    return host, port or (443 if scheme == "https" else 80), scheme == "https"


def _host_port(text: str, where: str) -> tuple[str, int]:
    """`host`, `host:port`, `[IPv6]:port` or a bare IPv6 address; port 0 where none is given."""
    if "@" in text:
        raise ValueError(f"{where} must not hold credentials; use a token file or CONSUL_HTTP_TOKEN")
    try:
        return str(ipaddress.IPv6Address(text)), 0
    except ValueError:
        pass
    host, colon, digits = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, digits = text, ""
    elif not (re.fullmatch("[0-9]{1,5}", digits) and 1 <= int(digits) <= HIGHEST_PORT):
        raise ValueError(f"{where} has no valid port after its host: it must be 1 to {HIGHEST_PORT}")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(digits or 0)
        except ValueError:
            raise ValueError(f"{where} has no valid IPv6 address between its brackets") from None
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise ValueError(f"{where} must be host:port, got {host[:60]!r}")
    return host, int(digits or 0)


def _prefix(text: str) -> str:
    prefix = text.strip("/")
    if not prefix or any(part in ("", ".", "..") for part in prefix.split("/")) or not prefix.isprintable():
        raise ValueError(f"prefix must be a path in KV such as {DEFAULT_PREFIX}, got {text[:60]!r}")
    return prefix


def _name(text: str, what: str) -> str:
    if text and not _NAME.fullmatch(text):
        raise ValueError(f"{what} must be letters, digits and inner - _, got {text[:60]!r}")
    return text


def _truth(given: Mapping[str, str], key: str, *, default: bool) -> bool:
    if key not in given:
        return default
    if given[key].lower() not in _TRUTHS:
        raise ValueError(f"{key} must be true or false, got {given[key][:20]!r}")
    return _TRUTHS[given[key].lower()]


def _token(text: str, where: str) -> str:
    token = text.strip()
    if not all("!" <= c <= "~" for c in token):
        raise ValueError(f"{where} holds characters that a token can't have: it is one word of printable ASCII")
    return token


def _tls(env: Mapping[str, str]) -> dict[str, str]:
    cert, key = env.get("CONSUL_CLIENT_CERT", ""), env.get("CONSUL_CLIENT_KEY", "")
    if bool(cert) != bool(key):
        there, missing = ("CERT", "KEY") if cert else ("KEY", "CERT")
        raise ValueError(f"CONSUL_CLIENT_{there} is set without CONSUL_CLIENT_{missing}; set both or neither")
    paths = {
        "CONSUL_CACERT": env.get("CONSUL_CACERT", ""),
        "CONSUL_CLIENT_CERT": cert,
        "CONSUL_CLIENT_KEY": key,
    }
    for name, path in paths.items():
        if path and not os.access(path, os.R_OK):
            raise ValueError(f"{name} names {path}, which can't be read")
    server_name = env.get("CONSUL_TLS_SERVER_NAME", "")
    return {
        "ca_cert": paths["CONSUL_CACERT"],
        "client_cert": cert,
        "client_key": key,
        "server_name": server_name,
    }
