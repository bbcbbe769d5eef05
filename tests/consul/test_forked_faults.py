"""Workers that are forked while Consul is in trouble: a child doubts what its parent would doubt."""

from __future__ import annotations

import os

import pytest

from proxyless.protos import echo_pb2_grpc
from tests.agent import ConsulAgent
from tests.consul.fleet import Fleet, Request, connected, eventually
from tests.wire.test_fork import in_a_child

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


def test_a_child_of_a_mesh_whose_consul_has_lost_everything(agent: ConsulAgent, fleet: Fleet) -> None:
    """Consul is killed with -9 and comes back with nothing. The parent does not believe it at once, and nor does a
    child that is forked then: its calls go where the parent's go, by the documents that there were."""
    fleet.add("old")
    fleet.add("new", "v2")
    fleet.split(1, 0)
    with connected(agent) as mesh:
        assert mesh.ready("echo", timeout=5.0)
        stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
        assert stub.Unary(Request(), timeout=2.0).served_by == "old"
        agent.kill9()
        agent.start()
        eventually(lambda: mesh.status()["suspicious"], within=10.0)

        def work() -> str:
            served = {stub.Unary(Request(), timeout=2.0).served_by for _ in range(20)}
            eventually(lambda: mesh.status()["suspicious"], within=5.0)
            served |= {stub.Unary(Request(), timeout=2.0).served_by for _ in range(20)}
            return ",".join(served)

        assert in_a_child(work, within=10.0) == "old"
        assert stub.Unary(Request(), timeout=2.0).served_by == "old"
