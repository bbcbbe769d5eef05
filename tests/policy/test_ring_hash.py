"""The ring: entry for entry that of Envoy and gRPC, and what moves on it when endpoints come and go."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.model.routes import Hash
from proxyless.policy.balancers import BALANCERS
from proxyless.policy.hashing import hasher
from tests.fakes import START, Asks
from tests.policy.hashes import entries, fleet, holders, moved, picker, ring, users
from tests.policy.rows import rows
from tests.worlds import balancing, node

SIX = {f"127.0.0.1:{port}": 1 for port in range(90, 96)}

CONNECTING = "gRPC's states of connections; here a call connects, and one that can't be connected is passed by"
NOT_OURS = {
    "ring-failover-70-30": "the choice of a priority, which stands before the ring: the rows of 07 have it",
    "ring-retry-predicate-wrap": "when nobody on the ring suits, Envoy takes whatever its last attempt fell on; here "
    "the least bad is taken, of those in the ring's order (tests/filters/test_balance.py)",
    "go-pick-picked_is_connecting,_queue": CONNECTING,
    "go-pick-picked_is_TransientFailure,_next_is_Idle,_connect_and_queue": CONNECTING,
    "go-random-hash-ready": "a random hash is for grpc-go to avoid connecting; the call's own draw decides here",
    "go-random-hash-one_already_connecting": CONNECTING,
    "go-hash-key-absent": "gRFC A76 hashes a request without the key as if it had an empty one only where C-core does "
    "so; the contract is Envoy's: no result, a random hash",
    "a42-aggregate-state": "the connectivity of a whole policy, which gRPC's parents ask for; there are none here",
    "go-locality-x-endpoint-weights": "weights of localities multiply those of endpoints before a ring is laid; the "
    "rows of 08 have it",
    "java-duplicate-addresses": "an address is one node of a destination, however often a source names it",
}
"""Rows of 06 that are left out."""


@pytest.mark.parametrize("row", rows("06_ring_hash.json", left_out=NOT_OURS))
def test_the_ring_is_the_peers(row: Mapping[str, Any]) -> None:
    """Envoy's own tests, grpc-go's and what was worked out with a reference that agrees with them."""
    told, expect = row["given"], row["expect"]
    if told.get("ring_of") or ("ring" in expect and len(told["hosts"]) == 6):
        hosts, minimum = SIX, 12
    elif "weights" in told:
        hosts, minimum = told["weights"], told["min"]
    elif "locality_weights" in told:
        hosts = {h: w for h, w in zip(told["hosts"], told["locality_weights"], strict=True) if w}
        minimum = told["min=max_ring_size"]
    elif row["id"] == "ring-disruption-add":
        return adding_moves(expect, told["min_ring_size"])
    elif row["id"] == "go-hash-key-multi":
        (of,) = [hasher([Hash(metadata_key="key")])]
        assert of is not None
        assert of([("key", value) for value in told["header_values"]], 0) == int(expect["request_hash"])
        return None
    elif "states_in_ring_order" in told:
        hosts, minimum = SIX, 12
        first, second = around(hosts, 0, unreachable=1)
        assert (first, second) == ("127.0.0.1:94", "127.0.0.1:92")
        return None
    else:
        hosts, minimum = dict(told["hosts"]), told["min_ring_size"]
    made = ring(hosts, minimum, told.get("max", told.get("min=max_ring_size", 65536)))
    placed = entries(hosts, made)
    each = Counter(address for address, _ in placed)
    if "ring" in expect:
        assert [[address, str(place)] for address, place in placed] == expect["ring"]
    if "size" in expect:
        assert len(placed) == expect["size"]
    if "min_hashes_per_host" in expect:
        assert min(each.values()) == expect["min_hashes_per_host"]
        assert max(each.values()) == expect["max_hashes_per_host"]
    if "entries_per_host" in expect:
        assert [each[address] for address in told["hosts"]] == expect["entries_per_host"]
    if "size_between" in expect:
        low, high = expect["size_between"]
        assert low <= len(placed) <= high
        for address, weight in hosts.items():
            share = weight / sum(hosts.values())
            assert abs(each[address] / len(placed) / share - 1) <= expect["share_relative_error_max"]
    if "counts" in expect:
        members = [node(address, weight) for address, weight in hosts.items()]
        of_keys = holders(picker("ring_hash", members, minimum_ring_size=minimum), [
            i * ((1 << 64) - 1) // 6000 for i in range(6000)
        ])  # fmt: skip
        assert Counter(of_keys) == expect["counts"]
    if "host" in expect:
        skipped = [address for address in hosts if address.endswith(told.get("reject_predicate", "none")[-2:])]
        assert next(a for a in around(hosts, int(told["request_hash"])) if a not in skipped) == expect["host"]
    return None


def around(hosts: Mapping[str, int], key: int, unreachable: int = 0) -> list[str]:
    """Who is asked for `key`, in order; of two, where the first may be `unreachable`, those two."""
    made = picker("ring_hash", [node(address) for address in hosts], minimum_ring_size=12)
    asked = [member.address for member in made.others(Asks(random.random, START, key))]
    assert asked[0] == made.at(key).address
    return asked[: 1 + unreachable] if unreachable else asked


def adding_moves(expect: Mapping[str, Any], minimum: int) -> None:
    """The eleventh endpoint of eleven."""
    members, keys = fleet(11), users(20_000)
    before = holders(picker("ring_hash", members[:10], minimum_ring_size=minimum), keys)
    after = holders(picker("ring_hash", members, minimum_ring_size=minimum), keys)
    assert moved(before, after) == expect["keys_moved"]
    assert after.count(members[10].address) == expect["keys_on_new_host"]


def test_the_place_of_an_entry_is_its_hash() -> None:
    """ring_hash_lb_test.cc#Basic (envoy@13e9fdb2): what a build without the tables beside it goes by."""
    assert entries(SIX, ring(SIX, 12))[:4] == [
        ("127.0.0.1:94", 833437586790550860),
        ("127.0.0.1:92", 928266305478181108),
        ("127.0.0.1:90", 1033482794131418490),
        ("127.0.0.1:95", 3551244743356806947),
    ]


def parts_moved(**fields: Any) -> list[float]:
    """Percent of 10,000 keys that one added to a hundred moves, whichever of 101 it is."""
    members, keys = fleet(101), users(10_000)
    full = holders(picker("ring_hash", members, **fields), keys)
    found = []
    for newcomer in range(101):
        before = holders(picker("ring_hash", members[:newcomer] + members[newcomer + 1 :], **fields), keys)
        changed = {new for old, new in zip(before, full, strict=True) if old != new}
        assert changed == {members[newcomer].address}, "and nobody else's keys move"
        found.append(100 * moved(before, full) / len(keys))
    return found


def test_one_of_a_hundred_added_moves_its_share_alone() -> None:
    """1 in 101, and by the peers' default size its eleven entries (1024 / 100, rounded up) may hold twice as much."""
    parts = parts_moved()
    assert sum(parts) / 101 == pytest.approx(100 / 101)
    assert sum(part <= 1.5 for part in parts) >= 90
    assert max(parts) <= 2.1


def test_with_entries_for_each_it_moves_no_more_than_that() -> None:
    """128 entries share to 1 / sqrt(128) = 9 %: 1.5 % would be more than five times that away."""
    parts = parts_moved(entries_per_endpoint=128)
    assert sum(parts) / 101 == pytest.approx(100 / 101)
    assert max(parts) <= 1.5


def test_ring_change() -> None:
    """The scenarios' table, 21: ten endpoints, one gone; 103 entries each become 114, which moves others' keys too."""
    members, keys = fleet(10), users(20_000)
    before = holders(picker("ring_hash", members), keys)
    after = holders(picker("ring_hash", members[:9]), keys)
    assert (moved(before, after), before.count(members[9].address)) == (3615, 2348)
    assert 3615 <= 1.6 * 2348


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=2, max_size=30), st.data())
def test_who_stays_keeps_what_was_theirs(present: set[int], data: st.DataObject) -> None:
    """With as many entries each, an endpoint that leaves gives its keys away and nobody else's move; and back."""
    gone = data.draw(st.sampled_from(sorted(present)))
    members = {n: node(f"10.1.0.{n}:80") for n in present}
    keys = users(300)
    full = holders(picker("ring_hash", list(members.values()), entries_per_endpoint=8), keys)
    rest = [member for n, member in members.items() if n != gone]
    less = holders(picker("ring_hash", rest, entries_per_endpoint=8), keys)
    assert all(old == new for old, new in zip(full, less, strict=True) if old != members[gone].address)
    again = holders(picker("ring_hash", [*rest, members[gone]], entries_per_endpoint=8), keys)
    assert again == full


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 3000), st.integers(1, 3000))
def test_a_ring_is_as_large_as_the_rule_says(weights: list[int], minimum: int, maximum: int) -> None:
    """Each its weight's part of it, in whole entries for the lightest; never more than the maximum in all."""
    hosts = {f"10.0.0.{n}:80": weight for n, weight in enumerate(weights)}
    made = ring(hosts, minimum, maximum)
    assert len(made.places) <= ceil(maximum) + 1
    assert list(made.places) == sorted(made.places)
    assert len(made.owners) == len(made.places) + 1
    each = Counter(made.owners[:-1])
    for index, weight in enumerate(weights):
        assert abs(each[index] - len(made.places) * weight / sum(weights)) <= 2


def test_the_order_of_the_source_is_no_matter() -> None:
    """Every process has the same ring, in whatever order it learnt of the endpoints, fractions of entries and all."""
    members, keys = fleet(7), users(500)
    sizes = {"minimum_ring_size": 10, "maximum_ring_size": 10}
    assert holders(picker("ring_hash", members, **sizes), keys) == holders(
        picker("ring_hash", members[::-1], **sizes), keys
    )


def test_after_the_last_entry_comes_the_first() -> None:
    """And a hash that is exactly an entry's place is that entry's."""
    made = picker("ring_hash", [node(address) for address in SIX], minimum_ring_size=12)
    assert made.at((1 << 64) - 1).address == "127.0.0.1:94"
    assert made.at(833437586790550860).address == "127.0.0.1:94"
    assert made.at(833437586790550861).address == "127.0.0.1:92"


def test_others_are_the_next_on_the_ring_each_once() -> None:
    """So that all callers of a key that has lost its endpoint meet again at the same one."""
    made = picker("ring_hash", [node(address) for address in SIX], minimum_ring_size=12)
    around_it = [member.address[-2:] for member in made.others(Asks(random.random, START, 0))]
    assert around_it == ["94", "92", "90", "95", "93", "91"]


def test_a_call_without_a_hash_is_placed_by_chance() -> None:
    """ "If there is no hash in the context, just choose a random value" - Envoy."""
    made = picker("ring_hash", fleet(4))
    rng = random.Random(1).random
    assert len({made.pick(Asks(rng)) for _ in range(100)}) == 4
    assert len({made.pick(Asks(rng, START, 7)) for _ in range(100)}) == 1


# --- bounded loads ---


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_a_hot_key_spills_over_the_bound(policy: str) -> None:
    """125 %: of 100 calls with one key at one time over ten endpoints none has more than the mean times 1.25, and a
    call by Envoy's rounding ("active > slots")."""
    members = fleet(10)
    made = picker(policy, members, hash_balance_factor=125)
    for _ in range(100):
        chosen = made.pick(Asks(random.random, START, 42))
        assert chosen is not None
        chosen.inflight += 1
    assert max(member.inflight for member in members) <= ceil(100 / 10 * 1.25) + 1
    free = picker(policy, fleet(10))
    assert len({free.pick(Asks(random.random, START, 42)) for _ in range(100)}) == 1


def test_a_key_stays_where_it_is_while_there_is_room() -> None:
    """The bound changes nothing below it, and what spills goes to the same places every time."""
    members = fleet(10)
    bounded, plain = picker("ring_hash", members, hash_balance_factor=150), picker("ring_hash", members)
    for member in members:
        member.inflight = 10
    keys = users(200)
    assert [bounded.pick(Asks(random.random, START, key)) for key in keys] == [plain.at(key) for key in keys]
    members[0].inflight = 100
    hot = [key for key in keys if plain.at(key) is members[0]]
    once = [bounded.pick(Asks(random.random, START, key)) for key in hot]
    assert members[0] not in once
    assert [bounded.pick(Asks(random.random, START, key)) for key in hot] == once


def test_the_bound_is_the_mean_with_this_call_rounded_up() -> None:
    """ "hash_balance_factor/100 times the average": 13 calls with this one, at 125 % 16.25 slots, are 17 among four."""
    members = fleet(4)
    made = picker("ring_hash", members, hash_balance_factor=125)
    (key, *_) = (key for key in users(50) if picker("ring_hash", members).at(key) is members[0])
    for member, under_way in zip(members, (5, 3, 2, 2), strict=True):
        member.inflight = under_way
    assert made.pick(Asks(random.random, START, key)) is members[0]
    members[0].inflight = 6  # 14 calls are 18 slots, a quarter of them 4.5
    made = picker("ring_hash", members, hash_balance_factor=125)
    assert made.pick(Asks(random.random, START, key)) is not members[0]


def test_where_all_are_full_the_least_full_is_taken() -> None:
    """A bound below what is under way is no reason to refuse a call."""
    members = fleet(3)
    for member, under_way in zip(members, (90, 80, 70), strict=True):
        member.inflight = under_way
    made = picker("ring_hash", members, hash_balance_factor=100)
    assert {made.pick(Asks(random.random, START, key)) for key in users(50)} <= set(members)


# --- the steps ---


def test_a_large_ring_is_laid_out_in_steps() -> None:
    """So that whoever builds it can let callers run; the last tables are kept."""
    members: Any = fleet(500)
    block = balancing("ring_hash", minimum_ring_size=65_000)
    build: Any = BALANCERS["ring_hash"]
    assert sum(1 for _ in build.prepare(members, [1] * 500, block)) >= 60
    assert sum(1 for _ in build.prepare(members, [1] * 500, block)) == 0
    assert list(islice(build.prepare(members, [2] * 500, block), 1)) == [None]


def longest_step(policy: str, **fields: Any) -> float:
    """Seconds of the processor between two yields, at most, while a thousand endpoints are laid out."""
    build: Any = BALANCERS[policy]
    members = fleet(1000)
    steps: list[float] = []
    work = build.prepare(members, [1] * 1000, balancing(policy, **fields))
    while True:
        began = time.thread_time()
        try:
            next(work)
        except StopIteration:
            return max([*steps, time.thread_time() - began])
        steps.append(time.thread_time() - began)


@pytest.mark.parametrize(("policy", "size"), [("ring_hash", 1024), ("ring_hash", 65_536), ("maglev", 65_537)])
def test_no_step_holds_a_caller_up(policy: str, size: int) -> None:
    """5 ms is what a call may be delayed by; the best of three times, for processors share their caches."""
    found = []
    for turn in range(3):
        fields: dict[str, Any] = {"minimum_ring_size": size} if policy == "ring_hash" else {"table_size": size}
        found.append(longest_step(policy, **fields, hash_balance_factor=200.0 + turn))  # so that none is kept
    assert min(found) <= 0.005


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_an_empty_destination_has_nobody_to_ask(policy: str) -> None:
    """Nor instead, nor within a bound."""
    made = picker(policy, [])
    assert made.pick(Asks(random.random, START, 3)) is None
    assert picker(policy, [], hash_balance_factor=125).pick(Asks(random.random, START, 3)) is None
    assert list(made.others(Asks(random.random, START, 3))) == []
