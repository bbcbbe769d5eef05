"""Hash policies, sticky splits and the settings of balancers: what documents may say of them, and what comes of it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from xxhash import xxh64_intdigest

from proxyless.control.dialects import DIALECTS
from proxyless.control.syntax import parse
from proxyless.explain import explain
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.snapshot import Snapshot
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.balancers.hashed import Bounded
from proxyless.stack import ENTRY
from tests.fakes import UNAVAILABLE, play
from tests.policy.hashes import fleet, picker
from tests.worlds import WEB, Known, document, rpc

RING = "trafficPolicy: {loadBalancer: {policy: ring_hash}}\n"
BY_USER = RING + "routes: [{hash: [{header: x-user}]}]\n"
ADDRESSES = [member.address for member in fleet(5)]


def world(text: str) -> Known:
    """Five endpoints of web, and its document."""
    known = Known().lives("web", *ADDRESSES)
    known.services["web"] = document(text)
    return known


def went(snapshot: Snapshot, user: str | None, seed: int = 1, **answers: Any) -> list[str]:
    """Where a call of that user goes, attempt by attempt."""
    metadata = () if user is None else (("x-user", user),)
    call = rpc(snapshot, metadata=metadata, rng=random.Random(seed).random)
    did, _ = play(ENTRY, call, **answers)
    return [effect.removeprefix("send ") for effect in did if effect.startswith("send")]


def findings(text: str, kind: Any = ServiceDocument) -> list[str]:
    """What is wrong with a document."""
    return [str(one) for one in DIALECTS["proxyless/v1"](parse(text), kind)[1]]


# --- calls ---


def test_a_user_goes_to_one_endpoint_the_ring_s() -> None:
    """From the header through the route, the filter and the picker; and every process would do the same."""
    snapshot = world(BY_USER).snapshot()
    expected = picker("ring_hash", fleet(5))
    for number in range(20):
        found = {tuple(went(snapshot, f"user-{number}", seed)) for seed in range(5)}
        owner = expected.at(xxh64_intdigest(f"user-{number}".encode()))
        assert found == {(owner.address,)}


def test_whoever_has_nothing_to_hash_is_placed_by_chance() -> None:
    """A random hash for each call."""
    snapshot = world(BY_USER).snapshot()
    assert len({tuple(went(snapshot, None, seed)) for seed in range(40)}) == 5


def test_a_retry_goes_to_the_next_on_the_ring() -> None:
    """previousHosts: avoid; and the next is the same for all callers of that key."""
    snapshot = world(BY_USER).snapshot()
    expected = picker("ring_hash", fleet(5))
    asked = [node.address for node in expected.others(rpc_of("user-3"))]
    answers = dict.fromkeys(ADDRESSES, UNAVAILABLE)
    for seed in range(5):
        assert went(snapshot, "user-3", seed, **answers) == asked[:3]


def rpc_of(user: str) -> Any:
    call = rpc(Snapshot(1))
    call.hash = xxh64_intdigest(user.encode())
    return call


def test_calls_of_one_channel_stay_together() -> None:
    """hash: [{channel: true}]: whatever the calls are."""
    snapshot = world(RING + "routes: [{hash: [{channel: true}]}]").snapshot()
    where: dict[int, set[str]] = {}
    for channel in (11, 2**63 + 5, 2**62, 3 * 2**61):
        for seed in range(5):
            call = rpc(snapshot, rng=random.Random(seed).random)
            call.channel = channel
            where.setdefault(channel, set()).update(play(ENTRY, call)[0])
    assert all(len(effects) == 1 for effects in where.values())
    assert len(set(map(str, where.values()))) > 1


def test_what_a_route_sets_is_what_is_hashed() -> None:
    """As with Envoy, whose router hashes the headers as they are sent."""
    text = RING + "routes: [{hash: [{header: x-shard}], headers: {set: {x-shard: one}}}]"
    snapshot = world(text).snapshot()
    assert len({tuple(went(snapshot, f"user-{n}", n)) for n in range(20)}) == 1


@pytest.mark.parametrize(
    "text",
    ["routes: [{hash: [{header: x-user}]}]", RING, RING + "routes: [{name: plain}]"],
    ids=["nobody asks", "no hash policy", "neither"],
)
def test_nobody_pays_for_a_hash_that_nobody_asks_for(text: str) -> None:
    """Neither a route whose destinations don't place by hashes, nor one without a policy."""
    (route,) = world(text).snapshot().services["web"].routes
    assert route.hash is None


def test_a_sticky_split_keeps_a_user_on_one_side() -> None:
    """Whatever is drawn; without the header it is a split like any other."""
    text = """
subsets: {a: {labels: {v: a}}, b: {labels: {v: b}}}
routes: [{split: [{subset: a, weight: 70}, {subset: b, weight: 30}], sticky: {header: x-user}}]
"""
    known = Known()
    known.services["web"] = document(text)
    known.lives("web", endpoint("a:1", "a"), endpoint("b:1", "b"))
    snapshot = known.snapshot()
    sides: Counter[str] = Counter()
    for number in range(400):
        (side,) = {tuple(went(snapshot, f"user-{number}", seed)) for seed in range(3)}
        sides[side[0]] += 1
    assert abs(sides["a"] / 400 - 0.7) < 0.07
    assert len({tuple(went(snapshot, None, seed)) for seed in range(20)}) == 2


def endpoint(address: str, version: str) -> Any:
    from proxyless.model.topology import Endpoint

    return Endpoint(address, labels={"v": version})


# --- documents ---


@pytest.mark.parametrize("policy", sorted(BALANCERS))
def test_every_balancer_can_be_named_and_has_its_settings(policy: str) -> None:
    """What is left out is completed, for the named one and no other."""
    block = (
        world(f"trafficPolicy: {{loadBalancer: {{policy: {policy}}}}}").snapshot().clusters[WEB].policy.load_balancer
    )
    assert (block.table_size is not None) == (policy == "maglev")
    assert (block.minimum_ring_size is not None) == (policy == "ring_hash")
    assert (block.decay_time is not None) == (policy == "peak_ewma")
    assert (block.weight_update_period is not None) == (policy == "weighted_round_robin")


def test_a_bound_on_load_is_laid_over_the_hash() -> None:
    """And a larger minimum, set mesh-wide, gives way to a smaller maximum of the service."""
    known = world("trafficPolicy: {loadBalancer: {policy: ring_hash, maximumRingSize: 64, hashBalanceFactor: 125}}")
    known.mesh = document("defaults: {trafficPolicy: {loadBalancer: {minimumRingSize: 4096}}}", MeshDocument)
    built: Any = known.snapshot().clusters[WEB].picker
    assert isinstance(built, Bounded)
    assert len(built._picker._places) == 64  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (
            "minimumRingSize: 512, maximumRingSize: 64",
            "minimumRingSize (line 1): must be at most maximumRingSize (64), got 512",
        ),
        ("maximumRingSize: 100000", "maximumRingSize (line 1): must be 1 to 65536, got 100000"),
        ("tableSize: 65536", "tableSize (line 1): must be a prime number, got 65536: did you mean 65537?"),
        ("tableSize: 5000011", "tableSize (line 1): must be 2 to 655373, got 5000011"),
        ("hashBalanceFactor: 99", "hashBalanceFactor (line 1): must be 100 to 1000000, got 99"),
        ("decayTime: 0s", "decayTime (line 1): must be 1ms to 1h, got 0s"),
        ("weightUpdatePeriod: 10ms", "weightUpdatePeriod (line 1): must be 100ms to 1h, got 10ms"),
        ("entriesPerEndpoint: 0", "entriesPerEndpoint (line 1): must be 1 to 65536, got 0"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_findings(block: str, says: str) -> None:
    """With the path, and what would be right."""
    assert findings(f"trafficPolicy: {{loadBalancer: {{policy: maglev, {block}}}}}") == [
        f"trafficPolicy.loadBalancer.{says}"
    ]


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ("hash: [{}]", "routes[0].hash[0] (line 1): must have exactly one of header, metadataKey, channel"),
        (
            "hash: [{header: X-User}]",
            "routes[0].hash[0].header (line 1): must be a lower-case metadata key: letters, digits and _ . -, "
            'got "X-User": did you mean "x-user"?',
        ),
        (
            "sticky: {header: id-bin}",
            "routes[0].sticky.header (line 1): must not end in -bin: such a value is bytes, and no text to go by",
        ),
        ("sticky: {}", "routes[0].sticky.header (line 1): is required"),
    ],
)
def test_what_can_t_be_hashed_is_a_finding(route: str, says: str) -> None:
    """Where it stands, and what was expected."""
    (found,) = findings(f"routes: [{{{route}}}]")
    assert found == says


# --- explain ---


def test_explain_says_what_a_call_is_placed_by() -> None:
    """The sources, this request's hash, and the side that it sticks to."""
    text = RING + "routes: [{hash: [{header: x-user, terminal: true}, {header: x-cart}], sticky: {header: x-user}}]"
    snapshot = world(text).snapshot()
    made = explain(snapshot, "web", "/s/M", [("x-user", "alice")]).to_dict()
    assert made["hash"] == {
        "of": [{"header": "x-user", "terminal": True}, {"header": "x-cart", "terminal": False}],
        "hash": f"{xxh64_intdigest(b'alice'):016x}",
    }
    assert made["sticky"] == {"header": "x-user", "service": "web", "subset": None}
    without = explain(snapshot, "web", "/s/M").to_dict()
    assert without["hash"]["hash"] is None
    assert without["sticky"]["service"] is None
    assert "hash" not in explain(world("routes: []").snapshot(), "web", "/s/M").to_dict()


def test_explain_cannot_know_a_channel_s_own_number() -> None:
    """It has no channel."""
    snapshot = world(RING + "routes: [{hash: [{channel: true}]}]").snapshot()
    made = explain(snapshot, "web", "/s/M").to_dict()
    assert made["hash"] == {"of": [{"channel": True, "terminal": False}], "hash": None}
