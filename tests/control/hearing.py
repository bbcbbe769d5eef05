"""A source that says what the test says, and a loop that listens to it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from proxyless.control import SERVICES, RawDocument, Sink
from proxyless.control.compiler import Compiler
from proxyless.control.loop import Loop
from proxyless.control.standing import Here
from proxyless.model.snapshot import Snapshot
from proxyless.model.topology import Endpoint, Watched
from proxyless.policy.balancers import BALANCERS
from proxyless.script import Outcome, Send
from proxyless.stack import ENTRY, compose
from proxyless.state import Nodes
from tests.fakes import FakeClock, Told, play
from tests.worlds import rpc

GONE = "routes: [{directResponse: {status: NOT_FOUND, message: %s}}]"
"""A document whose route answers by itself, so that documents can be told apart."""


def raw(key: str, text: str, version: str = "1") -> RawDocument:
    """A document as Consul would hold it."""
    return RawDocument(key, text, version, f"kv/{key}")


class Spoken:
    """A source without a voice of its own: it remembers what was asked of it."""

    name = "spoken"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known: dict[Watched, tuple[Endpoint, ...]] = {}
        self.sink: Sink | None = None

    def start(self, sink: Sink) -> None:
        self.sink = sink

    def watch(self, watched: Watched) -> None:
        """Answers at once where it has an answer, as a file does."""
        self.asked.append(f"watch {watched}")
        if watched in self.known and self.sink is not None:
            self.sink.endpoints(watched, self.known[watched])

    def unwatch(self, watched: Watched) -> None:
        self.asked.append(f"unwatch {watched}")

    def close(self) -> None:
        """Nothing to stop."""

    def status(self) -> Mapping[str, Any]:
        return {}


class Hearing:
    """A loop with all that it needs; `said` are its documents, by key."""

    def __init__(self, *wanted: str) -> None:
        self.source, self.clock, self.told = Spoken(), FakeClock(), Told()
        self.nodes = Nodes(Send, lambda *_told: None, self.clock)
        self.published: list[Snapshot] = []
        self.compiler = Compiler(self.nodes, compose, BALANCERS, Here(), random.Random(1).random)
        self.loop = Loop(self.source, self.compiler, self.published.append, self.told, self.clock)
        self.source.start(self.loop)
        self.said: dict[str, RawDocument] = {}
        for service in wanted:
            self.loop.want(service)

    @property
    def snapshot(self) -> Snapshot:
        """What calls read now."""
        return self.published[-1]

    def says(self, **documents: str | None) -> Hearing:
        """Some documents change (`web="routes: []"`, `mesh=...`), None being deleted; all are told."""
        for name, text in documents.items():
            key = name if name == "mesh" else SERVICES + name
            if text is None:
                self.said.pop(key, None)
            else:
                self.said[key] = raw(key, text, version=str(len(self.published) + 1))
        self.loop.documents(dict(self.said))
        return self

    def lives(self, service: str, *addresses: str) -> Hearing:
        """Where a service runs."""
        self.loop.endpoints(Watched(service), tuple(Endpoint(address) for address in addresses))
        return self

    def call(self, service: str = "web", **fields: Any) -> tuple[list[str], Outcome]:
        """One call as of now."""
        return play(ENTRY, rpc(self.snapshot, service=service, **fields))

    def errors(self) -> dict[str, list[str]]:
        """The rejected documents and why, as `Mesh.status()` has it."""
        return {d["document"]: d["errors"] for d in self.loop.status()["documents"] if not d["accepted"]}


def answer(hearing: Hearing, service: str = "web") -> str:
    """The message that the route of a service answers with."""
    return hearing.call(service)[1].details.rpartition(": ")[2]
