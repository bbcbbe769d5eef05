"""The peers' tables of priorities, localities and subsets: Envoy, Istio, gRFC A68."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from proxyless.control.membership import select
from proxyless.model.localities import Distribute, Failover, LocalityPolicy
from proxyless.model.topology import NOWHERE, Discovery, Endpoint, Locality
from proxyless.policy.locality.loads import Level, effective_weight, priority_loads
from proxyless.policy.locality.places import arrange, shares
from proxyless.policy.subset import closest
from tests.policy.rows import rows
from tests.worlds import WEB, Known, document

ZONE_AWARE = "Envoy's zone-aware routing needs the caller's own peers per zone, and no document of ours asks for it"
ENVOY_SUBSETS = "Envoy's subset selectors; ours are named in the document, and have no fallback"
NOT_OURS = {
    "prio-20": "degraded hosts: Consul's warning is in or out by `discovery.onlyPassing`, with a weight of its own",
    "degraded-71-29-0": "degraded hosts, as above",
    "zone-direct": ZONE_AWARE,
    "zone-residuals": ZONE_AWARE,
    "zone-use-host-weight": ZONE_AWARE,
    "zone-not-enough-local-zones": ZONE_AWARE,
    "psm-gentle-failover": "gRPC xDS fails over whole priorities; ours spills as Envoy does: tests/simulation",
    "a68-config-0": "a document of A68; `connection.maxEndpoints: 0` is no subset here",
    "a68-config-2": "a document of A68; our balancer has a default",
    "a68-config-4": "a document of A68",
    "envoy-subset-1": ENVOY_SUBSETS,
    "envoy-subset-3": ENVOY_SUBSETS,
    "envoy-subset-5": ENVOY_SUBSETS,
}


LOADS = {row: why for row, why in NOT_OURS.items() if row.startswith(("prio", "degraded"))}


def levels(given: Mapping[str, Any]) -> list[Level]:
    """The priorities of a row; where it speaks of percent alone, of a hundred hosts each."""
    if "levels" in given:
        return [
            Level(level["hosts"] - level["excluded"], level["healthy"], level["hosts"]) for level in given["levels"]
        ]
    if "P0_weights" in given:
        healthy = sum(given["P0_weights"]["healthy"])
        hosts = healthy + sum(given["P0_weights"]["unhealthy"])
        return [Level(hosts, healthy, hosts), Level(1, 1, 1)]
    percents = given["healthy_percent"]
    return [Level(100, percent, 100) for percent in (percents if isinstance(percents, list) else [percents])]


@pytest.mark.parametrize("row", rows("07_priority_failover.json", left_out=LOADS))
def test_priorities_get_what_they_get_from_envoy(row: Mapping[str, Any]) -> None:
    """Loads, in whole percent, and who is in a panic."""
    given, expect = row["given"], row["expect"]
    loads = priority_loads(
        levels(given), given.get("overprovisioning_percent", 140), given.get("panic_threshold_percent", 50)
    )
    assert sum(loads.percent) == 100
    if "load_percent" in expect:
        assert list(loads.percent) == expect["load_percent"]
    if "in_panic" in expect:
        assert list(loads.panic) == expect["in_panic"]
    if expect.get("all_hosts_used"):
        assert all(loads.panic)
    if "to_healthy" in expect:
        assert loads.percent == (expect["to_healthy"],)


@pytest.mark.parametrize("row", rows("08_locality.json", only=lambda row: row["id"].startswith("locality-weight")))
def test_localities_get_what_they_get_from_envoy(row: Mapping[str, Any]) -> None:
    """A locality's weight counts for as much of it as is well."""
    given = row["given"]
    effective = {
        name: effective_weight(weight, given["available_percent"][name], 100, given["overprovisioning_percent"])
        for name, weight in given["weights"].items()
    }
    total = sum(effective.values())
    found = {name: round(100 * weight / total) for name, weight in effective.items()}
    assert found == row["expect"]["share_percent"]


def place(text: str | None) -> Locality:
    """`region1/zone1/`, as Istio's tests write it; the words after it say which endpoint is meant."""
    return Locality.parse(text.split(" ")[0].rstrip("/")) if text else NOWHERE


@pytest.mark.parametrize("row", rows("08_locality.json", only=lambda row: row["id"] == "istio-distribute-subzones"))
def test_istio_distributes_between_subzones(row: Mapping[str, Any]) -> None:
    """A target that takes two groups is divided between them; who is not named gets nothing."""
    given = row["given"]
    rule = Distribute(given["distribute"]["from"], given["distribute"]["to"])
    groups = [(place(text), 1.0) for text in given["locality_groups"]]
    assert shares(groups, rule) == row["expect"]["weights"]


def ranked(endpoints: list[Endpoint], here: Locality, labels: Mapping[str, str], policy: LocalityPolicy) -> list[int]:
    """The priority of each endpoint."""
    places = arrange(endpoints, [0] * len(endpoints), here, labels, policy, fails_over=True)
    assert places is not None
    found = {index: spot.priority for spot in places for index in spot.members}
    return [found[index] for index in range(len(endpoints))]


FAILOVER = ("istio-failover-all", "istio-failover-nil-locality")


@pytest.mark.parametrize("row", rows("08_locality.json", only=lambda row: row["id"] in FAILOVER))
def test_istio_ranks_by_distance(row: Mapping[str, Any]) -> None:
    """Subzone, zone, region, the region that failover names, the rest; an unknown place is last."""
    given = row["given"]
    endpoints = [Endpoint(f"10.0.0.{n}:1", locality=place(text)) for n, text in enumerate(given["localities"], 1)]
    policy = LocalityPolicy(
        distribute=(),
        failover=tuple(Failover(rule["from"], rule["to"]) for rule in given["failover"]),
        failover_priority=(),
    )
    assert ranked(endpoints, place(given["client"]), {}, policy) == row["expect"]["priority"]


@pytest.mark.parametrize(
    "row", rows("08_locality.json", only=lambda row: row["id"] == "istio-failover-priority-labels")
)
def test_istio_ranks_by_labels(row: Mapping[str, Any]) -> None:
    """The more labels agree from the first on, the higher the priority; a network that differs is no end of it."""
    given = row["given"]
    endpoints = [
        Endpoint(
            f"10.0.0.{n}:1",
            labels={"topology.istio.io/network": one["network"], "region": one["region"], "zone": one["zone"]},
        )
        for n, one in enumerate(given["endpoints"], 1)
    ]
    policy = LocalityPolicy(distribute=(), failover=(), failover_priority=tuple(given["failoverPriority"]))
    assert ranked(endpoints, NOWHERE, given["client_labels"], policy) == row["expect"]["priority"]


MANY = ("a68-100-100-5", "a68-100-10-5", "a68-2000-10-5")


@pytest.mark.parametrize("row", rows("17_subsetting.json", only=lambda row: row["id"] in MANY))
def test_subsets_spread_over_the_servers(row: Mapping[str, Any]) -> None:
    """Each client has as many as it should; no server has many more clients than others."""
    given, expect = row["given"], row["expect"]
    addresses = [f"server-{number}:80" for number in range(given["servers"])]
    chosen: Counter[int] = Counter()
    for client in range(given["clients"]):
        mine = closest(addresses, given["subset_size"], client)
        assert len(set(mine)) == expect["each_subset_size"]
        chosen.update(mine)
    assert max(chosen.values()) <= expect["max_connections_on_one_server"]


@pytest.mark.parametrize("row", rows("17_subsetting.json", only=lambda row: row["id"] == "a68-plain-address"))
def test_the_first_client_is_served_as_in_a68(row: Mapping[str, Any]) -> None:
    """XXH64 of the address, sorted, the first so many."""
    given = row["given"]
    found = closest(given["endpoints"], given["subset_size"], given["seed"])
    assert [given["endpoints"][index] for index in found] == row["expect"]["subset"]


@pytest.mark.parametrize("row", rows("17_subsetting.json", only=lambda row: row["id"] == "a68-larger"))
def test_a_subset_of_more_than_there_are_is_all(row: Mapping[str, Any]) -> None:
    """In the order given."""
    addresses = [f"a{number}" for number in range(row["given"]["endpoints"])]
    assert closest(addresses, row["given"]["subset_size"], 7) == list(range(len(addresses)))


@pytest.mark.parametrize("row", rows("17_subsetting.json", only=lambda row: row["id"] == "a68-no-address"))
def test_who_has_no_address_is_in_no_subset(row: Mapping[str, Any]) -> None:
    """Such an endpoint can't be built; one that takes no traffic is left out before the subset is drawn."""
    idle = Endpoint("10.0.0.1:1", weight=0)
    named = [Endpoint(f"10.0.0.{number}:1") for number in (2, 3, 4)]
    assert idle not in select([idle, *named], Discovery(), None)
    known = Known().lives("web", idle, *named)
    known.services["web"] = document(f"trafficPolicy: {{connection: {{maxEndpoints: {row['given']['subset_size']}}}}}")
    cluster = known.snapshot().clusters[WEB]
    assert len(cluster.nodes) == row["expect"]["count"]
    assert idle.address not in {node.address for node in cluster.nodes}


@pytest.mark.parametrize("row", rows("17_subsetting.json", only=lambda row: row["id"] == "psm-subsetting"))
def test_clients_have_different_subsets(row: Mapping[str, Any]) -> None:
    """Two clients see more than one of them does."""
    given, expect = row["given"], row["expect"]
    addresses = [f"server-{number}:80" for number in range(given["backends"])]
    seen = [set(closest(addresses, given["subset_size"], client)) for client in range(given["clients"])]
    assert {len(mine) for mine in seen} == {expect["each_client_sees_endpoints"]}
    assert len(set().union(*seen)) > expect["union_of_peers_greater_than"]


def test_every_row_is_held_or_left_out_with_a_reason() -> None:
    """Nothing of the tables is passed over in silence."""
    held = {
        *(f"locality-weight-{percent}" for percent in (100, 69, 25)),
        *("istio-distribute-subzones", *FAILOVER, "istio-failover-priority-labels"),
        *(*MANY, "a68-plain-address", "a68-larger", "a68-no-address", "psm-subsetting"),
    }
    for file in ("08_locality.json", "17_subsetting.json"):
        for parameter in rows(file):
            row = parameter.values[0]
            assert row is None or row["id"] in held | NOT_OURS.keys()
