"""A call that has ended is not kept for as long as it might have lasted."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest

from proxyless.channel.sync_branches import Branches
from proxyless.channel.sync_future import CallFuture
from proxyless.channel.sync_progress import Progress
from tests.wire.echo import Request, eventually
from tests.wire.ways import Net


def _kept(net: Net) -> int:
    """Calls of this mesh that somebody still holds."""
    gc.collect()
    found: list[Any] = [thing for thing in gc.get_objects() if type(thing) in (CallFuture, Progress, Branches)]
    channels = [thing._channel if type(thing) is CallFuture else thing.channel for thing in found]
    return sum(channel.slot is net.mesh._slot for channel in channels)


def test_futures_that_waited_for_an_endpoint(net: Net) -> None:
    """They waited, with an hour's deadline, for the first endpoint. Once answered nothing keeps them."""
    net.document("{}")
    net.beside("other", "127.0.0.1:1")
    stub = net.stub()
    futures = [stub.Unary.future(Request(), timeout=3600.0, wait_for_ready=True) for _ in range(20)]
    streams = [stub.ServerStream(Request(count=1), timeout=3600.0, wait_for_ready=True) for _ in range(20)]
    time.sleep(0.1)
    net.server()
    assert all(future.result(timeout=5.0).served_by == "a" for future in futures)
    assert all(len(list(stream)) == 1 for stream in streams)
    futures.clear()
    streams.clear()
    eventually(lambda: _kept(net) == 0)


@pytest.mark.parametrize("style", ["blocking", "future", "stream"])
def test_hedged_calls_that_needed_no_hedge(net: Net, style: str) -> None:
    """A second attempt would have been made a minute later. What is answered before is let go of."""
    net.server(delay=0.02)
    net.document("{routes: [{name: all, hedge: {delay: 1m, attempts: 1}}]}")
    stub = net.stub()
    eventually(lambda: net.mesh.snapshot.services["echo"].routes[0].hedge is not None)
    calls = {
        "blocking": lambda: stub.Unary(Request(payload=b"x" * 1000)),
        "future": lambda: stub.Unary.future(Request()).result(timeout=5.0),
        "stream": lambda: list(stub.ServerStream(Request(count=2))),
    }
    for _ in range(20):
        calls[style]()
    eventually(lambda: _kept(net) == 0)
