"""Instances as Consul lists them: what becomes of every field, and what becomes of those that mean harm."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.control.instances import Instances
from proxyless.model.topology import NOWHERE, Endpoint, Locality

# Four instances as Consul 1.8.7 listed them, cut down to what differs: web-1 has tagged addresses and weights
# 10/2, web-2 warns and has no address of its own, web-3 is critical, web-4 was registered without a port.
NODE: dict[str, Any] = {
    "ID": "1380de8b-48ea-e6ae-ea38-c11881fa83bd",
    "Node": "dev1",
    "Address": "127.0.0.1",
    "Datacenter": "dc1",
    "TaggedAddresses": {"lan": "127.0.0.1", "wan": "127.0.0.1", "wan_ipv4": "127.0.0.1"},
    "Meta": {"consul-network-segment": ""},
}
SERF: dict[str, Any] = {"Node": "dev1", "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""}


def check(id: str, status: str) -> dict[str, Any]:
    return {"Node": "dev1", "CheckID": id, "Status": status, "ServiceID": "web-1", "ServiceTags": ["v1"]}


WEB: list[dict[str, Any]] = [
    {
        "Node": NODE,
        "Service": {
            "ID": "web-1",
            "Service": "web",
            "Tags": ["v1", "primary"],
            "Address": "127.0.0.1",
            "TaggedAddresses": {
                "lan": {"Address": "10.0.0.1", "Port": 9001},
                "wan": {"Address": "192.0.2.1", "Port": 19001},
            },
            "Meta": {"version": "v1", "zone": "a"},
            "Port": 9001,
            "Weights": {"Passing": 10, "Warning": 2},
        },
        "Checks": [SERF, check("web-1-ttl", "passing")],
    },
    {
        "Node": NODE,
        "Service": {
            "ID": "web-2",
            "Service": "web",
            "Tags": ["v2"],
            "Address": "",
            "Meta": {"version": "v2", "zone": "b"},
            "Port": 9002,
            "Weights": {"Passing": 1, "Warning": 1},
        },
        "Checks": [SERF, check("web-2-ttl", "warning")],
    },
    {
        "Node": NODE,
        "Service": {
            "ID": "web-3",
            "Service": "web",
            "Tags": [],
            "Meta": None,
            "Address": "10.0.0.3",
            "Port": 9003,
        },
        "Checks": [SERF, check("web-3-ttl", "critical")],
    },
    {
        "Node": NODE,
        "Service": {
            "ID": "web-4",
            "Service": "web",
            "Tags": None,
            "Meta": {},
            "Address": "10.0.0.4",
            "Port": 0,
        },
        "Checks": [SERF],
    },
]


def compact(entries: object) -> bytes:
    """As an agent writes it."""
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()


def indented(entries: object) -> bytes:
    """As a dev agent writes it."""
    return (json.dumps(entries, indent=4, ensure_ascii=False) + "\n").encode()


def entry(node: dict[str, Any] | None = None, checks: object = (), **service: Any) -> dict[str, Any]:
    """An instance that is like others but for these fields."""
    base = {"ID": "web-1", "Service": "web", "Address": "10.0.0.1", "Port": 9001}
    return {
        "Node": NODE | (node or {}),
        "Service": base | service,
        "Checks": list(checks) if checks == () else checks,
    }


def one(what: object, *, elsewhere: bool = False) -> Endpoint:
    """The endpoint of an answer about one instance that is fine."""
    (endpoint,), dropped = Instances(elsewhere=elsewhere).read(compact([what]))
    assert dropped == []
    return endpoint


def reason(what: object) -> str:
    """Why the one instance of an answer was left out; another one beside it was not."""
    endpoints, (why,) = Instances().read(compact([what, entry(Address="10.0.0.99")]))
    assert [endpoint.address for endpoint in endpoints] == ["10.0.0.99:9001"]
    return why


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


def test_every_truncation_is_noticed() -> None:
    """Wherever an answer is cut off, none of it is believed."""
    for whole in (compact(WEB[:2]), indented(WEB[:2]).rstrip()):
        for length in range(len(whole)):
            with pytest.raises(ValueError, match="not a JSON list of instances"):
                Instances().read(whole[:length])


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"null", b"7", b'"[]"', b"\xff\xfe", b"[" * 100_000, b"<html>", b"[[]"]
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """A proxy's page, an object, bytes that are no text, brackets without end."""
    with pytest.raises(ValueError, match="not a JSON list of instances"):
        Instances().read(body)


def test_a_text_that_looks_like_the_seam_between_entries_is_no_seam() -> None:
    """Quotes are escaped inside texts, and newlines: whoever registers an instance can't forge a second
    one."""
    forged = '},{"Node":{"Address":"10.6.6.6"},"Service":{"Port":1}\n    },\n    {\n'
    for write in (compact, indented):
        endpoints, dropped = Instances().read(write([entry(Meta={"x": forged}), entry(Address="10.0.0.2")]))
        assert [endpoint.address for endpoint in endpoints] == ["10.0.0.1:9001", "10.0.0.2:9001"]
        assert endpoints[0].labels["x"] == forged
        assert dropped == []


# --- address


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
    """In the order of Consul's BestAddress (agent/structs): WAN of the service, service, WAN of the node,
    node."""
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
    """A tag `k=v` is a label, any other one is a label that is there; meta is the more deliberate
    statement."""
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
def test_the_locality_is_the_first_that_is_said(
    service: dict[str, Any], node: dict[str, Any], locality: str
) -> None:
    """Consul's own (1.17 on), then ours, then plain meta, the service before the node; the datacenter is the
    region."""
    assert str(one(entry(node, **service)).locality) == locality


def test_no_locality_at_all_is_nowhere() -> None:
    """An old node without a datacenter."""
    assert one(entry({"Datacenter": None})).locality is NOWHERE


# --- harm


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (entry(Address="169.254.169.254"), "link-local"),
        (entry(Address="::ffff:169.254.169.254"), "link-local"),
        (entry(Address="fe80::1%eth0"), "link-local"),
        (entry(Address="unix:///var/run/docker.sock"), "IP address or a host name"),
        (entry(Address="dns:///web"), "IP address or a host name"),
        (entry(Address="localhost"), "localhost"),
        (entry(Address="0.0.0.0"), "unspecified"),
        (entry(Address="web\n.internal"), "IP address or a host name"),
        (entry(Address="web internal"), "IP address or a host name"),
        (entry({"Address": ""}, Address=""), "IP address or a host name"),
        (entry(Port=0), "port: must not be 0"),
        (entry(Port=None), "port: must not be 0"),
        (entry(Port=0, SocketPath="/run/web.sock"), "unix socket"),
        (entry(Port=70000), "port of 1 to 65535"),
        (entry(Port=-1), "port of 1 to 65535"),
        (entry(Weights={"Passing": 10**9, "Warning": 1}), "weight: must be 0 to 65535"),
        (entry(Weights={"Passing": 1, "Warning": -1}), "warningWeight: must be 0 to 65535"),
        (entry(Weights={"Passing": 1.5}), "Passing: must be a whole number, got a fraction"),
        (entry(Weights={"Passing": True}), "Passing: must be a whole number, got a truth value"),
        (entry(Weights=[1, 2]), "Weights: must be an object, got a list"),
        (entry(Tags=["x" * 1_000_000]), "at most 65536 characters"),
        (entry(Tags="v1"), "Tags: must be a list, got a text"),
        (entry(Tags=[1]), "Tags: must be texts, got a whole number"),
        (entry(Meta={"a": {}}), "Meta.'a': must be a text, got an object"),
        (entry(Meta={"proxyless_locality": "../../etc"}), "region: must be letters"),
        (entry(Meta={"proxyless_locality": "a/b/c/d"}), "must be region/zone/subzone"),
        (entry(Meta={"zone": "a\nb"}), "zone: must be letters"),
        (entry(Locality={"Region": 7}), "Region: must be a text"),
        (entry(Locality="eu"), "Locality: must be an object"),
        (entry({"Datacenter": "../.."}), "region: must be letters"),
        (entry(Port="9001"), "Port: must be a whole number, got a text"),
        (entry(Address=7), "Address: must be a text"),
        (entry(checks={"a": 1}), "Checks: must be a list"),
        (entry(checks=["critical"]), "Checks: must be objects"),
        (entry(checks=[{"Status": 1}]), "Status: must be a text"),
        ({"Node": [], "Service": {}, "Checks": []}, "Node: must be an object"),
        ({"Node": NODE, "Service": "web", "Checks": []}, "Service: must be an object"),
        ("web", "must be an object, got a text"),
        (None, "must be an object, got nothing"),
        ({}, "port: must not be 0"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_an_instance_that_cannot_be_called_is_left_out_with_the_reason(what: object, says: str) -> None:
    """And with it no other: its neighbour in the same answer is there."""
    why = reason(what)
    assert says in why
    assert "\n" not in why
    assert len(why) < 400


def test_the_reason_names_the_instance() -> None:
    """By its id, quoted and cut: ids are chosen by whoever registers."""
    assert reason(entry(ID="web-7", Port=0)).startswith("'web-7': ")
    assert reason(entry(ID="\x1b[31m" + "x" * 500, Port=0)).startswith("'\\x1b[31mxxx")


def test_what_was_left_out_is_left_out_again() -> None:
    """From memory, like the others, until it is registered anew."""
    instances = Instances()
    body = compact([entry(Port=0), entry(Address="10.0.0.2")])
    assert instances.read(body) == instances.read(body)
    assert instances.read(compact([entry()])) == ([one(entry())], [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "ID",
            "Address",
            "Port",
            "Meta",
            "Tags",
            "Weights",
            "TaggedAddresses",
            "Locality",
            "Datacenter",
            "SocketPath",
        ]
    ),
    JSON
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("wan", "Passing", "Warning", "Region", "region", "zone"), JSON)
    )
    | st.fixed_dictionaries({"wan": st.fixed_dictionaries({"Address": JSON, "Port": JSON})}),
)
ENTRY = JSON | st.fixed_dictionaries(
    {"Node": FIELDS | JSON, "Service": FIELDS | JSON},
    optional={"Checks": JSON | st.lists(st.dictionaries(st.sampled_from(["CheckID", "Status"]), JSON))},
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(ENTRY, max_size=4), st.booleans(), st.sampled_from([compact, indented]))
def test_no_list_of_json_ever_raises(entries: list[Any], elsewhere: bool, write: Any) -> None:
    """Every entry becomes an endpoint or a reason, unless it shares another's address or text."""
    try:
        body = write(entries)
    except UnicodeEncodeError:
        body = json.dumps(entries).encode()
    endpoints, dropped = Instances(elsewhere=elsewhere).read(body)
    assert len(endpoints) + len(dropped) <= len(entries)
    assert bool(endpoints or dropped) is bool(entries)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(JSON.filter(lambda value: not isinstance(value, list)) | st.binary())
def test_anything_else_raises_value_error_and_nothing_else(value: Any) -> None:
    """Bytes of any kind, JSON of any other shape."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        is_list = isinstance(json.loads(body), list)
    except (ValueError, RecursionError):
        is_list = False
    if is_list:
        Instances().read(body)
    else:
        with pytest.raises(ValueError, match="not a JSON list of instances"):
            Instances().read(body)


def test_a_thousand_instances_take_little_memory() -> None:
    """At most 1.3 KB each beside the entry's own text, of which there is no second copy."""
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
        endpoints, _ = instances.read(body)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(endpoints) == 1000
    assert (used - len(body)) / 1000 < 1300
