"""The routes of one service, and the plan of each method: what of them can be decided before a call is made.

A stub asks for the same few methods again and again, and most calls carry no header that any route asks about. So a
plan knows the routes that can match its method, which headers decide between them, and where a call goes that has none
of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from proxyless.model.matches import BARE

if TYPE_CHECKING:
    from proxyless.model.snapshot import PlannedRoute

Test: TypeAlias = "Callable[[Mapping[str, str], Callable[[], float]], bool]"
"""What is still to be asked of a request: of its headers, or of chance."""

MOST = 4096
"""Plans that are kept: more methods than any service has, which would be an attack on our memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The routes that can match one method, in order, each with what is still to be asked (None: nothing)."""

    steps: Sequence[tuple[Test | None, PlannedRoute]]
    asked: frozenset[str]
    """The headers that decide between them."""
    usual: PlannedRoute | None
    """Where a call goes that has none of these; None where chance has a say, or no route takes it."""


def _plan(routes: Sequence[PlannedRoute], method: str, authority: str) -> Plan:
    steps: list[tuple[Test | None, PlannedRoute]] = []
    asked: set[str] = set()
    chance = False
    for route in routes:
        matches, test = route.matcher.narrow(method, authority)
        if matches:
            steps.append((test, route))
            if test is None:
                break  # it matches always: no later route can be reached
            asked |= route.matcher.asked
            chance = chance or route.matcher.chance
    usual = None
    if not chance:
        usual = next((route for test, route in steps if test is None or test(BARE, lambda: 0.0)), None)
    return Plan(tuple(steps), frozenset(asked), usual)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceTable:
    """The routes of one service. `rejected` says why there are none, when its first document was invalid."""

    service: str
    routes: Sequence[PlannedRoute]
    version: str
    rejected: str = ""
    plans: dict[tuple[str, str], Plan] = field(default_factory=dict, repr=False)
    """Plans made so far, by method and authority: `plan` fills it, so that a path is asked once, not per call."""

    def plan(self, method: str, authority: str) -> Plan:
        """What depends on the method and the authority alone: decided here, once."""
        found = self.plans.get((method, authority))
        if found is None:
            if len(self.plans) >= MOST:
                self.plans.clear()
            found = self.plans[method, authority] = _plan(self.routes, method, authority)
        return found
