"""The story itself: six scenes, each with what was asked, what was seen, and whether that is the same."""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from proxyless.demo.shop import SERVICE
from proxyless.demo.traffic import Traffic, Window
from proxyless.demo.world import FileWorld, World, make
from proxyless.events import ConfigApplied, Event
from proxyless.mesh import connect

SCENE = 5.0
"""Seconds that each scene lasts: about two thousand calls on two clients."""
SIGMAS = 5.0
"""How far a share may lie from what was asked: one honest run in two million is beyond that."""


def document(canary: float) -> dict[str, Any]:
    """Premium users see v2; of all others `canary` percent do."""
    return {
        "apiVersion": "proxyless/v1",
        "service": SERVICE,
        "subsets": {"stable": {"labels": {"version": "v1"}}, "canary": {"labels": {"version": "v2"}}},
        "routes": [
            {
                "name": "premium-users",
                "match": [{"headers": {"x-user-tier": {"exact": "premium"}}}],
                "split": [{"subset": "canary"}],
            },
            {
                "name": "canary-rollout",
                "split": [{"subset": "stable", "weight": 100 - canary}, {"subset": "canary", "weight": canary}],
                "timeout": "3s",
            },
        ],
    }


@dataclass
class Scene:
    """One line of the summary."""

    title: str
    asked: str
    seen: str
    calls: int
    failures: int
    effect: float | None
    """Seconds from writing the change to its being in effect."""
    ok: bool


class Story:
    """Plays the scenes and keeps what was seen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._scenes: list[Scene] = []
        self._applied = threading.Event()
        self._applied_at = 0.0

    def play(self) -> bool:
        """The whole of it. Returns whether everything that was shown is true."""
        began = time.monotonic()
        logging.getLogger("proxyless").setLevel(logging.CRITICAL)
        with tempfile.TemporaryDirectory(prefix="proxyless-demo-") as folder:
            self._console.print("starting: Consul, four servers (v1 v1 v2 v2), a sync and an asyncio client …")
            world = make(Path(folder))
            try:
                self._in(world)
            finally:
                world.close()
        self._summary(world, time.monotonic() - began)
        return all(scene.ok for scene in self._scenes)

    def _in(self, world: World) -> None:
        servers = [world.add(version) for version in ("v1", "v1", "v2", "v2")]
        world.put(document(10))
        mesh = connect(world.source, observers=[self._observe])
        with mesh:
            if not mesh.ready(SERVICE, timeout=20) or not _until(lambda: len(_endpoints(mesh)) == len(servers), 20):
                raise RuntimeError(f"the servers did not appear in {world.source}: {mesh.status()['source']}")
            with Traffic(mesh) as traffic, Live(console=self._console, refresh_per_second=8, transient=True) as live:
                time.sleep(0.5)  # connections are made; what is measured begins now
                traffic.turn()
                self._scene(live, traffic, "x-user-tier: premium goes to v2", None, None)
                self._scene(live, traffic, "split 90/10", 10, None)
                self._scene(live, traffic, "split edited to 50/50", 50, lambda: world.put(document(50)))
                self._scene(live, traffic, "split edited to 0/100", 100, lambda: world.put(document(100)))
                self._killed(live, traffic, servers[2])
                self._added(live, traffic, world)

    def _observe(self, event: Event) -> None:
        if isinstance(event, ConfigApplied):
            self._applied_at = time.monotonic()
            self._applied.set()

    def _scene(
        self, live: Live, traffic: Traffic, title: str, canary: float | None, change: Callable[[], float] | None
    ) -> None:
        effect = None
        if change is not None:
            self._applied.clear()
            written = change()
            self._applied.wait(10)
            effect = self._applied_at - written
            traffic.turn()
        window = self._watch(live, traffic, title)
        failures = sum(window.failures.values())
        if canary is None:
            seen = f"{window.premium['v2']} of {sum(window.premium.values())} premium calls"
            ok = window.premium["v2"] == sum(window.premium.values()) > 0
            asked = "all of them"
        else:
            share, calls = window.share("v2"), sum(window.plain.values())
            wanted = canary / 100
            slack = SIGMAS * math.sqrt(wanted * (1 - wanted) / max(calls, 1))
            ok = calls > 0 and abs(share - wanted) <= slack + 1e-9
            seen, asked = (
                f"v1 {100 - 100 * share:.1f} %  v2 {100 * share:.1f} %",
                f"v1 {100 - canary:g} %  v2 {canary:g} %",
            )
        self._add(Scene(title, asked, seen, window.calls, failures, effect, ok and not failures))

    def _killed(self, live: Live, traffic: Traffic, server: Any) -> None:
        traffic.turn()
        server.kill()
        window = self._watch(live, traffic, "a v2 server killed with -9")
        failures = sum(window.failures.values())
        others = window.plain["v2"]
        seen = f"{failures} failed, the other v2 served {others}"
        self._add(
            Scene(
                "a v2 server killed with -9",
                "no call fails",
                seen,
                window.calls,
                failures,
                None,
                not failures and others > 0,
            )
        )

    def _added(self, live: Live, traffic: Traffic, world: World) -> None:
        traffic.turn()
        server = world.add("v2")
        _until(lambda: server.name in traffic.window.first, 10)
        window = self._watch(live, traffic, "a v2 server added")
        served, failures = window.servers[server.name], sum(window.failures.values())
        seen = f"it served {served} of {window.calls}"
        self._add(
            Scene("a v2 server added", "it gets calls", seen, window.calls, failures, None, served > 0 and not failures)
        )

    def _add(self, scene: Scene) -> None:
        self._scenes.append(scene)

    def _watch(self, live: Live, traffic: Traffic, title: str) -> Window:
        """Show where calls go while a scene lasts; returns what was seen of it."""
        until = time.monotonic() + SCENE
        while time.monotonic() < until:
            live.update(self._table(title, traffic.window))
            time.sleep(0.12)
        return traffic.turn()

    def _table(self, title: str, window: Window) -> Table:
        table = Table(title=f"now: {title}", min_width=64)
        for column in ("server", "calls", "share", ""):
            table.add_column(column)
        total = max(1, sum(window.servers.values()))
        for name, count in sorted(window.servers.items()):
            table.add_row(name, str(count), f"{100 * count / total:.1f} %", "█" * round(40 * count / total))
        for why, count in window.failures.items():
            table.add_row("[red]failed[/red]", str(count), "", why)
        return table

    def _summary(self, world: World, took: float) -> None:
        table = Table(title=f"what was seen, over {world.kind}, in {took:.0f} s")
        for column in ("scene", "asked", "seen", "calls", "failures", "in effect after", ""):
            table.add_column(column)
        for scene in self._scenes:
            effect = "" if scene.effect is None else f"{scene.effect * 1000:.1f} ms"
            verdict = "[green]true[/green]" if scene.ok else "[red]NOT TRUE[/red]"
            table.add_row(scene.title, scene.asked, scene.seen, str(scene.calls), str(scene.failures), effect, verdict)
        self._console.print(table)
        if isinstance(world, FileWorld):
            self._console.print("A file is looked at ten times a second; Consul tells of a change by itself.")


def _endpoints(mesh: Any) -> set[str]:
    return {endpoint["address"] for endpoint in mesh.status()["endpoints"]}


def _until(true: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.02)
    return False
