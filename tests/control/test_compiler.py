"""From documents and endpoints to what calls read: members, policies, names, and what is taken over."""

from __future__ import annotations

import json
import time

import pytest

from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import parse
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.snapshot import ClusterKey, Snapshot
from proxyless.model.topology import Endpoint, Watched
from proxyless.model.traffic import DEFAULTS, LoadBalancer, TrafficPolicy, overlay
from proxyless.policy.balancers.least_request import _Two
from proxyless.policy.balancers.random import _Alias
from tests.worlds import Known, document


def addresses(snapshot: Snapshot, service: str, subset: str = "") -> list[str]:
    """The members of a destination, in order."""
    return [node.address for node in snapshot.clusters[ClusterKey(service, subset)].nodes]


def at(address: str, entry: dict[str, object] | None = None, **fields: object) -> Endpoint:
    """An endpoint as its source tells of it."""
    return Endpoint(address, entry=json.dumps(entry) if entry else "", **fields)  # type: ignore[arg-type]


# --- who is a member ---


def test_a_service_without_a_document_is_all_of_it_by_default_rules() -> None:
    """Least request over every passing instance, the default retry (CONTRACT sections 2 and 9)."""
    snapshot = Known().lives("web", "a:1", at("b:1", status="warning"), at("c:1", status="critical")).snapshot()
    assert addresses(snapshot, "web") == ["a:1"]
    (route,) = snapshot.services["web"].routes
    assert (route.name, route.timeout, route.retry.attempts) == ("default", None, 2)
    assert route.retry.on == ("connect-failure", "refused-stream", "unavailable")
    policy = snapshot.clusters[ClusterKey("web")].policy
    assert (policy.load_balancer.policy, policy.load_balancer.choices) == ("least_request", 2)


def test_warning_instances_count_where_the_document_says_so() -> None:
    """With their Warning weight; 0 is no traffic."""
    world = Known().lives(
        "web",
        at("a:1", weight=10),
        at("b:1", status="warning", weight=10, warning_weight=3),
        at("c:1", status="warning", warning_weight=0),
        at("d:1", weight=0),
    )
    world.services["web"] = document("discovery: {onlyPassing: false}")
    cluster = world.snapshot().clusters[ClusterKey("web")]
    assert [(node.address, weight) for node, weight in zip(cluster.nodes, cluster.weights, strict=True)] == [
        ("a:1", 10),
        ("b:1", 3),
    ]


def test_subsets_are_by_labels_and_by_filter() -> None:
    """All labels must be equal; the filter is asked of what Consul said; both together are both."""
    world = Known().lives(
        "web",
        at("a:1", {"Service": {"Meta": {"version": "v1"}}}, labels={"version": "v1", "zone": "x"}),
        at("b:1", {"Service": {"Meta": {"version": "v2"}}}, labels={"version": "v2", "zone": "x"}),
        at("c:1", {"Service": {"Meta": {"version": "v2"}}}, labels={"version": "v2", "zone": "y"}),
    )
    world.services["web"] = document(
        """
        discovery: {filter: 'Service.Meta.version matches "v[12]"'}
        subsets:
          stable: {labels: {version: v1}}
          canary: {filter: 'Service.Meta.version == "v2"'}
          both: {labels: {zone: x}, filter: 'Service.Meta.version == "v2"'}
          nobody: {labels: {version: v9}}
        routes: [{split: [{subset: stable}, {subset: canary}, {subset: both}, {subset: nobody}]}]
        """
    )
    snapshot = world.snapshot()
    found = {name: addresses(snapshot, "web", name) for name in ("stable", "canary", "both", "nobody")}
    assert found == {"stable": ["a:1"], "canary": ["b:1", "c:1"], "both": ["b:1"], "nobody": []}


@pytest.mark.parametrize("entry", ["[]", "7", "{", "[" * 5000])
@pytest.mark.parametrize("filter_", ["Service.Meta.version == v1", "Service.Meta.version != v1"])
def test_a_record_that_is_none_passes_no_filter(entry: str, filter_: str) -> None:
    """A plug-in's endpoint may come with anything for a record."""
    world = Known().lives("web", Endpoint("a:1", entry=entry))
    world.services["web"] = document(f"discovery: {{filter: '{filter_}'}}")
    assert addresses(world.snapshot(), "web") == []


def test_a_document_may_say_under_which_name_and_where_a_service_is_found() -> None:
    """`discovery` names it in the source, the subset's own and other services by theirs."""
    world = Known()
    world.services["web"] = document(
        "discovery: {service: web-grpc, datacenter: dc2}\nroutes: [{split: [{}, {service: rec}]}]"
    )
    world.services["rec"] = document("discovery: {service: recommendations}")
    compiled = world.compiled()
    assert compiled.watched == {Watched("web-grpc", "dc2"), Watched("recommendations")}
    world.lives("web-grpc", "a:1", datacenter="dc2").lives("web-grpc", "b:1").lives("recommendations", "c:1")
    snapshot = world.snapshot()
    assert (addresses(snapshot, "web"), addresses(snapshot, "rec")) == (["a:1"], ["c:1"])


def test_only_what_is_wanted_is_watched() -> None:
    """A hundred documents in KV are no hundred watches: a client follows what its calls can reach."""
    world = Known()
    world.services["web"] = document("routes: [{split: [{service: rec}]}]")
    world.services["rec"] = document("routes: [{split: [{service: deep}]}]")
    compiled = world.compiled("web")
    assert compiled.watched == {Watched("rec")}, "rec's own routes are for those who call rec"
    assert compiled.snapshot is not None
    assert set(compiled.snapshot.services) == {"web"}


# --- what holds ---


def test_policies_are_laid_over_each_other_field_by_field() -> None:
    """Subset over service over mesh over the defaults; a block that says one thing leaves the rest of it."""
    world = Known().lives("web", "a:1")
    world.mesh = document(
        "defaults: {trafficPolicy: {loadBalancer: {policy: random}, connection: {connectTimeout: 2s}}}",
        MeshDocument,
    )
    world.services["web"] = document(
        """
        trafficPolicy: {loadBalancer: {choices: 3}, connection: {keepaliveTime: 60s}}
        subsets:
          canary: {trafficPolicy: {connection: {connectTimeout: 3s}, loadBalancer: {policy: round_robin}}}
        routes: [{split: [{}, {subset: canary}]}]
        """
    )
    clusters = world.snapshot().clusters
    service, subset = clusters[ClusterKey("web")].policy, clusters[ClusterKey("web", "canary")].policy
    assert (service.load_balancer.policy, service.load_balancer.choices) == ("random", 3)
    assert (subset.load_balancer.policy, subset.load_balancer.choices) == ("round_robin", 3)
    assert service.connection.connect_timeout == 2.0
    assert subset.connection.connect_timeout == 3.0
    for policy in (service, subset):
        assert policy.connection.keepalive_time == 60.0
        assert policy.connection.idle_timeout == DEFAULTS.connection.idle_timeout


@pytest.mark.parametrize(
    ("block", "longest"),
    [
        ("{}", 300),
        ("{baseEjectionTime: 29s}", 300),
        ("{baseEjectionTime: 10m}", 600),
        ("{baseEjectionTime: 1h, maxEjectionTime: 2h}", 7200),
        ("{baseEjectionTime: 10m, maxEjectionTime: 5m}", 300),
    ],
)
def test_without_a_cap_an_ejection_may_last_its_base_time(block: str, longest: float) -> None:
    """ "the default value (300000ms or 300s) or base_ejection_time value is applied, whatever is larger" (Envoy
    `outlier_detection.proto`, A50); one that is said holds."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document(f"trafficPolicy: {{outlierDetection: {block}}}")
    (cluster,) = world.snapshot().clusters.values()
    assert cluster.policy.outlier_detection.max_ejection_time == longest


def test_laying_nothing_over_changes_nothing() -> None:
    """An absent block and an empty one are the same."""
    assert overlay(DEFAULTS, None, TrafficPolicy(), TrafficPolicy(load_balancer=LoadBalancer())) == DEFAULTS


@pytest.mark.parametrize(
    ("route", "mesh", "timeout", "attempts"),
    [
        ("{}", "{}", None, 2),
        ("{}", "{timeout: 4s, retry: {attempts: 1}}", 4.0, 1),
        ("{timeout: 1s, retry: {attempts: 3}}", "{timeout: 4s, retry: {attempts: 1}}", 1.0, 3),
        ("{timeout: 0s, retry: {attempts: 0}}", "{timeout: 4s, retry: {attempts: 1}}", None, 0),
    ],
)
def test_a_route_takes_the_mesh_s_defaults_where_it_says_nothing(
    route: str, mesh: str, timeout: float | None, attempts: int
) -> None:
    """`0s` says something: that there is none."""
    world = Known()
    world.mesh = document(f"defaults: {mesh}", MeshDocument)
    world.services["web"] = document(f"routes: [{route}]")
    (planned,) = world.snapshot().services["web"].routes
    assert (planned.timeout, planned.retry.attempts) == (timeout, attempts)


def test_routes_without_a_name_are_known_by_their_place() -> None:
    """Telemetry and explain have to call them something."""
    world = Known()
    world.services["web"] = document("routes: [{name: first}, {}, {directResponse: {status: NOT_FOUND}}]")
    assert [route.name for route in world.snapshot().services["web"].routes] == [
        "first",
        "route-1",
        "route-2",
    ]


# --- what is wrong beyond one document ---


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        (
            "routes: [{split: [{service: rec, subset: canry}]}]",
            ['routes[0].split[0].subset: rec has no subset "canry"; did you mean "canary"?'],
        ),
        (
            "routes: [{split: [{service: rec, subset: zzz}]}]",
            ['routes[0].split[0].subset: rec has no subset "zzz"; its subsets are: canary'],
        ),
        (
            "routes: [{split: [{service: nobody, subset: v1}]}]",
            ['routes[0].split[0].subset: nobody has no subset "v1"; its subsets are: none'],
        ),
        (
            "routes: [{mirror: [{service: rec}, {service: rec, subset: canry}]}]",
            ['routes[0].mirror[1].subset: rec has no subset "canry"; did you mean "canary"?'],
        ),
    ],
)
def test_names_that_lead_nowhere_are_findings(text: str, findings: list[str]) -> None:
    """All of them at once, with what would have been right; and then there is no snapshot."""
    world = Known()
    world.services["web"] = document(text)
    world.services["rec"] = document("subsets: {canary: {}}")
    compiled = world.compiled("web", "rec")
    assert compiled.snapshot is None
    assert {key: list(map(str, found)) for key, found in compiled.findings.items()} == {"services/web": findings}


def test_documents_of_services_nobody_calls_are_checked_as_well() -> None:
    """An operator must hear of it before the first caller comes."""
    world = Known()
    world.services["other"] = document("routes: [{split: [{service: web, subset: v1}]}]")
    compiled = world.compiled("web")
    assert set(compiled.findings) == {"services/other"}
    assert set(compiled.missed) == {"services/web"}


# --- what is taken over ---


def test_an_unchanged_recompile_hands_on_the_same_objects() -> None:
    """So that the loop can drop it."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document("subsets: {v1: {}}\nroutes: [{split: [{subset: v1}, {}]}]")
    first, second = world.snapshot(), world.snapshot()
    assert first.services["web"] is second.services["web"]
    assert all(first.clusters[key] is second.clusters[key] for key in first.clusters)


def test_one_changed_service_leaves_the_others_as_they_are() -> None:
    """Their pickers keep their turn."""
    world = Known().lives("web", "a:1").lives("rec", "b:1")
    first = world.snapshot("web", "rec")
    second = world.lives("rec", "b:1", "c:1").snapshot("web", "rec")
    assert first.services["web"] is second.services["web"]
    assert first.clusters[ClusterKey("web")] is second.clusters[ClusterKey("web")]
    assert first.clusters[ClusterKey("rec")] is not second.clusters[ClusterKey("rec")]


def test_nodes_survive_edits_with_their_history() -> None:
    """ "We want to preserve the existing nodes if possible" - Finagle `Balancer.update`."""
    world = Known().lives("web", "a:1", "b:1")
    before = {node.address: node for node in world.snapshot().clusters[ClusterKey("web")].nodes}
    before["a:1"].inflight = 1
    world.services["web"] = document("trafficPolicy: {loadBalancer: {policy: random}}")
    after = {
        node.address: node for node in world.lives("web", "a:1", "c:1").snapshot().clusters[ClusterKey("web")].nodes
    }
    assert after["a:1"] is before["a:1"]
    assert after["a:1"].inflight == 1
    assert set(after) == {"a:1", "c:1"}


def test_an_endpoint_told_anew_is_the_same_node_with_new_labels() -> None:
    """The address is the identity; what its registrar says of it may change."""
    world = Known().lives("web", at("a:1", labels={"version": "v1"}, weight=1))
    (before,) = world.snapshot().clusters[ClusterKey("web")].nodes
    cluster = world.lives("web", at("a:1", labels={"version": "v2"}, weight=5)).snapshot().clusters[ClusterKey("web")]
    assert cluster.nodes[0] is before
    assert cluster.nodes[0].endpoint.labels == {"version": "v2"}
    assert list(cluster.weights) == [5]


def test_a_changed_policy_gets_a_new_picker() -> None:
    """And the one that was is thrown away with its snapshot."""
    world = Known().lives("web", "a:1")
    assert isinstance(world.snapshot().clusters[ClusterKey("web")].picker, _Two)
    world.services["web"] = document("trafficPolicy: {loadBalancer: {policy: random}}")
    assert isinstance(world.snapshot().clusters[ClusterKey("web")].picker, _Alias)


def test_a_destination_that_was_never_told_of_is_not_known() -> None:
    """Calls wait for it; one that is told to be empty is known, and calls are refused."""
    world = Known()
    assert not world.snapshot().clusters[ClusterKey("web")].known
    assert world.lives("web").snapshot().clusters[ClusterKey("web")].known


def test_a_service_whose_only_document_is_invalid_has_no_routes() -> None:
    """Nobody may guess what was meant: its calls are refused with the reason (see test_loop.py)."""
    world = Known().lives("web", "a:1")
    world.rejected = {"web": "mesh.yaml is invalid"}
    table = world.snapshot().services["web"]
    assert (list(table.routes), table.rejected) == ([], "mesh.yaml is invalid")


def test_plans_are_made_once_a_method_and_bounded() -> None:
    """A caller that invents a hundred thousand methods must not fill the memory."""
    world = Known()
    world.services["web"] = document("routes: [{match: [{path: {prefix: /a/}}]}, {}]")
    table = world.snapshot().services["web"]
    assert table.plan("/a/B", "web") is table.plan("/a/B", "web")
    for number in range(10_000):
        table.plan(f"/a/{number}", "web")
    assert len(table.plans) <= 4096
    assert [route.name for _, route in table.plan("/a/B", "web").steps] == ["route-0"]
    assert [route.name for _, route in table.plan("/b/B", "web").steps] == ["route-1"]


def test_ten_thousand_endpoints_are_compiled_within_a_second() -> None:
    """Issue 2: one changed endpoint is in effect within 1 s; here with a filter to ask of each."""
    entries = [at(f"10.0.{i // 250}.{i % 250 + 1}:1", {"Service": {"Meta": {"v": str(i % 2)}}}) for i in range(10_000)]
    world = Known().lives("web", *entries)
    world.services["web"] = document(
        "subsets: {odd: {filter: 'Service.Meta.v == 1'}}\nroutes: [{split: [{subset: odd}]}]"
    )
    world.snapshot()
    world.lives("web", *entries[:-1])
    started = time.perf_counter()
    snapshot = world.snapshot()
    assert time.perf_counter() - started < 1.0
    assert len(snapshot.clusters[ClusterKey("web", "odd")].nodes) == 4999


def test_where_copies_go_is_followed_and_waited_for_by_nobody() -> None:
    """A mirror's destination is watched like a split's; calls, and `Mesh.ready`, go by the splits alone."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document("routes: [{mirror: [{service: shadow, percent: 5}]}]")
    compiled = world.compiled("web")
    assert {watched.service for watched in compiled.watched} == {"web", "shadow"}
    assert compiled.snapshot is not None
    (route,) = compiled.snapshot.services["web"].routes
    (mirror,) = route.mirrors
    assert (mirror.percent, mirror.cluster.known, str(mirror.cluster.key)) == (5.0, False, "shadow (mirror)")
    assert [str(cluster.key) for cluster in route.clusters] == ["web"]


def test_a_hedge_stands_beside_no_retry() -> None:
    """gRFC A6: "a retry policy or a hedge policy, but not both"; to turn retries off beside it is no contradiction."""
    both = "routes: [{hedge: {delay: 10ms}, retry: {attempts: %d}}]"
    value, findings = DIALECTS["proxyless/v1"](parse(both % 1), ServiceDocument)
    assert value is None
    assert [str(finding) for finding in findings] == [
        "routes[0].hedge (line 1): can't stand beside retry: hedging takes the place of retries (gRFC A6)"
    ]
    assert document(both % 0).routes[0].hedge is not None
