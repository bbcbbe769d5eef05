"""Weighted round robin by what servers report of their load: more to whoever answers more with less effort.

gRFC A58, from per-call reports in trailers (`load_report.py`). Until two endpoints have reported for as long as
`blackoutPeriod`, and where nobody does at all, it is round robin by the registered weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from math import inf

from proxyless.model.snapshot import NodeState, Picker, PickInfo, Result
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.load_report import read, weight
from proxyless.policy.balancers.round_robin import round_robin

HEAVIEST = 65535
HALF = HEAVIEST // 2
"""To what weights are scaled (C-core `kMaxWeight`)."""
MOST, LEAST = 10.0, 0.01
"""Times the mean: no weight counts for more or less, so that a pick passes over ten at most on average
(C-core `kMaxRatio`, `kMinRatio`)."""
AT_ONCE = 8
"""Reports looked at by one pick while weights are renewed: a thousand endpoints must not hold one call up."""


class Reports:
    """What one node has reported lately."""

    __slots__ = ("_penalty", "_since", "_weight", "told_at")

    reads_trailers = True

    def __init__(self, penalty: float) -> None:
        self._penalty = penalty
        self._weight = 0.0
        self._since = inf
        self.told_at = -inf

    def configure(self, penalty: float) -> None:
        """Go by edited settings; what was reported is kept."""
        self._penalty = penalty

    def observe(self, result: Result, _seconds: float | None, now: float) -> None:
        """Read the report of an attempt, if there is one."""
        if result.unsent:
            self._since = inf  # the blackout begins anew with the next connection (gRFC A58), and so do reports
            return
        report = read(result.trailers)
        found = weight(report, self._penalty) if report is not None else 0.0
        if found:
            self._weight, self.told_at = found, now
            self._since = min(self._since, now)

    def weight(self, now: float, blackout: float, expiration: float) -> float:
        """0 while it is not known well enough: reported for less than `blackout`, or not for `expiration`."""
        if now - self.told_at >= expiration:
            self._since = inf
            return 0.0
        return 0.0 if now - self._since < blackout else self._weight


class Stride:
    """C-core's static stride scheduler: a turn passes over those whose weight has not added up yet.

    "We pick a backend `weight` times per `kMaxWeight` generations. The multiply and modulus ~evenly spread out the
    picks for a given backend between different generations." Weights of 0 are unknown, and count as the mean.
    """

    __slots__ = ("_least", "_mean", "_next", "_raw", "_scale", "_top", "_weights")

    def __init__(self, weights: Sequence[float], next_: Callable[[], int]) -> None:
        """`ready` has to be asked until it says so."""
        self._raw = weights
        self._weights: list[int] = []
        self._next = next_
        mean = sum(weights) / sum(map(bool, weights))
        self._top = min(max(weights), MOST * mean)
        self._scale = HEAVIEST / self._top
        self._mean = int(self._scale * mean + 0.5)
        self._least = max(1, int(self._mean * LEAST + 0.5))

    def ready(self, most: int) -> bool:
        """Scale up to `most` more weights to whole numbers; whether that was all of them."""
        done = len(self._weights)
        self._weights += [
            max(int(min(raw, self._top) * self._scale + 0.5), self._least) if raw else self._mean
            for raw in self._raw[done : done + most]
        ]
        return len(self._weights) == len(self._raw)

    def next(self) -> int:
        """The index of whose turn it is."""
        weights, next_ = self._weights, self._next
        size = len(weights)
        while True:
            generation, index = divmod(next_(), size)
            weight = weights[index]
            if (weight * generation + index * HALF) % HEAVIEST + weight >= HEAVIEST:
                return index


class _Weighted:
    """Goes by the weights as they are renewed every `weightUpdatePeriod`, a few by each pick that falls into it.

    Whoever takes the work that is being done is the only one to do some of it; taking it and putting it back are one
    C call each, so threads need no lock.
    """

    __slots__ = ("_due", "_next", "_nodes", "_policy", "_reports", "_stride", "_turns", "_work")

    def __init__(
        self, nodes: Sequence[NodeState], reports: Sequence[Reports], policy: LoadBalancer, turns: Picker, start: int
    ) -> None:
        self._nodes = nodes
        self._reports = reports
        self._policy = policy
        self._turns = turns
        self._next = count(start).__next__
        self._work: list[Stride | list[float]] = [[]]
        self._stride: Stride | None = None
        self._due = -inf
        newest = max((known.told_at for known in reports), default=-inf)
        if newest > -inf:  # an edit or a new endpoint: go on with what is known, as of the last report
            stride = self._by([self._weight(known, newest) for known in reports])
            if stride is not None and stride.ready(len(reports)):
                self._stride = stride

    def pick(self, info: PickInfo) -> NodeState | None:
        if info.now >= self._due:
            self._renew(info.now)
        stride = self._stride
        return self._turns.pick(info) if stride is None else self._nodes[stride.next()]

    def _renew(self, now: float) -> None:
        try:
            work = self._work.pop()
        except IndexError:
            return  # another thread is at it
        made: Stride | None = None
        done = False
        if isinstance(work, list):
            work += [self._weight(known, now) for known in self._reports[len(work) : len(work) + AT_ONCE]]
            if len(work) == len(self._reports):
                made = self._by(work)
                done = made is None
        else:
            made = work
        if made is not None:
            done = made.ready(AT_ONCE)
        if done:
            self._stride = made
            self._due = now + self._policy.weight_update_period
        self._work.append([] if done else made or work)

    def _weight(self, known: Reports, now: float) -> float:
        return known.weight(now, self._policy.blackout_period, self._policy.weight_expiration_period)

    def _by(self, weights: Sequence[float]) -> Stride | None:
        """Fewer than two that are known give nothing to weigh: round robin (gRFC A58)."""
        return Stride(weights, self._next) if sum(map(bool, weights)) >= 2 else None


def weighted_round_robin(
    nodes: Sequence[NodeState], weights: Sequence[int], policy: LoadBalancer, rng: Callable[[], float]
) -> Picker:
    """Build the picker. What nodes have reported stays with them, from swap to swap."""
    reports = [_reports(node, policy) for node in nodes]
    turns = round_robin(nodes, weights, policy, rng)
    return _Weighted(nodes, reports, policy, turns, int(rng() * 2**32))


def _reports(node: NodeState, policy: LoadBalancer) -> Reports:
    known = node.feedback
    if isinstance(known, Reports):
        known.configure(policy.error_utilization_penalty)
        return known
    node.feedback = made = Reports(policy.error_utilization_penalty)
    return made
