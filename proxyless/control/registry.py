"""The local Consul agent as a registry: one instance goes in, is looked up, and is taken out again.

py-consul does the talking; it is imported with the first question, for its import alone takes 130 ms and the
questions are asked by a thread that nobody waits for. Every failure is an OSError or a ValueError whose text is
for people and never holds the token.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from proxyless.control.consul_settings import ConsulSettings
from proxyless.model.instance import Instance

if TYPE_CHECKING:
    from proxyless.control.consul_http import ConsulClient
    from proxyless.control.watcher import Answer

CHECK_TIMEOUT: Final = "2s"
"""For one health check. A server that needs longer to say that it serves is not serving."""

REAP_AFTER: Final = "1m"
"""How long an instance that died without a word stays listed as critical; Consul takes no less than a minute."""

ANSWER_WITHIN: Final = 3.0
"""Seconds for an answer: the agent is on this machine, and an exiting server waits for it."""

_ELSEWHERE: Final = "192.0.2.1"
"""TEST-NET-1 (RFC 5737): an address that is on no machine and so shows the way out of this one."""


class Registry:
    """The agent that `settings` name. For one thread, and another that may close it.

    `interval` is the time in seconds between two of Consul's health checks, which takes at least a second.
    """

    def __init__(self, settings: ConsulSettings, *, interval: float = 10.0) -> None:
        self.name = settings.name
        self._settings = settings
        self._interval = interval
        self._opened: ConsulClient | None = None
        # Only what is configured: a Consul without namespaces refuses both.
        place = (("ns", settings.ns), ("partition", settings.partition))
        self._place = [(name, value) for name, value in place if value]

    def address(self) -> str:
        """Where this machine can be reached: the address that the local agent advertises for it.

        An agent that is not on this machine, or won't say, has no say; then it is the address from which our
        packets leave.
        """
        if self._settings.local:
            answer = self._read("agent/self")
            if answer.status == 200:
                member = json.loads(answer.body).get("Member") or {}
                if advertised := member.get("Addr"):
                    return str(advertised)
        return _outbound(_ELSEWHERE if self._settings.local else self._settings.host, self._settings.port)

    def register(self, instance: Instance, *, passing: bool) -> None:
        """Enter `instance`, or replace its entry; `passing` is what its health counts as until Consul has asked.

        Consul keeps a check's status when the entry is replaced, whatever the new one says. So an entry that
        counts as failing (a predecessor's that crashed at this address) is taken out first.
        """
        from consul import Check

        if passing and self._status(instance.id) in ("warning", "critical"):
            self.deregister(instance.id)
        check = Check.grpc(
            f"{instance.target}/{instance.service}",
            f"{self._interval:g}s",
            timeout=CHECK_TIMEOUT,
            deregister=REAP_AFTER,
        )
        check["status"] = "passing" if passing else "critical"
        self._put(
            "register",
            lambda service: service.register(
                instance.service,
                service_id=instance.id,
                address=instance.address,
                port=instance.port,
                tags=list(instance.tags),
                meta=instance.labels,
                weights={"Passing": instance.weight, "Warning": instance.weight},
                check=check,
            ),
        )

    def has(self, id: str) -> bool:
        """Whether the agent knows the entry. One that was restarted may have forgotten it."""
        answer = self._read(f"agent/service/{quote(id, safe='')}")
        if answer.status not in (200, 404):
            raise OSError(self._refusal("look up", answer.status, answer.body.decode(errors="replace")))
        return answer.status == 200

    def deregister(self, id: str) -> None:
        """Take the entry out, if it is there."""
        self._put("deregister", lambda service: service.deregister(id))

    def close(self) -> None:
        """End what is being asked."""
        if self._opened is not None:
            self._opened.close()

    def _status(self, id: str) -> str:
        """passing, warning, critical, or "" for an entry that is not there or that the agent won't show."""
        answer = self._read(f"agent/health/service/id/{quote(id, safe='')}")
        return {200: "passing", 429: "warning", 503: "critical"}.get(answer.status, "")

    def _client(self) -> ConsulClient:
        if self._opened is None:
            from proxyless.control.consul_http import ConsulClient

            self._opened = ConsulClient(self._settings)
            # py-consul's own 30 s are more than an orchestrator gives a process to exit.
            self._opened.http.connections_timeout = ANSWER_WITHIN
        return self._opened

    def _read(self, path: str) -> Answer:
        from proxyless.control.watcher import Unanswered

        try:
            return self._client().read(path, self._place, ANSWER_WITHIN)
        except Unanswered as e:
            raise OSError(f"{self.name} does not answer: {e}") from None

    def _put(self, what: str, ask: Any) -> None:
        """One of py-consul's own methods of `agent.service`, with what it has no parameter for: the namespace."""
        from consul import ConsulException
        from requests import RequestException

        client = self._client()
        client.http.place = self._place
        try:
            ask(client.agent.service)
        except ConsulException as e:
            raise OSError(self._refusal(what, 0, str(e))) from None
        except RequestException as e:
            raise OSError(f"{self.name} does not answer: {type(e).__name__}") from None

    def _refusal(self, what: str, status: int, said: str) -> str:
        try:
            token = self._settings.current_token()
        except ValueError:
            token = ""
        if token:
            said = said.replace(token, "<token>")
        right = "; the token needs service:write for it" if "ermission denied" in said else ""
        return f"{self.name} refuses to {what}: {f'{status} ' if status else ''}{said.strip()[:200]}{right}"


def _outbound(host: str, port: int) -> str:
    """The address from which packets to `host` would leave. A connected UDP socket knows; nothing is sent."""
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.connect(where)
        except OSError:
            raise OSError(f"no way leads from this machine to {host}; say register(address=…)") from None
        return str(probe.getsockname()[0])
