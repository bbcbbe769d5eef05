"""Time that is up, limits that are full, connections that break: nothing is done that is of no use to anybody."""

from __future__ import annotations

import ast
import gc
import random
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import pytest

import proxyless
from proxyless.model.codes import Code
from proxyless.script import OK, Outcome
from proxyless.stack import ENTRY
from tests.fakes import START, UNREACHABLE
from tests.simulation.servers import FAILS, Fleet, Internet
from tests.worlds import Known, node, rpc

Shows = Callable[..., None]


def test_no_attempt_begins_when_the_time_is_up() -> None:
    """Scenario no-retry-when-deadline-spent: 200 ms for a call to servers that fail after 150, with a backoff of up to
    100. No attempt begins after the deadline, and every caller knows before 205 ms."""
    fleet = Fleet(61, 3, "routes: [{timeout: 200ms, retry: {attempts: 5, backoff: {base: 100ms, max: 100ms}}}]", 0.15)
    fleet.during(0, 60, FAILS)
    fleet.calls(50, 0.001, 20)
    begun = {}
    fleet.net.run()
    for call in fleet.net.calls:
        assert call.outcome is not OK
        assert call.ended_at - call.began_at < 0.205
        begun[call] = [when for when, _ in fleet.net.attempts if when == call.began_at]
    last = max(call.began_at for call in fleet.net.calls) + 0.2
    assert max(when for when, _ in fleet.net.attempts) < last
    assert len(fleet.net.attempts) > len(fleet.net.calls), "there was time for a second one where the dice were kind"


@pytest.mark.parametrize("work", [0.1, 0.2, 0.3])
def test_a_chain_stops_where_the_time_is_up(work: float, shows: Shows) -> None:
    """Scenario deadline-chain: 500 ms at the top, 200 ms of work in each of three services. What is left is strictly
    less from each to the next; the third begins with 100 ms or is not begun; nothing is begun after the time is up."""
    net = Internet(seed=62)
    left: dict[str, list[float]] = {name: [] for name in "abc"}
    snapshots = {name: Known(seed=62).lives(name, f"{name}:1").snapshot(name) for name in "abc"}

    def serve(name: str, then: str) -> None:
        def arrives(rpc: object, answered: Callable[[Outcome], None]) -> None:
            deadline = getattr(rpc, "deadline")  # noqa: B009
            left[name].append(deadline - net.clock.now)

            def done() -> None:
                if not then:
                    answered(OK)
                elif net.clock.now < deadline:
                    net.nested(snapshots[then], then, deadline, answered)

            net.at(net.clock.now + work, done)

        net.servers[f"{name}:1"] = arrives

    for name, then in (("a", "b"), ("b", "c"), ("c", "")):
        serve(name, then)
    call = net.begin(snapshots["a"], "a", timeout=0.5)
    net.run()
    found = [times[0] if times else None for times in left.values()]
    shows(
        "500 ms for A -> B -> C, each of which works for a while: what each has left",
        work=f"{work * 1000:.0f} ms",
        **{
            name.upper(): "never begun" if at is None else f"{at * 1000:.0f} ms"
            for name, at in zip("abc", found, strict=True)
        },
        outcome="OK" if call.outcome is OK else Code(call.outcome.code).name if call.outcome else "",
    )
    begun = [at for at in found if at is not None]
    assert begun == sorted(begun, reverse=True)
    assert all(at > 0 for at in begun)
    assert (
        found
        == {
            0.1: [0.5, pytest.approx(0.4), pytest.approx(0.3)],
            0.2: [0.5, pytest.approx(0.3), pytest.approx(0.1)],
            0.3: [0.5, pytest.approx(0.2), None],
        }[work]
    )
    assert call.ended_at <= START + 0.5 + 1e-9


def test_no_more_are_under_way_than_the_limit_says() -> None:
    """Scenario breaker-limit: 500, where the server holds every call: 500 for as long as it does, and whoever comes
    after that is told UNAVAILABLE at once."""
    fleet = Fleet(63, 4, "trafficPolicy: {limits: {maxRequests: 500}}")
    fleet.during(0, 60, None)
    fleet.calls(200, 0, 10)
    for second in range(4, 11):
        fleet.net.run(until=START + second)
        assert sum(node.inflight for node in fleet.world.nodes.all()) == 500
    refused = [call for call in fleet.net.calls if call.outcome is not None]
    assert len(refused) == 2000 - 500
    assert all(call.outcome.code == Code.UNAVAILABLE and call.ended_at == call.began_at for call in refused)  # type: ignore[union-attr]


@pytest.mark.parametrize("channels", [1, 20])
def test_a_server_that_died_is_called_once_by_each_process_and_then_by_its_probes(channels: int) -> None:
    """Scenarios rst-one-of-n and deregister-lag: one of three is dead, and named for ten seconds more. Each process
    finds out with one call, which is tried again elsewhere; nobody's call fails."""
    net = Internet(seed=64)
    meshes = [Known(seed=seed).lives("web", "a:1", "b:1", "dead:1").snapshot() for seed in range(channels)]
    for address, outcome in (("a:1", OK), ("b:1", OK), ("dead:1", UNREACHABLE)):
        net.servers[address] = lambda _rpc, answered, said=outcome: net.at(  # type: ignore[misc]
            net.clock.now + 0.001, lambda: answered(said)
        )
    for snapshot in meshes:
        net.steadily(100, 0, 10, lambda mesh=snapshot: net.begin(mesh))  # type: ignore[misc]
    net.run()
    assert all(call.outcome is OK for call in net.calls)
    dead = net.sent(0, 10, "dead:1")
    # 0.2, 0.4 … 5 s apart: six looks in ten seconds are what a process may spend on it
    assert channels <= net.sent(0, 0.15, "dead:1") <= channels
    assert dead <= 7 * channels


def test_a_server_that_comes_back_is_not_overrun(shows: Shows) -> None:
    """Scenario reconnect-herd: 1,000 processes lose the same server at once and look for it. When the second round at
    the longest pause is over they are out of step: no 100 ms see more than three times the mean, and no two of them
    look together twice in a row."""
    dice, looks = random.Random(65), []
    for _ in range(1000):
        lost, now, own = node("a"), START + dice.random() / 50, []
        while now < START + 60:
            own.append(now)
            lost.unreachable(now, dice.random())
            now = lost.reachable_at + dice.expovariate(50)  # its next call, at 50 a second
            assert lost.probe(now)
        looks.append(own)
    bins = Counter(int((when - START) * 10) for own in looks for when in own)
    after = [bins[tenth] for tenth in range(160, 600)]
    mean = sum(after) / len(after)
    shows(
        "1,000 processes lose a server: looks for it in each 100 ms, after the second round",
        looks=sum(after),
        mean=f"{mean:.1f}",
        peak=max(after),
        peak_by_mean=f"{max(after) / mean:.1f}",
    )
    assert max(after) <= 3 * mean
    in_step = Counter(tuple(round(when, 2) for when in own[-2:]) for own in looks)
    assert max(in_step.values()) <= 2


def test_nobody_asks_what_time_it_is_on_the_wall() -> None:
    """Scenario clock-jump: deadlines, ejections and budgets know the monotonic clock alone, so a wall clock that jumps
    by an hour moves none of them. Where the date is asked for, it is for people and for files."""
    package = Path(proxyless.__file__).parent
    asks = set()
    for file in package.rglob("*.py"):
        for found in ast.walk(ast.parse(file.read_text())):
            if isinstance(found, ast.Attribute) and (
                (isinstance(found.value, ast.Name) and found.value.id == "time" and found.attr in ("time", "time_ns"))
                or found.attr in ("utcnow", "today")
            ):
                asks.add(file.relative_to(package).as_posix())
    on_the_path = {"model", "policy", "filters", "state", "channel", "server", "script.py", "stack.py", "context.py"}
    assert not {name for name in asks if name.split("/")[0] in on_the_path}


@pytest.mark.slow
def test_change_leaves_nothing_behind(shows: Shows) -> None:
    """Scenario memory-soak, a tenth of it: 5 services of 20 endpoints, 600 changes of one endpoint each, calls between
    them. Who left is forgotten, and from the warm-up on memory grows by less than 5 %."""
    names = [f"s{number}" for number in range(5)]
    members = {name: [f"{name}-{number}:1" for number in range(20)] for name in names}
    world, net, dice = Known(seed=66), Internet(seed=66), random.Random(66)
    for name in names:
        world.lives(name, *members[name])
    sizes: dict[int, int] = {}
    forgotten: deque[bool] = deque(maxlen=1)
    tracemalloc.start()
    try:
        for change in range(600):
            name = names[change % 5]
            members[name] = [*members[name][1:], f"{name}-{20 + change // 5}:1"]
            snapshot = world.lives(name, *members[name]).snapshot(*names)
            for gone in world.nodes.adopt(snapshot):
                gone.retire(lambda node: forgotten.append(world.nodes.needed(node.address)))  # as the mesh asks
            net.servers = dict.fromkeys(members[name], lambda _rpc, answered: answered(OK))
            for _ in range(3):
                net.call(ENTRY, rpc(snapshot, service=name, timeout=1.0, now=net.clock.now, rng=dice.random))
            net.run(until=net.clock.now + 2)
            assert all(call.outcome is OK for call in net.calls)
            net.calls.clear()
            net.attempts.clear()
            if change in (199, 599):
                gc.collect()
                sizes[change] = tracemalloc.get_traced_memory()[0]
                assert len(list(world.nodes.all())) == 5 * 20
    finally:
        tracemalloc.stop()
    shows(
        "5 services of 20 endpoints, one endpoint replaced at a time",
        changes=600,
        after_200=f"{sizes[199] / 1e6:.1f} MB",
        after_600=f"{sizes[599] / 1e6:.1f} MB",
        growth=f"{sizes[599] / sizes[199] - 1:.1%}",
    )
    assert sizes[599] <= 1.05 * sizes[199]
