"""Watching real calls: both stacks, every arity; what is switched on and off while calls are made."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from proxyless.stack import ENTRY
from tests.fakes import Watching
from tests.wire.echo import Request, eventually
from tests.wire.ways import Net

STREAM = Request(message="m", count=3)


def words(watching: Watching) -> list[str]:
    """What was seen, without addresses and times."""
    return [" ".join(word for word in line.split() if word.isalpha()) for line in watching.lines]


GOOD = ["begin", "attempt", "attempted OK", "ended default OK"]


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.Unary(Request()),
        lambda stub: stub.Unary.future(Request()).result(),
        lambda stub: list(stub.ServerStream(STREAM)),
        lambda stub: stub.ClientStream(iter([Request()])),
        lambda stub: list(stub.BidiStream(iter([Request()]))),
    ],
    ids=["unary", "future", "server stream", "client stream", "both"],
)
def test_each_arity_is_seen_once(net: Net, call: Any) -> None:
    """One begin, one attempt, one end; begun in the caller's thread."""
    net.server()
    watching = Watching()
    net.mesh.watch(watching)
    call(net.stub())
    eventually(lambda: len(watching.lines) == 4)
    assert words(watching) == GOOD
    assert watching.threads == [threading.get_ident()]


@pytest.mark.parametrize("arity", ["Unary", "ServerStream", "ClientStream", "BidiStream"])
def test_each_arity_is_seen_once_on_asyncio(net: Net, arity: str) -> None:
    """As with threads."""
    net.server()
    watching = Watching()
    net.mesh.watch(watching)

    async def scene(stub: Any) -> None:
        request = iter([STREAM]) if arity in ("ClientStream", "BidiStream") else STREAM
        call = getattr(stub, arity)(request)
        if arity.endswith("yStream") or arity in ("ServerStream", "BidiStream"):
            async for _ in call:
                pass
        else:
            await call

    net.run("mesh", scene)
    assert words(watching) == GOOD


def test_a_cancelled_call_ends_when_it_is_cancelled(net: Net) -> None:
    """Its time goes up to then."""
    net.server()
    watching = Watching()
    net.mesh.watch(watching)
    future = net.stub().Unary.future(Request(delay_ms=20_000))
    threading.Event().wait(0.1)
    future.cancel()
    eventually(lambda: len(watching.lines) == 4)
    assert words(watching)[2:] == ["attempted ABANDONED", "ended default ABANDONED"]
    assert 0.1 <= float(watching.lines[-1].split()[-1]) < 5.0


def test_watching_goes_on_and_off_while_channels_live(net: Net) -> None:
    """Channels that were made before, and after, see no difference; with nobody left the head is the plain one."""
    net.server()
    before = net.stub()
    before.Unary(Request())
    one, other = Watching(), Watching()
    stop_one, stop_other = net.mesh.watch(one), net.mesh.watch(other)
    after = net.channel()
    before.Unary(Request())
    stop_one()
    before.Unary(Request())
    stop_other()
    stop_other()
    before.Unary(Request())
    assert (len(one.lines), len(other.lines)) == (4, 8)
    assert after.entry is ENTRY  # type: ignore[attr-defined]


def test_a_refusal_is_seen(net: Net) -> None:
    """The reason's word comes with it."""
    net.server()
    net.document("{routes: [{match: [{path: {exact: /nothing}}]}]}")
    watching = Watching()
    net.mesh.watch(watching)
    with pytest.raises(grpc.RpcError):
        net.stub().Unary(Request())
    assert [line.split()[:3] for line in watching.lines] == [["begin", "/echo.Echo/Unary"], ["ended", "-", "no_route"]]
