"""The Maglev table: Envoy's, slot for slot, with exact shares and little movement."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from tests.fakes import START, Asks
from tests.policy.hashes import fleet, holders, moved, picker, slots, users
from tests.worlds import node


def as_in_the_paper(hosts: dict[str, int], size: int) -> list[str]:
    """Listing 1 with Envoy's weights, as its source has it (maglev_lb.cc): every host asked in every turn."""
    total, heaviest = sum(hosts.values()), max(hosts.values()) / sum(hosts.values())
    table: list[str] = [""] * size
    state = {
        host: [xxh64_intdigest(host) % size, xxh64_intdigest(host, 1) % (size - 1) + 1, 0, 0.0]
        for host in map(str.encode, hosts)
    }
    filled = turn = 0
    while filled < size:
        turn += 1
        for host in sorted(hosts):
            mine = state[host.encode()]
            if filled == size or turn * (hosts[host] / total) < mine[3]:
                continue
            mine[3] += heaviest
            while table[slot := int((mine[0] + mine[1] * mine[2]) % size)]:
                mine[2] += 1
            table[slot] = host
            mine[2] += 1
            filled += 1
    return table


SIX = [f"127.0.0.1:{port}" for port in range(90, 96)]

# envoy@08417eb6 test/extensions/load_balancing_policies/maglev/maglev_lb_test.cc: which host has each slot.
ENVOY = [
    ("Basic", dict.fromkeys(SIX, 1), 7, "2401503"),
    ("BasicWithHostName", {str(name): 1 for name in range(90, 96)}, 7, "2503410"),
    ("Weighted", {SIX[0]: 1, SIX[1]: 2}, 17, "10010110111110101"),
    ("LocalityWeightedSameLocalityWeights, as weights of hosts", {SIX[0]: 1, SIX[1]: 1}, 17, "10010110010100101"),
    ("LocalityWeightedDifferentLocalityWeights, likewise", {SIX[0]: 8, SIX[1]: 2}, 17, "10000010010100000"),
]


@pytest.mark.parametrize(("hosts", "size", "table"), [row[1:] for row in ENVOY], ids=[row[0] for row in ENVOY])
def test_the_table_is_envoy_s(hosts: dict[str, int], size: int, table: str) -> None:
    """Slot for slot, in what Envoy's own tests expect."""
    assert "".join(str(list(hosts).index(host)) for host in slots(hosts, size)) == table
    assert slots(hosts, size) == as_in_the_paper(hosts, size)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 99), st.integers(1, 40), min_size=1, max_size=20),
    st.sampled_from([2, 7, 31, 251, 1009]),
)
def test_the_table_is_that_of_the_paper(weights: dict[int, int], size: int) -> None:
    """By a heap of whose turn it is, where the paper asks everybody in every turn: the same table."""
    hosts = {f"10.0.0.{n}:80": weight for n, weight in sorted(weights.items(), key=lambda p: f"10.0.0.{p[0]}:80")}
    assert slots(hosts, size) == as_in_the_paper(hosts, size)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60))
def test_equal_hosts_have_equal_shares_to_within_a_slot(count: int) -> None:
    """However few slots there are."""
    each = Counter(slots({f"10.0.0.{n}:80": 1 for n in range(count)}, 1009))
    assert max(each.values()) - min(each.values()) <= 1
    assert len(each) == count


def test_a_weight_of_one_among_heavy_ones_is_no_endless_work() -> None:
    """Turns in which nobody is due would be 65,535 for each of its slots; the heap passes over them."""
    each = Counter(slots({"a:1": 65_535, "b:1": 1, **{f"c{n}:1": 2 for n in range(500)}}, 65_537))
    assert each["b:1"] == 1
    assert each["a:1"] / 65_537 == pytest.approx(65_535 / (65_536 + 1000), abs=0.01)


def test_one_of_a_hundred_gone_moves_few_of_the_others() -> None:
    """Its own 1 %, and of the rest no more than about as many again ("~2 x more keys move than on a ring")."""
    members, keys = fleet(100), users(20_000)
    before = holders(picker("maglev", members), keys)
    after = holders(picker("maglev", members[1:]), keys)
    assert 0.009 * len(keys) <= moved(before, after) <= 0.025 * len(keys)


def test_others_begin_with_envoy_s_next_attempts() -> None:
    """BasicWithRetryHostPredicate: hash 10 is :91's, the second attempt :90's and the third :95's; then everybody
    else, each once."""
    members = [node(address) for address in SIX]
    made = picker("maglev", members, table_size=7)
    asked = [member.address for member in made.others(Asks(random.random, START, 10))]
    assert made.at(10).address == SIX[1]
    assert asked[:2] == [SIX[0], SIX[5]]
    assert sorted(asked) == SIX


def test_others_reach_those_whom_no_attempt_falls_on() -> None:
    """Whoever has a slot is found, after eight attempts by chance."""
    members = fleet(50)
    made = picker("maglev", members, table_size=251)
    assert len(set(made.others(Asks(random.random, START, 99)))) == 50
