"""One blocking query after another: when an answer is news, when to ask again, and what an index is worth.

The rules are those of Consul's `features/blocking`, and what was measured beyond them: an index survives
neither an error nor a step backwards, an early answer with the same index proves nothing, and every round is
paid for. Nothing here has heard of HTTP, and the clock, the sleep and the dice are arguments: the rules are
tested in virtual time.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, TypeAlias

log = logging.getLogger("proxyless")

SLACK: Final = 5.0
"""Seconds that an answer may take beyond the time for which the agent holds a query."""

PLAIN: Final = 10.0
"""Seconds that an answer may take that is not held: to write down 40,000 instances takes an agent four."""

FIRST_RETRIES, FIRST_CAP, CAP = 5, 1.0, 15.0
"""An agent that restarts is back within seconds, so the first few retries come soon."""

FLOORS: Final = {403: 5.0, 429: 1.0, 503: 1.0}
"""Least pause after a status: an unknown token is not mended in a second, haste won't help a busy agent."""

EARLY: Final = 0.98
"""Consul holds a query for `wait` plus up to a sixteenth; what comes before that was not the timeout."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Consul sent: header names in lower case; `transfer` is the seconds from them to the body's end."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    transfer: float = 0.0

    @property
    def fragile(self) -> bool:
        """Answered by a server that lost touch with its leader: what it doesn't name may well be there."""
        contact = self.headers.get("x-consul-lastcontact", "0")
        late = contact.isascii() and contact.isdecimal() and int(contact[:18]) > 10_000  # milliseconds
        return late or self.headers.get("x-consul-knownleader", "true") == "false"


class Unanswered(Exception):
    """There is no answer, or none that can be used; the message says why, for people."""

    def __init__(self, reason: str, floor: float = 0.0) -> None:
        super().__init__(reason)
        self.floor = floor


@dataclass(frozen=True, slots=True)
class News:
    """An answer that differs from the last one told (or that was asked for again, see `Deliver`).

    `before` is the index of the answer before this one, 0 if there is none, and `unbroken` whether nothing
    went wrong between the two: only then is a grown index a step of one and the same history.
    """

    answer: Answer
    index: int
    before: int
    unbroken: bool


Get: TypeAlias = Callable[[Sequence[tuple[str, str]], float], Answer]
"""Asks with these parameters and a timeout in seconds; raises Unanswered."""

Deliver: TypeAlias = Callable[[News], "float | None"]
"""Handles news; Unanswered or ValueError makes the answer a failure. None: believed. A number: tell me again
once that many seconds have passed or the index has moved, even if the answer is the same (`math.inf`: only
when it has moved)."""


def over() -> threading.Event:
    """The event that ends a thread, set already: in a forked child the old one's lock may be held for ever."""
    event = threading.Event()
    event.set()
    return event


class TokenBucket:
    """How long to pause before the next round, if `burst` may go at once and then `rate` a second."""

    def __init__(self, burst: float, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._tokens, self._at = burst, -math.inf

    def pay(self, now: float) -> float:
        """Take a token, on credit if there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1.0
        self._at = now
        return max(0.0, -self._tokens / self._rate)


def backoff(failures: int, rng: Callable[[], float]) -> float:
    """Full jitter, so that the clients of an agent that comes back do not come back together."""
    cap = FIRST_CAP if failures <= FIRST_RETRIES else CAP
    return max(0.05, rng() * min(cap, 0.2 * 2.0 ** min(failures, 10)))


class Watcher:
    """Follows one endpoint of Consul, on the thread that calls `run`.

    `sleep` sleeps that many seconds and says whether to stop: an `Event.wait`. `answered` hears of every
    answer that could be used, `failed` of every failure with its reason.
    """

    def __init__(
        self,
        get: Get,
        deliver: Deliver,
        *,
        wait: float,
        now: Callable[[], float],
        sleep: Callable[[float], bool],
        rng: Callable[[], float],
        answered: Callable[[Answer], None] = lambda _: None,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._get, self._deliver = get, deliver
        self._wait, self._now, self._sleep, self._rng = wait, now, sleep, rng
        self._answered, self._failed = answered, failed
        self.index = 0
        """What the next query asks to be newer than; 0 asks for an answer at once."""
        self.failures = 0
        # Changes come in bursts of hundreds (a rollout, a canary's steps), each worth seeing at once. What
        # changes nothing is an agent that can't hold a query, or a prefix that wakes on every write anywhere.
        self._productive = TokenBucket(512, 2.0)
        self._idle = TokenBucket(3, 1.0)
        self._told = b""  # the digest of the last answer that was news: the answer itself may be large
        self._before = 0
        self._unbroken = False
        self._again_at: float | None = None

    def run(self) -> None:
        """Round after round, until `sleep` says to stop."""
        pause, stopped = 0.0, False
        while not stopped:
            try:
                pause = self.round()
            except Exception:
                # Of whoever was told, for nothing else is left: no reason to be blind from now on.
                log.exception("what a watch told could not be taken in; it goes on in %g s", CAP)
                pause = CAP
            stopped = self._sleep(pause)

    def round(self) -> float:
        """Ask once, deal with the answer, and say how long to pause."""
        started = self._now()
        index, wait = self.index, self._wait
        params: list[tuple[str, str]] = []
        timeout = PLAIN
        if index:
            if self._again_at is not None:
                # Not 0, which Consul takes for 5 minutes.
                wait = max(0.01, min(wait, self._again_at - started))
            params = [("index", str(index)), ("wait", f"{math.ceil(wait * 1000)}ms")]
            timeout = wait + wait / 16 + SLACK
        try:
            answer = self._get(params, timeout)
            if answer.status not in (200, 404):
                # Errors carry an X-Consul-Index too, of 1: it means nothing.
                raise Unanswered(_refusal(answer), FLOORS.get(answer.status, 0.0))
            early = self._now() - started < EARLY * wait
            pause = self._take(answer, _index(answer.headers), index, early=early)
        except Exception as e:
            # Whatever it was, the watch goes on: one that ended would be blind for good.
            return self._fail(e)
        self.failures = 0
        self._answered(answer)
        return pause

    def _take(self, answer: Answer, new: int, index: int, *, early: bool) -> float:
        now = self._now()
        if index and (new < index or (new == index and early)):
            # Backwards: a restart, a snapshot restored, another server. Early with nothing moved: the restore
            # is answered so, with the old data. With our index we would miss changes for a whole wait.
            self.index, self._unbroken = 0, self._unbroken and new == index
            return self._idle.pay(now)
        self.index = max(new, 1)  # an index of 0 would never block
        digest = blake2b(answer.body, digest_size=16, key=str(answer.status).encode()).digest()
        changed = digest != self._told
        again = self._again_at is not None and (new != self._before or now >= self._again_at)
        if changed or again:
            wish = self._deliver(News(answer, new, self._before, self._unbroken))
            self._again_at = None if wish is None else self._now() + wish
            self._told = digest
        self._before, self._unbroken = new, True
        if not changed:
            return self._idle.pay(now)
        done = self._now()
        # No more than half a core, however large the service.
        return max(self._productive.pay(done), min(1.0, done - now + answer.transfer))

    def _fail(self, error: Exception) -> float:
        self.failures += 1
        self.index = 0
        self._unbroken = False
        if self._again_at is not None:
            self._again_at = -math.inf
        told = isinstance(error, (Unanswered, ValueError))
        self._failed(str(error) if told else f"{type(error).__name__}: {str(error)[:200]}")
        floor = error.floor if isinstance(error, Unanswered) else 0.0
        return floor + backoff(self.failures, self._rng)


def _index(headers: Mapping[str, str]) -> int:
    text = headers.get("x-consul-index", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < 1 << 64):
        raise Unanswered(f"the answer has no usable X-Consul-Index ({text[:40]!r}): is that really Consul?")
    return int(text)


def _refusal(answer: Answer) -> str:
    said = answer.body[:200].decode(errors="replace").strip()
    hint = {
        403: "; the token is unknown, expired or may not read this",
        429: "; too many requests or connections: see http_max_conns_per_client in the agent's limits",
    }.get(answer.status, "")
    if "No path to datacenter" in said:
        hint = "; it knows no datacenter of that name, or has lost the way there: see `consul members -wan`"
    return f"Consul answered {answer.status}{' ' + repr(said) if said else ''}{hint}"
