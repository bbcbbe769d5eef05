"""How we learn: sources watch, dialects read, the compiler resolves, the loop publishes.

All of it runs on daemon threads of its own and may block; none of it is on the path of a call. Never put
here: anything that a call needs while it runs, anything that has heard of grpc or asyncio.

A source is anything that keeps a `Sink` told. Built in are Consul and files; a plug-in is any object with
the methods of `Source`, given to `connect(source=…)` or found through the entry points `proxyless.sources`
(there: a factory that takes the URL).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxyless.model.findings import Finding
from proxyless.model.topology import Endpoint, Watched

MESH_KEY = "mesh"
SERVICES = "services/"


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document as its source holds it: `key` is `mesh` or `services/<service>`, `version` the source's own."""

    key: str
    text: str | bytes = field(repr=False)
    version: str
    origin: str
    """Where a person would look for it: `consul:proxyless/v1/services/web`, `mesh.yaml#services.web`."""
    data: Any = field(default=None, repr=False)
    """Its content already read, where the document is a part of a larger text (then `text` is empty)."""
    lines: Mapping[tuple[str | int, ...], int] | None = None
    findings: tuple[Finding, ...] = ()
    """What the source itself found wrong with it; then it has no effect."""


class Sink(Protocol):
    """Who is told. Every method may be called from any thread, returns soon and never raises.

    Tell it without holding a lock that `Source.watch` or `unwatch` takes: it may ask for more while it is told.
    """

    def documents(self, documents: Mapping[str, RawDocument]) -> None:
        """These are all the documents there are, by key. Call it only with what can be believed."""

    def endpoints(self, watched: Watched, endpoints: Sequence[Endpoint]) -> None:
        """These are all the instances of `watched`, whatever their status. Only with what can be believed."""

    def dropped(self, watched: Watched, reasons: Sequence[str]) -> None:
        """One reason for every instance that was left out as malformed or forbidden."""

    def stale(self, watch: str, reason: str) -> None:
        """`watch` ("documents", or a service) is no longer being answered. Told once per outage."""

    def fresh(self, watch: str) -> None:
        """`watch` is answered (again), or what was suspicious of it is so no longer. Told once at first, and once
        after each outage or doubt."""

    def suspicious(self, watch: str, reason: str) -> None:
        """Something was said that is not believed, and so was not passed on. Told once per occasion."""


class Source(Protocol):
    """Where documents and endpoints come from. No method may block for long; `start` comes first.

    One that can find out where this process runs may have `locate(tell)`: `tell(Locality)` is called, from a thread of
    its own, if it does. One that does not believe at once that all is gone may also have `assume(documents,
    endpoints)`: it is told what calls go by already, from the disk, though the source itself has not spoken yet; or,
    in a forked child and before `start`, from its parent.
    """

    name: str
    """For people: `consul://127.0.0.1:8500`. Never with a token in it."""

    def start(self, sink: Sink) -> None:
        """Begin to watch the documents and keep `sink` told."""

    def watch(self, watched: Watched) -> None:
        """Also keep `sink` told of the endpoints of `watched`; asked for once each."""

    def unwatch(self, watched: Watched) -> None:
        """No longer."""

    def close(self) -> None:
        """Stop within 100 ms; nothing is told afterwards."""

    def status(self) -> Mapping[str, Any]:
        """For `Mesh.status()`: JSON-able, without secrets; one entry a watch with index and age."""
