"""What changes about a destination as a whole: its retry budget, its outliers, its limits, its breaker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from proxyless.model.codes import SERVER_ERRORS, Code
from proxyless.model.snapshot import ClusterKey, Feedback, Result
from proxyless.model.traffic import LOCALITY, TrafficPolicy
from proxyless.policy.breaker import Breaker
from proxyless.policy.budget import RetryBudget
from proxyless.policy.limits import Limits
from proxyless.policy.locality import Ladder
from proxyless.policy.outlier import EJECTED, HEALTHY, Detector
from proxyless.policy.panic import Panic
from proxyless.state.health import Health
from proxyless.state.node import Node

Tell: TypeAlias = Callable[[str, ClusterKey, str, str], None]
"""(what happened, destination, address or "", why): ejected, readmitted, breaker; panic, spill (no why: it is over)."""


class DestinationState:
    """Guards the numbers of one destination, and of its nodes, with one lock.

    Always by `with`, though `acquire` and `release` cost half of it (Python 3.11: 0.13 against 0.24 us). A signal's
    handler that raises (Ctrl-C, a worker's time limit) does so when a call of C's returns, as `acquire` does: before a
    `try` the lock is kept for ever then, and within one a wait that is interrupted releases what it never had.
    """

    __slots__ = (
        "_breaker",
        "_budget",
        "_detector",
        "_health",
        "_key",
        "_limits",
        "_lock",
        "_members",
        "_nodes",
        "_panic",
        "_policy",
        "_tell",
        "denied",
        "hedges",
        "refused",
        "retries",
    )

    def __init__(
        self, key: ClusterKey, policy: TrafficPolicy, tell: Tell, now: float, lock: threading.RLock | None = None
    ) -> None:
        self._key = key
        self._tell = tell
        self._lock = lock or threading.RLock()
        self._policy = policy
        self._nodes: dict[Any, Node] = {}
        self._members: Sequence[Node] = ()
        self._budget = RetryBudget.of(policy.retry_budget)
        self._detector = Detector(policy.outlier_detection, now)
        self._panic = Panic()
        self._health = Health()
        self._limits = Limits(policy.limits)
        self._breaker = Breaker(policy.circuit_breaker) if policy.circuit_breaker else None
        self.retries = self.hedges = self.denied = self.refused = 0

    def follow(self, policy: TrafficPolicy, nodes: Sequence[Node], now: float) -> None:
        """Go by an edited policy and by the members there are now; what is not edited keeps what it knows."""
        with self._lock:
            before, self._policy = self._policy, policy
            if policy.retry_budget != before.retry_budget:
                self._budget = RetryBudget.of(policy.retry_budget)
            if policy.limits != before.limits:
                self._limits.configure(policy.limits)
            if policy.circuit_breaker != before.circuit_breaker:
                if self._breaker is not None and policy.circuit_breaker:
                    self._breaker.configure(policy.circuit_breaker)
                else:
                    self._breaker = Breaker(policy.circuit_breaker) if policy.circuit_breaker else None
            if nodes is not self._members:
                self._members = nodes
                self._nodes = {node.outlier: node for node in nodes}
                self._detector.adopt(list(self._nodes))
                for node in nodes:
                    node.on_health, node.on_settled = self._health.changed, self._settled
            if policy.outlier_detection != before.outlier_detection:
                self._detector.configure(policy.outlier_detection, now)
            self._health.follow(nodes, (policy.locality or LOCALITY).panic_threshold)
        self._settled()

    # -- health

    def watch(self, ladder: Ladder) -> None:
        """Keep `ladder` told who is well, as long as anybody has it."""
        with self._lock:
            self._health.watch(ladder)
        self._settled()

    def sick(self) -> frozenset[str]:
        """The addresses of its members that are ejected, on probation or unreachable."""
        with self._lock:
            return frozenset(node.address for node in self._health.sick)

    def concerns(self, whom: Callable[[], None] | None) -> None:
        """Have `whom` called, under the lock, when a member fell sick or got well."""
        with self._lock:
            self._health.on_change = whom

    def _settled(self) -> None:
        """Somebody fell sick, got well or was kept in: tell what began or ended with that. Without the lock."""
        with self._lock:
            news = self._health.news()
        for what, why in news:
            self._tell(what, self._key, "", why)

    # -- retries

    def deposit(self, now: float) -> None:
        """A call ended that nobody needs to make again."""
        with self._lock:
            self._budget.deposit(now)

    def withdraw(self, now: float, hedge: bool = False) -> bool:
        """Whether a retry, or a `hedge`, may be made: the limit lets it in and the budget pays. `retried` ends it."""
        with self._lock:
            granted = self._limits.retries.enter()
            if granted and not self._budget.withdraw(now):
                self._limits.retries.leave()
                granted = False
            if hedge:
                self.hedges += granted
            else:
                self.retries += granted
            self.denied += not granted
        return granted

    def retried(self) -> None:
        """A retry or a hedge is over."""
        with self._lock:
            self._limits.retries.leave()

    # -- attempts

    def begin(self, node: Node, held: bool = False) -> bool:
        """Whether one more attempt may be under way, and then `node` has it: whoever begins says how it `ended`.

        `held`: the call has its place already, and only tries another node.
        """
        requests = self._limits.requests
        with self._lock:
            if not held:
                if requests.maximum is not None and requests.used >= requests.maximum:
                    self.refused += 1
                    return False
                requests.used += 1
            node.inflight += 1
            node.calls += 1
        return True

    def ended(
        self, node: Node, code: int | None, local: bool, now: float, ticket: int = 0, holds: bool = False
    ) -> None:
        """How an attempt on `node` ended; None: nobody knows, or it says nothing about the node.

        `ticket`: the attempt was a probe. `holds`: the call keeps its place among those under way, for it will try
        again or `leave`.
        """
        told: Sequence[tuple[Node, str]] = ()
        settled = False
        with self._lock:
            if not holds:
                self._limits.requests.used -= 1
            node.inflight -= 1
            if code:
                node.failures += 1
            if code is not None and not ticket:
                why = node.outlier.record(code, local)
                if why or now >= self._detector.due_at or node.outlier.out:
                    settled = bool(why) or now >= self._detector.due_at
                    told = self._judged(node, code, why, now)
            idle = node.retired and not node.inflight
        for gone, reason in told:
            self._tell("ejected", self._key, gone.address, f"{reason}; for {gone.outlier.ejected_until - now:.0f} s")
        if settled:
            self._settled()
        if ticket:
            self.probed(node, ticket, code, now)
        if idle and node.on_idle is not None:
            node.on_idle(node)

    @property
    def under_way(self) -> int:
        """How many attempts are, also on nodes that no snapshot names any more; and calls that hold their place."""
        return self._limits.requests.used

    def observed(self, feedback: Feedback, result: Result, seconds: float | None, now: float) -> None:
        """Tell a balancer what it asked to know."""
        with self._lock:
            feedback.observe(result, seconds, now)

    def leave(self) -> None:
        """A call that held its place gives it up."""
        with self._lock:
            self._limits.requests.leave()

    # -- waiting

    def queue(self) -> bool:
        """Whether one more call may wait for an endpoint. Whoever queues unqueues, exactly once."""
        with self._lock:
            entered = self._limits.pending.enter()
            self.refused += not entered
        return entered

    def unqueue(self) -> None:
        """It waits no longer."""
        with self._lock:
            self._limits.pending.leave()

    # -- the breaker

    def admit(self, now: float) -> int:
        """0: the breaker is open. Else a ticket for `judge`."""
        breaker = self._breaker
        if breaker is None:
            return -1
        # Without the lock, and before it is known to be closed: if it opens between the two, an old number is let be.
        generation = breaker.generation
        if breaker.closed:
            return generation
        with self._lock:
            generation = breaker.generation
            ticket = breaker.admit(now)
            state = "" if breaker.generation == generation else breaker.state(now)
        if state:
            self._tell("breaker", self._key, "", state)
        return ticket

    def retry_in(self, now: float) -> float:
        """Seconds until an open breaker lets a call through again; 0 where it is not open."""
        with self._lock:
            return self._breaker.retry_in(now) if self._breaker is not None else 0.0

    def judge(self, ticket: int, ok: bool | None, now: float) -> None:
        """How the call with this ticket ended; None if nobody knows."""
        breaker = self._breaker
        if breaker is None or ticket < 0:
            return
        with self._lock:
            generation = breaker.generation
            if ok is None:
                breaker.cancel(ticket)
            else:
                breaker.record(ticket, ok, now)
            state = "" if breaker.generation == generation else breaker.state(now)
        if state:
            self._tell("breaker", self._key, "", state)

    # -- outliers

    def _judged(self, node: Node, code: int, why: str, now: float) -> Sequence[tuple[Node, str]]:
        """Who is ejected now, and why: `node` by its last result, others as the interval ends. Under the lock."""
        detector = self._detector
        if node.outlier.out:  # and counted nothing: its record is of an earlier time
            self._panic.called(code not in SERVER_ERRORS)
        ejected = []
        if why and detector.eject(node.outlier, now):
            ejected = [(node, f"{why}, the last with {Code(code).name}")]
        elif why and node.outlier in self._nodes:
            self._panic.kept(node.outlier, len(self._nodes) - detector.out, detector.out)
        if now >= detector.due_at:
            self._panic.tick()
            ejected += [(self._nodes[outlier], reason) for outlier, reason in detector.tick(now)]
        for gone, _ in ejected:
            self._health.changed(gone)
        self._health.call(self._panic.on)
        return ejected

    def probe(self, node: Node, now: float) -> int | None:
        """May a request go to this ejected node? None: no. Else the ticket for `probed` (0: no probe)."""
        with self._lock:
            ticket = node.outlier.admit(now)
            return 0 if ticket is None and self._health.panics(node) else ticket

    def probed(self, node: Node, ticket: int, code: int | None, now: float) -> None:
        """How the probe with this ticket ended; None if nobody knows."""
        with self._lock:
            was_out = node.outlier.out
            state = self._detector.probed(node.outlier, ticket, code, now)
            if was_out and state == HEALTHY:
                node.since = now
            self._health.changed(node)
        if was_out and state == HEALTHY:
            self._tell("readmitted", self._key, node.address, "its probes succeeded")
        elif state == EJECTED and code:
            left = node.outlier.ejected_until - now
            self._tell("ejected", self._key, node.address, f"a probe failed with {Code(code).name}; for {left:.0f} s")
        self._settled()

    # -- looking in

    def status(self, now: float) -> dict[str, Any]:
        """For `Mesh.status()`."""
        with self._lock:
            return {
                "retries_left": self._budget.balance(now),
                "retries": self.retries,
                "hedges": self.hedges,
                "retries_denied": self.denied,
                "breaker": self._breaker.state(now) if self._breaker is not None else None,
                "breaker_retry_in": round(self._breaker.retry_in(now), 3) if self._breaker is not None else None,
                "requests": self._limits.requests.used,
                "pending": self._limits.pending.used,
                "refused": self.refused,
                "ejected": self._detector.out,
                "unhealthy": len(self._health.sick),
                "panic": self._health.panic,
            }

    def renew(self, lock: threading.RLock) -> None:
        """In a forked child: the old lock may be held by a thread that is gone, and nothing is under way.

        Nor are probes: a ticket that the parent handed out is never given back here.
        """
        self._lock = lock
        self._limits = Limits(self._policy.limits)
        self.retries = self.hedges = self.denied = self.refused = 0  # what the parent counted, the parent tells
        for outlier in self._nodes:
            outlier.ticket = 0
        if self._breaker is not None:
            self._breaker.renew()
