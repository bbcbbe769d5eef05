"""Peak EWMA: two endpoints at random, and the one that is expected to answer sooner.

What an endpoint costs is a moving average of its latency that believes a rise at once and a fall only with time,
times what is under way there. So a slow replica loses its traffic at its first slow answer, long before it fails,
and gets it back as it recovers (Finagle's `PeakEwma`, Linkerd's and tower's `peak_ewma`).

An endpoint that has never answered costs nothing until it is asked, and very much from then until it answers: a
newcomer is probed with one call. A failure costs at least `failurePenalty`, or what the server asks for by
`grpc-retry-pushback-ms`: errors are quick, and would draw traffic (Linkerd's load biaser). The average decays with
time, and each time it is read: so one that nobody asks any more is tried again after a while.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp
from typing import Any

from proxyless.model.codes import SERVER_ERRORS, Code
from proxyless.model.snapshot import NodeState, Picker, PickInfo, Result
from proxyless.model.traffic import LoadBalancer
from proxyless.policy.balancers.random import random

UNKNOWN = 1e9
"""What waiting for a first answer costs: more than any latency, and less than what floats could not add 1 to
(Finagle's `Penalty` is `Long.MaxValue >> 16` nanoseconds, 1.4e5 s)."""

LONGEST_PUSHBACK = 300.0
"""Seconds a server may ask to be left alone for (Linkerd: `max-retry-after` 300 s)."""

PENALIZED = SERVER_ERRORS | {Code.RESOURCE_EXHAUSTED}
"""Failures that are the endpoint's: not what the caller asked for in vain. Code 8 is how a server says 429."""


class Latency:
    """The moving average of one node; `default` is what it is taken for before its first answer, 0 for a probe.

    Picks read it without a lock while answers change it under one. Average and instant are one tuple, so that nobody
    sees the one without the other; the worst that can happen is that a pick in just that microsecond undoes an
    answer, and the next one says it again.
    """

    __slots__ = ("_decay", "_known", "_penalty", "_soon")

    reads_trailers = False

    def __init__(self, decay: float, penalty: float, default: float = 0.0, now: float = 0.0) -> None:
        self.configure(decay, penalty)
        self._known = (default, now)

    @property
    def cost(self) -> float:
        """Seconds, as of the last look."""
        return self._known[0]

    def configure(self, decay: float, penalty: float) -> None:
        """Go by edited settings; what was learnt is kept."""
        self._decay, self._penalty = decay, penalty
        self._soon = decay / 1000  # in which a thousandth is forgotten: not worth an exponential in every pick

    def observe(self, result: Result, seconds: float | None, now: float) -> None:
        """An answer came. One that was given up counts only if it had lasted longer than was expected anyway."""
        if seconds is None:
            return  # a stream's end; it answered long ago
        if result.code == Code.CANCELLED:
            if seconds > self.expected(now):
                self.answered(seconds, now)
            return
        if result.code in PENALIZED:
            seconds = max(seconds, self._penalty, pushback(result.trailers))
        self.answered(seconds, now)

    def answered(self, seconds: float, now: float) -> None:
        """cost = max(seconds, …) at a rise; else weighed by exp(-(time since the last answer) / decay)."""
        cost, stamp = self._known
        if seconds < cost:
            kept = exp(min(0.0, stamp - now) / self._decay)
            seconds = cost * kept + seconds * (1.0 - kept)
        self._known = (seconds, now)

    def expected(self, now: float) -> float:
        """Seconds: what it would take, as far as is known. To look is to observe 0 (Finagle `observe(0.0)`)."""
        cost, stamp = self._known
        if now > stamp + self._soon and cost:
            cost *= exp((stamp - now) / self._decay)
            self._known = (cost, now)
        return cost


def load(cost: float, under_way: int, weight: int = 1) -> float:
    """cost * (pending + 1), and with weights cost * (pending / weight + 1): twice the weight holds twice as much."""
    if cost == 0.0 and under_way:
        return UNKNOWN + under_way
    return cost * (under_way / weight + 1.0)


def pushback(trailers: Sequence[tuple[str, str | bytes]]) -> float:
    """Seconds for which the server asks to be left alone, if it does."""
    for key, value in trailers:
        if key == "grpc-retry-pushback-ms":
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            if text.isascii() and text.isdecimal() and len(text) < 10:
                return min(int(text) / 1000.0, LONGEST_PUSHBACK)
    return 0.0


def peak_ewma(
    nodes: Sequence[NodeState], weights: Sequence[int], policy: LoadBalancer, rng: Callable[[], float]
) -> Picker:
    """Build the picker. What was learnt of a node stays with the node, from swap to swap."""
    latencies = [_latency(node, policy) for node in nodes]
    if len(set(weights)) > 1:
        members: Any = list(zip(nodes, latencies, weights, strict=True))
        return _Weighted(random(members, weights, policy, rng))  # which draws whatever it is given
    return _Two(nodes, latencies)


def _latency(node: NodeState, policy: LoadBalancer) -> Latency:
    known = node.feedback
    if isinstance(known, Latency):
        known.configure(policy.decay_time, policy.failure_penalty)
        return known
    node.feedback = made = Latency(policy.decay_time, policy.failure_penalty)
    return made


class _Two:
    """Two different ones, at equal chances."""

    __slots__ = ("_latencies", "_nodes")

    def __init__(self, nodes: Sequence[NodeState], latencies: Sequence[Latency]) -> None:
        self._nodes = nodes
        self._latencies = latencies

    def pick(self, info: PickInfo) -> NodeState | None:
        nodes = self._nodes
        size = len(nodes)
        if size < 2:
            return nodes[0] if size else None
        rng, now = info.rng, info.now
        one = int(rng() * size)
        two = int(rng() * (size - 1))
        if two >= one:
            two += 1
        first, second = nodes[one], nodes[two]
        cost, other = self._latencies[one].expected(now), self._latencies[two].expected(now)
        if cost and other:  # `load` of both, for those who have answered before
            return first if cost * (first.inflight + 1) <= other * (second.inflight + 1) else second
        return first if load(cost, first.inflight) <= load(other, second.inflight) else second


class _Weighted:
    """Drawn in proportion to weight, then judged by what is under way per weight."""

    __slots__ = ("_draw",)

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def pick(self, info: PickInfo) -> NodeState | None:
        draw, now = self._draw.pick, info.now
        first, latency, weight = draw(info)
        second, other, light = draw(info)
        if first is second:
            return first  # type: ignore[no-any-return]
        if load(latency.expected(now), first.inflight, weight) <= load(other.expected(now), second.inflight, light):
            return first  # type: ignore[no-any-return]
        return second  # type: ignore[no-any-return]
