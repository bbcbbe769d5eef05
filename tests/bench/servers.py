"""Echo servers in processes of their own, so that the client's CPU time is the client's alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any

ONE_EACH = (1, 1, 1)
TEN = (4, 3, 3)
"""Ports per process: ten endpoints, for no machine has cores for ten processes."""
REAL, ANSWERING = "tests.bench.servers", "tests.bench.answering"


@contextmanager
def running(ports: Sequence[int] = ONE_EACH, module: str = REAL) -> Iterator[list[str]]:
    """The addresses of servers that live as long as the block does: one process for each number of ports, and these
    in turn."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(number)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )
        for number in ports
    ]
    try:
        said = [[_line(process) for _ in range(number)] for process, number in zip(processes, ports, strict=True)]
        yield [f"127.0.0.1:{port}" for port in chain(*zip_longest(*said)) if port is not None]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _serve(ports: int) -> None:
    import asyncio

    import grpc

    async def echo(request: bytes, _context: object) -> bytes:
        return request

    async def main() -> None:
        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
        for _ in range(ports):
            print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # the parent is gone: end

    asyncio.run(main())


if __name__ == "__main__":
    _serve(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
