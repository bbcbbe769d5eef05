"""The order, and that what is not configured is not there."""

from __future__ import annotations

from typing import Any

import pytest

from proxyless import stack
from proxyless.filters.balance import balance
from proxyless.filters.breaker import breaker
from proxyless.filters.deadline import deadline
from proxyless.filters.fault import fault
from proxyless.filters.hash import hash
from proxyless.filters.hedge import hedge
from proxyless.filters.mirror import mirror
from proxyless.filters.rate_limit import rate_limit
from proxyless.filters.respond import respond
from proxyless.filters.retry import retry
from proxyless.filters.route import route
from proxyless.model.quantities import Duration
from proxyless.model.routes import DirectResponse, Fault, FaultDelay, Hedge, RetryPolicy
from proxyless.model.snapshot import PlannedRoute
from proxyless.script import Filter, Outcome, Rpc, Script, Service
from tests.worlds import node, on_route, planned


def composed(target: PlannedRoute, monkeypatch: pytest.MonkeyPatch) -> list[Filter]:
    """The filters that a call on this route passes, from the caller to the wire."""
    passed: list[Filter] = []

    def seen(this: Filter) -> Filter:
        def step(rpc: Rpc, next_: Service) -> Script[Outcome]:
            passed.append(this)
            return this(rpc, next_)

        return step

    watched = tuple(stage._replace(filter=seen(stage.filter)) for stage in stack.STACK)
    monkeypatch.setattr(stack, "STACK", watched)
    script = stack.compose(target)(on_route(target))
    next(script, None)
    script.close()
    return passed


@pytest.mark.parametrize(
    ("fields", "filters"),
    [
        ({}, [balance]),
        ({"timeout": Duration(1)}, [deadline, balance]),
        ({"timeout": Duration(0)}, [balance]),
        ({"retry": RetryPolicy(attempts=2)}, [retry, balance]),
        ({"retry": RetryPolicy(attempts=0)}, [balance]),
        ({"timeout": Duration(1), "retry": RetryPolicy()}, [deadline, retry, balance]),
        ({"fault": Fault(delay=FaultDelay(0.0, Duration(1)))}, [fault, balance]),
        ({"hedge": Hedge()}, [hedge]),  # which spawns what is below it
        ({"hedge": Hedge(), "timeout": Duration(1)}, [deadline, hedge]),
        ({"direct_response": DirectResponse("NOT_FOUND")}, [respond]),
        ({"direct_response": DirectResponse("NOT_FOUND"), "timeout": Duration(1)}, [deadline, respond]),
        ({"direct_response": DirectResponse("NOT_FOUND"), "retry": RetryPolicy()}, [respond]),
    ],
    ids=str,
)
def test_a_route_has_the_filters_it_needs_and_no_other(
    fields: dict[str, Any], filters: list[Filter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the stack; what is not configured costs nothing (DESIGN section 4)."""
    assert composed(planned(node("a"), **fields), monkeypatch) == filters


def test_the_order_is_the_one_of_the_plan() -> None:
    """Routing first, balancing last; the others between them as DESIGN section 4 has it."""
    assert stack.ENTRY is route
    order = [rate_limit, deadline, fault, respond, hash, mirror, breaker, retry, hedge, balance]
    assert [stage.filter for stage in stack.STACK] == order


def test_nothing_stands_below_the_last_filter() -> None:
    """A last filter that calls its neighbour is a mistake of ours, and says whose."""
    with pytest.raises(AssertionError, match="route r must not call its neighbour"):
        stack._nothing_below(on_route(planned(node("a"))))
