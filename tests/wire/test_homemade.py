"""Calls that their caller spoils: the codes are a server's, and no server has anything to do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tests.wire.echo import Request
from tests.wire.ways import Net

CALLS = 8
"""Enough to eject an endpoint (`consecutive5xx: 5`), and to open the breaker below."""
BREAKER = "{trafficPolicy: {circuitBreaker: {failureRate: 50, minimumRequests: 4, window: 10s, openFor: 30s}}}"

_NO_MESSAGE: Any = "not a message"


class _NoToken(grpc.AuthMetadataPlugin):
    def __call__(self, _context: Any, callback: Any) -> None:
        callback((), RuntimeError("the source of tokens is down"))


def _requests() -> Iterator[Request]:
    yield Request(message="m")
    raise KeyError("the caller's own mistake")


def _without_token(stub: Any) -> Any:
    return stub.Unary(Request(), credentials=grpc.metadata_call_credentials(_NoToken()))


SPOILT: dict[str, Callable[[Any], Any]] = {
    "what is no message": lambda stub: stub.Unary(_NO_MESSAGE),
    "what is no message, future": lambda stub: stub.Unary.future(_NO_MESSAGE).result(),
    "what is no message, in a stream": lambda stub: stub.ClientStream(iter([_NO_MESSAGE])),
    "requests that raise": lambda stub: stub.ClientStream(_requests()),
    "requests that raise, future": lambda stub: stub.ClientStream.future(_requests()).result(),
    "requests that raise, both streams": lambda stub: list(stub.BidiStream(_requests())),
    "credentials that fail": _without_token,
}


@pytest.mark.parametrize("way", ["mesh", "in a scope"])
@pytest.mark.parametrize("call", SPOILT)
def test_no_endpoint_is_blamed(net: Net, way: str, call: str) -> None:
    """Neither is the endpoint ejected, nor does the breaker open before those who call as they should."""
    net.document(BREAKER)
    net.server(credentials=grpc.local_server_credentials())
    stub = net.stub(way, credentials=grpc.local_channel_credentials())
    for _ in range(CALLS):
        with pytest.raises(grpc.RpcError) as raised:
            SPOILT[call](stub)
        assert "proxyless" not in str(raised.value.details())  # type: ignore[attr-defined]
    (endpoint,) = net.mesh.status()["endpoints"]
    assert (endpoint["state"], endpoint["failures"]) == ("healthy", 0)
    assert stub.Unary(Request(message="m")).message == "m"


def test_no_endpoint_is_blamed_on_asyncio(net: Net) -> None:
    """grpcio's asyncio stack gives a server's code to credentials that fail alone."""
    net.document(BREAKER)
    net.server(credentials=grpc.local_server_credentials())

    async def scene(stub: Any) -> None:
        for _ in range(CALLS):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await _without_token(stub)
            assert "token" in str(raised.value.details())
        (endpoint,) = net.mesh.status()["endpoints"]
        assert (endpoint["state"], endpoint["failures"]) == ("healthy", 0)
        assert (await stub.Unary(Request(message="m"))).message == "m"

    net.run("mesh", scene, credentials=grpc.local_channel_credentials())
