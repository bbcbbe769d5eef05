"""The weighted split: shares as the documents say them, to the hundredth of a percent."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from math import nextafter, sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless.policy.split import shares, splitter
from tests.policy.rows import rows
from tests.worlds import Known, document

CALLS = 20_000

NOT_OURS = {
    "consul-splitter-sum-2": "our weights are relative (as Istio's and Envoy's), so no sum is wrong",
    "consul-splitter-sum-4": "Consul rounds to 0.01 %; ours are not rounded: 0.001 % do get there",
    "consul-splitter-sum-6": "our weights are relative, so no sum is wrong",
    "consul-splitter-empty": "a route without a split goes to the document's own service",
    "wrr-empty": "a split has a weight above 0 or is refused; for balancers see test_balancers.py",
}
"""Rows of 04 that are left out."""


def drawn(weights: Sequence[float], calls: int = CALLS, seed: int = 42) -> list[float]:
    """The share of the calls that each destination got."""
    choose, rng = splitter(weights), random.Random(seed).random
    counts = Counter(choose(rng()) for _ in range(calls))
    return [counts[index] / calls for index in range(len(weights))]


def three_sigma(p: float, calls: int = CALLS) -> float:
    """How far a share of `calls` draws may lie from `p`: three standard deviations of the binomial."""
    return 3 * sqrt(p * (1 - p) / calls)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("weights", [(90, 10), (99.99, 0.01), (0.01, 99.99), (1, 1, 1), (50, 0, 50)], ids=str)
def test_twenty_thousand_calls_land_within_three_sigma(weights: tuple[float, ...], seed: int) -> None:
    """The rollout that was asked for is the one that happens, down to a ten-thousandth."""
    for share, weight in zip(drawn(weights, seed=seed), weights, strict=True):
        wanted = weight / sum(weights)
        assert abs(share - wanted) <= three_sigma(wanted)


@pytest.mark.parametrize("row", rows("04_weighted_split.json", left_out=NOT_OURS))
def test_shares_are_those_of_the_peers(row: Mapping[str, Any]) -> None:
    """The tables' weights or probabilities, drawn as often as they say, within the error they allow."""
    given, expect = row["given"], row["expect"]
    if "p" in given:
        share, _ = drawn([given["p"], 1 - given["p"]], given["rpcs"])
        assert abs(share - given["p"]) <= expect["abs_error_max"]
    elif "rpcs" in given:
        # "5 standard errors", as the bands in the same table
        for share, wanted in zip(
            drawn([*given["weights"].values()], given["rpcs"]), expect["share"].values(), strict=True
        ):
            assert abs(share - wanted) <= 5 * sqrt(wanted * (1 - wanted) / given["rpcs"])
    elif "picks" in given:
        for share, wanted in zip(drawn(given["weights"], given["picks"]), expect["share"], strict=True):
            assert abs(share - wanted) <= expect["relative_error_max"] * wanted
    else:
        assert [100 * share for share in shares(given["weights"])] == expect["normalized"]


def test_a_share_of_a_hundredth_of_a_percent_is_exact() -> None:
    """0.01 % is one in ten thousand: the last draws of [0, 1), and no other."""
    choose = splitter([99.99, 0.01])
    assert [choose(draw) for draw in (0.0, 0.99989, 0.99991, nextafter(1.0, 0.0))] == [0, 0, 1, 1]


def test_two_weights_at_the_end_of_the_scale_do_not_overflow() -> None:
    """1e308 twice is infinity in a sum; reliability-security.md section 2, bad weights."""
    assert shares([1e308, 1e308]) == (0.5, 0.5)


@pytest.mark.parametrize("weight", [0.01, 10**9 + 1, 2**31 - 1])
def test_a_document_may_have_weights_as_large_as_the_peers_have(weight: float) -> None:
    """Istio's are int32; Envoy's are together at most 4294967295, and more is refused (tests/test_attacks.py)."""
    world = Known().lives("web", "a:1").lives("other", "b:1")
    world.services["web"] = document(
        f"routes: [{{split: [{{weight: {weight}}}, {{service: other, weight: {weight}}}]}}]"
    )
    (planned,) = world.snapshot().services["web"].routes
    assert planned.shares == (0.5, 0.5)


WEIGHTS = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 1e9), st.integers(0, 10**9), st.sampled_from([1e-300, 1e308])),
    min_size=1,
    max_size=20,
).filter(lambda weights: sum(weights) > 0)
DRAWS = st.floats(0, 1, exclude_max=True)


@given(WEIGHTS)
def test_shares_sum_to_one(weights: list[float]) -> None:
    """Each is between 0 and 1, and together they are all of it."""
    parts = shares(weights)
    assert all(0 <= part <= 1 for part in parts)
    assert abs(sum(parts) - 1) < 1e-9


@given(WEIGHTS, DRAWS)
def test_what_weighs_nothing_gets_nothing(weights: list[float], draw: float) -> None:
    """At 0 % a version gets no call at all, whatever is drawn."""
    assert weights[splitter(weights)(draw)] > 0


@given(WEIGHTS, st.integers(0, 19))
def test_no_bound_between_two_shares_belongs_to_nobody(weights: list[float], index: int) -> None:
    """Draws at, just under and just over the end of a share go to what weighs something."""
    choose = splitter(weights)
    edge = sum(shares(weights)[: index + 1])
    for draw in (edge, nextafter(edge, 0.0), nextafter(edge, 1.0)):
        if 0 <= draw < 1:
            assert weights[choose(draw)] > 0


def test_more_weight_never_means_fewer_calls() -> None:
    """Raising a share from 0 to 100 moves callers over one way only: no draw goes back and forth."""
    for draw in (0.0, 0.25, 0.5, 0.75, 0.999):
        moved = [splitter([100 - percent, percent])(draw) for percent in range(101)]
        assert moved == sorted(moved)
