"""Which service a target means: by rules, and by its own name."""

from __future__ import annotations

import pytest

from proxyless.channel.rules import Rules, authority, own_name
from proxyless.errors import ConfigError


@pytest.mark.parametrize(
    ("rules", "target", "service"),
    [
        ({"milvus:19530": "vectors"}, "milvus:19530", "vectors"),
        ({"milvus:19530": "vectors"}, b"milvus:19530", "vectors"),
        ({"milvus:19530": "vectors"}, "milvus:19531", None),
        ({"milvus:19530": "vectors"}, "dns:///milvus:19530", "vectors"),
        ({"milvus:19530": "vectors"}, "dns://8.8.8.8/milvus:19530", "vectors"),
        ({"milvus:19530": "vectors"}, "dns:milvus:19530", "vectors"),
        ({"dns:///milvus:19530": "vectors"}, "milvus:19530", "vectors"),
        ({"milvus": "vectors"}, "milvus:19530", "vectors"),
        ({"milvus": "vectors"}, "milvus.other:19530", None),
        ({"*.pubsub.test:443": "pubsub"}, "eu.pubsub.test:443", "pubsub"),
        ({"*.pubsub.test": "pubsub"}, "eu.pubsub.test:443", "pubsub"),
        ({"node?:80": "nodes"}, "node7:80", "nodes"),
        ({"node?:80": "nodes"}, "node17:80", None),
        ({"*": "all", "a:1": "one"}, "a:1", "one"),
        ({"a*": "first", "ab*": "second"}, "abc:1", "first"),
        ({"[::1]:50051": "six"}, "ipv6:[::1]:50051", "six"),
        ({"[::1]:50051": "six"}, "ipv6:[::1]:50052", None),
        ({"[::1]": "six"}, "ipv6:[::1]:50052", "six"),
        ({"10.0.0.*:2379": "etcd"}, "ipv4:10.0.0.1:2379,10.0.0.2:2379", "etcd"),
        ({"10.0.0.1:2379": "etcd"}, "ipv4:10.0.0.1:2379,10.0.0.2:2379", None),
        ({"unix:/run/x.sock": "local"}, "unix:/run/x.sock", "local"),
        ({"*": "all"}, "xds:///orders", "all"),
    ],
)
def test_a_rule_finds_its_targets(rules: dict[str, str], target: str, service: str | None) -> None:
    """Exact before glob, globs in order, without a port for every port, however the target is written."""
    assert Rules(rules).service_of(target) == service


@pytest.mark.parametrize("rules", [{"": "x"}, {"a:1": ""}, {"a:1": None}, {7: "x"}, "a:1", ["a:1"]])
def test_a_rule_without_a_name_is_an_error(rules: object) -> None:
    """What can't be meant is said when it is written, not when a channel is opened."""
    with pytest.raises(ConfigError, match="rule"):
        Rules(rules)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("orders:50051", "orders"),
        ("orders", "orders"),
        ("dns:///orders:50051", "orders"),
        ("orders.service.consul:50051", "orders"),
        ("v2.orders.service.dc1.consul", "orders"),
        ("localhost:50051", None),
        ("127.0.0.1:50051", None),
        ("[::1]:50051", None),
        ("orders.example.com:443", None),
        ("unix:/run/orders.sock", None),
        ("xds:///orders", None),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", None),
        ("", None),
    ],
)
def test_a_target_has_a_service_s_name_or_none(target: str, name: str | None) -> None:
    """One plain word is a service's name, and so is what Consul's DNS calls it; an address or a domain is not."""
    assert own_name(target) == name


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("orders:50051", "orders:50051"),
        ("dns:///orders:50051", "orders:50051"),
        ("unix:/run/orders.sock", "localhost"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", None),
        ("xds:///orders", None),
    ],
)
def test_the_authority_is_what_grpcio_would_send(target: str, name: str | None) -> None:
    """Servers and certificates see the name that the client said, as they did without the mesh."""
    assert authority(target) == name
