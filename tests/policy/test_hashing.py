"""What a request hashes to, and what a sticky split makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from proxyless.model.findings import Invalid
from proxyless.model.routes import Hash, Sticky
from proxyless.policy.hashing import hasher, sticky

CHANNEL = 0xC0FFEE


def hashed(policies: Sequence[Hash], *metadata: tuple[str, Any]) -> int | None:
    """The hash of a request."""
    made = hasher(policies)
    assert made is not None
    return made(metadata, CHANNEL)


A, B = xxh64_intdigest(b"alice"), xxh64_intdigest(b"basket-7")
USER, CART = Hash(header="x-user"), Hash(header="x-cart")
LAST = Hash(header="x-user", terminal=True)


def rotated(value: int) -> int:
    return int(f"{value:064b}"[1:] + f"{value:064b}"[0], 2)


# Envoy hash_policy.cc generateHash: "Rotating the old value prevents duplicate hash rules from cancelling each other".
@pytest.mark.parametrize(
    ("policies", "metadata", "expected"),
    [
        ([USER], {"x-user": "alice"}, A),
        ([USER], {}, None),
        ([USER, CART], {"x-user": "alice", "x-cart": "basket-7"}, rotated(A) ^ B),
        ([CART, USER], {"x-user": "alice", "x-cart": "basket-7"}, rotated(B) ^ A),
        ([USER, CART], {"x-cart": "basket-7"}, B),
        ([USER, USER], {"x-user": "alice"}, rotated(A) ^ A),
        ([LAST, CART], {"x-user": "alice", "x-cart": "basket-7"}, A),
        ([LAST, CART], {"x-cart": "basket-7"}, B),
        ([CART, LAST, CART], {"x-cart": "basket-7"}, B),
        ([Hash(channel=True)], {}, CHANNEL),
        ([Hash(channel=False)], {}, None),
        ([USER, Hash(channel=True)], {"x-user": "alice"}, rotated(A) ^ CHANNEL),
        ([Hash(metadata_key="id-bin")], {"id-bin": b"alice"}, A),
        ([USER], {"x-user": ""}, xxh64_intdigest(b"")),
    ],
    ids=str,
)
def test_policies_are_combined_as_envoy_does(
    policies: Sequence[Hash], metadata: Mapping[str, Any], expected: int | None
) -> None:
    """In order, each turned by one bit before the next is added; a terminal one ends it as soon as there is a hash
    (of whichever policy), and one that finds nothing changes nothing."""
    assert hashed(policies, *metadata.items()) == expected


def test_several_values_of_a_key_are_joined() -> None:
    """With "," in order, as in matching, and as gRPC hashes them (grpc-go TestPickerRequestHashKey)."""
    assert hashed([USER], ("x-user", "value1"), ("other", "x"), ("x-user", "value2")) == 7597366331508923242


def test_a_route_without_hash_policies_has_no_hash() -> None:
    """And pays for none."""
    assert hasher([]) is None


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "must have exactly one of header, metadataKey, channel"),
        ({"header": "a", "channel": True}, "must have exactly one of"),
        ({"header": "id-bin"}, "must not end in -bin: such a value is bytes, and no text to go by; metadataKey may"),
    ],
)
def test_what_can_t_be_hashed_is_refused(fields: dict[str, Any], wrong: str) -> None:
    """Where the document is read, not where a call is made."""
    with pytest.raises(Invalid, match=wrong):
        Hash(**fields)
    with pytest.raises(Invalid, match="must not end in -bin"):
        Sticky(header="id-bin")


# --- sticky splits ---


def sides(weights: Mapping[str, float], users: int = 5000) -> list[str]:
    """On which destination each user is."""
    names = list(weights)
    choose = sticky("x-user", names, list(weights.values()))
    found = [choose([("x-user", f"user-{n}")]) for n in range(users)]
    assert None not in found
    return [names[index] for index in found if index is not None]


def test_a_sticky_split_keeps_its_shares() -> None:
    """Of 5,000 users, within three standard deviations."""
    for weights in ({"stable": 90.0, "canary": 10.0}, {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 0.999, "b": 0.001}):
        found = sides(weights)
        for name, weight in weights.items():
            share = weight / sum(weights.values())
            assert abs(found.count(name) / 5000 - share) <= 3 * (share * (1 - share) / 5000) ** 0.5


def test_a_user_is_on_the_same_side_in_every_process() -> None:
    """The hash is seeded by the names of the destinations alone: these are literals, not what was just computed."""
    both = {"web/stable": 1.0, "web/canary": 1.0}
    assert "".join(side[4] for side in sides(both, 24)) == "csccssccssccsscsssssccss"
    assert sides({"a": 3.0, "b": 1.0}) == sides({"b": 1.0, "a": 3.0}), "the order of a split is no matter"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=6),
    st.floats(0.01, 100),
    st.data(),
)
def test_a_change_of_weight_moves_as_few_as_it_must(weights: list[float], new: float, data: st.DataObject) -> None:
    """Users move only to a destination that weighs more than before, or only away from one that weighs less."""
    index = data.draw(st.integers(0, len(weights) - 1))
    names = [f"d{n}" for n in range(len(weights))]
    before = sides(dict(zip(names, weights, strict=True)), 300)
    changed = [new if n == index else weight for n, weight in enumerate(weights)]
    after = sides(dict(zip(names, changed, strict=True)), 300)
    grown = new > weights[index]
    for old, now in zip(before, after, strict=True):
        assert old == now or (now if grown else old) == names[index]


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1.0, 2.0**31, 1e308])
def test_only_the_ratio_of_weights_counts(scale: float) -> None:
    """Istio's weights go to 2 ** 31, Envoy's sum to 2 ** 32, and ours as far as floats do."""
    assert sides({"a": scale, "b": scale}, 500) == sides({"a": 1.0, "b": 1.0}, 500)


def test_from_ninety_to_eighty_a_tenth_of_the_users_moves() -> None:
    """And all of them to the canary; a destination that weighs nothing has none."""
    before, after = sides({"stable": 90.0, "canary": 10.0}), sides({"stable": 80.0, "canary": 20.0})
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {("stable", "canary")}
    assert abs(len(moved) / 5000 - 0.1) < 0.015
    assert set(sides({"stable": 1.0, "canary": 0.0})) == {"stable"}


def test_whoever_has_no_such_header_is_drawn() -> None:
    """None says so; the route draws as for any split."""
    choose = sticky("x-user", ["a", "b"], [1, 1])
    assert choose([("other", "x")]) is None
    assert choose(None) is None
