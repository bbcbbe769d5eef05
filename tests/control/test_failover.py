"""`discovery.failover`: elsewhere is looked only when it is needed, and forgotten when it is not."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from proxyless.control.soon import MOMENT, Soon
from proxyless.model.codes import Code
from proxyless.model.findings import Invalid
from proxyless.model.snapshot import ClusterKey
from proxyless.model.topology import Discovery, Endpoint, Watched
from tests.control.hearing import Hearing
from tests.fakes import Asks
from tests.worlds import WEB

DOCUMENT = """
discovery: {failover: [dc2, stand-in@]}
routes: [{retry: {attempts: 0}}]
trafficPolicy: {outlierDetection: {maxEjectionPercent: 100}}
"""


def told(hearing: Hearing, watched: Watched, *addresses: str, status: str = "passing") -> None:
    hearing.loop.endpoints(watched, tuple(Endpoint(address, status=status) for address in addresses))


def home(hearing: Hearing, healthy: int, critical: int) -> None:
    """So many of our own pass their checks, and so many do not."""
    hearing.loop.endpoints(
        Watched("web"),
        tuple(
            Endpoint(f"a{index}:1", status="passing" if index < healthy else "critical")
            for index in range(healthy + critical)
        ),
    )


def shares(hearing: Hearing) -> dict[str, int]:
    """Percent of the calls by the first letter of where they go."""
    rng = random.Random(3).random
    picker = hearing.snapshot.clusters[WEB].picker
    counted = Counter(picker.pick(Asks(rng)).address[0] for _ in range(4000))  # type: ignore[union-attr]
    return {letter: round(count / 40) for letter, count in sorted(counted.items())}


@pytest.fixture
def hearing() -> Hearing:
    """Ten endpoints of our own, all well."""
    made = Hearing("web").says(web=DOCUMENT)
    home(made, 10, 0)
    return made


def test_nobody_watches_what_nobody_needs(hearing: Hearing) -> None:
    """While its own hold, that is all that is followed: 8 of 10 do, with 1.4."""
    assert hearing.source.asked == ["watch web"]
    home(hearing, 8, 2)
    assert hearing.source.asked == ["watch web"]
    assert shares(hearing) == {"a": 100}


def test_what_they_can_not_hold_goes_elsewhere_in_order(hearing: Hearing) -> None:
    """Five of ten hold 70 %; the rest goes to dc2, and only what that can't hold to the stand-in."""
    home(hearing, 5, 5)
    assert set(hearing.source.asked[1:]) == {"watch web@dc2", "watch stand-in"}
    assert shares(hearing) == {"a": 100}, "until somebody is known there"
    told(hearing, Watched("web", "dc2"), "b1:1", "b2:1")
    told(hearing, Watched("stand-in"), "c1:1")
    assert shares(hearing) == {"a": pytest.approx(70, abs=3), "b": pytest.approx(30, abs=3)}
    told(hearing, Watched("web", "dc2"), "b1:1", "b2:1", status="critical")
    assert shares(hearing) == {"a": pytest.approx(70, abs=3), "c": pytest.approx(30, abs=3)}


def test_a_datacenter_that_is_gone_is_replaced(hearing: Hearing) -> None:
    """Nobody is registered here any more."""
    home(hearing, 0, 0)
    told(hearing, Watched("web", "dc2"), "b1:1")
    assert shares(hearing) == {"b": 100}


def test_they_are_followed_until_all_are_well_again(hearing: Hearing) -> None:
    """Not forgotten at the first that returns: a watch is not to come and go with it."""
    home(hearing, 5, 5)
    told(hearing, Watched("web", "dc2"), "b1:1")
    home(hearing, 9, 1)
    assert "unwatch web@dc2" not in hearing.source.asked
    assert shares(hearing) == {"a": 100}
    home(hearing, 10, 0)
    assert {"unwatch web@dc2", "unwatch stand-in"} <= set(hearing.source.asked)
    assert [node.address for node in hearing.snapshot.clusters[WEB].nodes] == [f"a{index}:1" for index in range(10)]


def test_what_calls_find_out_counts_as_much_as_checks() -> None:
    """Consul still believes in all ten; five are ejected by the calls, and the failover is asked for."""
    asked: list[str] = []
    hearing = Hearing("web").says(web=DOCUMENT)
    hearing.nodes._on_health = lambda: asked.append("soon")
    home(hearing, 10, 0)
    hearing.says(web=DOCUMENT + "\n")  # compiled anew, with somebody to tell
    home(hearing, 10, 0)
    cluster = hearing.snapshot.clusters[WEB]
    state = hearing.nodes.destination(WEB, cluster.policy, cluster.nodes, fails_over=True)  # type: ignore[arg-type]
    for node in cluster.nodes[:5]:
        for _ in range(5):
            state.begin(node)  # type: ignore[arg-type]
            state.ended(node, Code.UNAVAILABLE, False, hearing.clock())  # type: ignore[arg-type]
    assert asked == ["soon"] * 5
    hearing.loop.reconsider()
    assert "watch web@dc2" in hearing.source.asked
    told(hearing, Watched("web", "dc2"), "b1:1")
    assert shares(hearing) == {"a": pytest.approx(70, abs=3), "b": pytest.approx(30, abs=3)}


def test_reconsidering_in_vain_publishes_nothing(hearing: Hearing) -> None:
    """Two of ten that could not be connected are not too few gone."""
    published = len(hearing.published)
    for node in hearing.nodes.all()[:2]:
        node.unreachable(hearing.clock(), 0.5)
    hearing.loop.reconsider()
    assert len(hearing.published) == published


def test_soon_is_once() -> None:
    """However many ask at once; and what changes while it runs is asked for again."""
    timers: list[tuple[float, object]] = []
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        soon()

    soon = Soon(lambda seconds, function: timers.append((seconds, function)), run)
    for _ in range(100):
        soon()
    assert [seconds for seconds, _ in timers] == [MOMENT]
    timers[0][1]()  # type: ignore[operator]
    assert (len(runs), len(timers)) == (1, 2)


@pytest.mark.parametrize(
    ("entry", "watched"),
    [
        ("dc2", Watched("shop", "dc2")),
        ("old-shop@dc2", Watched("old-shop", "dc2")),
        ("old-shop@", Watched("old-shop", "dc1")),
    ],
)
def test_how_failover_is_written(entry: str, watched: Watched) -> None:
    """A datacenter, a service in one, or a service in our own."""
    discovery = Discovery(service="shop", datacenter="dc1", failover=(entry,))
    assert discovery.watches("web") == (Watched("shop", "dc1"), watched)


@pytest.mark.parametrize(
    ("failover", "said"),
    [
        (("dc1",), 'failover[0]: must be somewhere else: "dc1" is what fails over'),
        (("shop@dc1",), "failover[0]: must be somewhere else"),
        (("dc2", "dc2"), 'failover[1]: "dc2" is already failover[0]'),
        (tuple(f"dc{index}" for index in range(2, 11)), "must have at most 8 members, has 9"),
    ],
)
def test_failover_that_can_not_be_meant(failover: tuple[str, ...], said: str) -> None:
    """To itself, twice, or too much of it."""
    with pytest.raises(Invalid) as refused:
        Discovery(service="shop", datacenter="dc1", failover=failover)
    assert said in str(refused.value)


def test_an_entry_is_no_free_text() -> None:
    """With its place in the document."""
    hearing = Hearing("web").says(web="discovery: {failover: [dc2, 'dc 3']}")
    (error,) = hearing.errors()["services/web"]
    assert error.startswith("discovery.failover[1] (line 1): must be a datacenter, service@datacenter, or service@")


def test_a_failover_to_oneself_by_another_name_is_no_loop() -> None:
    """Named as the document's own service, which the value itself doesn't know: it is followed once."""
    assert Discovery(failover=("web@",)).watches("web") == (Watched("web"),)


def test_each_subset_fails_over_to_its_own_kind() -> None:
    """The canaries of dc2 stand in for the canaries, and nobody else."""
    hearing = Hearing("web").says(
        web="discovery: {failover: [dc2]}\nsubsets: {canary: {labels: {v: '2'}}}\nroutes: [{split: [{subset: canary}]}]"
    )
    hearing.loop.endpoints(Watched("web"), (Endpoint("a:1", labels={"v": "1"}),))
    hearing.loop.endpoints(
        Watched("web", "dc2"), (Endpoint("b:1", labels={"v": "2"}), Endpoint("c:1", labels={"v": "1"}))
    )
    assert [node.address for node in hearing.snapshot.clusters[ClusterKey("web", "canary")].nodes] == ["b:1"]
