"""When to believe that something is gone, above all that everything is.

Consul says "nothing there" on many occasions when there is something: a token that lost its rights is shown
an empty list, an agent that was restarted has not heard from anybody yet, a node that was deregistered by
mistake is back in a moment. Traffic that goes on to what was known costs a few failed attempts; traffic that
has nowhere to go fails whole. So emptiness has to be confirmed, and to last. And what a Consul that lost its
memory does not name yet is waited for: servers and documents come back one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from proxyless.control.watcher import News

UNTIL_IT_MOVES: Final = math.inf
"""Ask again only once the index has moved: until then the answer can't mean more than it does now."""

SOON, LATER = 5.0, 30.0
"""Seconds until the next look at what is not believed: the cause passes, or somebody has to mend it."""


class Vanishing:
    """Keeps in mind what the index was when there was something, and since when there may be nothing."""

    def __init__(self, hold: float, now: Callable[[], float]) -> None:
        self._hold, self._now = hold, now
        self._last: int | None = None
        self._since: float | None = None
        self.grown = False
        """Whether it became empty by a step of Consul's own history, with nothing amiss since."""

    def told(self, news: News) -> None:
        """Another empty answer."""
        if self._last is None:
            self._last = news.before
            self.grown = news.unbroken and news.index > news.before
        elif not news.unbroken:
            self.grown = False
            self._since = None  # an agent that comes and goes proves nothing

    def broken(self, news: News) -> bool:
        """Whether what this answer lacks may lack though nobody removed it: Consul was restarted or away
        since the last one, or that one was empty for such a reason."""
        if self._since is not None and not self.grown:
            return True
        return news.before > 0 and not (news.unbroken and news.index >= news.before)

    def unmoved(self, news: News) -> bool:
        """Whether the index is that at which there was something: to deregister or to delete moves it, to
        lose the right to see does not."""
        return news.index == self._last

    def impossible(self) -> None:
        """It can't be true; the hold begins when it can."""
        self._since = None

    def remaining(self) -> float:
        """Seconds of the hold that are left; the first to ask begins it."""
        if self._since is None:
            self._since = self._now()
        return max(0.0, self._since + self._hold - self._now())

    def over(self) -> None:
        """There is something again, or it is believed that there is not."""
        self._last = self._since = None


class Stragglers:
    """Those that were missing after a break in Consul's history, and until when they are waited for."""

    def __init__(self, hold: float, now: Callable[[], float]) -> None:
        self._hold, self._now = hold, now
        self._until: dict[str, float] = {}

    def among(self, missing: Iterable[str], *, broken: bool) -> frozenset[str]:
        """Who of `missing` is to stay; the others are gone."""
        now = self._now()
        new = now + self._hold if broken else now
        until = {key: self._until.get(key, new) for key in missing}
        self._until = {key: at for key, at in until.items() if at > now}
        return frozenset(self._until)

    def remaining(self) -> float | None:
        """Seconds until the next of them is given up; None where nobody is waited for."""
        return max(0.0, min(self._until.values()) - self._now()) if self._until else None
