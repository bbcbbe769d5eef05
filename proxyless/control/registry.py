"""The local Consul agent as a registry: an instance is entered, looked up, and taken out again.

py-consul does the talking, over the transport of `consul_http`. Importing this file imports py-consul, which
takes 130 ms: whoever can, does it on a thread that nobody waits for. Every failure is an OSError or a
ValueError whose text is for people and never holds the token.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any, Final

from consul import Check, ConsulException
from requests import RequestException

from proxyless.control.consul_http import ConsulClient
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.watcher import Answer, Unanswered
from proxyless.model.instance import Instance

CHECK_TIMEOUT: Final = "2s"
"""For one health check. A server that needs longer to say that it serves is not serving."""

REAP_AFTER: Final = "1m"
"""How long an instance that died without a word stays listed as critical; Consul takes no less than a
minute."""

ANSWER_WITHIN: Final = 3.0
"""Seconds for an answer: the agent is on this machine, and an exiting server waits for it."""

_ELSEWHERE: Final = "192.0.2.1"
"""TEST-NET-1 (RFC 5737): an address that no machine has, and so shows the way out of this one."""

_STATUSES: Final = {200: "passing", 429: "warning", 503: "critical"}
"""How `/v1/agent/health/service/id/` says an entry's status: for load balancers that read nothing else."""


class _Client(ConsulClient):
    """py-consul's client, in the namespace and partition of `settings`, which its agent methods don't
    know."""

    def __init__(self, settings: ConsulSettings) -> None:
        # Only what is configured: a Consul without namespaces refuses both.
        place = (("X-Consul-Namespace", settings.ns), ("X-Consul-Partition", settings.partition))
        self._place = {header: value for header, value in place if value}
        super().__init__(settings)
        # py-consul's own 30 s are all that an orchestrator gives a process to exit.
        self.http.connections_timeout = ANSWER_WITHIN

    def prepare_headers(self, token: str | None = None) -> dict[str, str]:
        return {**super().prepare_headers(token), **self._place}


class Registry:
    """The agent that `settings` name. For one thread, and another that may close it.

    `interval` is the time in seconds between two of Consul's health checks; Consul makes it one second at
    least.
    """

    def __init__(self, settings: ConsulSettings, *, interval: float = 10.0) -> None:
        self.name = settings.name
        self._settings = settings
        self._interval = interval
        self._client = _Client(settings)

    def address(self) -> str:
        """Where this machine can be reached: the address that its agent advertises for it.

        An agent elsewhere knows its own address, not ours, and one that we have no right to ask says nothing.
        Then it is the address from which our packets leave.
        """
        if not self._settings.local:
            return _outbound(self._settings.host)
        answer = self._read("agent/self")
        if answer.status == 200:
            return str(json.loads(answer.body)["Member"]["Addr"])
        return _outbound(_ELSEWHERE)

    def register(self, instance: Instance, *, passing: bool) -> None:
        """Enter `instance`, or replace its entry; `passing` is what it counts as until Consul has checked.

        Consul keeps a check's status when an entry is replaced, whatever the new one says. So an entry that
        counts as failing (a predecessor's that crashed at this address) is taken out first.
        """
        if passing and self._status(instance.id) in ("warning", "critical"):
            self.deregister(instance.id)
        check = Check.grpc(
            f"{instance.target}/{instance.service}",
            f"{self._interval:g}s",
            timeout=CHECK_TIMEOUT,
            deregister=REAP_AFTER,
        )
        self._put(
            "register",
            lambda: self._client.agent.service.register(
                instance.service,
                service_id=instance.id,
                address=instance.address,
                port=instance.port,
                tags=list(instance.tags),
                meta=instance.labels,
                weights={"Passing": instance.weight, "Warning": instance.weight},
                check={**check, "status": "passing" if passing else "critical"},
            ),
        )

    def has(self, id: str) -> bool:
        """Whether the agent knows the entry. One that was restarted may have forgotten it."""
        answer = self._read(f"agent/service/{id}")
        if answer.status not in (200, 404):
            raise OSError(self._refusal("look up", f"{answer.status} {answer.body.decode(errors='replace')}"))
        return answer.status == 200

    def deregister(self, id: str) -> None:
        """Take the entry out, if it is there."""
        self._put("deregister", lambda: self._client.agent.service.deregister(id))

    def close(self) -> None:
        """End what is being asked; there is no asking afterwards."""
        self._client.close()

    def _status(self, id: str) -> str:
        """passing, warning, critical, or "" for an entry that is not there or not for us to see."""
        return _STATUSES.get(self._read(f"agent/health/service/id/{id}").status, "")

    def _read(self, path: str) -> Answer:
        try:
            return self._client.read(path, timeout=ANSWER_WITHIN)
        except Unanswered as e:
            raise OSError(f"{self.name} does not answer: {e}") from None

    def _put(self, what: str, ask: Callable[[], Any]) -> None:
        try:
            ask()
        except ConsulException as e:
            raise OSError(self._refusal(what, str(e))) from None
        except RequestException as e:
            raise OSError(f"{self.name} does not answer: {type(e).__name__}") from None

    def _refusal(self, what: str, said: str) -> str:
        if token := self._settings.current_token():
            said = said.replace(token, "<token>")  # whoever answers an error by showing the request
        right = "; its token needs service:write" if "ermission denied" in said else ""
        if "ACL not found" in said:
            right = "; its token is unknown or has expired"
        return f"{self.name} refuses to {what} it: {said.strip()[:200]}{right}"


def _outbound(host: str) -> str:
    """The address from which packets to `host` would leave. A connected UDP socket knows it; nothing is
    sent."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as e:
        raise OSError(f"no way leads from here to {host} ({e.strerror}); say register(address=…)") from None
