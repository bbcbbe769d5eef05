"""Priorities, localities and panic by number: the tables of Envoy's documents, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.model.findings import Invalid
from proxyless.model.localities import Distribute, Failover, LocalityPolicy
from proxyless.model.topology import NOWHERE, Endpoint, Locality
from proxyless.policy.locality.loads import Level, effective_weight, health, priority_loads
from proxyless.policy.locality.places import arrange, distance, matches, shares, unlikeness

HERE = Locality("us-east-1", "us-east-1a")


def loads(*healthy: int, panic: float = 50.0, overprovisioning: int = 140) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Loads and panics where of a hundred in each priority so many are healthy."""
    percent, panics = priority_loads([Level(100, share, 100) for share in healthy], overprovisioning, panic)
    return percent, panics


# envoy: docs/root/intro/arch_overview/upstream/load_balancing/priority.rst, first table
@pytest.mark.parametrize(
    ("healthy", "first", "second"),
    [(100, 100, 0), (72, 100, 0), (71, 99, 1), (50, 70, 30), (25, 35, 65), (0, 0, 100)],
)
def test_what_the_first_priority_cannot_hold_spills_over(healthy: int, first: int, second: int) -> None:
    """With 1.4 the spill starts below 71.4 % healthy."""
    assert loads(healthy, 100) == ((first, second), (False, False))


# envoy: the same page, with three priorities; rows where document and code differ are the code's
@pytest.mark.parametrize(
    ("healthy", "percent"),
    [
        ((100, 100, 100), (100, 0, 0)),
        ((72, 72, 100), (100, 0, 0)),
        ((71, 71, 100), (99, 1, 0)),
        ((50, 50, 100), (70, 30, 0)),
        ((25, 100, 100), (35, 65, 0)),
        ((25, 25, 100), (35, 35, 30)),
    ],
)
def test_three_priorities_fill_one_after_the_other(healthy: tuple[int, ...], percent: tuple[int, ...]) -> None:
    """Each takes what it can hold of what is left."""
    assert loads(*healthy)[0] == percent


# envoy: panic_threshold.rst and load_balancer_impl_base_test.cc
@pytest.mark.parametrize(
    ("healthy", "percent", "panic"),
    [
        ((72, 72), (100, 0), (False, False)),
        ((71, 100), (99, 1), (False, False)),
        ((25, 100), (35, 65), (False, False)),
        ((25, 25), (50, 50), (True, True)),
        ((5, 65), (8, 92), (True, False)),
        ((0, 0), (50, 50), (True, True)),
    ],
)
def test_panic_comes_only_when_all_together_cannot_hold(
    healthy: tuple[int, ...], percent: tuple[int, ...], panic: tuple[bool, ...]
) -> None:
    """One priority may be down to 5 % as long as the others make up for it."""
    assert loads(*healthy) == (percent, panic)


def test_without_panic_nobody_gets_what_nobody_can_serve() -> None:
    """Threshold 0: while some are healthy they get all; when none is, no load is anybody's."""
    assert loads(4, panic=0.0) == ((100,), (False,))
    assert loads(0, 0, panic=0.0) == ((0, 0), (False, False))


def test_ten_endpoints_of_which_six_are_unhealthy_panic() -> None:
    """4 of 10 are 40 %, and 56 % with overprovisioning: all ten are used."""
    assert priority_loads([Level(10, 4, 10)]) == ((100,), (True,))
    assert priority_loads([Level(10, 5, 10)]) == ((100,), (False,))


def test_in_a_panic_of_all_the_dead_are_not_counted() -> None:
    """Calls are spread by who may be called; critical instances are capacity missed, and no targets."""
    assert priority_loads([Level(10, 1, 3), Level(10, 1, 1)]) == ((75, 25), (True, True))


# envoy: locality_weight.rst: weights X 1, Y 2; availability of X in percent, Y all
@pytest.mark.parametrize(
    ("available", "x", "y"), [(100, 33, 67), (70, 33, 67), (69, 32, 68), (50, 26, 74), (25, 15, 85), (0, 0, 100)]
)
def test_a_locality_keeps_its_share_while_it_holds(available: int, x: int, y: int) -> None:
    """ "X's effective weight is 1 * min(100, 140 * available/total)" """
    first, second = effective_weight(1, available, 100), effective_weight(2, 100, 100)
    assert (round(100 * first / (first + second)), round(100 * second / (first + second))) == (x, y)


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 50)), min_size=1, max_size=8),
    st.integers(100, 10_000),
    st.floats(0, 100),
)
def test_loads_are_whole_percents_of_all_calls(
    counts: list[tuple[int, int, int]], overprovisioning: int, threshold: float
) -> None:
    """They add up to 100 whenever anybody may be called; who has nobody gets nothing, and more health never less."""
    levels = [Level(max(total, healthy) + absent, healthy, max(total, healthy)) for total, healthy, absent in counts]
    percent, panic = priority_loads(levels, overprovisioning, threshold)
    assert all(0 <= share <= 100 for share in percent)
    assert sum(percent) in (0, 100)
    able = any(health(level.healthy, level.total, overprovisioning) for level in levels)
    if able or (all(panic) and any(level.members for level in levels)):
        assert sum(percent) == 100
    for share, level, panics in zip(percent, levels, panic, strict=True):
        assert not share or (level.members if panics else level.healthy)
    if all(health(level.healthy, level.total, overprovisioning) == 100 for level in levels):
        assert percent[0] == 100


@given(st.integers(1, 500), st.integers(0, 500))
def test_losing_one_more_never_draws_calls_back(total: int, lost: int) -> None:
    """The first priority's load falls, or stays, with every endpoint that it loses (until all panic)."""
    lost = min(lost, total - 1)
    whole = Level(total, total, total)
    before = priority_loads([Level(total, total - lost, total), whole]).percent[0]
    after = priority_loads([Level(total, total - lost - 1, total), whole]).percent[0]
    assert after <= before


# --- places


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("*", True),
        ("us-east-1", True),
        ("us-east-1/*", True),
        ("us-east-1/us-east-1a", True),
        ("us-east-1/us-east-1a/*", True),
        ("us-east-1/us-east-1b", False),
        ("us-east-1/us-east-1a/rack1", False),
        ("us-west-2/*", False),
    ],
)
def test_patterns_take_all_below_them(pattern: str, taken: bool) -> None:
    """A part that is `*`, or left out, takes any."""
    assert matches(HERE, pattern) is taken


@pytest.mark.parametrize(
    ("there", "plain", "failing_over"),
    [
        ("r1/z1/s1", 0, 0),
        ("r1/z1/s2", 1, 1),
        ("r1/z1", 1, 1),
        ("r1/z2/s1", 2, 2),
        ("r2/z1/s1", 3, 3),
        ("r3/z1/s1", 3, 4),
        ("", 3, 4),
    ],
)
def test_distance_is_the_first_part_that_differs(there: str, plain: int, failing_over: int) -> None:
    """And who fails over to r2 rather goes there than anywhere else."""
    here, other = Locality("r1", "z1", "s1"), Locality.parse(there)
    assert distance(here, other) == plain
    assert distance(here, other, [Failover("r1", "r2")]) == failing_over
    assert distance(here, other, [Failover("r9", "r2")]) == plain, "it speaks of another region"


def test_labels_count_from_the_first_that_differs() -> None:
    """`key` compares with this process's own value, `key=value` with that value."""
    ladder = ("version", "cell", "tier=gold")
    mine = {"version": "v1", "cell": "7"}
    assert unlikeness(ladder, mine, {"version": "v1", "cell": "7", "tier": "gold"}) == 0
    assert unlikeness(ladder, mine, {"version": "v1", "cell": "7", "tier": "tin"}) == 1
    assert unlikeness(ladder, mine, {"version": "v1", "cell": "8", "tier": "gold"}) == 2
    assert unlikeness(ladder, mine, {"version": "v2", "cell": "7", "tier": "gold"}) == 3


def test_the_narrowest_target_takes_a_place() -> None:
    """Whatever the order in which a mapping is read."""
    rule = Distribute("*", {"*": 10.0, "r1/*": 20.0, "r1/z1": 70.0})
    groups = [(Locality("r1", "z1"), 1.0), (Locality("r1", "z2"), 1.0), (Locality("r2"), 1.0), (NOWHERE, 1.0)]
    assert shares(groups, rule) == [70, 20, 5, 5]


def test_a_wildcard_is_divided_by_what_the_endpoints_weigh() -> None:
    """Each part rounded up, as in Istio."""
    rule = Distribute("*", {"r1/*": 100.0})
    groups = [(Locality("r1", "z1"), 2.0), (Locality("r1", "z2"), 1.0)]
    assert shares(groups, rule) == [67, 34]


def at(*places: str) -> list[Endpoint]:
    """Endpoints at these places."""
    return [Endpoint(f"10.0.0.{n}:80", locality=Locality.parse(place)) for n, place in enumerate(places, 1)]


OWN = LocalityPolicy(distribute=(), failover=(), failover_priority=())


def test_there_is_nothing_to_prefer_where_nothing_is_known() -> None:
    """No policy, an unknown place of our own, or no outlier detection: everybody is alike."""
    endpoints = at("us-east-1/us-east-1a", "us-west-2")
    assert arrange(endpoints, [0, 0], HERE, {}, None, fails_over=True) is None
    assert arrange(endpoints, [0, 0], NOWHERE, {}, OWN, fails_over=True) is None
    assert arrange(endpoints, [0, 0], HERE, {}, OWN, fails_over=False) is None, "as in Istio: nobody would ever move"
    places = arrange(endpoints, [0, 0], HERE, {}, OWN, fails_over=True)
    assert places is not None
    assert [(place.priority, place.name) for place in places] == [(0, "us-east-1/us-east-1a"), (1, "us-west-2")]


def test_distribute_needs_no_outlier_detection_and_leaves_others_out() -> None:
    """Who is not named gets no calls at all."""
    rule = Distribute("us-east-1/*", {"us-east-1/*": 80.0, "us-west-2/*": 20.0})
    policy = LocalityPolicy(distribute=(rule,), failover=(), failover_priority=())
    endpoints = at("us-east-1/us-east-1a", "us-west-2/us-west-2a", "eu-west-1/eu-west-1a")
    places = arrange(endpoints, [0, 0, 0], HERE, {}, policy, fails_over=False)
    assert places is not None
    assert [(place.name, place.weight) for place in places] == [
        ("us-east-1/us-east-1a", 80),
        ("us-west-2/us-west-2a", 20),
    ]


def test_failover_datacenters_come_after_every_place_of_the_own() -> None:
    """And within each of them, near before far."""
    endpoints = at("us-east-1/us-east-1a", "us-west-2", "us-east-1/us-east-1a", "us-west-2")
    places = arrange(endpoints, [0, 0, 1, 1], HERE, {}, OWN, fails_over=True)
    assert places is not None
    assert [place.members for place in places] == [(0,), (1,), (2,), (3,)]
    plain = arrange(endpoints, [0, 0, 1, 1], NOWHERE, {}, None, fails_over=True)
    assert plain is not None
    assert [place.members for place in plain] == [(0, 1), (2, 3)], "without localities they are two"


# --- documents


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Distribute("us-east-1/*", {"us-east-1/*": 80.0}), "to: must add up to 100 percent, adds up to 80"),
        (lambda: Distribute("*/zone", {"*": 100.0}), "from: must be region, region/zone or"),
        (lambda: Failover("r1", "r1"), 'to: must be another region than "r1"'),
        (lambda: Failover("r1/z1", "r2"), "from: must be a region"),
        (
            lambda: LocalityPolicy(failover=(Failover("a", "b"), Failover("a", "c"))),
            "failover[1].from: 'a' is already failover[0]",
        ),
        (lambda: LocalityPolicy(failover_priority=("zone", "zone")), "failoverPriority[1]: 'zone' is already"),
        (lambda: LocalityPolicy(overprovisioning=0.5), "overprovisioning: must be 1 to 100"),
        (lambda: LocalityPolicy(panic_threshold=101.0), "panicThreshold: must be 0 to 100"),
    ],
)
def test_what_can_not_be_meant_is_refused(build: object, said: str) -> None:
    """With the field and the reason."""
    with pytest.raises(Invalid) as refused:
        build()  # type: ignore[operator]
    assert said in str(refused.value)
