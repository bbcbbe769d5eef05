"""How a process is looked into from outside: a unix socket of its own, what it answers there, and who asks.

Every process with a mesh listens on a socket in a folder that only its user may enter; `proxyless ps`, `status --pid`
and `tap` find it there and ask. One line of JSON each way, except for a tap, which is a line a call:

    {"ask": "about"}   {"ask": "status"}   {"ask": "tap", "service": "shop", "status": ["UNAVAILABLE"]}

Nobody asks as a rule, so all of it is one sleeping thread; `PROXYLESS_ADMIN=off` saves that too. Never put here:
anything that changes how the mesh behaves, anything that shows metadata, anything that a call waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from proxyless.script import Watcher


class Subject(Protocol):
    """What can be looked into: a mesh."""

    def summary(self) -> Mapping[str, Any]:
        """A few words, JSON-able and soon told."""

    def status(self) -> Mapping[str, Any]:
        """All that is known, JSON-able."""

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Show `watcher` every call; calling the result ends that."""


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether processes are to be looked into: unless PROXYLESS_ADMIN says off, no, false or 0."""
    return environ.get("PROXYLESS_ADMIN", "").strip().lower() not in ("off", "no", "false", "0")
