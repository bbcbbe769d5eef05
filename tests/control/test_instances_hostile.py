"""Instances that mean harm and answers that are none: each costs itself and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.control.instances import Instances
from tests.control.listing import NODE, WEB, compact, entry, indented, one, reason


def test_every_truncation_is_noticed() -> None:
    """Wherever an answer is cut off, none of it is believed."""
    for whole in (compact(WEB[:2]), indented(WEB[:2]).rstrip()):
        for length in range(len(whole)):
            with pytest.raises(ValueError, match="not a JSON list of instances"):
                Instances().read(whole[:length])


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"7", b'"[]"', b"\xff\xfe", b"[" * 100_000, b"<html>", b"[[]"])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """A proxy's page, an object, bytes that are no text, brackets without end."""
    with pytest.raises(ValueError, match="not a JSON list of instances"):
        Instances().read(body)


def test_a_text_that_looks_like_the_seam_between_entries_is_no_seam() -> None:
    """Quotes and newlines are escaped inside texts: nobody can forge a second instance."""
    forged = '},{"Node":{"Address":"10.6.6.6"},"Service":{"Port":1}\n    },\n    {\n'
    for write in (compact, indented):
        endpoints, dropped = Instances().read(write([entry(Meta={"x": forged}), entry(Address="10.0.0.2")]))
        assert [endpoint.address for endpoint in endpoints] == ["10.0.0.1:9001", "10.0.0.2:9001"]
        assert endpoints[0].labels["x"] == forged
        assert dropped == []


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
    | st.fixed_dictionaries({}, optional=dict.fromkeys(("wan", "Passing", "Warning", "Region", "region", "zone"), JSON))
    | st.fixed_dictionaries({"wan": st.fixed_dictionaries({"Address": JSON, "Port": JSON})}),
)
ENTRY = JSON | st.fixed_dictionaries(
    {"Node": FIELDS | JSON, "Service": FIELDS | JSON},
    optional={"Checks": JSON | st.lists(st.dictionaries(st.sampled_from(["CheckID", "Status"]), JSON))},
)


@settings(max_examples=150, deadline=None, derandomize=True)
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
