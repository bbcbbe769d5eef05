"""Giving a histogram many values at once: exactly what one `record` after the other would have done, at a hundredth.

The API takes one value at a time, and the SDK spends microseconds on each: it hashes the attributes, asks views and
exemplar filters, takes locks. Values with the same attributes need that once. So the first value of a batch is
recorded as the API has it, which makes the SDK find or make its aggregation, by its own views, limits and temporality;
the rest is added to that aggregation, as it would add them itself.

This is the one file that knows the SDK from within. Where anything is not as it expects (another SDK, a newer one, an
exponential histogram), values are recorded one by one, and `tests/otel/test_histograms.py` notices.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Attributes: TypeAlias = Mapping[str, Any]
Feed: TypeAlias = Callable[[Attributes, Sequence[float]], None]


def feeder(histogram: Any) -> Feed:
    """`feed(attributes, values)` for a histogram of the API's. The values are the feeder's: it may sort them."""

    def feed(attributes: Attributes, values: Sequence[float]) -> None:
        histogram.record(values[0], attributes)
        if len(values) == 1:
            return
        rest = sorted(values[1:])
        found = _matches(histogram)
        if found is None or not all(_can_add(match, attributes) for match in found):
            for value in rest:
                histogram.record(value, attributes)
            return
        for match in found:
            with match._lock:
                aggregation = _aggregation(match, attributes)
                if aggregation is not None:
                    _add(aggregation, rest)
                    continue
            # A collection that begins anew each time (delta) came between: the same again, for this one alone.
            _again(histogram, match, attributes, rest)

    return feed


def adds_at_once(histogram: Any, attributes: Attributes) -> bool:
    """Whether values for `attributes`, which were recorded before, would be added at once."""
    found = _matches(histogram)
    return found is not None and all(_can_add(match, attributes) for match in found)


def _matches(histogram: Any) -> list[Any] | None:
    """One for each reader and view that sees the histogram; None where this is not the SDK that we know."""
    try:
        storages = histogram._measurement_consumer._reader_storages
        return [
            match for storage in storages.values() for match in storage._get_or_init_view_instrument_match(histogram)
        ]
    except AttributeError:
        return None


def _can_add(match: Any, attributes: Attributes) -> bool:
    try:
        with match._lock:
            aggregation = _aggregation(match, attributes)
        if aggregation is None:
            return False
        known = type(aggregation).__name__ == "_ExplicitBucketHistogramAggregation"
        return known and all(hasattr(aggregation, name) for name in _FIELDS)
    except AttributeError:
        return False


_FIELDS = ("_lock", "_value", "_boundaries", "_sum", "_min", "_max", "_record_min_max")


def _aggregation(match: Any, attributes: Attributes) -> Any:
    """The aggregation that `record` used: by attributes, those that the view lets through. None if there is none."""
    keys = match._view._attribute_keys
    wanted = attributes if keys is None else {key: value for key, value in attributes.items() if key in keys}
    for aggregation in match._attributes_aggregation.values():
        if aggregation._attributes == wanted:
            return aggregation
    return None


def _add(aggregation: Any, ordered: Sequence[float]) -> None:
    """What `aggregate` does with each value, done with all of them."""
    with aggregation._lock:
        counts = aggregation._value
        if counts is None:
            counts = aggregation._value = [0] * (len(aggregation._boundaries) + 1)
        below = 0
        for index, boundary in enumerate(aggregation._boundaries):
            if below == len(ordered):
                break
            upto = bisect_right(ordered, boundary, below)  # "(previous, boundary]": a value on it belongs to it
            counts[index] += upto - below
            below = upto
        counts[-1] += len(ordered) - below
        aggregation._sum += sum(ordered)
        if aggregation._record_min_max:
            aggregation._min = min(aggregation._min, ordered[0])
            aggregation._max = max(aggregation._max, ordered[-1])


def _again(histogram: Any, match: Any, attributes: Attributes, ordered: Sequence[float]) -> None:
    """Have the SDK make this reader's aggregation anew, for it alone: the other readers have the values already."""
    for value in ordered:
        match.consume_measurement(_Measured(histogram, value, attributes))


class _Measured:
    """A measurement as aggregations read it."""

    __slots__ = ("attributes", "context", "instrument", "time_unix_nano", "value")

    def __init__(self, instrument: Any, value: float, attributes: Attributes) -> None:
        self.instrument = instrument
        self.value = value
        self.attributes = attributes
        self.time_unix_nano = 0
        self.context = None
