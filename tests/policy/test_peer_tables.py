"""Number tables in the peers' own tests that the shared tables do not have, each row with its source."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import repeat

import pytest

from proxyless.model.codes import Code
from proxyless.model.localities import Failover, LocalityPolicy
from proxyless.model.matches import HeaderMatch, Range
from proxyless.model.quantities import Duration
from proxyless.model.routes import Fault, FaultAbort, FaultDelay
from proxyless.model.topology import NOWHERE, Endpoint, Locality
from proxyless.model.traffic import CircuitBreaker
from proxyless.policy.balancers.ring_hash import lay
from proxyless.policy.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from proxyless.policy.budget import RetryBudget
from proxyless.policy.fault import Faults
from proxyless.policy.locality.loads import Level, effective_weight, priority_loads
from proxyless.policy.matcher import header, joined
from tests.policy.test_locality_rows import ranked
from tests.worlds import balancing

BASE = "envoy@247ad916 load_balancing_policies/common/load_balancer_impl_base_test.cc"


@pytest.mark.parametrize(
    ("levels", "overprovisioning", "percent", "panic", "_source"),
    [
        ([(1, 0), (1, 0)], 140, (50, 50), True, f"{BASE} PrioritySelection"),
        ([(1, 0), (2, 0)], 140, (34, 66), True, f"{BASE} PrioritySelection"),
        ([(1, 0), (2, 0), (1, 1)], 140, (0, 0, 100), False, f"{BASE} PrioritySelection"),
        ([(1, 1), (2, 0), (1, 1)], 140, (100, 0, 0), False, f"{BASE} PrioritySelection"),
        ([(4, 2), (4, 2)], 140, (70, 30), False, f"{BASE} OverProvisioningFactor"),
        ([(4, 2), (4, 2)], 100, (50, 50), False, f"{BASE} OverProvisioningFactor"),
        ([(1, 1), (1, 1)], 140, (100, 0), False, f"{BASE} GentleFailover"),
        ([(2, 1), (2, 1)], 140, (70, 30), False, f"{BASE} GentleFailover"),
        ([(4, 1), (2, 2)], 140, (35, 65), False, f"{BASE} GentleFailover"),
        ([(4, 1), (4, 1)], 140, (50, 50), True, f"{BASE} GentleFailover"),
        ([(4, 0), (6, 1)], 140, (40, 60), True, f"{BASE} GentleFailover"),
        ([(2, 1), (2, 1), (2, 1)], 140, (70, 30, 0), False, f"{BASE} GentleFailoverWithExtraLevels"),
        ([(4, 1), (4, 1), (4, 1)], 140, (35, 35, 30), False, f"{BASE} GentleFailoverWithExtraLevels"),
        ([(5, 1), (5, 1), (5, 1)], 140, (34, 33, 33), True, f"{BASE} GentleFailoverWithExtraLevels"),
        ([(5, 0), (5, 0), (5, 4)], 140, (0, 0, 100), False, f"{BASE} GentleFailoverWithExtraLevels"),
        ([(5, 0), (5, 0), (5, 2)], 140, (34, 33, 33), True, f"{BASE} GentleFailoverWithExtraLevels"),
        ([(5, 0), (3, 0), (2, 0)], 140, (50, 30, 20), True, f"{BASE} GentleFailoverWithExtraLevels"),
        ([(5, 0), (6, 2), (3, 1)], 140, (37, 42, 21), True, f"{BASE} GentleFailoverWithExtraLevels"),
        ([(0, 0), (6, 0), (3, 0)], 140, (0, 67, 33), True, f"{BASE} GentleFailoverWithExtraLevels"),
    ],
)
def test_envoys_loads(
    levels: Sequence[tuple[int, int]], overprovisioning: int, percent: tuple[int, ...], panic: bool, _source: str
) -> None:
    """Of (hosts, healthy) for each priority: shares in whole percent, and all of them in a panic or none."""
    loads = priority_loads([Level(hosts, healthy, hosts) for hosts, healthy in levels], overprovisioning)
    assert loads.percent == percent
    assert set(loads.panic) == {panic}


@pytest.mark.parametrize(
    ("healthy", "first", "second"), [(5, 33, 67), (4, 33, 67), (3, 29, 71), (2, 22, 78), (1, 12, 88), (0, 0, 100)]
)
def test_envoys_localities_as_one_of_them_fails(healthy: int, first: int, second: int) -> None:
    """Five hosts of weight 1 beside one of weight 2: Envoy locality_wrr_test.cc, UnhealthyFailover, in 100 picks."""
    failing, well = effective_weight(1, healthy, 5), effective_weight(2, 1, 1)
    assert 100 * failing / (failing + well) == pytest.approx(first, abs=1)
    assert 100 * well / (failing + well) == pytest.approx(second, abs=1)


@pytest.mark.parametrize(
    ("ttl", "minimum", "ratio"),
    [(60, 0, r) for r in (0.1, 0.5, 0.25, 0.75, 0.99, 0.999, 0.9999, 0.01, 0.001, 0.0001)]
    + [(1, 10, 0.0), (2, 5, 0.0), (1, 10, 0.1), (2, 5, 0.5)],
)
def test_finagles_budget_by_its_own_test(ttl: int, minimum: int, ratio: float) -> None:
    """RetryBudgetTest.scala testBudget: 10,000 requests at one instant, each retried if it may be."""
    budget, retried = RetryBudget(ttl, minimum, ratio), 0
    assert budget.balance(0.0) == ttl * minimum
    for _ in range(10_000):
        budget.deposit(0.0)
        if budget.withdraw(0.0):
            retried += 1
        else:
            assert budget.balance(0.0) == 0
    assert retried == pytest.approx(int(10_000 * ratio) + ttl * minimum, abs=1)


def test_resilience4js_breaker_by_its_own_test() -> None:
    """CircuitBreakerStateMachineTest: 50 % of 5 in 5 s, open for 5 s, 4 permitted calls; FFFSS opens at the fifth."""
    breaker = Breaker(CircuitBreaker(50, 5, Duration(5), Duration(5), 4))
    states = []
    for result in "FFFSS":
        breaker.record(breaker.admit(0.0), result == "S", 0.0)
        states.append(breaker.state(0.0))
    assert states == [CLOSED] * 4 + [OPEN]
    assert [breaker.admit(at) for at in (0.0, 3.0)] == [0, 0]
    permitted = [breaker.admit(6.0) for _ in range(6)]
    assert [bool(ticket) for ticket in permitted] == [True] * 4 + [False] * 2
    assert breaker.state(6.0) == HALF_OPEN
    breaker.cancel(permitted[0])  # releasePermission
    assert breaker.admit(6.0)


SIZES = [(smallest, largest) for smallest in (3, 4, 6, 8) for largest in (20, 8)]


@pytest.mark.parametrize(
    ("weights", "smallest", "largest"),
    [
        *(((3, 3, 4), *size) for size in SIZES),  # grpc-go ring_test.go TestRingNew
        ((2**31, 2**31), 1024, 4096),  # TestRingNewWeightSumOverflow
        ((2**31, 2**31, 2**30), 1024, 4096),  # TestRingNewWeightSumOverflowToNonZero
    ],
)
def test_grpc_gos_rings(weights: tuple[int, ...], smallest: int, largest: int) -> None:
    """Within its bounds, and to each endpoint its share; equalApproximately there is 25 %."""
    addresses = tuple("abc"[: len(weights)])
    laying = lay((addresses, weights), balancing("ring_hash", minimum_ring_size=smallest, maximum_ring_size=largest))
    try:
        while True:
            next(laying)
    except StopIteration as end:
        ring = end.value
    entries = Counter(ring.owners[:-1])
    assert smallest <= len(ring.places) == entries.total() <= largest
    for owner, weight in enumerate(weights):
        assert entries[owner] / len(ring.places) == pytest.approx(weight / sum(weights), rel=0.28)


def test_grpc_gos_delay_of_80_and_abort_of_50_percent() -> None:
    """fault_test.go "delay 80%, abort 50%": draws of 0, 5, 10 … 95 and round again, the same for both."""
    faults = Faults(Fault(delay=FaultDelay(80, Duration(3)), abort=FaultAbort(50, "UNIMPLEMENTED")))
    seen: Counter[tuple[float, Code | None]] = Counter()
    for draw in [number % 20 * 0.05 for number in range(30)]:
        seen[faults.delay((), repeat(draw).__next__), faults.abort((), repeat(draw).__next__)] += 1
    assert seen == {(3.0, Code.UNIMPLEMENTED): 20, (3.0, None): 6, (0.0, None): 4}


GO = "grpc-go@0c93bbee internal/xds/matcher/matcher_header_test.go"


@pytest.mark.parametrize(
    ("match", "metadata", "matches", "_source"),
    [
        (HeaderMatch(exact="tv"), [("k", "abc"), ("k", "tv")], False, f"{GO} two value one match"),
        (HeaderMatch(exact=""), [("k", "")], True, f"{GO} empty exact match is accepted"),
        (HeaderMatch(exact=""), [("other", "value")], False, f"{GO} treat missing header as empty"),
        (HeaderMatch(exact="VALUE", ignore_case=True), [("k", "value")], True, f"{GO} string match"),
        (HeaderMatch(regex="alu"), [("k", "value")], False, f"{GO} safe regex is implicitly anchored"),
        (HeaderMatch(regex="^[abc]*,t+v*$"), [("k", "abc"), ("k", "tttvv")], True, f"{GO} concatenated"),
        (HeaderMatch(regex="^a+$"), [("k", "ab")], False, f"{GO} only part of value matches"),
        (HeaderMatch(regex="^t+v*$", invert=True), [], False, f"{GO} invert header not present"),
        (HeaderMatch(regex="^t+v*$", invert=True), [("k", "abc")], True, f"{GO} invert header not match"),
        (HeaderMatch(range=Range(1, 10)), [("k", "1")], True, f"{GO} equal to start"),
        (HeaderMatch(range=Range(-10, 10)), [("k", "-5")], True, f"{GO} negative"),
        (HeaderMatch(range=Range(1, 10), invert=True), [("k", "5")], False, f"{GO} invert header match"),
        (HeaderMatch(range=Range(1, 9), invert=True), [("k", "10")], True, f"{GO} invert header not match"),
        (HeaderMatch(present=True, invert=True), [("other", "value")], True, f"{GO} inverted present, missing"),
    ],
)
def test_grpc_gos_headers(match: HeaderMatch, metadata: list[tuple[str, str]], matches: bool, _source: str) -> None:
    """Joined, whole, half-open, and nothing but presence asked of what is missing."""
    assert header("k", match)(joined(metadata), lambda: 0.0) is matches


@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_healthy_the_shares_are_whole(seed: int) -> None:
    """100 percent are spread unless nobody may be called, none is negative, and who has nobody gets nothing."""
    rng = random.Random(seed)
    for _ in range(200):
        sizes = [rng.randrange(12) for _ in range(rng.randint(1, 6))]
        levels = [Level(size, rng.randint(0, size), size) for size in sizes]
        loads = priority_loads(levels, rng.choice((100, 140, 10_000)), rng.choice((0.0, 50.0, 100.0)))
        somebody = any(level.healthy for level in levels) or (all(loads.panic) and any(sizes))
        assert sum(loads.percent) == 100 * somebody
        assert all(share >= 0 for share in loads.percent)
        assert not any(share for share, level in zip(loads.percent, levels, strict=True) if not level.total)


NETWORK, CLUSTER = "topology.istio.io/network", "topology.istio.io/cluster"
SIX = [("n1", "c1", ""), ("n2", "c2", "value"), ("n1", "c3", "value"), ("n2", "c4", "value")]
SIX += [("n1", "c1", "value"), ("n2", "c2", "value")]


@pytest.mark.parametrize(
    ("ladder", "mine", "priorities"),
    [
        ((NETWORK, CLUSTER), {NETWORK: "test", CLUSTER: "test"}, [0] * 6),  # match none label
        ((NETWORK, CLUSTER), {NETWORK: "n1", CLUSTER: "test"}, [0, 1, 0, 1, 0, 1]),  # match network label
        (("key", NETWORK, CLUSTER), {"key": "value", NETWORK: "n2", CLUSTER: "c2"}, [3, 0, 2, 1, 2, 0]),  # match all
        ((f"{NETWORK}=n1",), {NETWORK: "n2", CLUSTER: "test"}, [0, 1, 0, 1, 0, 1]),  # per the overridden value
        ((f"{NETWORK}=n3",), {NETWORK: "n1", CLUSTER: "test"}, [0] * 6),  # no endpoints with overridden value
    ],
)
def test_istios_ladder_of_labels(ladder: tuple[str, ...], mine: dict[str, str], priorities: list[int]) -> None:
    """istio@7cfed122 pilot/pkg/networking/core/loadbalancer/loadbalancer_test.go, FailoverPriority."""
    endpoints = [
        Endpoint(f"10.0.0.{n}:1", labels={NETWORK: network, CLUSTER: cluster, **({"key": key} if key else {})})
        for n, (network, cluster, key) in enumerate(SIX, 1)
    ]
    policy = LocalityPolicy(distribute=(), failover=(), failover_priority=ladder)
    assert ranked(endpoints, NOWHERE, mine, policy) == priorities


def test_istios_labels_before_its_regions() -> None:
    """The same, "FailoverPriority with Failover": labels first, then how far, then where `failover` points."""
    known = [("n1", "c1", "region1/zone1/subzone1"), ("n2", "c2", "region1/zone2/subzone2")]
    known += [("n1", "c3", "region2/zone2/subzone2"), ("n2", "c4", "region3/zone3/subzone3")]
    known += [("n2", "c2", "region2/zone2/subzone2"), ("n1", "c6", "region3/zone3/subzone3")]
    endpoints = [
        Endpoint(f"10.0.0.{n}:1", labels={NETWORK: network, CLUSTER: cluster}, locality=Locality.parse(place))
        for n, (network, cluster, place) in enumerate(known, 1)
    ]
    policy = LocalityPolicy(
        distribute=(), failover=(Failover("region1", "region2"),), failover_priority=(NETWORK, CLUSTER)
    )
    here = Locality("region1", "zone1", "subzone1")
    assert ranked(endpoints, here, {NETWORK: "n2", CLUSTER: "c2"}, policy) == [3, 0, 4, 2, 1, 5]
