"""Servers that end their connections in turn (`max_connection_age`): nobody's failure, and nobody sees it.

C-core would hide it behind its own retry filter, which the endpoint channels do without; here the mesh does, also
where no retries are configured (gRFC A6, "Transparent retries").
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest

from proxyless.channel import wire
from tests.wire.echo import Request
from tests.wire.ways import Net, either_way

AGES = [("grpc.max_connection_age_ms", 20), ("grpc.max_connection_age_grace_ms", 2000)]
"""A connection lives for 20 ms, and what was begun on it may take two seconds more."""
CALLERS = 8
SECONDS = 2.0


def aging(net: Net) -> None:
    net.server(options=AGES)
    net.document("{routes: [{retry: {attempts: 0}}]}")


@either_way
@pytest.mark.parametrize("arity", ["Unary", "ServerStream"])
def test_a_call_that_meets_the_end_of_its_connection_is_made_again(net: Net, way: str, arity: str) -> None:
    """Threads: no call is lost though there are no retries, and none is charged to the server."""
    aging(net)
    stub = net.stub(way)
    lost: list[grpc.RpcError] = []

    def work() -> None:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                if arity == "Unary":
                    stub.Unary(Request(message="m"), timeout=10)
                else:
                    assert len(list(stub.ServerStream(Request(message="m", count=2), timeout=10))) == 2
            except grpc.RpcError as error:
                lost.append(error)

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    if way == "mesh":
        assert [entry["failures"] for entry in net.mesh.status()["endpoints"]] == [0]


@either_way
def test_on_asyncio_too(net: Net, way: str) -> None:
    """The same decision by the same script."""
    aging(net)

    async def scene(stub: Any) -> None:
        async def work() -> None:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                await stub.Unary(Request(message="m"), timeout=10)
                assert len([reply async for reply in stub.ServerStream(Request(count=2), timeout=10)]) == 2

        await asyncio.gather(*(work() for _ in range(CALLERS)))

    net.run(way, scene)


def test_it_is_known_by_what_c_core_says() -> None:
    """Words of C-core's that a new release may change; what happened to the request is not told otherwise."""

    class Failed:
        def __init__(self, code: grpc.StatusCode, details: str) -> None:
            self.code, self.details, self.trailing_metadata = lambda: code, lambda: details, lambda: ()

    goaway = "Stream removed (GOAWAY received; Error code: 0; Debug Text: max_age)"
    assert wire.failure(Failed(grpc.StatusCode.UNAVAILABLE, goaway)).unseen
    assert not wire.failure(Failed(grpc.StatusCode.INTERNAL, goaway)).unseen
    assert not wire.failure(Failed(grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)")).unseen
