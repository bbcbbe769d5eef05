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
from proxyless.channel.given import HERE
from tests.wire.echo import Request
from tests.wire.talks import talk
from tests.wire.ways import Net, either_way
from tests.worlds import node, on_route, planned

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


class _Failed:
    """A call of grpcio's that has failed."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details, self.trailing_metadata = lambda: code, lambda: details, lambda: ()


def test_it_is_known_by_what_c_core_says() -> None:
    """Words of C-core's that a new release may change; what happened to the request is not told otherwise."""

    goaway = "Stream removed (GOAWAY received; Error code: 0; Debug Text: max_age)"
    call = on_route(planned(node("10.0.0.7:50051")))
    call.node = node("10.0.0.7:50051")
    assert wire.failure(call, _Failed(grpc.StatusCode.UNAVAILABLE, goaway)).unseen
    assert not wire.failure(call, _Failed(grpc.StatusCode.INTERNAL, goaway)).unseen
    closed = f"Stream removed (Transport closed (Socket closed ({goaway})))"
    assert wire.failure(call, _Failed(grpc.StatusCode.UNAVAILABLE, closed)).unseen
    assert not wire.failure(call, _Failed(grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)")).unseen
    under_way = f"Stream removed (Socket closed ({goaway}))"
    assert not wire.failure(call, _Failed(grpc.StatusCode.UNAVAILABLE, under_way)).unseen


_ALL = "failed to connect to all addresses; last error: UNKNOWN: "


@pytest.mark.parametrize(
    ("address", "details", "unsent"),
    [
        ("10.0.0.7:50051", f"{_ALL}ipv4:10.0.0.7:50051: Connection refused", True),
        ("10.0.0.7:50051", f"{_ALL}ipv4:10.0.0.9:50051: Connection refused", False),
        ("10.0.0.7:50051", f"{_ALL}ipv4:110.0.0.7:50051: Connection refused", False),
        ("10.0.0.7:5005", f"{_ALL}ipv4:10.0.0.7:50051: Connection refused", False),
        ("[::1]:50051", f"{_ALL}ipv6:%5B::1%5D:50051: Connection refused", True),
        ("[::1]:50051", f"{_ALL}ipv6:%5B::1%5D:50052: Connection refused", False),
        ("shop.internal:50051", f"{_ALL}ipv4:10.0.0.7:50051: Connection refused", True),
        ("shop.internal:50051", "errors resolving shop.internal:50051: [field:hostname lookup error:…]", True),
        ("10.0.0.7:50051", "errors resolving other.internal:50051: [field:hostname lookup error:…]", False),
        ("10.0.0.7:50051", "failed to connect to all addresses", False),
        (HERE, f"{_ALL}ipv4:10.0.0.7:50051: Connection refused", True),
    ],
)
def test_what_never_left_names_the_endpoint(address: str, details: str, unsent: bool) -> None:
    """C-core names whom it could not reach: of a channel that was given to the mesh nobody knows who that is."""
    call = on_route(planned(node("a")))
    call.node = node(address)
    assert wire.failure(call, _Failed(grpc.StatusCode.UNAVAILABLE, details)).unsent is unsent
    assert not wire.failure(call, _Failed(grpc.StatusCode.INTERNAL, details)).unsent


@pytest.mark.parametrize("style", ["blocking", "future", "aio"])
def test_a_server_that_hands_on_what_befell_it_has_seen_the_request(net: Net, style: str) -> None:
    """Many servers abort with the words of a call of their own. It is their answer: nothing says that it may be made
    again, and they can be reached."""
    server = net.server()
    net.document("{routes: [{name: only, retry: {attempts: 2, idempotentOnly: true, on: [unavailable]}}]}")
    assert net.mesh.ready("echo", timeout=5.0)
    details = f"{_ALL}ipv4:10.0.0.9:50051: Connection refused"
    ending = talk(net, "mesh", style, "Unary", Request(fail_code=14, fail_details=details)).end()
    assert ending.code is grpc.StatusCode.UNAVAILABLE
    assert len(server.seen) == 1
    assert [endpoint["state"] for endpoint in net.mesh.status()["endpoints"]] == ["healthy"]
