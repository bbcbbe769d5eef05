"""Which service a target means: what rules say, or what the target is called.

A target is what a program passes to `grpc.insecure_channel`: `milvus:19530`, `dns:///milvus:19530`,
`ipv4:10.0.0.1:80,10.0.0.2:80`, `unix:/run/x.sock`. Rules are read like targets, so that either way of writing
one finds the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxyless.errors import ConfigError

# "dns:[//authority/]host[:port]", "ipv4:address[:port][,…]", "ipv6:…" - grpc's naming.md. The others name no host.
_SCHEME = re.compile(r"(?:dns:(?://[^/]*/)?|ipv4:|ipv6:|passthrough:///)(?=.)")
_PORT = re.compile(r"(.+):[0-9]+")
# What Consul's DNS answers to: "[tag.]service.service[.dc][.domain]"; `.consul` is its domain unless configured.
_CONSUL_DNS = re.compile(r"(?:[^.]+\.)?([^.]+)\.service(?:\.[^.]+)?\.consul\.?")
_ONE_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")


def plain(target: Any) -> str:
    """`target` without the scheme that says how its name is resolved: with the mesh nobody resolves it."""
    text = target.decode("utf-8", "replace") if isinstance(target, bytes) else str(target)
    return _SCHEME.sub("", text, count=1)


def host(text: str) -> str:
    """`text` without its port."""
    found = _PORT.fullmatch(text)
    return found.group(1) if found and (found.group(1)[-1] == "]" or ":" not in found.group(1)) else text


def authority(target: Any) -> str | None:
    """The `:authority` that grpcio itself would send to `target`; None where that is nobody's name."""
    text = plain(target)
    if text.startswith(("unix:", "unix-abstract:", "vsock:")):
        return "localhost"
    return None if "," in text or "//" in text else text


def own_name(target: Any) -> str | None:
    """The service that `target` is called after, if it is called after any: `orders:50051`, or Consul's DNS name.

    No address and no other domain name: whoever says those means one host, not a service.
    """
    name = host(plain(target))
    found = _CONSUL_DNS.fullmatch(name)
    if found:
        return found.group(1)
    if name.lower() == "localhost" or name.isdigit() or not _ONE_LABEL.fullmatch(name):
        return None
    return name


class Rules:
    """`{"host:port or glob": "service"}`. An exact match wins; else the first glob, in the order given.

    In a glob `*` stands for any characters and `?` for one. A rule without a port holds for every port. Of a
    list of addresses each must be meant.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._exact: dict[str, str] = {}
        self._globs: list[tuple[re.Pattern[str], str]] = []
        if not isinstance(rules, Mapping):
            raise ConfigError(f'rules map targets to services, {{"host:port or glob": "service"}}; got {rules!r}')
        for pattern, service in rules.items():
            if not isinstance(pattern, str) or not pattern or not isinstance(service, str) or not service:
                raise ConfigError(
                    f'a rule maps a target to a service, "host:port or glob" to a name; got {pattern!r}: {service!r}'
                )
            text = plain(pattern)
            if "*" in text or "?" in text:
                self._globs.append((_glob(text), service))
            else:
                self._exact.setdefault(text, service)

    def service_of(self, target: Any) -> str | None:
        """The service that `target` means, None if no rule knows it."""
        text = plain(target)
        service = self._of(text)
        if service is None and "," in text:
            found = {self._of(part.strip()) for part in text.split(",")}
            return found.pop() if len(found) == 1 else None
        return service

    def _of(self, text: str) -> str | None:
        bare = host(text)
        service = self._exact.get(text) or self._exact.get(bare)
        if service is not None:
            return service
        for pattern, service in self._globs:
            if pattern.fullmatch(text) or pattern.fullmatch(bare):
                return service
        return None


def _glob(text: str) -> re.Pattern[str]:
    """Not `fnmatch`: to that the brackets of `[::1]:80` are a set of characters."""
    return re.compile("".join({"*": ".*", "?": "."}.get(c) or re.escape(c) for c in text), re.DOTALL)
