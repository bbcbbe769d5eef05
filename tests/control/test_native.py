"""The native language: what documents mean, field by field, and that nothing takes effect that isn't done."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless.control import RawDocument
from proxyless.control.dialects import decode
from proxyless.control.dialects.native import read
from proxyless.control.syntax import parse
from proxyless.model.documents import Defaults, MeshDocument, ServiceDocument, Subset
from proxyless.model.matches import GrpcMatch, HeaderMatch, Match, Range, StringMatch
from proxyless.model.quantities import Duration
from proxyless.model.routes import Backoff, DirectResponse, HeaderEdit, RetryPolicy, Route, Split
from proxyless.model.topology import Discovery
from proxyless.model.traffic import Connection, LoadBalancer, RetryBudget, Tls, TrafficPolicy
from proxyless.policy.balancers import BALANCERS
from tests.worlds import document

# CONTRACT section 3, without what belongs to later work (fault, mirror).
CONTRACT = """
apiVersion: proxyless/v1
service: product-service
discovery:
  service: product-service
  datacenter: dc1
  onlyPassing: true
  filter: 'Service.Meta.protocol == "grpc"'
subsets:
  stable: {labels: {version: v1}}
  canary: {filter: 'Service.Meta.version == "v2"', trafficPolicy: {loadBalancer: {policy: round_robin}}}
routes:
- name: premium-users-new-ui
  match:
  - headers: {x-user-tier: {exact: premium}, x-feature-flags: {regex: ".*new-ui.*"}}
  split: [{subset: canary}]
  timeout: 5s
  retry: {attempts: 2, perTryTimeout: 2s, on: [unavailable, connect-failure]}
- name: recommendations
  match: [{path: {prefix: /shop.Recommendations/}}]
  split: [{service: recommendation-service}]
  timeout: 10s
- name: canary-rollout
  split: [{subset: stable, weight: 90}, {subset: canary, weight: 10}]
  retry:
    attempts: 3
    perTryTimeout: 1s
    on: [unavailable, reset, connect-failure]
    backoff: {base: 25ms, max: 250ms}
  timeout: 3s
"""


def test_the_contract_s_document_means_what_it_says() -> None:
    """CONTRACT section 3, value by value."""
    assert document(CONTRACT) == ServiceDocument(
        service="product-service",
        discovery=Discovery("product-service", "dc1", True, 'Service.Meta.protocol == "grpc"'),
        subsets={
            "stable": Subset(labels={"version": "v1"}),
            "canary": Subset(
                filter='Service.Meta.version == "v2"',
                traffic_policy=TrafficPolicy(load_balancer=LoadBalancer(policy="round_robin")),
            ),
        },
        routes=(
            Route(
                name="premium-users-new-ui",
                match=(
                    Match(
                        headers={
                            "x-user-tier": HeaderMatch(exact="premium"),
                            "x-feature-flags": HeaderMatch(regex=".*new-ui.*"),
                        }
                    ),
                ),
                split=(Split(subset="canary"),),
                timeout=Duration(5),
                retry=RetryPolicy(2, Duration(2), ("unavailable", "connect-failure")),
            ),
            Route(
                name="recommendations",
                match=(Match(path=StringMatch(prefix="/shop.Recommendations/")),),
                split=(Split(service="recommendation-service"),),
                timeout=Duration(10),
            ),
            Route(
                name="canary-rollout",
                split=(Split(subset="stable", weight=90), Split(subset="canary", weight=10)),
                timeout=Duration(3),
                retry=RetryPolicy(
                    3,
                    Duration(1),
                    ("unavailable", "reset", "connect-failure"),
                    Backoff(Duration(0.025), Duration(0.25)),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{match: [{path: {exact: /a/B}}]}", Route(match=(Match(path=StringMatch(exact="/a/B")),))),
        ("{match: [{path: {suffix: /Get, ignoreCase: true}}]}",
         Route(match=(Match(path=StringMatch(suffix="/Get", ignore_case=True)),))),
        ("{match: [{authority: {contains: shop}}]}",
         Route(match=(Match(authority=StringMatch(contains="shop")),))),
        ("{match: [{grpc: {service: shop.Products, method: Get}}]}",
         Route(match=(Match(grpc=GrpcMatch("shop.Products", "Get")),))),
        ("{match: [{headers: {x-a: {present: false}}}]}",
         Route(match=(Match(headers={"x-a": HeaderMatch(present=False)}),))),
        ("{match: [{headers: {x-a: {range: {start: -5, end: 10}}}}]}",
         Route(match=(Match(headers={"x-a": HeaderMatch(range=Range(-5, 10))}),))),
        ("{match: [{withoutHeaders: {x-a: {exact: b, invert: true}}}]}",
         Route(match=(Match(without_headers={"x-a": HeaderMatch(exact="b", invert=True)}),))),
        ("{match: [{sourceLabels: {team: a}}, {fraction: 0.01}]}",
         Route(match=(Match(source_labels={"team": "a"}), Match(fraction=0.01)))),
        ("{match: []}", Route()),
        ("{split: [{weight: 99.99}, {subset: canary, weight: 0.01}]}",
         Route(split=(Split(weight=99.99), Split(subset="canary", weight=0.01)))),
        ("{split: [{headers: {set: {x-leg: a}, add: {x-b: c}, remove: [x-d]}}]}",
         Route(split=(Split(headers=HeaderEdit({"x-leg": "a"}, {"x-b": "c"}, ("x-d",))),))),
        ("{directResponse: {status: NOT_FOUND, message: gone}}",
         Route(direct_response=DirectResponse("NOT_FOUND", "gone"))),
        ("{timeout: 0s}", Route(timeout=Duration(0))),
        ("{timeout: null}", Route()),
        ("{retry: {attempts: 0}}", Route(retry=RetryPolicy(attempts=0))),
        ("{retry: {previousHosts: allow, on: [5xx, gateway-error, data-loss]}}",
         Route(retry=RetryPolicy(on=("5xx", "gateway-error", "data-loss"), previous_hosts="allow"))),
        ("{headers: {set: {t-bin: AAEC}}}", Route(headers=HeaderEdit(set={"t-bin": "AAEC"}))),
    ],
)  # fmt: skip
def test_each_field_of_a_route_means_what_it_says(written: str, meant: Route) -> None:
    """CONTRACT sections 3 and 4, a field at a time."""
    assert document(f"subsets: {{canary: {{}}}}\nroutes: [{written}]").routes == (meant,)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("loadBalancer: {policy: least_request, choices: 2}",
         TrafficPolicy(load_balancer=LoadBalancer(policy="least_request", choices=2))),
        ("loadBalancer: {activeRequestBias: 0.5}",
         TrafficPolicy(load_balancer=LoadBalancer(active_request_bias=0.5))),
        ("retryBudget: {ratio: 0.2, minRetriesPerSecond: 10, ttl: 10s}",
         TrafficPolicy(retry_budget=RetryBudget(0.2, 10, Duration(10)))),
        ("connection: {connectTimeout: 1s, idleTimeout: 30m, keepaliveTime: 0s, keepaliveTimeout: 20s}",
         TrafficPolicy(connection=Connection(Duration(1), Duration(1800), Duration(0), Duration(20)))),
        ("tls: {mode: DISABLE}", TrafficPolicy(tls=Tls("DISABLE"))),
    ],
)  # fmt: skip
def test_each_block_of_a_policy_means_what_it_says(written: str, meant: TrafficPolicy) -> None:
    """CONTRACT section 5; it may stand in a service, in a subset and in the mesh's defaults."""
    assert document(f"trafficPolicy: {{{written}}}").traffic_policy == meant
    assert document(f"subsets: {{v1: {{trafficPolicy: {{{written}}}}}}}").subsets["v1"].traffic_policy == meant
    mesh = document(f"defaults: {{trafficPolicy: {{{written}}}}}", MeshDocument)
    assert mesh.defaults.traffic_policy == meant


def test_the_mesh_document_has_defaults() -> None:
    """CONTRACT section 3, `<prefix>/mesh`."""
    assert document("defaults: {timeout: 1m30s, retry: {attempts: 1}}", MeshDocument) == MeshDocument(
        defaults=Defaults(Duration(90), RetryPolicy(attempts=1))
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("1m30s", 90),
        ("1h", 3600),
        ("0s", 0),
        ("100us", 1e-4),
        ("720h", 2_592_000),
    ],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    """As Go writes them, and back."""
    duration = document(f"routes: [{{timeout: {text}}}]").routes[0].timeout
    assert duration == pytest.approx(seconds)
    assert Duration.parse(str(duration)) == pytest.approx(seconds)


def test_values_of_a_document_are_checked_when_they_are_built_in_python_too() -> None:
    """One rule, two doors: whoever makes a document, the compiler can rely on it."""
    with pytest.raises(ValueError, match=r"routes\[1\].name"):
        ServiceDocument(routes=(document("routes: [{name: a}]").routes[0],) * 2)
    with pytest.raises(ValueError, match="must be 10ms to 5m"):
        Connection(connect_timeout=Duration(0))


# --- what isn't done yet ---

WRITTEN: dict[tuple[str | int, ...], str] = {
    ("routes", 0, "hedge"): "{delay: 10ms}",
    ("routes", 0, "fault"): "{delay: {percent: 50, fixed: 5s}, abort: {percent: 10, httpStatus: 503}}",
    ("routes", 0, "mirror"): "[{subset: v1, percent: 10}]",
    ("routes", 0, "hash"): "[{header: x-user-id}]",
    ("routes", 0, "sticky"): "{header: x-user-id}",
    ("routes", 0, "rateLimit"): "{requestsPerSecond: 10, burst: 5}",
    ("routes", 0, "retry", "idempotentOnly"): "true",
    ("routes", 0, "retry", "remoteLocalities"): "true",
    ("defaults", "retry", "idempotentOnly"): "true",
    ("defaults", "retry", "remoteLocalities"): "true",
    ("trafficPolicy", "locality"): "{enabled: true, distribute: [{from: a/*, to: {a/*: 100}}]}",
    ("trafficPolicy", "outlierDetection"): "{consecutive5xx: 5, probation: {requests: 1}}",
    ("trafficPolicy", "circuitBreaker"): "{failureRate: 50, window: 10s}",
    ("trafficPolicy", "limits"): "{maxRequests: 1024}",
    ("trafficPolicy", "loadBalancer", "slowStart"): "{window: 30s}",
    ("trafficPolicy", "loadBalancer", "minimumRingSize"): "1024",
    ("trafficPolicy", "loadBalancer", "maximumRingSize"): "4096",
    ("trafficPolicy", "loadBalancer", "tableSize"): "65537",
    ("trafficPolicy", "connection", "maxEndpoints"): "100",
}
"""Something good to write for fields that are not in every example."""


def nested(path: tuple[str | int, ...], value: str) -> str:
    """YAML with `value` at `path`."""
    for part in reversed(path):
        value = f"[{value}]" if part == 0 else f"{{{part}: {value}}}"
    return value


def test_a_balancer_s_name_is_for_the_process_to_know() -> None:
    """Plug-ins add balancers, so that the language alone takes any name."""
    policy = document("trafficPolicy: {loadBalancer: {policy: mine}}").traffic_policy
    assert policy.load_balancer.policy == "mine"


@pytest.mark.parametrize(
    ("kind", "text", "finding"),
    [
        (
            ServiceDocument,
            "trafficPolicy:\n  loadBalancer:\n    policy: rnadom",
            'trafficPolicy.loadBalancer.policy (line 3): no balancer is named "rnadom"; did you mean "random"?',
        ),
        (
            ServiceDocument,
            "trafficPolicy: {loadBalancer: {policy: ROUND_ROBIN}}",
            'trafficPolicy.loadBalancer.policy (line 1): no balancer is named "ROUND_ROBIN"; '
            'did you mean "round_robin"?',
        ),
        (
            ServiceDocument,
            "subsets:\n  v1: {trafficPolicy: {loadBalancer: {policy: magic}}}",
            'subsets.v1.trafficPolicy.loadBalancer.policy (line 2): no balancer is named "magic"; '
            f"the balancers are: {', '.join(sorted(BALANCERS))}",
        ),
        (
            MeshDocument,
            "defaults: {trafficPolicy: {loadBalancer: {policy: nope}}}",
            'defaults.trafficPolicy.loadBalancer.policy (line 1): no balancer is named "nope"; '
            f"the balancers are: {', '.join(sorted(BALANCERS))}",
        ),
    ],
)
def test_an_unknown_balancer_is_a_finding_with_its_line(kind: Any, text: str, finding: str) -> None:
    """In a service, a subset and the mesh's defaults; with the name that was meant, however it was written."""
    value, findings = read(parse(text), kind, BALANCERS)
    assert value is None
    assert list(map(str, findings)) == [finding]


def test_an_unknown_balancer_is_told_together_with_all_else() -> None:
    """ "All errors of a document are reported together": whoever mends them one by one applies once for each."""
    text = "routes: [{timeout: 5}]\ntrafficPolicy: {loadBalancer: {policy: rnadom}}"
    findings = read(parse(text), ServiceDocument, BALANCERS)[1]
    assert [(one.path, one.line) for one in findings] == [
        ("routes[0].timeout", 1),
        ("trafficPolicy.loadBalancer.policy", 2),
    ]


@pytest.mark.parametrize("version", ["networking.istio.io/v1", "gateway.networking.k8s.io/v1", "split.smi-spec.io/v1"])
def test_a_document_of_another_system_is_refused_with_what_to_do(version: str) -> None:
    """Nothing of it is taken, and nothing guessed."""
    text = f"apiVersion: {version}\nkind: VirtualService"
    value, findings = decode(RawDocument("services/web", text, "1", "here"))
    assert value is None
    (found,) = findings
    assert str(found) == (
        f'apiVersion (line 1): must be proxyless/v1, got "{version}"; documents of another system are not read: '
        "say the same in this language (see `proxyless schema`)"
    )
