"""Endpoints out of Consul's health endpoint: how much of an answer is believed, above all an empty one.

`[]` is what Consul says when the last instance is deregistered, and also when the token may no longer see the
service or its nodes, when the agent was restarted a second ago, and when a node flaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from proxyless.control.consul_documents import FORBIDDEN, OK, Ask
from proxyless.control.instances import Instances
from proxyless.control.vanishing import LATER, SOON, UNTIL_IT_MOVES, Stragglers, Vanishing
from proxyless.control.watcher import Answer, News, Unanswered
from proxyless.model.topology import Endpoint


class Endpoints:
    """What is believed of the answers to one watch on `service`; `tell` hears of it, and of what was dropped.

    `elsewhere` is asked once, before the first answer is read: whether the service is in another datacenter.
    `doubt` says what is not believed at present, or "".
    """

    def __init__(
        self,
        service: str,
        ask: Ask,
        tell: Callable[[Sequence[Endpoint], Sequence[str]], None],
        *,
        elsewhere: Callable[[], bool],
        hold: float,
        now: Callable[[], float],
    ) -> None:
        self._service = service
        self._ask, self._tell = ask, tell
        self._elsewhere = elsewhere
        self._instances: Instances | None = None
        self._known: Sequence[Endpoint] = ()
        self._vanishing = Vanishing(hold, now)
        self._stragglers = Stragglers(hold, now)
        self.doubt = ""

    @property
    def path(self) -> str:
        """Of the watch, below /v1/."""
        return _path(self._service)

    def assume(self, known: Sequence[Endpoint]) -> None:
        """An earlier process knew these: that they are gone takes as much to be believed as if we had."""
        self._known = known

    def take(self, news: News) -> float | None:
        """A `Deliver` of the watcher."""
        if news.answer.status != OK:
            raise Unanswered(f"Consul answered {news.answer.status} for {self.path}")
        if self._instances is None:
            self._instances = Instances(elsewhere=self._elsewhere())
        endpoints, dropped = self._instances.read(news.answer.body)
        if endpoints or dropped:
            broken = self._vanishing.broken(news)
            return self._some(endpoints, dropped, fragile=news.answer.fragile, broken=broken)
        if self._known:
            return self._none(news, self._instances)
        # Nobody was ever there, so nothing is lost: calls fail at once instead of waiting in vain.
        self._some([], [])
        self.doubt = hidden(self._service, self._ask)
        return None

    def _some(
        self, endpoints: list[Endpoint], dropped: list[str], *, fragile: bool = False, broken: bool = False
    ) -> float | None:
        self._vanishing.over()
        self.doubt = ""
        missing = {endpoint.address: endpoint for endpoint in self._known}
        for endpoint in endpoints:
            missing.pop(endpoint.address, None)
        stay = frozenset(missing)
        if fragile and missing:
            # A server without a leader: what it has is true, what it has not may be new to it.
            self.doubt = "instances are missing from the answer of a server without a leader; they stay"
        elif stay := self._stragglers.among(missing, broken=broken):
            self.doubt = f"{len(stay)} missing since Consul was restarted or away; they stay for a while"
        self._known = [*endpoints, *(missing[address] for address in missing if address in stay)]
        self._tell(self._known, dropped)
        return SOON if fragile and missing else self._stragglers.remaining()

    def _none(self, news: News, instances: Instances) -> float | None:
        self._vanishing.told(news)
        if grounds := self._impossible(news):
            self.doubt = f"no instance is listed any more, but {grounds}; they stay; {_grant(self._service)}"
            self._vanishing.impossible()
            return UNTIL_IT_MOVES
        sure = self._ask(self.path)
        if sure.status != OK:
            raise Unanswered(f"no instance is left, which Consul won't confirm: it answered {sure.status}")
        endpoints, dropped = instances.read(sure.body)
        if endpoints or dropped:
            return self._some(endpoints, dropped, fragile=sure.fragile, broken=not self._vanishing.grown)
        if why := hidden(self._service, self._ask):
            self.doubt = f"{why}; those that are known stay"
            self._vanishing.impossible()
            return LATER
        if left := self._vanishing.remaining():
            self.doubt = "no instance is listed any more, which may be a mistake; they stay for a while"
            return left
        return self._some([], [])

    def _impossible(self, news: News) -> str:
        """Why the answer can't mean that nobody is there, or ""."""
        if news.answer.headers.get("x-consul-results-filtered-by-acls") == "true":  # Consul 1.11 on
            return "the token is not shown all"
        if self._vanishing.unmoved(news):
            return "nobody was deregistered, the index is as before"
        return ""


def hidden(service: str, ask: Ask) -> str:
    """Why instances would not be shown to us if there were any, or "".

    Without service:read the discovery chain is refused; without node:read the catalog names the service.
    """
    if ask(f"discovery-chain/{quote(service, safe='')}").status == FORBIDDEN:
        return f"the token may not read the service {service}; {_grant(service)}"
    services = ask("catalog/services")
    if services.status == OK and service in _read(services, dict):
        again = ask(_path(service))
        if again.status == OK and _read(again, list):
            return ""  # somebody registered between the two answers: the next one tells
        return f"the service {service} has instances, but the token may not see them; {_grant(service)}"
    return ""


def _grant(service: str) -> str:
    read = '{ policy = "read" }'
    return f'it needs service "{service}" {read} and node_prefix "" {read}'


def _path(service: str) -> str:
    """All of them: `passing` would hide the warning ones, and wake as often."""
    return f"health/service/{quote(service, safe='')}"


def _read(answer: Answer, kind: type[Any]) -> Any:
    """What stands in an answer that is asked for beside the watch."""
    try:
        read = json.loads(answer.body)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, kind):
        raise Unanswered("what Consul says of its services is not what Consul says: is that really Consul?")
    return read
