"""Where this process runs, asked of the agent beside it: for who was not told, and only once it matters.

A node's meta says its place by the same names as an instance's; the agent's datacenter is the region where none is
given. It needs `agent:read`; a token without that leaves the place unknown, and calls go everywhere alike.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Final

from proxyless.control.consul_documents import FORBIDDEN, OK
from proxyless.control.consul_http import ConsulClient
from proxyless.control.instances import Instances
from proxyless.control.watcher import Unanswered, over
from proxyless.model.findings import Invalid
from proxyless.model.topology import NOWHERE, Locality

AGAIN: Final = 5.0
"""Seconds until an agent that did not answer is asked again."""


class AgentPlace:
    """One thread that asks until it is answered; `tell` hears of it once."""

    def __init__(self, client: ConsulClient, tell: Callable[[Locality], None]) -> None:
        self._client, self._tell = client, tell
        self._stop = threading.Event()
        self.said = "not answered yet"
        """What came of it, for the status."""
        self.thread = threading.Thread(target=self._run, name="proxyless-place", daemon=True)

    def forked(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._stop = over()
        self._client.forked()

    def close(self) -> None:
        """End what is being read; the thread ends by itself."""
        self._stop.set()
        self._client.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._client.read("agent/self")
            except (Unanswered, OSError) as trouble:
                self.said = f"no answer: {trouble}"
            else:
                if answer.status == OK:
                    self._take(answer.body)
                    return
                self.said = f"the agent answered {answer.status}"
                if answer.status == FORBIDDEN:
                    self.said += "; it needs agent:read, or say it by connect(locality=...) or PROXYLESS_LOCALITY"
                    return
            self._stop.wait(AGAIN)

    def _take(self, body: bytes) -> None:
        try:
            told = json.loads(body)
            meta, datacenter = told.get("Meta") or {}, told["Config"]["Datacenter"]
            place = Instances(elsewhere=False).place(meta, datacenter)
        except (ValueError, KeyError, TypeError, AttributeError, Invalid) as wrong:
            self.said = f"what the agent says of itself is no place: {wrong}"
            return
        self.said = str(place) or "the agent names no place"
        if place != NOWHERE and not self._stop.is_set():
            self._tell(place)
