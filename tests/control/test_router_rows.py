"""Consul's router, as its own integration suite configures it (table 20), told in our language.

`ROUTES` holds the matches and destinations of hashicorp/consul@4e151e30
test/integration/connect/envoy/case-cfg-router-features/config_entries.hcl, in Consul's words and order, and
`translated` turns them into a document; rewriting and what gRPC has not are left away, and listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from proxyless.control.bexpr import compile_filter
from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import parse
from proxyless.model.documents import ServiceDocument
from proxyless.model.topology import Endpoint
from proxyless.stack import ENTRY
from tests.fakes import play
from tests.policy.rows import rows
from tests.worlds import Known, document, rpc

NOT_OURS = {
    "router-18": "a gRPC call is always a POST: a route for other methods could never match one",
    "router-query-20": "a gRPC call has no query: a route that asks for one could never match",
    "router-prefix-rewrite": "a gRPC path is service and method: rewriting it would call another method",
    "chain-0": "our documents have no redirect; a circle is for the importer of entries, later work",
    "chain-2": "our splits lead to clusters, not to splits; flattening is the importer's",
    "chain-4": "our documents have neither redirect nor failover to a service",
}
"""Rows of 20 that are left out."""

DEBUG = "x-test-debug"
ROUTES: list[dict[str, Any]] = [
    {"PathExact": "/exact/debug", "Subset": "v2"},
    {"PathExact": "/exact-alt/debug", "Subset": "v1"},
    {"PathPrefix": "/prefix/", "Subset": "v2"},
    {"PathPrefix": "/prefix-alt/", "Subset": "v1"},
    {"PathRegex": "/deb[ug]{2}", "Header": {"Name": DEBUG, "Exact": "regex-path"}, "Subset": "v2"},
    {"PathExact": "/hdr-present/debug", "Header": {"Name": DEBUG, "Present": True}, "Subset": "v2"},
    {
        "PathExact": "/hdr-present/debug",
        "Header": {"Name": DEBUG, "Present": True, "Invert": True},
        "Subset": "v1",
    },
    {"PathExact": "/hdr-exact/debug", "Header": {"Name": DEBUG, "Exact": "exact"}, "Subset": "v2"},
    {"PathExact": "/hdr-exact/debug", "Header": {"Name": DEBUG, "Exact": "exact-alt"}, "Subset": "v1"},
    {"PathExact": "/hdr-prefix/debug", "Header": {"Name": DEBUG, "Prefix": "prefi"}, "Subset": "v2"},
    {"PathExact": "/hdr-prefix/debug", "Header": {"Name": DEBUG, "Prefix": "alt-prefi"}, "Subset": "v1"},
    {"PathExact": "/hdr-suffix/debug", "Header": {"Name": DEBUG, "Suffix": "uffix"}, "Subset": "v2"},
    {"PathExact": "/hdr-suffix/debug", "Header": {"Name": DEBUG, "Suffix": "uffix-alt"}, "Subset": "v1"},
    {"PathExact": "/hdr-regex/debug", "Header": {"Name": DEBUG, "Regex": "reg[ex]{2}"}, "Subset": "v2"},
    {"PathExact": "/hdr-regex/debug", "Header": {"Name": DEBUG, "Regex": "reg[ex]{3}"}, "Subset": "v1"},
    {
        "PathExact": "/hdr-invert/debug",
        "Header": {"Name": DEBUG, "Exact": "not-this", "Invert": True},
        "Subset": "v2",
    },
    {
        "PathExact": "/header-manip/debug",
        "Set": {"x-foo": "request-bar"},
        "Remove": ["x-bad-req"],
        "Subset": "v2",
    },
]


def translated(consul: Mapping[str, Any]) -> dict[str, Any]:
    """One of Consul's routes as one of ours."""
    condition: dict[str, Any] = {}
    for theirs, ours in (("PathExact", "exact"), ("PathPrefix", "prefix"), ("PathRegex", "regex")):
        if theirs in consul:
            condition["path"] = {ours: consul[theirs]}
    if "Header" in consul:
        header = {key.lower(): value for key, value in consul["Header"].items()}
        condition["headers"] = {header.pop("name"): header}
    edit = {key: consul[key.title()] for key in ("set", "remove") if key.title() in consul}
    return {"match": [condition], "split": [{"subset": consul["Subset"]}], "headers": edit}


@pytest.fixture(scope="module")
def mesh() -> Known:
    """Service s2, an instance of each version, its router, and the catch-all that Consul adds."""
    subsets = {version: {"filter": f"Service.Meta.version == {version}"} for version in ("v1", "v2")}
    routes = [*map(translated, ROUTES), {"name": "default", "split": [{"subset": "v1"}]}]
    world = Known()
    world.services["s2"] = document(json.dumps({"subsets": subsets, "routes": routes}))
    entries = (json.dumps({"Service": {"Meta": {"version": version}}}) for version in ("v1", "v2"))
    return world.lives("s2", *(Endpoint(f"v{i}:1", entry=entry) for i, entry in enumerate(entries, 1)))


@pytest.mark.parametrize(
    "row", rows("20_consul_router.json", left_out=NOT_OURS, only=lambda row: row["id"].startswith("router"))
)
def test_a_request_goes_where_consul_sends_it(row: Mapping[str, Any], mesh: Known) -> None:
    """The subset that Consul's own suite expects, and the request headers that it expects there."""
    given, expect = row["given"], row["expect"]
    call = rpc(mesh.snapshot("s2"), service="s2", method=given["path"], metadata=[*given["headers"].items()])
    assert play(ENTRY, call)[0] == [f"send {expect['subset']}"]
    sent = dict(call.metadata or ())
    assert expect.get("upstream_headers", {}).items() <= sent.items()
    assert not set(expect.get("absent", ())) & sent.keys()


@pytest.mark.parametrize(
    ("path", "value", "subset"),
    [
        ("/exact/debug", None, "v2"),
        ("/exact-alt/debug", None, "v1"),
        ("/prefix/debug", None, "v2"),
        ("/debug", "regex-path", "v2"),
        ("/debug", None, "v1"),
        ("/hdr-present/debug", "any", "v2"),
        ("/hdr-present/debug", None, "v1"),
        ("/hdr-suffix/debug", "suffix", "v2"),
        ("/hdr-suffix/debug", "suffix-alt", "v1"),
        ("/hdr-regex/debug", "regex", "v2"),
        ("/hdr-regex/debug", "regexx", "v1"),
        ("/hdr-invert/debug", "something-else", "v2"),
        ("/hdr-invert/debug", "not-this", "v1"),
        ("/hdr-invert/debug", None, "v1"),
    ],
)
def test_the_rows_that_matter_most(path: str, value: str | None, subset: str, mesh: Known) -> None:
    """The same suite's cases and their counterparts; a missing header doesn't match, inverted or not."""
    metadata = [] if value is None else [(DEBUG, value)]
    assert play(ENTRY, rpc(mesh.snapshot("s2"), service="s2", method=path, metadata=metadata))[0] == [f"send {subset}"]


@pytest.mark.parametrize(
    "row", rows("20_consul_router.json", left_out=NOT_OURS, only=lambda row: row["id"].startswith("splitter"))
)
def test_each_leg_of_a_split_edits_the_request(row: Mapping[str, Any]) -> None:
    """`x-split-leg` is set to the leg and `x-bad-req` removed. The response's headers, which the row has too,
    cannot be changed here: what a server answers reaches its caller as it is."""
    splits = [
        {**leg, "headers": {"set": {"x-split-leg": leg["subset"]}, "remove": ["x-bad-req"]}}
        for leg in row["given"]["splits"]
    ]
    subsets = {leg["subset"]: {"labels": {"version": leg["subset"]}} for leg in splits}
    world = Known()
    world.services["web"] = document(json.dumps({"subsets": subsets, "routes": [{"split": splits}]}))
    world.lives("web", *(Endpoint(f"{name}:1", labels={"version": name}) for name in subsets))
    for draw, leg in ((0.49, splits[0]["subset"]), (0.51, splits[1]["subset"])):
        call = rpc(world.snapshot(), metadata=[("x-bad-req", "1"), ("k", "v")], rng=lambda drawn=draw: drawn)  # type: ignore[misc]
        assert play(ENTRY, call)[0] == [f"send {leg}"]
        assert call.metadata == (("k", "v"), ("x-split-leg", leg))


ENTRIES = (
    {"Service": {"ID": "web-x", "Meta": {"version": "v1"}, "Tags": ["canary"]}},
    {"Service": {"ID": "web-y", "Meta": {"version": "v1"}, "Tags": []}},
    {"Service": {"ID": "web-z", "Meta": {"version": "v2"}, "Tags": ["canary"]}},
)


@pytest.mark.parametrize(
    "row", rows("20_consul_router.json", left_out=NOT_OURS, only=lambda row: row["id"].startswith("subset"))
)
def test_subset_filters_are_read_and_asked(row: Mapping[str, Any]) -> None:
    """Both of the table's filters choose the first of three instances, and no other."""
    assert [compile_filter(row["given"]["filter"])(entry) for entry in ENTRIES] == [True, False, False]


@pytest.mark.parametrize(
    "row", rows("20_consul_router.json", left_out=NOT_OURS, only=lambda row: row["id"].startswith("chain"))
)
def test_chains_are_refused_where_consul_refuses_them(row: Mapping[str, Any]) -> None:
    """Of the chain rows one is about something that our documents have: a connect timeout."""
    timeout = row["given"]["case"]["connect_timeout"]
    text = json.dumps({"trafficPolicy": {"connection": {"connectTimeout": timeout}}})
    value, findings = DIALECTS["proxyless/v1"](parse(text), ServiceDocument)
    assert value is None
    assert [finding.path for finding in findings] == ["trafficPolicy.connection.connectTimeout"]
    assert row["expect"]["result"] == "refused"
