"""A sink that remembers, and a source that tells it: what the tests of the Consul source stand on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from proxyless.control import RawDocument
from proxyless.control.consul import ConsulSource
from proxyless.control.consul_settings import ConsulSettings
from proxyless.model.topology import Endpoint, Watched

WAIT, HOLD = 2.0, 1.0
WEB = Watched("web")


class Recorder:
    """A sink that keeps what it is told, with the instant."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str, str, Any]] = []
        self._changed = threading.Condition()

    def documents(self, documents: Mapping[str, RawDocument]) -> None:
        self._add("documents", "documents", {key: raw.text for key, raw in documents.items()})

    def endpoints(self, watched: Watched, endpoints: Sequence[Endpoint]) -> None:
        self._add("endpoints", str(watched), [endpoint.address for endpoint in endpoints])

    def dropped(self, watched: Watched, reasons: Sequence[str]) -> None:
        self._add("dropped", str(watched), list(reasons))

    def stale(self, watch: str, reason: str) -> None:
        self._add("stale", watch, reason)

    def fresh(self, watch: str) -> None:
        self._add("fresh", watch, "")

    def suspicious(self, watch: str, reason: str) -> None:
        self._add("suspicious", watch, reason)

    def _add(self, kind: str, watch: str, what: Any) -> None:
        with self._changed:
            self.told.append((time.monotonic(), kind, watch, what))
            self._changed.notify_all()

    def all(self, kind: str, watch: str = "", since: float = 0.0) -> list[Any]:
        """Everything of this kind, for one watch or all."""
        return [what for at, k, w, what in list(self.told) if k == kind and watch in ("", w) and at >= since]

    def until(
        self,
        kind: str,
        is_it: Callable[[Any], bool],
        *,
        watch: str = "",
        since: float = 0.0,
        within: float = 15.0,
    ) -> float:
        """Wait until something of this kind was told, of one watch or any; the instant at which it was."""

        def find() -> float | None:
            told = (at for at, k, w, what in self.told if k == kind and watch in ("", w) and is_it(what))
            return next((at for at in told if at >= since), None)

        with self._changed:
            if not self._changed.wait_for(lambda: find() is not None, within):
                pytest.fail(f"no such {kind} within {within} s; told were {self.told[-6:]}")
            found = find()
        assert found is not None
        return found


@contextmanager
def following(
    address: str,
    *watched: Watched,
    query: str = "",
    wait: float = WAIT,
    environ: Mapping[str, str] | None = None,
) -> Iterator[tuple[ConsulSource, Recorder]]:
    """A source on that agent, and what it tells."""
    settings = ConsulSettings.parse(f"consul://{address}{query}", environ or {})
    source, sink = ConsulSource(settings, wait=wait, empty_hold=HOLD), Recorder()
    source.start(sink)
    for one in watched:
        source.watch(one)
    try:
        yield source, sink
    finally:
        source.close()


def mesh_is(text: str) -> Callable[[Any], bool]:
    return lambda documents: documents.get("mesh") == text


def is_empty(what: Any) -> bool:
    return not what
