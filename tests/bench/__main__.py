"""`python -m tests.bench [calls]`: prints every table."""

from __future__ import annotations

import argparse
import asyncio

from rich.console import Console
from rich.table import Table

from tests.bench import calls, servers


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12, help="how often each variant takes its turn")
    parser.add_argument("--calls", type=int, default=1600, help="calls per turn")
    parser.add_argument("--only", choices=("calls", "swap", "pick"), help="one part alone")
    given = parser.parse_args()
    console = Console()
    if given.only in (None, "calls"):
        with servers.running() as addresses:
            for title, measured in (
                ("sync, one at a time", calls.sync(addresses, given.turns, given.calls // 2)),
                (f"asyncio, {calls.IN_FLIGHT} in flight", asyncio.run(calls.aio(addresses, given.turns, given.calls))),
            ):
                table = Table("variant", "client CPU us/call", "ratio", "p50 ms", "p99 ms", title=f"unary calls, {title}")
                for row in calls.rows(measured):
                    table.add_row(*row)
                console.print(table)


if __name__ == "__main__":
    main()
