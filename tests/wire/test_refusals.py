"""Refusals: what the mesh itself answers, in every style, and how a caller tells it from a failure of the wire."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

import proxyless
from tests.wire.echo import Request, eventually
from tests.wire.talks import each_call, talk
from tests.wire.ways import Net

_CASES: dict[str, tuple[str, grpc.StatusCode]] = {
    "no_route": (
        "{routes: [{name: only, match: [{path: {exact: /echo.Echo/Other}}], split: [{service: echo}]}]}",
        grpc.StatusCode.UNAVAILABLE,
    ),
    "no_endpoints": (
        "{subsets: {v9: {labels: {version: v9}}}, routes: [{name: only, split: [{subset: v9}]}]}",
        grpc.StatusCode.UNAVAILABLE,
    ),
    "direct_response": (
        '{routes: [{name: only, directResponse: {status: NOT_FOUND, message: "nothing here"}}]}',
        grpc.StatusCode.NOT_FOUND,
    ),
}

each_refusal = pytest.mark.parametrize(
    ("reason", "document", "code"), [(reason, *case) for reason, case in _CASES.items()], ids=_CASES
)


def _prepare(net: Net, document: str) -> Any:
    server = net.server()
    net.document(document)
    assert net.mesh.ready("echo", timeout=5.0)
    return server


@each_refusal
@each_call
def test_a_refusal_is_a_failed_call(
    net: Net, style: str, method: str, reason: str, document: str, code: grpc.StatusCode
) -> None:
    """A refusal ends its call as a failure does, in every style, with its reason in the trailing metadata."""
    server = _prepare(net, document)
    ending = talk(net, "mesh", style, method, Request(message="m", count=1)).end()
    assert (ending.messages, ending.code, ending.initial) == ([], code, [])
    assert ending.details.startswith(f"proxyless: {reason}: ")
    assert ending.trailing == [("proxyless-reason", reason)]
    error = ending.error
    assert isinstance(error, proxyless.MeshRpcError)
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, grpc.Call)
    assert isinstance(error, grpc.aio.AioRpcError) == (style == "aio")
    assert (error.code(), error.details(), error.reason) == (code, ending.details, reason)
    assert [tuple(pair) for pair in error.trailing_metadata()] == ending.trailing
    assert server.seen == []


@each_refusal
@pytest.mark.parametrize("style", ["blocking", "aio"])
def test_a_refusal_can_be_pickled(net: Net, style: str, reason: str, document: str, code: grpc.StatusCode) -> None:
    """A refusal survives pickling and copying, as it must to leave a worker process."""
    _prepare(net, document)
    error = talk(net, "mesh", style, "Unary", Request()).end().error
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is type(error)
        assert (same.code(), same.reason, str(same)) == (code, reason, str(error))
        assert list(same.trailing_metadata()) == [("proxyless-reason", reason)]


def test_a_refusal_reads_like_grpcs_errors(net: Net) -> None:
    """A refusal prints as grpcio's errors do, answers all that those can be asked, and has no rich status."""
    _prepare(net, _CASES["direct_response"][0])
    with pytest.raises(grpc.RpcError) as raised:
        net.stub().Unary(Request())
    error: Any = raised.value
    assert str(error).startswith("<MeshRpcError of RPC that terminated with:\n\tstatus = StatusCode.NOT_FOUND")
    assert "nothing here" in repr(error)
    assert error.debug_error_string() == error.details()
    assert (error.is_active(), error.running(), error.done(), error.cancelled()) == (
        False,
        False,
        True,
        False,
    )
    assert (error.time_remaining(), error.cancel(), error.add_callback(print)) == (None, False, False)
    assert error.exception() is error
    assert error.traceback() is not None
    told: list[Any] = []
    error.add_done_callback(told.append)
    assert told == [error]
    with pytest.raises(grpc.RpcError):
        error.result()
    assert rpc_status.from_call(error) is None


def test_a_refusal_is_prompt(net: Net) -> None:
    """A refusal takes no time: nobody is asked."""
    _prepare(net, _CASES["no_route"][0])
    stub = net.stub()
    started = time.monotonic()
    for _ in range(50):
        with pytest.raises(proxyless.MeshRpcError):
            stub.Unary(Request(), timeout=30.0)
    assert time.monotonic() - started < 1.0


def test_a_refusal_tells_where_to_look(net: Net) -> None:
    """A refusal says what, where and why: the route, the method, the subset that is empty."""
    _prepare(net, _CASES["no_route"][0])
    with pytest.raises(proxyless.MeshRpcError, match=r"no route of echo .*1 in its document.*/echo\.Echo/Unary"):
        net.stub().Unary(Request())
    net.document(_CASES["no_endpoints"][0])
    eventually(lambda: net.mesh.explain("echo", "/echo.Echo/Unary").route == "only")
    with pytest.raises(proxyless.MeshRpcError, match="echo/v9 has no endpoint that may be called"):
        net.stub().Unary(Request())


def test_an_error_of_the_wire_is_no_refusal(net: Net) -> None:
    """What the wire raises passes through: grpcio's own error, without a reason of ours."""
    net.server()
    with pytest.raises(grpc.RpcError) as raised:
        net.stub().Unary(Request(fail_code=16, fail_details="who are you?"))
    assert not isinstance(raised.value, proxyless.MeshRpcError)
    assert "proxyless-reason" not in dict(raised.value.trailing_metadata() or ())  # type: ignore[attr-defined]


def test_nothing_known_yet(net: Net, tmp_path: Any) -> None:
    """While the source has said nothing a call waits as long as its deadline allows, then ends with not_ready."""
    with proxyless.connect(f"file:{tmp_path / 'not-there.yaml'}") as mesh:
        call = mesh.channel("echo").unary_unary("/echo.Echo/Unary")
        started = time.monotonic()
        with pytest.raises(proxyless.MeshRpcError) as raised:
            call(b"", timeout=0.2)
        assert time.monotonic() - started < 2.0
        assert raised.value.reason == "not_ready"
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
