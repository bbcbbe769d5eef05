"""Instances as Consul lists them: what becomes of every field, and what is kept for the next answer."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
from typing import Any

import pytest

from proxyless.control.instances import Instances
from proxyless.model.topology import NOWHERE, Endpoint, Locality
from tests.control.listing import SERF, WEB, check, compact, entry, indented, one

# --- the sample, whole


@pytest.mark.parametrize("write", [compact, indented, lambda entries: json.dumps(entries).encode()])
def test_the_sample_is_read_however_it_is_written(write: Any) -> None:
    """Compact as agents write, indented as dev agents do, or in any other JSON."""
    endpoints, dropped = Instances().read(write(WEB))
    assert endpoints == [
        Endpoint(
            "127.0.0.1:9001",
            10,
            2,
            Locality("dc1", "a"),
            {"v1": "true", "primary": "true", "version": "v1", "zone": "a"},
            "passing",
            endpoints[0].entry,
        ),
        Endpoint(
            "127.0.0.1:9002",
            1,
            1,
            Locality("dc1", "b"),
            {"v2": "true", "version": "v2", "zone": "b"},
            "warning",
            endpoints[1].entry,
        ),
        Endpoint("10.0.0.3:9003", 1, 1, Locality("dc1"), {}, "critical", endpoints[2].entry),
    ]
    assert dropped == ["'web-4': port: must not be 0: register it with its port"]


@pytest.mark.parametrize("write", [compact, indented, lambda entries: json.dumps(entries).encode()])
def test_an_endpoint_carries_its_own_entry(write: Any) -> None:
    """Subset filters are asked of the registrar's own record."""
    endpoints, _ = Instances().read(write(WEB))
    assert [json.loads(endpoint.entry) for endpoint in endpoints] == WEB[:3]
    assert {endpoint.entry[0] + endpoint.entry[-1] for endpoint in endpoints} == {"{}"}


def test_an_empty_list_has_neither_endpoints_nor_reasons() -> None:
    """That is how it is told from a list of nothing but rubbish."""
    assert Instances().read(b"[]") == ([], [])
    assert Instances().read(b"[]\n") == ([], [])
    assert Instances().read(b'["rubbish"]')[1] != []


# --- what is kept from one answer to the next


@pytest.mark.parametrize("write", [compact, indented])
def test_what_did_not_change_is_the_same_object(write: Any) -> None:
    """A flip of one instance builds one endpoint."""
    instances = Instances()
    before, _ = instances.read(write(WEB))
    changed = copy.deepcopy(WEB)
    changed[1]["Checks"][1]["Status"] = "passing"
    after, _ = instances.read(write(changed))
    assert [a is b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert after[1].status == "passing"


def test_what_is_gone_is_forgotten() -> None:
    """Memory follows the answer: an instance that comes back is read again."""
    instances = Instances()
    (first, *_), _ = instances.read(compact(WEB))
    assert len(instances.read(compact(WEB[1:2]))[0]) == 1
    (again, *_), _ = instances.read(compact(WEB))
    assert again == first
    assert again is not first


def test_a_broken_answer_costs_nothing_that_was_known() -> None:
    """It raises, and the next good answer is read as if it had not been."""
    instances = Instances()
    before, _ = instances.read(compact(WEB))
    with pytest.raises(ValueError, match="not a JSON list of instances"):
        instances.read(compact(WEB)[:-40])
    after, _ = instances.read(compact(WEB))
    assert [a is b for a, b in zip(before, after, strict=True)] == [True, True, True]


@pytest.mark.parametrize(
    ("service", "node", "address"),
    [
        ({"Address": "10.1.1.1"}, {}, "10.1.1.1:9001"),
        ({"Address": ""}, {"Address": "10.2.2.2"}, "10.2.2.2:9001"),
        ({"Address": None}, {"Address": "10.2.2.2"}, "10.2.2.2:9001"),
        ({"Address": "2001:db8::1"}, {}, "[2001:db8::1]:9001"),
        ({"Address": "[2001:db8::1]"}, {}, "[2001:db8::1]:9001"),
        ({"Address": "web.internal"}, {}, "web.internal:9001"),
        ({"TaggedAddresses": {"wan": {"Address": "192.0.2.1", "Port": 1}}}, {}, "10.0.0.1:9001"),
    ],
)
def test_the_address_is_the_services_else_the_nodes(
    service: dict[str, Any], node: dict[str, Any], address: str
) -> None:
    """IPv6 gets its brackets; a WAN address is nothing to a neighbour."""
    assert one(entry(node, **service)).address == address


@pytest.mark.parametrize(
    ("service", "node", "address"),
    [
        ({"TaggedAddresses": {"wan": {"Address": "192.0.2.1", "Port": 19001}}}, {}, "192.0.2.1:19001"),
        ({"TaggedAddresses": {"wan": {"Address": "192.0.2.1", "Port": 0}}}, {}, "192.0.2.1:9001"),
        ({"TaggedAddresses": {"wan": {"Address": "", "Port": 1}}}, {}, "10.0.0.1:9001"),
        ({}, {"TaggedAddresses": {"wan": "192.0.2.9"}}, "10.0.0.1:9001"),
        ({"Address": ""}, {"TaggedAddresses": {"wan": "192.0.2.9"}}, "192.0.2.9:9001"),
        ({"Address": ""}, {"TaggedAddresses": None, "Address": "10.2.2.2"}, "10.2.2.2:9001"),
    ],
)
def test_from_another_datacenter_the_wan_address_counts(
    service: dict[str, Any], node: dict[str, Any], address: str
) -> None:
    """As Consul's BestAddress (agent/structs): WAN of the service, service, WAN of the node, node."""
    assert one(entry(node, **service), elsewhere=True).address == address


def test_an_instance_that_is_registered_twice_counts_once_at_its_best() -> None:
    """After a crash it comes back under another id at the same address."""
    twins = [
        entry(ID="old", checks=[check("c", "critical")]),
        entry(ID="new", checks=[check("c", "passing")]),
        entry(ID="third", checks=[check("c", "warning")]),
    ]
    endpoints, dropped = Instances().read(compact(twins))
    assert [(e.address, e.status) for e in endpoints] == [("10.0.0.1:9001", "passing")]
    assert dropped == []


# --- status


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([], "passing"),
        (None, "passing"),
        ([SERF], "passing"),
        ([SERF, check("c", "warning")], "warning"),
        ([check("c", "warning"), check("d", "critical")], "critical"),
        ([check("c", "passing"), SERF | {"Status": "critical"}], "critical"),
        ([check("_service_maintenance:web-1", "critical")], "critical"),
        ([check("_node_maintenance", "critical"), check("c", "passing")], "critical"),
        ([check("c", "unheard of")], "critical"),
        ([check("c", "")], "critical"),
    ],
)
def test_the_status_is_that_of_the_worst_check(checks: object, status: str) -> None:
    """Maintenance and critical before warning before passing; no check at all passes; the node's count."""
    assert one(entry(checks=checks)).status == status


# --- weights


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"Passing": 10, "Warning": 2}, (10, 2)),
        ({"Passing": 0, "Warning": 0}, (0, 0)),
        ({"Passing": 5}, (5, 0)),
        ({}, (1, 1)),
        (None, (1, 1)),
        ({"Passing": 65535, "Warning": 1}, (65535, 1)),
    ],
)
def test_weights_are_consuls(weights: object, expected: tuple[int, int]) -> None:
    """One each where none is given; Warning is 0 where only Passing is (as Consul stores it)."""
    endpoint = one(entry(Weights=weights))
    assert (endpoint.weight, endpoint.warning_weight) == expected


# --- labels


def test_labels_are_the_tags_and_over_them_the_meta() -> None:
    """A tag `k=v` is a label, any other is a label that is there; meta is more deliberate."""
    tags = ["primary", "version=v1", "url=http://x?a=b", "=odd", "empty="]
    assert one(entry(Tags=tags, Meta={"version": "v2", "primary": "no"})).labels == {
        "primary": "no",
        "version": "v2",
        "url": "http://x?a=b",
        "=odd": "true",
        "empty": "",
    }


def test_equal_labels_are_one_text_in_memory() -> None:
    """Ten thousand instances have the same few versions."""
    a, b = Instances().read(
        compact([entry(Meta={"version": "2024.11"}), entry(ID="b", Port=2, Meta={"version": "2024.11"})])
    )[0]
    assert a.labels["version"] is b.labels["version"]
    assert a.locality is b.locality


# --- locality


@pytest.mark.parametrize(
    ("service", "node", "locality"),
    [
        ({}, {}, "dc1"),
        ({}, {"Datacenter": ""}, ""),
        ({}, {"Meta": {"region": "eu", "zone": "eu-a"}}, "eu/eu-a"),
        ({}, {"Meta": {"zone": "eu-a", "subzone": "r7"}}, "dc1/eu-a/r7"),
        (
            {"Meta": {"region": "us", "zone": "us-b", "subzone": "r1"}},
            {"Meta": {"region": "eu"}},
            "us/us-b/r1",
        ),
        ({"Meta": {"zone": "a"}}, {}, "dc1/a"),
        ({"Meta": {"zone": "a"}}, {"Meta": {"region": "eu", "zone": "b"}}, "eu/a"),
        ({"Meta": {"proxyless_zone": "p", "zone": "a"}}, {}, "dc1/p"),
        ({"Meta": {"proxyless_region": "r", "proxyless_zone": "p", "region": "x"}}, {}, "r/p"),
        ({"Meta": {"proxyless_locality": "r/z/s", "proxyless_region": "x"}}, {}, "r/z/s"),
        ({"Meta": {"proxyless_locality": "r"}}, {}, "r"),
        ({"Meta": {"region": "us"}}, {"Locality": {"Region": "nr", "Zone": "nz"}}, "nr/nz"),
        ({"Locality": {"Region": "sr", "Zone": "sz"}}, {"Locality": {"Region": "nr"}}, "sr/sz"),
        ({"Locality": {"Region": "", "Zone": ""}, "Meta": {"region": "us"}}, {"Locality": None}, "us"),
    ],
)
def test_the_locality_is_the_first_that_is_said(service: dict[str, Any], node: dict[str, Any], locality: str) -> None:
    """Consul's own (1.17 on), ours, plain meta, the service before the node; then the datacenter."""
    assert str(one(entry(node, **service)).locality) == locality


def test_no_locality_at_all_is_nowhere() -> None:
    """An old node without a datacenter."""
    assert one(entry({"Datacenter": None})).locality is NOWHERE


def test_a_thousand_instances_take_little_memory() -> None:
    """Half a KB each beside the entry's own text, of which there is no second copy."""
    entries = [
        entry(
            {"Node": f"n{i}"},
            ID=f"web-{i}",
            Port=1000 + i,
            Tags=["v1", "grpc"],
            Meta={"version": "v1", "build": f"{i}"},
        )
        for i in range(1000)
    ]
    body = compact(entries)
    del entries
    gc.collect()
    tracemalloc.start()
    try:
        instances = Instances()
        instances.read(body)
        endpoints, _ = instances.read(body)  # which keeps the text that is there already
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(endpoints) == 1000
    assert (used - len(body)) / 1000 < 700
