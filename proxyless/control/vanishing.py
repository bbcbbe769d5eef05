"""When to believe that everything is gone.

Consul says "nothing there" on many occasions when there is something: a token that lost its rights is shown
an empty list, an agent that was restarted has not heard from anybody yet, a node that was deregistered by
mistake is back in a moment. Traffic that goes on to what was known costs a few failed attempts; traffic that
has nowhere to go fails whole. So emptiness has to be confirmed, and to last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from proxyless.control.watcher import News

UNTIL_IT_MOVES: Final = math.inf
"""Ask again only once the index has moved: until then the answer can't mean more than it does now."""

SOON, LATER = 5.0, 30.0
"""Seconds until the next look at what is not believed: where the cause passes, and where somebody must mend
it."""


class Vanishing:
    """Keeps in mind since when an answer is empty, and what the index was when it was not."""

    def __init__(self, hold: float, now: Callable[[], float]) -> None:
        self._hold, self._now = hold, now
        self._since: float | None = None
        self._last = 0
        self.grown = False
        """Whether it became empty by a step of Consul's own history, with nothing amiss since."""

    def told(self, news: News) -> None:
        """Another empty answer. An outage starts the hold anew: an agent that comes and goes proves
        nothing."""
        if self._since is None:
            self._last = news.before
            self.grown = news.unbroken and news.index > news.before
        if self._since is None or not news.unbroken:
            self._since = self._now()
            self.grown = self.grown and news.unbroken

    def unmoved(self, news: News) -> bool:
        """Whether the index is still the one at which there was something. To deregister or to delete moves
        it; what does not is to lose the right to see."""
        return news.index == self._last

    def remaining(self) -> float:
        """Seconds for which it is held against."""
        return 0.0 if self._since is None else max(0.0, self._since + self._hold - self._now())

    def over(self) -> None:
        """There is something again, or it is believed that there is not."""
        self._since = None
