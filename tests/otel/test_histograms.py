"""Many values at once: whatever the SDK is set up to do, it ends where `record` one by one would have ended."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from proxyless.otel.histograms import _add, adds_at_once, feeder
from tests.otel.world import collected

BUCKETS = [0.0, 0.1, 0.5, 1.0, 5.0]
A, B = {"status": "OK", "route": "r"}, {"status": "ABORTED", "route": "r"}
DELTA = {Histogram: AggregationTemporality.DELTA}


def numbers(data: Any) -> list[Any]:
    """What a reader saw, but for times."""
    return [
        (
            dict(point.attributes),
            point.count,
            pytest.approx(point.sum),
            getattr(point, "bucket_counts", None) or str(getattr(point, "positive", "")),
            getattr(point, "explicit_bounds", ()),
            point.min,
            point.max,
        )
        for metric in data
        for point in metric.data.data_points
    ]


class Twins:
    """Two histograms, set up alike: one is fed, the other is given the same values one by one."""

    def __init__(self, *views: View, temporality: Any = None, readers: int = 1) -> None:
        self._readers = [
            [InMemoryMetricReader(preferred_temporality=temporality or {}) for _ in range(readers)] for _ in range(2)
        ]
        self.fed, self.recorded = (
            MeterProvider(readers, views=views, shutdown_on_exit=False)
            .get_meter("m")
            .create_histogram("h", explicit_bucket_boundaries_advisory=BUCKETS)
            for readers in self._readers
        )
        self._feed = feeder(self.fed)

    def take(self, attributes: dict[str, str], values: list[float]) -> None:
        """Give both the same."""
        self._feed(attributes, list(values))
        for value in values:
            self.recorded.record(value, attributes)

    def agree(self) -> None:
        """All readers of both see the same."""
        fed, recorded = ([numbers(collected(reader)) for reader in readers] for readers in self._readers)
        assert fed == recorded


VALUES = st.lists(st.floats(0, 10) | st.sampled_from(BUCKETS), min_size=1, max_size=50)


@given(st.lists(st.tuples(st.sampled_from([A, B]), VALUES), min_size=1, max_size=6), st.booleans())
def test_batches_add_up_to_what_single_values_do(batches: list[Any], delta: bool) -> None:
    """Counts per bucket, sum, least and greatest; also where each collection begins anew."""
    twins = Twins(temporality=DELTA if delta else None)
    for attributes, values in batches:
        twins.take(attributes, values)
        if len(values) % 3 == 0:
            twins.agree()
    twins.agree()


@pytest.mark.parametrize(
    "view",
    [
        View(instrument_name="h", attribute_keys={"route"}),
        View(instrument_name="h", aggregation=ExplicitBucketHistogramAggregation([0.2, 0.4])),
        View(instrument_name="h", aggregation=ExplicitBucketHistogramAggregation([1.0], record_min_max=False)),
        View(instrument_name="h", aggregation=ExponentialBucketHistogramAggregation()),
        View(instrument_name="h", aggregation=DropAggregation()),
        View(instrument_name="h", name="renamed"),
    ],
    ids=["fewer attributes", "other buckets", "no min and max", "exponential", "dropped", "renamed"],
)
def test_views_have_their_way(view: View) -> None:
    """They are the user's, and decide what is kept and how."""
    twins = Twins(view, readers=2)
    dice = random.Random(7).random
    for attributes in (A, B, A):
        twins.take(attributes, [dice() * 2 for _ in range(40)])
    twins.agree()


def test_the_limit_on_attributes_holds() -> None:
    """Beyond it the SDK counts together, and so do batches."""
    twins = Twins(View(instrument_name="h", aggregation_cardinality_limit=3))
    for number in range(6):
        twins.take({"n": str(number)}, [0.1, 0.2, 0.3])
    twins.agree()


def test_a_collection_that_empties_the_counts_in_between_loses_none() -> None:
    """With delta temporality the SDK takes the buckets away at a collection: they begin anew, at nothing."""
    aggregation = SimpleNamespace(
        _lock=threading.Lock(), _value=None, _boundaries=(1.0, 2.0), _sum=0.0, _min=9.0, _max=0.0, _record_min_max=True
    )
    _add(aggregation, [0.5, 1.5, 1.7, 3.0])
    assert (aggregation._value, aggregation._sum) == ([1, 2, 1], pytest.approx(6.7))
    assert (aggregation._min, aggregation._max) == (0.5, 3.0)


def test_the_sdk_is_as_we_know_it() -> None:
    """Fails when a new SDK looks different inside: values are then given one by one, which costs twenty times more."""
    twins = Twins()
    twins.take(A, [0.1])
    assert adds_at_once(twins.fed, A)


def test_another_sdk_gets_one_value_at_a_time() -> None:
    """Only `record` is known of it."""

    class Other:
        def __init__(self) -> None:
            self.seen: list[float] = []

        def record(self, value: float, _attributes: Any) -> None:
            self.seen.append(value)

    other = Other()
    feeder(other)(A, [0.3, 0.1, 0.2])
    assert sorted(other.seen) == [0.1, 0.2, 0.3]
    assert not adds_at_once(other, A)
