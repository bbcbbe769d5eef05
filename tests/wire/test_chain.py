"""Deadlines and cancellations on their way down a chain of services, over real servers and the mesh."""

from __future__ import annotations

import threading
from concurrent import futures
from typing import Any

import grpc
import pytest

import proxyless
from tests.wire.chain import KINDS, LATE, PASS, STREAMING, Build, each_kind
from tests.wire.echo import eventually


@pytest.mark.parametrize("timeout", [0.9, 5.0, 60.0])
@pytest.mark.parametrize(
    ("method", "kinds"), [("Go", kinds) for kinds in KINDS] + [("Watch", kinds) for kinds in STREAMING]
)
def test_each_service_has_less_time_than_the_one_before(
    build: Build, kinds: tuple[str, str, str], timeout: float, method: str
) -> None:
    """C's remaining time < B's < A's < the caller's, though gRPC rounds it up; and most of it is there."""
    chain = build(*kinds)
    if method == "Go":
        assert chain.go(PASS, timeout=timeout) == b"done"
    else:
        call = chain.begin(PASS, "Watch", timeout=timeout)
        assert next(call) == b"tick"
        call.cancel()
    (a,), (b,), (c,) = (hop.visits for hop in chain.hops)
    assert timeout > a.remaining > b.remaining > c.remaining > timeout / 2
    assert a.left > b.left > c.left


@each_kind
def test_without_a_deadline_nothing_is_handed_on(build: Build, kinds: tuple[str, str, str]) -> None:
    """The 9.2e18 seconds of grpcio's server reach nobody."""
    chain = build(*kinds)
    assert chain.go(PASS) == b"done"
    assert [visit.remaining for hop in chain.hops for visit in hop.visits] == [None] * 3


@each_kind
def test_each_hop_keeps_its_reserve(build: Build, kinds: tuple[str, str, str]) -> None:
    """Three services with 0.5 s each."""
    chain = build(*kinds, reserve=0.5)
    assert chain.go(PASS, timeout=5.0) == b"done"
    lefts = [visit.remaining for hop in chain.hops for visit in hop.visits]
    assert lefts == [pytest.approx(at, abs=0.2) for at in (4.5, 4.0, 3.5)]


@each_kind
def test_no_call_is_made_once_the_deadline_has_passed(build: Build, kinds: tuple[str, str, str]) -> None:
    """B stays too long, and its call to C is refused without being sent."""
    chain = build(*kinds)
    with pytest.raises(grpc.RpcError) as failed:
        chain.go(LATE, timeout=0.3)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: chain.b.errors and not chain.running)
    (error,) = chain.b.errors
    assert isinstance(error, proxyless.MeshRpcError)
    assert (error.code(), error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline")
    assert chain.c.visits == []


@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_a_call_whose_time_is_up_before_its_turn_is_never_begun(arity: str) -> None:
    """A server with one thread, which is taken: "servers drop expired work"."""
    begun, free = [], threading.Event()

    def behave(_request: Any, _context: Any) -> Any:
        begun.append(1)
        free.wait(5.0)
        return iter([b"done"]) if arity.endswith("stream") else b"done"

    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, interceptors=[proxyless.server_interceptor()])
        handler = getattr(grpc, f"{arity}_rpc_method_handler")(behave)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"M": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = getattr(channel, arity)("/s/M")

            def begin(timeout: float) -> Any:
                request: Any = iter([b"r"]) if arity.startswith("stream") else b"r"
                return (
                    call(request, timeout=timeout)
                    if arity.endswith("stream")
                    else call.future(request, timeout=timeout)
                )

            first = begin(5.0)
            eventually(lambda: begun)
            second = begin(0.05)
            assert second.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            free.set()
            assert (list(first) if arity.endswith("stream") else [first.result()]) == [b"done"]
        server.stop(None).wait()
    assert begun == [1]


# -- metadata


@each_kind
def test_named_metadata_goes_down_the_chain(
    build: Build, kinds: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All values of it, in order; and a key that B sets itself is B's from there on."""
    monkeypatch.setattr("proxyless.context._NAMES", set())
    proxyless.propagate("x-tenant", "x-path", "x-blob-bin")
    chain = build(*kinds)
    chain.b.own_metadata = (("x-path", "from b"),)
    sent = (
        ("x-tenant", "acme"),
        ("x-path", "1"),
        ("x-path", "2"),
        ("x-blob-bin", b"\x00\xff"),
        ("x-own", "1"),
    )
    assert chain.go(PASS, metadata=sent) == b"done"
    seen = [[pair for pair in visit.metadata if pair[0].startswith("x-")] for hop in chain.hops for visit in hop.visits]
    assert seen == [
        list(sent),
        list(sent[:4]),
        [("x-path", "from b"), ("x-tenant", "acme"), ("x-blob-bin", b"\x00\xff")],
    ]
