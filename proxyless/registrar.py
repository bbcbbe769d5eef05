"""`register()`: a server's health service, its entry in Consul and its end, put together.

Like mesh.py this composes: it hands the control plane's registry to the server side, neither of which knows
the other. It is not named after its function because `proxyless.register` is that function: a module of the
same name would take its place as soon as somebody imports it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.sources import default_url, factory
from proxyless.errors import ConfigError
from proxyless.model.findings import Finding, Invalid
from proxyless.model.instance import Instance
from proxyless.model.topology import NOWHERE, Locality
from proxyless.server.health import health_of
from proxyless.server.presence import Presence, Registry
from proxyless.server.registration import Registration

log = logging.getLogger("proxyless")


def register(
    server: grpc.Server | grpc.aio.Server,
    service: str,
    *,
    port: int,
    address: str | None = None,
    meta: Mapping[str, str] | None = None,
    tags: Sequence[str] | None = None,
    weight: int = 1,
    locality: str | None = None,
    mesh: Any = None,
    health: Any = None,
    drain: float = 0.5,
    grace: float = 10.0,
    interval: float = 10.0,
) -> Registration:
    """Make `server` an instance of `service` until the block ends: `with register(server, …):`.

    The server gets a health service, and Consul an entry with a gRPC check, as soon as the server answers: it
    may be started before or afterwards. Returns at once; a Consul that is down is asked again until it is
    there, and told again when it has forgotten. At the end, and on SIGTERM, the server leaves without failing
    a call: it is no longer healthy, its entry is removed, `drain` seconds pass in which whoever watches sends
    their calls elsewhere, then it stops with `grace` seconds for the calls it has. Where another process serves at
    the same port (workers, the successor in a restart) the entry is its, too, and stays.

    `port` is where the server listens. `address` is where others reach it; by default what the local Consul
    agent advertises for this machine, else the address its packets leave from. `meta` and `tags` become the
    endpoint's labels, `weight` its share among its kind, `locality` ("region/zone/subzone"; else the mesh's,
    else `PROXYLESS_LOCALITY`) its place. The Consul is that of `mesh`, else of `PROXYLESS_SOURCE`, else of
    `CONSUL_HTTP_ADDR`; with another kind of source nothing is registered. `health` is the server's own
    `HealthServicer` (of `grpc_health.v1.health`, or its `aio`) if it has one. `interval` seconds lie between
    two health checks. Raises ConfigError with all that is wrong.

    On asyncio use `async with`.
    """
    if not isinstance(server, (grpc.Server, grpc.aio.Server)):
        raise ConfigError(f"register(server=…) must be a grpc.server() or grpc.aio.server(), got {server!r:.80}")
    findings = [
        Finding(name, f"must be {least}, got {value!r:.40}")
        for name, value, least, fits in (
            ("drain", drain, "0 or more seconds", _at_least(drain, 0)),
            ("grace", grace, "0 or more seconds", _at_least(grace, 0)),
            ("interval", interval, "more than 0 seconds", _at_least(interval, 0.001)),
            ("tags", tags, "a list of words", not isinstance(tags, str)),
        )
        if not fits
    ]
    try:
        place = _locality(locality, mesh)
    except Invalid as wrong:
        place = NOWHERE
        findings += [Finding("locality", reason) for _, reason in wrong.problems]
    try:
        instance = Instance(
            service,
            port,
            address or "",
            dict(meta or {}),
            () if isinstance(tags, str) else tuple(tags or ()),
            weight,
            place,
        )
    except Invalid as wrong:
        findings += [Finding(field, reason) for field, reason in wrong.problems]
    if findings:
        raise ConfigError(f"register({service!r:.80}):", findings)
    try:
        settings, source = _source(mesh)
        its_health = health_of(server, health)
    except (ValueError, TypeError) as wrong:
        raise ConfigError(f"register({service!r}): {wrong}") from None
    presence = None
    if settings is None:
        log.info(
            "%s is not registered: %s is no registry; its health is served, and it drains at exit",
            service,
            source,
        )
    else:
        presence = Presence(instance, lambda: _registry(settings, interval), interval=interval)
    return Registration(server, service, its_health, presence, drain=drain, grace=grace)


def _at_least(value: Any, least: float) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= least


def _locality(given: str | None, mesh: Any) -> Locality:
    if not given and mesh is not None:
        return mesh.locality  # type: ignore[no-any-return]
    return Locality.parse(given or os.environ.get("PROXYLESS_LOCALITY", ""))


def _source(mesh: Any) -> tuple[ConsulSettings | None, str]:
    """The Consul to register with, if the mesh's state comes from one, and the source's name. Raises
    ValueError."""
    if mesh is not None:
        source = mesh.source
        settings = getattr(source, "settings", None)
        return (settings if isinstance(settings, ConsulSettings) else None), source.name
    url = default_url()
    if url.partition(":")[0] in ("consul", "consul+https"):
        return ConsulSettings.parse(url), url
    factory(url)  # there is such a source
    return None, url


def _registry(settings: ConsulSettings, interval: float) -> Registry:
    from proxyless.control.registry import Registry as Consul  # py-consul: on the thread that needs it

    return Consul(settings, interval=interval)
