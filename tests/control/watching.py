"""A watcher on a virtual clock, in front of agents made up for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from proxyless.control.watcher import Answer, News, Watcher

Agent: TypeAlias = "Callable[[float, dict[str, str]], tuple[Answer | Exception, float]]"
"""What an agent says to these parameters at this instant, and how long it takes to."""

WAIT = 30.0


def said(index: object, body: str = "", *, status: int = 200, transfer: float = 0.0, **headers: str) -> Answer:
    return Answer(status, {"x-consul-index": str(index), **headers}, body.encode(), transfer)


class Stage:
    """A watcher in virtual time, and all that it asks, tells and reports."""

    def __init__(
        self, agent: Agent, *, deliver: Callable[[News], float | None] = lambda _: None, chance: float = 0.5
    ) -> None:
        self.now = 0.0
        self.until = math.inf
        self.agent = agent
        self.deliver = deliver
        self.asked: list[tuple[float, dict[str, str], float]] = []
        self.told: list[tuple[float, News]] = []
        self.failed: list[tuple[float, str]] = []
        self.answered = 0
        self.watcher = Watcher(
            self._get,
            self._deliver,
            wait=WAIT,
            now=lambda: self.now,
            sleep=self._sleep,
            rng=lambda: chance,
            answered=self._count,
            failed=lambda reason: self.failed.append((self.now, reason)),
        )

    def run(self, until: float) -> Stage:
        self.until = until
        self.watcher.run()
        return self

    @property
    def bodies(self) -> list[str]:
        return [news.answer.body.decode() for _, news in self.told]

    def queries(self, start: float = 0.0, end: float = math.inf) -> int:
        return sum(start <= at < end for at, _, _ in self.asked)

    def _get(self, params: object, timeout: float) -> Answer:
        asked = dict(params)  # type: ignore[call-overload]
        self.asked.append((self.now, asked, timeout))
        answer, took = self.agent(self.now, asked)
        self.now += took
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _deliver(self, news: News) -> float | None:
        self.told.append((self.now, news))
        return self.deliver(news)

    def _count(self, _: Answer) -> None:
        self.answered += 1

    def _sleep(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self.until


def script(*answers: tuple[Answer | Exception, float]) -> Agent:
    """An agent that says these things in turn, and the last one for ever."""
    left = list(answers)
    return lambda _at, _params: left.pop(0) if len(left) > 1 else left[0]


def history(*steps: tuple[float, int, str]) -> Agent:
    """An honest agent: from each instant on it has this index and this body. It answers in a millisecond."""

    def agent(at: float, params: dict[str, str]) -> tuple[Answer, float]:
        now = [step for step in steps if step[0] <= at][-1]
        if "index" not in params or now[1] > int(params["index"]):
            return said(now[1], now[2]), 0.001
        wait = float(params["wait"].removesuffix("ms")) / 1000
        wakes = (step for step in steps if at < step[0] <= at + wait and step[1] > int(params["index"]))
        woken = next(wakes, None)
        if woken is not None:
            return said(woken[1], woken[2]), woken[0] - at + 0.001
        then = [step for step in steps if step[0] <= at + wait][-1]
        return said(then[1], then[2]), wait * (1 + 1 / 32)

    return agent
