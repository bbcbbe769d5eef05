"""`python -m tests.bench`: prints every table. Ratios are of one run; absolute figures are this machine's."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.agent import find_consul
from tests.bench import calls, pick, ring, servers, swap


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12, help="how often each variant takes its turn")
    parser.add_argument("--calls", type=int, default=1600, help="calls per turn")
    parser.add_argument("--only", choices=("calls", "swap", "pick", "ring"), help="one part alone")
    given = parser.parse_args()
    console = Console()
    if given.only in (None, "calls"):
        _calls(console, given.turns, given.calls)
    if given.only in (None, "pick"):
        headings = ("balancer", "weights", "ns, 10 endpoints", "ns, 10,000 endpoints", "ratio")
        _print(console, "a pick", headings, pick.measure())
    if given.only in (None, "ring"):
        headings = ("a thousand endpoints", "ms of work", "ms beside calls", "slowest call, ms", "without it")
        with servers.running() as addresses:
            _print(console, "laying out where keys go, while calls are made", headings, ring.measure(addresses[0]))
    if given.only in (None, "swap"):
        _swap(console)


def _calls(console: Console, turns: int, count: int) -> None:
    headings = ("variant", "client CPU us/call", "ratio", "over unarmed", "p50 ms", "p99 ms")
    with servers.running(servers.TEN) as addresses:
        sync = calls.sync(addresses, turns, count // 2)
        _print(console, "unary calls, sync, one at a time", headings, calls.rows(sync))
        aio = asyncio.run(calls.aio(addresses, turns, count))
        _print(console, f"unary calls, asyncio, {calls.IN_FLIGHT} in flight", headings, calls.rows(aio))
    with servers.running(servers.TEN, servers.ANSWERING) as addresses:
        aio = asyncio.run(calls.aio(addresses, turns, count))
        title = f"the same, asyncio, {calls.IN_FLIGHT} in flight, servers that cost next to nothing"
        _print(console, title, headings, calls.rows(aio))


def _swap(console: Console) -> None:
    binary = find_consul()
    if binary is None:
        console.print("no Consul found: the table of 10,000 endpoints is left out")
        return
    with tempfile.TemporaryDirectory() as folder, servers.running() as addresses:
        rows = swap.measure(binary, Path(folder), addresses)
    _print(console, "10,000 endpoints in a real Consul", ("what", "figure"), rows)


def _print(console: Console, title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*headings, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
