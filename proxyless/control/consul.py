"""Consul as the source: a watch on the documents in KV, and one on the health of each service that is called.

Each watch is a daemon thread with a client of its own, for a blocked read can only be ended by closing its
connection. What Consul says is passed on when it can be believed (`consul_documents`, `consul_endpoints`);
when to ask again is the watcher's business.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from proxyless.control import RawDocument, Sink
from proxyless.control.agent_place import AgentPlace
from proxyless.control.consul_documents import FORBIDDEN, OK, Documents
from proxyless.control.consul_endpoints import Endpoints
from proxyless.control.consul_http import ConsulClient
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.watcher import FLOORS, Answer, News, Unanswered, Watcher, over
from proxyless.model.topology import Endpoint, Locality, Watched

DOCUMENTS: Final = "documents"

CLOSE_WITHIN: Final = 0.08
"""A closed connection ends its read in less than 1 ms; only one that is being opened takes longer."""

Params = Sequence[tuple[str, str]]


class Belief(Protocol):
    """What of a watch's answers is passed on."""

    doubt: str

    @property
    def path(self) -> str: ...

    def take(self, news: News) -> float | None: ...

    def assume(self, known: Any) -> None: ...


class Watch:
    """One thread on one blocking query, and what the sink is told of how it goes."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        client: ConsulClient,
        params: Params,
        belief: Callable[[Watch], Belief],
        *,
        wait: float,
        now: Callable[[], float],
        rng: Callable[[], float],
    ) -> None:
        self.name = name
        self._sink, self._client, self._params = sink, client, params
        self._now = now
        self._stop = threading.Event()
        self._silent: bool | None = None  # None: not yet heard of
        self._doubt = ""
        self._answered_at: float | None = None
        self._last_error = ""
        self._last_contact = ""
        self._belief = belief(self)
        self._watcher = Watcher(
            self._get,
            self._belief.take,
            wait=wait,
            now=now,
            sleep=self._stopped,
            rng=rng,
            answered=self._answered,
            failed=self._failed,
        )
        self.thread = threading.Thread(target=self._watcher.run, name=f"proxyless-watch-{name}", daemon=True)

    @property
    def open(self) -> bool:
        return not self._stop.is_set()

    def _stopped(self, within: float) -> bool:
        return self._stop.wait(within)

    def assume(self, known: Any) -> None:
        """What was there when somebody last looked, if Consul has not said anything yet."""
        if self._answered_at is None:
            self._belief.assume(known)

    def forked(self) -> None:
        """In a forked child: the thread is the parent's. Where it is a greenlet it is here too, and ends by itself."""
        self._stop = over()
        self._client.forked()

    def close(self) -> None:
        """End what is being read; the thread ends by itself."""
        self._stop.set()
        self._client.close()

    def status(self) -> dict[str, Any]:
        at = self._answered_at
        return {
            "index": self._watcher.index,
            "age": None if at is None else round(self._now() - at, 3),
            "errors": self._watcher.failures,
            "last_error": self._last_error or None,
            "doubt": self._belief.doubt or None,
            **({"unread": list(unread)} if (unread := getattr(self._belief, "unread", ())) else {}),
            "last_contact_ms": self._last_contact or None,
        }

    def _get(self, params: Params, timeout: float) -> Answer:
        return self._client.read(self._belief.path, [*self._params, *params], timeout)

    def _answered(self, answer: Answer) -> None:
        self._answered_at = self._now()
        self._last_contact = answer.headers.get("x-consul-lastcontact", "")
        doubt = self._belief.doubt
        if self.open and (self._silent is not False or (self._doubt and not doubt)):
            # Also when a doubt is over: there is no other word for it, and it is as good as an answer.
            self._silent, self._doubt = False, ""
            self._sink.fresh(self.name)
        if self.open and doubt != self._doubt:
            self._doubt = doubt
            self._sink.suspicious(self.name, doubt)

    def _failed(self, reason: str) -> None:
        self._last_error = reason
        if self.open and not self._silent:
            self._silent = True
            self._sink.stale(self.name, reason)


class ConsulSource:
    """A `Source`. `wait` is how long the agent may hold a query, `empty_hold` how long everything has to be
    gone before that is believed; both in seconds."""

    def __init__(
        self,
        settings: ConsulSettings,
        *,
        wait: float = 30.0,
        empty_hold: float = 30.0,
        now: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self._wait, self._hold, self._now, self._rng = wait, empty_hold, now, rng
        self._sink: Sink | None = None
        self._lock = threading.RLock()  # the handler of a signal may close the source while this thread holds it
        self._watches: dict[Watched | None, Watch] = {}
        self._assumed: dict[Watched | None, Any] = {}
        """What was known before the source was started: what a forked child has from its parent."""
        self._closed = False
        self._agent_place: AgentPlace | None = None
        self._own_datacenter = ""
        self._pid = os.getpid()

    def start(self, sink: Sink) -> None:
        self._sink = sink
        if risk := self.settings.token_file_risk():
            sink.suspicious(DOCUMENTS, risk)
        self._add(None)

    def watch(self, watched: Watched) -> None:
        self._add(watched)

    def locate(self, tell: Callable[[Locality], None]) -> None:
        """Find out where this process runs: nobody said, and a document wants to know."""
        with self._lock:
            if self._closed or self._agent_place is not None:
                return
            self._agent_place = AgentPlace(ConsulClient(self.settings), tell)
            self._agent_place.thread.start()

    def unwatch(self, watched: Watched) -> None:
        with self._lock:
            watch = self._watches.pop(watched, None)
        if watch is not None:
            watch.close()

    def assume(self, documents: Mapping[str, RawDocument], endpoints: Mapping[Watched, Sequence[Endpoint]]) -> None:
        with self._lock:
            known: dict[Any, Any] = {None: documents, **endpoints}
            if self._sink is None:
                self._assumed = known
            watches = [(watch, known[watched]) for watched, watch in self._watches.items() if watched in known]
        for watch, what in watches:
            watch.assume(what)

    def forked(self) -> None:
        """See `Feed.forked`."""
        for watch in [*self._watches.values()]:
            watch.forked()
        if self._agent_place is not None:
            self._agent_place.forked()

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child has the locks and the connections, but not the threads
        with self._lock:
            self._closed = True
            watches: list[Watch | AgentPlace] = [*self._watches.values()]
            if self._agent_place is not None:
                watches.append(self._agent_place)
        for watch in watches:
            watch.close()
        deadline = time.monotonic() + CLOSE_WITHIN
        for watch in watches:
            if watch.thread is not threading.current_thread():  # closed from inside a sink
                watch.thread.join(max(0.0, deadline - time.monotonic()))

    def status(self) -> Mapping[str, Any]:
        with self._lock:
            watches = list(self._watches.values())
            place = self._agent_place
        asked = {} if place is None else {"place": place.said}
        return {"watches": {watch.name: watch.status() for watch in watches}, **asked}

    def _add(self, watched: Watched | None) -> None:
        with self._lock:
            if self._closed or watched in self._watches or self._sink is None:
                return
            watch = self._documents(self._sink) if watched is None else self._endpoints(watched, self._sink)
            if self._closed:  # by the handler of a signal, meanwhile
                return
            if watched in self._assumed:
                watch.assume(self._assumed[watched])
            watch.thread.start()  # first: where there are no more threads, it may be asked for again
            self._watches[watched] = watch
            self._assumed.pop(watched, None)  # it is of now, and of no use to who watches it again, later

    def _documents(self, sink: Sink) -> Watch:
        client = ConsulClient(self.settings)
        params = self._place(self.settings.dc)

        def belief(watch: Watch) -> Belief:
            def tell(documents: Mapping[str, RawDocument]) -> None:
                if watch.open:
                    sink.documents(documents)

            ask = _asking(client, params)
            return Documents(self.settings.prefix, ask, tell, hold=self._hold, now=self._now)

        own = [("recurse", ""), *params, *self._mode()]
        return Watch(DOCUMENTS, sink, client, own, belief, wait=self._wait, now=self._now, rng=self._rng)

    def _endpoints(self, watched: Watched, sink: Sink) -> Watch:
        client = ConsulClient(self.settings)
        datacenter = watched.datacenter or self.settings.dc
        params = self._place(datacenter)

        def belief(watch: Watch) -> Belief:
            def tell(endpoints: Sequence[Endpoint], dropped: Sequence[str]) -> None:
                if watch.open:
                    sink.dropped(watched, dropped)
                    sink.endpoints(watched, endpoints)

            def elsewhere() -> bool:
                return bool(datacenter) and self._is_elsewhere(datacenter, client)

            ask = _asking(client, params)
            return Endpoints(watched.service, ask, tell, elsewhere=elsewhere, hold=self._hold, now=self._now)

        own = [*params, *self._mode()]
        return Watch(str(watched), sink, client, own, belief, wait=self._wait, now=self._now, rng=self._rng)

    def _place(self, datacenter: str) -> list[tuple[str, str]]:
        """Only what is configured: a Consul without namespaces refuses `ns`."""
        place = (("dc", datacenter), ("ns", self.settings.ns), ("partition", self.settings.partition))
        return [(name, value) for name, value in place if value]

    def _mode(self) -> list[tuple[str, str]]:
        return [("stale", "")] if self.settings.stale else []

    def _is_elsewhere(self, datacenter: str, client: ConsulClient) -> bool:
        """Whether it is another than the agent's own. If we may not ask the agent, what is named is another."""
        if not self._own_datacenter:
            answer = client.read("agent/self")
            if answer.status == FORBIDDEN or (400 <= answer.status < 500 and answer.status not in FLOORS):
                return True
            # What passes, taken for a no, would send calls to WAN addresses for as long as we run.
            if answer.status != OK:
                raise Unanswered(f"the agent won't say its datacenter: it answered {answer.status}")
            try:
                self._own_datacenter = str(json.loads(answer.body)["Config"]["Datacenter"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise Unanswered("what the agent says of itself names no datacenter: is that really Consul?") from None
        return datacenter != self._own_datacenter


def _asking(client: ConsulClient, place: Params) -> Callable[..., Answer]:
    """Reads beside the watch, over its client, and never stale: they are asked to be sure."""

    def ask(path: str, *flags: str) -> Answer:
        return client.read(path, [*place, *((flag, "") for flag in flags)])

    return ask
