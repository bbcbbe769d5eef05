"""What a client with this source would see now: a mesh is connected, listened to for a moment, and closed.

Everything that a person is shown about the mesh comes from here, so it is by construction what a program
would get: same source, same compiler, same snapshot.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxyless.cli.failures import Misuse, Unreachable
from proxyless.cli.screen import note

if TYPE_CHECKING:
    from proxyless.mesh import Mesh
    from proxyless.model.snapshot import Snapshot

PATIENCE = 2.0
"""Seconds in which a source has to speak."""

FROM_DISK_WITHIN = 0.2
"""Once a source has failed: how long the mesh may take to find what an earlier process wrote down."""


@dataclass(frozen=True, slots=True)
class Address:
    """The URL of the source, and who named it."""

    url: str
    named_by: str

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @property
    def is_consul(self) -> bool:
        return self.scheme in ("consul", "consul+https")

    @property
    def path(self) -> Path:
        """Of a `file:` source."""
        return Path(self.url.partition(":")[2].removeprefix("//"))

    def __str__(self) -> str:
        """Fit to be shown: what may be a secret in a mistaken URL is left out."""
        start, _, rest = self.url.partition("://")
        if not rest:
            return self.url.partition("?")[0]
        return f"{start}://{rest.partition('?')[0].rpartition('@')[2]}"


def address(source: str | None) -> Address:
    """What is meant: --source, else PROXYLESS_SOURCE, else the Consul of CONSUL_HTTP_ADDR."""
    from proxyless.control.sources import default_url

    if source is not None:
        return Address(source, "--source")
    if os.environ.get("PROXYLESS_SOURCE"):
        return Address(default_url(), "PROXYLESS_SOURCE")
    return Address(default_url(), "CONSUL_HTTP_ADDR" if os.environ.get("CONSUL_HTTP_ADDR") else "")


@dataclass(frozen=True, slots=True)
class View:
    """What there was to see. `trouble` says why the source itself did not show all of it, or ""."""

    source: Address
    name: str
    status: Mapping[str, Any]
    snapshot: Snapshot
    trouble: str

    @property
    def services(self) -> list[str]:
        """Those that have a document."""
        return documented(self.status)

    @property
    def from_disk(self) -> bool:
        """Whether some of this is what an earlier process wrote down."""
        return bool(self.status["from_disk"])

    @property
    def in_part(self) -> bool:
        """Whether it does answer, and only what was asked about some service got no usable answer."""
        return bool(self.status["stale"]) and "documents" not in self.status["stale"] and not self.from_disk

    def end(self, findings: bool = False) -> int:
        """The exit code: what could not be asked weighs more than what was found."""
        if self.trouble:
            note(f"{self.name} {'answers in part only' if self.in_part else 'is not answering'}: {self.trouble}")
            if self.from_disk:
                note("this is what an earlier process wrote to disk; clients go on with the like")
            return 3
        return int(findings)


def documented(status: Mapping[str, Any]) -> list[str]:
    """The services that have a document, by the status of a mesh."""
    keys = [str(document["document"]) for document in status["documents"]]
    return sorted(key.removeprefix("services/") for key in keys if key.startswith("services/"))


def look(
    source: str | None,
    services: Sequence[str] = (),
    *,
    every: bool = False,
    labels: Mapping[str, str] | None = None,
) -> View:
    """Connect, wait until `services` (with `every`: all that there are) are known, and say what was seen.

    Raises Unreachable where there is nothing to see at all.
    """
    from proxyless.errors import ConfigError
    from proxyless.mesh import connect

    where = address(source)
    heard = threading.Event()
    until = time.monotonic() + PATIENCE
    try:
        mesh = connect(where.url, services=services, labels=labels, observers=[lambda _event: heard.set()], admin=False)
    except ConfigError as wrong:
        raise Misuse(_shown(str(wrong).removeprefix("connect: "), where), _named(where)) from None
    with mesh:
        spoke = _wait(mesh, (), until - PATIENCE / 2, heard)
        if not spoke:
            # It would ask the disk by itself for a service that is wanted; perhaps none is, yet.
            mesh.restore()
            spoke = _wait(mesh, (), until, heard)
        if spoke and every:
            services = _every(where, mesh.status())
            for service in services:
                mesh.want(service)
            if mesh.status()["from_disk"]:
                mesh.restore()  # the endpoints too, now that they are asked for
        complete = spoke and _wait(mesh, services, until, heard)
        status = mesh.status()
        snapshot = mesh.snapshot
    trouble = _trouble(status, complete)
    if not status["version"]:
        raise unreachable(where, trouble)
    return View(where, status["source"]["name"], status, snapshot, trouble)


def _every(where: Address, status: Mapping[str, Any]) -> list[str]:
    """Every service with a document; of a file, where they are few, those with endpoints alone too."""
    if where.scheme != "file":
        return documented(status)
    from proxyless.cli.files import endpoint_names

    return sorted({*documented(status), *endpoint_names(where.path)})


def _wait(mesh: Mesh, services: Sequence[str], until: float, heard: threading.Event) -> bool:
    """Until the documents and `services` are known: False when time is up, or the source has failed."""
    failed_at: float | None = None
    while True:
        heard.clear()
        if mesh.snapshot.version and mesh.ready(*services, timeout=0.0):
            return True
        now = time.monotonic()
        if failed_at is None and mesh.status()["stale"]:
            failed_at = now
        left = min(until, until if failed_at is None else failed_at + FROM_DISK_WITHIN) - now
        if left <= 0:
            return False
        heard.wait(min(left, 0.05))


def _trouble(status: Mapping[str, Any], complete: bool) -> str:
    stale = [
        entry["reason"] if watch == "documents" else f"{entry['reason']} (asked where {watch} is)"
        for watch, entry in status["stale"].items()
    ]
    if stale:
        return "; ".join(stale)
    if not complete or status["from_disk"]:
        return f"it has said nothing for {PATIENCE:g} s"
    return ""


def unreachable(where: Address, reason: str) -> Unreachable:
    """The failure that says which address did not answer, and what to check."""
    if where.is_consul:
        from proxyless.control.consul_settings import ConsulSettings

        settings = ConsulSettings.parse(where.url)
        scheme = "https" if settings.tls else "http"
        check = f"check that a Consul agent runs there: curl {scheme}://{settings.address}/v1/status/leader"
        if "token" in reason or "403" in reason:
            check = "the token comes from ?token_file=PATH, CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN"
        lost = "" if "written" in reason or "the write" in reason else "no state from "
        return Unreachable(f"{lost}{settings.name}: {reason}", check, _named(where))
    if where.scheme == "file":
        here = "" if where.path.is_absolute() else f" (a relative path counts from {Path.cwd()})"
        return Unreachable(f"no state from {where}: {reason}", f"check the path {where.path}{here}", _named(where))
    return Unreachable(f"no state from {where}: {reason}", _named(where))


def _named(where: Address) -> str:
    if where.named_by:
        other = "" if where.named_by == "--source" else "; --source names another"
        return f"the source was named by {where.named_by}{other}"
    return (
        "no source was named, so the agent on this machine was asked; "
        "--source, PROXYLESS_SOURCE or CONSUL_HTTP_ADDR name another"
    )


def _shown(text: str, where: Address) -> str:
    """`text` with the URL as it may be shown."""
    return text.replace(repr(where.url), repr(str(where))).replace(where.url, str(where))


def guarded(where: Address, make: Callable[[], Any]) -> Any:
    """`make()`, its ValueError turned into a Misuse that shows no secret."""
    try:
        return make()
    except ValueError as wrong:
        raise Misuse(_shown(str(wrong), where), _named(where)) from None
