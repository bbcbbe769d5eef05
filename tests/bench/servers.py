"""Three echo servers in processes of their own, so that the client's CPU time is the client's alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COUNT = 3


@contextmanager
def running(count: int = COUNT) -> Iterator[list[str]]:
    """The addresses of `count` servers that live as long as the block does."""
    command = [sys.executable, "-m", "tests.bench.servers"]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        ports = [process.stdout.readline().strip() for process in processes if process.stdout]
        yield [f"127.0.0.1:{port}" for port in ports]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _serve() -> None:
    import asyncio

    import grpc

    async def echo(request: bytes, _context: object) -> bytes:
        return request

    async def main() -> None:
        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # the parent is gone: end

    asyncio.run(main())


if __name__ == "__main__":
    _serve()
