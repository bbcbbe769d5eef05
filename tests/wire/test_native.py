"""Endpoint channels come from grpcio itself, whatever instrumentation has been wrapped around its factories."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import grpc
import pytest

from proxyless.channel.native import aio_factories, polls, sync_factories
from tests.wire.echo import Request
from tests.wire.ways import Net


def _wrapped(factory: Any, calls: list[str]) -> Any:
    """As wrapt and functools.wraps do it: the original can be found."""

    @functools.wraps(factory)
    def instrumented(*arguments: Any, **options: Any) -> Any:
        calls.append(factory.__name__)
        return factory(*arguments, **options)

    return instrumented


def test_wrapped_factories_are_unwrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factories are grpcio's own, under one wrapper or two."""
    own = (grpc.insecure_channel, grpc.secure_channel)
    for name in ("insecure_channel", "secure_channel"):
        monkeypatch.setattr(grpc, name, _wrapped(_wrapped(getattr(grpc, name), []), []))
    assert sync_factories() == own


def test_replaced_asyncio_factories_are_gone_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """On asyncio, where the functions are replaced outright, grpcio's module still has them; if not, this tells."""
    own = importlib.import_module("grpc.aio._channel")
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *_, **__: pytest.fail("the replacement was called"))
    monkeypatch.setattr(grpc.aio, "secure_channel", lambda *_, **__: pytest.fail("the replacement was called"))
    assert aio_factories() == (own.insecure_channel, own.secure_channel)


def test_endpoint_channels_are_not_instrumented(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh whose process is instrumented makes its endpoint channels beneath: an attempt is no call."""
    calls: list[str] = []
    monkeypatch.setattr(grpc, "insecure_channel", _wrapped(grpc.insecure_channel, calls))
    monkeypatch.setattr(grpc.aio, "insecure_channel", _wrapped(grpc.aio.insecure_channel, calls))
    net.server()
    assert net.stub().Unary(Request(message="m")).message == "m"

    async def scene(stub: Any) -> str:
        return str((await stub.Unary(Request(message="m"))).message)

    assert net.run("mesh", scene) == "m"
    assert calls == []


def test_the_poller_is_seen(net: Net) -> None:
    """While asyncio channels live one thread polls for all of them, and grpcio still calls it what we look for."""
    net.server()

    async def scene(stub: Any) -> bool:
        await stub.Unary(Request())
        return polls()

    assert net.run("grpcio", scene)
