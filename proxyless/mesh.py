"""The composition root: one source, one state, one stack; channels to open on them.

Everything that the rest of the package takes as an argument is handed out here: the clock, the dice, the
lists of balancers, where the source is. Nothing else in the library knows how the parts fit together.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import grpc

from proxyless import forks
from proxyless.admin import wanted
from proxyless.channel import aio_interceptors as aio_plain
from proxyless.channel import interceptors as plain
from proxyless.channel.aio import AioMeshChannel
from proxyless.channel.links import Links
from proxyless.channel.subchannel import Subchannels
from proxyless.channel.sync import MeshChannel
from proxyless.channel.timers import Timers
from proxyless.control import Source
from proxyless.control.compiler import Compiler
from proxyless.control.feed import Feed
from proxyless.control.soon import Soon
from proxyless.control.sources import Factory, default_url, factory, given
from proxyless.control.standing import Here, client_number
from proxyless.control.switches import switched_off
from proxyless.entrance import Entrance
from proxyless.errors import ConfigError
from proxyless.events import Observer, emitter, log_event, of_destination
from proxyless.model.findings import Invalid
from proxyless.model.snapshot import ClusterKey, Snapshot
from proxyless.model.topology import NOWHERE, Locality
from proxyless.otel.telemetry import Telemetry
from proxyless.policy.balancers import BALANCERS, Balancer
from proxyless.script import Send, Watcher
from proxyless.stack import ENTRY, compose
from proxyless.state import Nodes, SnapshotSlot

if TYPE_CHECKING:
    from proxyless.explain import Explanation


def connect(
    source: str | Source | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    locality: str | None = None,
    services: Sequence[str] | None = None,
    balancers: Mapping[str, Balancer] | None = None,
    tracer_provider: Any = None,
    meter_provider: Any = None,
    observers: Sequence[Observer] = (),
    admin: bool = True,
) -> Mesh:
    """Open the mesh. Returns at once; a source that is down is not an error.

    `source` is a URL (`consul://127.0.0.1:8500?prefix=proxyless/v1`, `file:mesh.yaml`), an object with the
    methods of `proxyless.control.Source`, or None for `PROXYLESS_SOURCE`, else the Consul agent that
    `CONSUL_HTTP_ADDR` names. `labels` and `locality` ("region/zone/subzone"; else `PROXYLESS_LOCALITY`)
    describe this process; where nobody says its locality, the agent is asked once a document wants to know.
    `services` are followed from now on instead of from their first channel. `balancers` adds to the balancers
    that documents may name. `tracer_provider` and `meter_provider` are OpenTelemetry's; default: the process's
    own, once it has some. With `admin` (and unless `PROXYLESS_ADMIN=off`)
    `proxyless ps`, `status --pid` and `tap` can look into this process. Raises ConfigError for what can't be meant.
    """
    if isinstance(services, str):
        raise ConfigError(f"connect(services={services!r}): it is a list of names; write [{services!r}]")
    try:
        here = Locality.parse(locality or os.environ.get("PROXYLESS_LOCALITY", "")) or NOWHERE
    except Invalid as wrong:
        raise ConfigError(f"connect(locality={locality!r}): {wrong}") from None
    try:
        make = factory(source or default_url()) if source is None or isinstance(source, str) else given(source)
    except ValueError as wrong:
        raise ConfigError(f"connect: {wrong}") from None
    telling = (tracer_provider, meter_provider)
    known = _all_balancers(balancers or {})
    mesh = Mesh(make, dict(labels or {}), here, known, [log_event, *observers], admin, telling)
    try:
        for service in services or ():
            mesh.want(service)
    except BaseException:
        mesh.close()
        raise
    return mesh


def _all_balancers(given: Mapping[str, Balancer]) -> dict[str, Balancer]:
    found = {entry.name: entry.load() for entry in entry_points(group="proxyless.balancers")}
    return {**BALANCERS, **found, **given}


class Mesh:
    """The mesh as this process sees it; made by `connect`. Safe to use from any thread and any event loop."""

    def __init__(
        self,
        make_source: Factory,
        labels: Mapping[str, str],
        locality: Locality,
        balancers: Mapping[str, Balancer],
        observers: Sequence[Observer],
        admin: bool = False,
        telling: tuple[Any, Any] = (None, None),
    ) -> None:
        self._make_source = make_source
        self.labels = labels
        """This process's own, as `connect` was told: what `sourceLabels` of a route are compared with."""
        self.locality = locality
        """Where this process runs, as it was told; `NOWHERE` if nobody did."""
        self._balancers = balancers
        self._admin = admin and wanted(os.environ)
        self._dice = random.Random()
        self._clock = time.monotonic
        self._slot = SnapshotSlot()
        self._timers = Timers()
        self._soon = Soon(self._timers.after, self._reconsider)
        self._nodes = Nodes(Send, self._tell, self._clock, self._soon)
        self._subchannels = Subchannels(self._timers)
        self._links = Links(
            slot=self._slot,
            subchannels=self._subchannels,
            timers=self._timers,
            entry=ENTRY,
            compose=compose,
            clock=self._clock,
            rng=self._dice.random,
            pause=time.sleep,
        )
        self._subchannels.users = self._links.channels
        self._entrance = Entrance(
            self._links.enter_by,
            start=lambda: self._start(self._slot.current.version),
            busy=self._nodes.busy,
            polled=lambda: self._subchannels.polled,
            renew=self._renew,
        )
        self._wanted: set[str] = set()
        self._lock = threading.RLock()
        self.closed = False
        """Whether `close` was called: then channels can't be made any more."""
        self._telemetry = Telemetry(*telling, self._entrance.watch, self._survey, self._timers.after)
        self._emit = emitter([*observers, self._telemetry.observe])
        self._start(version=0)
        self._telemetry.look()
        forks.join(self._entrance)

    def _start(self, version: int) -> None:
        self._timers.renew()  # since the fork gunicorn's gevent worker may have replaced what locks are made of
        source, cache = self._make_source()
        here = Here(self.locality, self.labels, client_number(os.environ, self._dice.random))
        off = switched_off(os.environ)
        compiler = Compiler(self._nodes, compose, self._balancers, here, self._dice.random, off)
        parent: Feed | None = getattr(self, "_feed", None)
        self._feed = Feed(source, cache, compiler, self._publish, self._emit, self._clock, self._timers.after, version)
        self._feed.start(self._wanted, parent, self._slot.current)
        if self._admin:
            from proxyless.admin.listener import LISTENER

            LISTENER.admit(self, os.environ)

    # -- channels

    def channel(
        self,
        service: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> MeshChannel:
        """A `grpc.Channel` to `service`, for any generated stub. Cheap: connections are made by the first calls.

        `credentials`, `options` and `compression` are those of grpcio and apply to every endpoint.
        """
        self.want(service)
        channel = MeshChannel(service, self._links, credentials, options, compression)
        self._links.join(channel)
        return channel

    def aio_channel(
        self,
        service: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
        interceptors: Sequence[Any] = (),
    ) -> AioMeshChannel:
        """A `grpc.aio.Channel` to `service`. It may be made outside of a loop and used from any."""
        self.want(service)
        channel = AioMeshChannel(service, self._links, credentials, options, compression, interceptors)
        self._links.join(channel)
        return channel

    interceptors = plain.interceptors
    aio_interceptors = aio_plain.aio_interceptors

    # -- knowing

    def want(self, service: str) -> None:
        """Follow `service` from now on. Channels do it by themselves."""
        if self.closed:
            raise ValueError("this mesh is closed: connect() again")
        self._entrance.awaken()
        if not service or not isinstance(service, str):
            raise ConfigError(f"a service has a name, got {service!r}")
        if service not in self._wanted:
            self._feed.follow(service)
            self._wanted.add(service)  # afterwards: what could not be done is tried again by the next channel

    @property
    def source(self) -> Source:
        """Where the mesh's state comes from; in a child that has been forked, its own."""
        self._entrance.awaken()
        return self._feed.source

    @property
    def snapshot(self) -> Snapshot:
        """What a call that begins now would go by."""
        return self._slot.current

    def restore(self) -> None:
        """Don't wait for a source that is silent: begin with what an earlier process wrote down, if one did."""
        self._feed.restore()

    def _publish(self, snapshot: Snapshot) -> None:
        self._subchannels.follow(snapshot)
        self._slot.publish(snapshot)
        for node in self._nodes.adopt(snapshot):
            node.retire(lambda node: self._subchannels.retire(node.address, self._nodes.needed))

    def _tell(self, what: str, key: ClusterKey, address: str, why: str) -> None:
        """Something changed on the data path, told by the call that changed it."""
        self._emit(of_destination(what, str(key), address, why))

    def _reconsider(self) -> None:
        self._feed.loop.reconsider()

    def ready(self, *services: str, timeout: float | None = None) -> bool:
        """Wait until routes and endpoints of `services` (default: all that are wanted) are known.

        Returns False when `timeout` seconds went by first, or the mesh was closed.
        """
        self._entrance.awaken()
        for service in services:
            self.want(service)
        wanted = services or tuple(self._wanted)
        return self._slot.wait(lambda: all(map(self._is_known, wanted)), timeout, self._clock)

    def _is_known(self, service: str) -> bool:
        table = self._slot.current.services.get(service)
        return table is not None and all(c.known for route in table.routes for c in route.clusters)

    def status(self) -> dict[str, Any]:
        """All that is known, JSON-able: documents with their verdicts, endpoints with their state, staleness."""
        self._entrance.awaken()
        from proxyless.overview import status_of

        here = self._feed.here
        return status_of(self._slot.current, self._feed.loop.status(), here.labels, here.locality, self._clock())

    def summary(self) -> dict[str, Any]:
        """The status in a few words, for `proxyless ps`."""
        self._entrance.awaken()
        from proxyless.overview import summary_of

        return summary_of(self._slot.current, self._feed.loop.status())

    def _survey(self) -> dict[str, Any]:
        if self._entrance.asleep:  # what there is to see is the parent's; and locks there may be held for ever
            return {}
        from proxyless.overview import survey

        return survey(self._slot.current, self._feed.loop.status(), self._clock())

    def explain(self, service: str, method: str, metadata: Any = ()) -> Explanation:
        """The decision for one request: route, why earlier ones did not match, split, endpoints, timeout.

        Pure: sends nothing and counts nothing. Waits up to 2 s for a service nobody has asked for before.
        """
        from proxyless.explain import explain

        self.ready(service, timeout=2.0)
        return explain(self._slot.current, service, method, metadata, self._clock())

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Show `watcher` every call that begins from now on (see `script.Watcher`); call the result to end that."""
        self._entrance.awaken()
        return self._entrance.watch(watcher)

    # -- ending

    def close(self, grace: float = 0.0) -> None:
        """Stop watching at once, give calls under way `grace` seconds, then close every connection."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        forks.leave(self._entrance)
        if not self._entrance.asleep:
            self._feed.close()
        if self._admin:
            from proxyless.admin.listener import LISTENER

            LISTENER.dismiss(self)
        self._links.close()
        self._slot.close()
        until = self._clock() + grace
        while self._clock() < until and self._nodes.busy(copies=False):
            time.sleep(0.005)
        for channel in self._links.channels():
            channel.end_calls()
        self._telemetry.close()
        self._subchannels.close()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Mesh {self._feed.source.name}: {self._slot.current!r}>"

    def _renew(self) -> None:
        """In a forked child: the parent's threads, locks and connections are of no use. Serve on with what is known."""
        self._lock = threading.RLock()
        self._feed.forked()
        self._slot.renew()
        self._timers.renew()
        self._soon.renew()
        self._subchannels.renew()
        self._nodes.renew()
        self._dice.seed()  # or all children would draw the parent's numbers
        for channel in self._links.channels():
            channel.forked()
        self._telemetry.renew()
