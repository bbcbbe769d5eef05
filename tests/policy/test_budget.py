"""The retry budget: Finagle's numbers, and what it grants in any order of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxyless.model.findings import Invalid
from proxyless.model.quantities import Duration
from proxyless.model.traffic import DEFAULTS
from proxyless.model.traffic import RetryBudget as Settings
from proxyless.policy.budget import RetryBudget
from tests.policy.rows import rows

CONCURRENCY = "Envoy's budget counts retries under way; ours, and the contract's, is Finagle's window"
THROTTLING = "the SRE book's client-side throttling refuses calls, not retries; the contract has none"
A6 = "gRPC's own retryThrottling counts failures and successes; ours is the contract's retryBudget"

NOT_OURS = {
    "envoy-budget-min-concurrency": CONCURRENCY,
    "envoy-budget-scales-with-active": CONCURRENCY,
    "envoy-budget-100": CONCURRENCY,
    "envoy-budget-max-min5": CONCURRENCY,
    "bounded-bucket": "a bucket without a window; ours is Finagle's leaky one (row leaky-empty)",
    "linkerd-invalid-budget-3": "without a budget in the document the default one holds (CONTRACT section 9)",
    "sre-reject-prob-1": THROTTLING,
    "sre-reject-prob-3": THROTTLING,
    "sre-reject-prob-5": THROTTLING,
    "sre-reject-prob-7": THROTTLING,
    "sre-reject-prob-9": THROTTLING,
}
"""Rows of 12 that are left out."""

NOT_OURS_IN_10 = {
    "java-throttle": A6,
    "core-throttle-replacement-scales": A6,
    "go-throttle-sequence": A6,
    "debit-FailWithNonRetriableStatusCode_WithoutPushback": A6,
    "debit-FailWithNonRetriableStatusCode_WithRetriablePushback": A6,
    "debit-FailWithNonRetriableStatusCode_WithNonRetriablePushback": A6,
    "validate-10-0.1": A6,
    "validate-1001-0.1": A6,
    "validate--1-0.1": A6,
    "validate-10--0.1": A6,
}
"""Rows of 10 that are left out: all."""


def granted(budget: RetryBudget, calls: int, now: float = 0.0, deposits: int = 1) -> int:
    """How many of `calls`, each of which fails at one instant, are tried again."""
    retries = 0
    for _ in range(calls):
        for _ in range(deposits):
            budget.deposit(now)
        retries += budget.withdraw(now)
    return retries


# --- the peers' tables ---


def ask(given: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    """A row of Finagle's, tower's, Linkerd's or the Gateway API's, by what it holds."""
    window = (float(given.get("ttl_s", 10)), given.get("min_per_s", 0), given.get("ratio", 0.0))
    if expect.get("result") == "invalid":
        with pytest.raises(Invalid):
            Settings(ratio=window[2], min_retries_per_second=window[1], ttl=Duration(window[0]))
    elif "requests_all_failing" in given:
        budget = RetryBudget(*window)
        assert budget.balance(0.0) == expect.get("initial_balance", 0)
        assert granted(budget, given["requests_all_failing"]) == pytest.approx(
            expect["retries"], abs=expect["tolerance"]
        )
    elif "deposits" in given:
        budget = RetryBudget(*window)
        for _ in range(given["deposits"]):
            budget.deposit(0.0)
        assert budget.balance(0.0) == expect["balance"]
        assert budget.withdraw(0.0) is (expect["balance"] > 0)
    elif given.get("budget") == "default":
        budget = of(DEFAULTS.retry_budget)
        assert budget.balance(0.0) == expect["initial_balance"]
        assert by_name(DEFAULTS.retry_budget) == {key: expect[key] for key in ("ttl_s", "min_per_s", "ratio")}
    elif "minRetryRate" in given:
        assert by_name(DEFAULTS.retry_budget) == expect
    elif "reserve" in given:
        # put n and get n are as many deposits and withdrawals, where one pays for the other
        budget = RetryBudget(window[0], 0, 1.0)
        assert [r for op in given["ops"] if (r := step(budget, *op)) is not None] == expect["gets"]
    elif "ops" in given:
        budget, now, withdraws = RetryBudget(*window), 0.0, []
        for op, *arguments in given["ops"]:
            if op == "advance_ms":
                now += arguments[0] / 1000
            elif op == "deposit":
                budget.deposit(now)
            else:
                withdraws.append(budget.withdraw(now))
        assert withdraws == expect["withdraws"]
    elif "requests_back_to_back" in given:
        # of three requests whose first attempt fails, a deposit by each retry that succeeds (Linkerd's rule)
        spec = given["budget"]
        budget, results = RetryBudget(spec["ttl_s"], spec["min_per_s"], spec["ratio"]), []
        for now in (0.0, 0.1, 1.1):  # "third is retried because its window has moved on"
            retried = budget.withdraw(now)
            results.append("retried ok" if retried else "failure passed on")
            if retried:
                budget.deposit(now)
        assert results == expect["results"]
    elif "per_client_retry_ratio_max" in given:
        budget = RetryBudget(10.0, 0, given["per_client_retry_ratio_max"])
        assert 1 + granted(budget, 10_000) / 10_000 == expect["worst_case_amplification"]
    else:
        spec = given["budget"]
        with pytest.raises(Invalid):
            Settings(ratio=spec["ratio"], min_retries_per_second=spec["min_per_s"], ttl=Duration(spec["ttl_s"]))


def of(policy: Settings) -> RetryBudget:
    return RetryBudget(policy.ttl, policy.min_retries_per_second, policy.ratio)


def by_name(policy: Settings) -> dict[str, float]:
    return {"ttl_s": policy.ttl, "min_per_s": policy.min_retries_per_second, "ratio": policy.ratio}


def step(budget: RetryBudget, op: str, count: int) -> bool | None:
    """`put` or `get` of a bucket of single tokens; a `get` takes all or nothing."""
    if op == "put":
        for _ in range(count):
            budget.deposit(0.0)
        return None
    return budget.balance(0.0) >= count and all(budget.withdraw(0.0) for _ in range(count))


@pytest.mark.parametrize("row", rows("12_retry_budget.json", left_out=NOT_OURS))
def test_budgets_grant_what_the_peers_grant(row: Mapping[str, Any]) -> None:
    """Each row of 12 that is about a window; what is of no kind that we know fails."""
    ask(row["given"], row["expect"])


@pytest.mark.parametrize("row", rows("10_retry_throttle.json"))
def test_no_row_of_grpcs_throttling_is_ours(row: Mapping[str, Any]) -> None:
    """All of 10 is left out, with its reason; a new row there would have to be looked at."""
    assert row["id"] in NOT_OURS_IN_10


FINAGLE = "finagle@4feb34cb finagle-core RetryBudgetTest.scala"


@pytest.mark.parametrize(
    ("ttl", "minimum", "ratio", "retries", "_source"),
    [
        (60, 0, 0.1, 1000, f"{FINAGLE} minRetriesPerSec=0"),
        (60, 0, 0.25, 2500, f"{FINAGLE} minRetriesPerSec=0"),
        (60, 0, 0.99, 9900, f"{FINAGLE} minRetriesPerSec=0"),
        (60, 0, 0.9999, 9999, f"{FINAGLE} minRetriesPerSec=0"),
        (60, 0, 0.001, 10, f"{FINAGLE} minRetriesPerSec=0"),
        (1, 10, 0.0, 10, f"{FINAGLE} with minRetries"),
        (1, 10, 0.1, 1010, f"{FINAGLE} with minRetries"),
    ],
)
def test_ten_thousand_failing_calls_are_retried_as_often_as_with_finagle(
    ttl: float, minimum: float, ratio: float, retries: int, _source: str
) -> None:
    """The rows that matter most, kept beside the table; Finagle's own tests allow one more or less."""
    assert abs(granted(RetryBudget(ttl, minimum, ratio), 10_000) - retries) <= 1


@pytest.mark.parametrize(("ratio", "percent"), [(0.3, 30.0), (0.75, 75.0), (0.2, 20.0), (0.15, 15.0)])
def test_ratios_between_whole_numbers_hold(ratio: float, percent: float) -> None:
    """tower, which counts in ones, makes 33 % of 0.3 and 100 % of 0.75 (semantics.md section 5.3)."""
    assert granted(RetryBudget(10, 0, ratio), 100_000) / 1000 == pytest.approx(percent, abs=0.05)


def test_a_total_outage_starves_retries() -> None:
    """Linkerd's rule: a retryable failure deposits nothing, so only the reserve is left: 10 a second."""
    budget = of(DEFAULTS.retry_budget)
    retries = [granted(budget, 200, float(second), deposits=0) for second in range(60)]
    # a burst of the whole reserve in each window of ten seconds, and nothing between
    assert sum(retries) == 600
    assert retries[:11] == [100, *[0] * 9, 100]


def test_the_window_moves_by_tenths() -> None:
    """What happens at 1.05 s of ten lies in the second slot: it counts until 11 s, and not after."""
    for now, left in ((10.99, 0), (11.0, 1)):
        budget = RetryBudget(10, 0.1, 0.2)
        assert budget.balance(0.0) == 1
        assert budget.withdraw(1.05)
        assert budget.balance(now) == left


# --- numbers at the edge ---


@pytest.mark.parametrize(
    ("minimum", "ttl", "retries"),
    [(4.1, 30, 123), (2.3, 50, 115), (0.05, 10, 0), (0.1, 10, 1), (9.99, 10, 99)],
)
def test_the_reserve_is_counted_and_not_rounded_away(minimum: float, ttl: float, retries: int) -> None:
    """4.1 a second for 30 s are 123, and 122.99999999999999 to a float; parts of a retry are none."""
    assert RetryBudget(ttl, minimum, 0.2).balance(0.0) == retries


@pytest.mark.parametrize("ratio", [5e-324, 1e-320, 1e-12, 1000.0])
def test_every_ratio_that_a_document_may_hold_can_be_worked_with(ratio: float) -> None:
    """From the smallest float above 0 to a thousand: the reserve is there, whatever the ratio."""
    assert RetryBudget(10, 1, ratio).balance(0.0) == 10


def test_what_is_printed_says_how_much_is_left() -> None:
    """For the log of a bad night."""
    assert repr(RetryBudget(10, 1, 0.2)) == "<RetryBudget 50000 tokens, 5000 a retry>"


# --- in any order ---


class Destination(RuleBasedStateMachine):
    """A budget beside a list of everything that happened; instants are sixteenths of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.deposits: list[float] = []
        self.grants: list[float] = []

    @initialize(
        ttl=st.sampled_from((1.25, 2.5, 10.0)),
        minimum=st.integers(0, 4),
        ratio=st.sampled_from((0.0, 0.1, 0.2, 0.5, 0.75, 1.0, 3.0, 700.0)),
    )
    def begin(self, ttl: float, minimum: int, ratio: float) -> None:
        self.ttl, self.ratio = ttl, ratio
        self.budget = RetryBudget(ttl, minimum, ratio)
        self.reserve = int(minimum * ttl)
        # Finagle rounds the price of a retry down, so a deposit is worth a little more than the ratio
        self.worth = 1000 / int(1000 / ratio) if ratio else 0.0
        self.origin: float | None = None

    def window(self, instants: list[float]) -> int:
        """How many lie in the present slot and the nine before it."""
        assert self.origin is not None
        width = self.ttl / 10
        slot = (self.now - self.origin) // width
        return sum(slot - (at - self.origin) // width < 10 for at in instants)

    def seen(self) -> None:
        if self.origin is None:
            self.origin = self.now

    @rule(count=st.integers(1, 20))
    def deposits_are_made(self, count: int) -> None:
        """Calls end well."""
        self.seen()
        for _ in range(count):
            self.budget.deposit(self.now)
            self.deposits.append(self.now)

    @rule(count=st.integers(1, 20))
    def retries_are_wanted(self, count: int) -> None:
        """A retry is granted exactly when the window and the reserve pay for it."""
        self.seen()
        for _ in range(count):
            paid = self.worth * self.window(self.deposits) + self.reserve - self.window(self.grants)
            # floats on our side alone: the budget counts in whole numbers
            assert self.budget.withdraw(self.now) is (paid >= 1 - 1e-6)
            if paid >= 1 - 1e-6:
                self.grants.append(self.now)

    @rule(steps=st.sampled_from((1, 2, 3, 15, 16, 20, 36, 40, 144, 160, 1000)))
    def time_passes(self, steps: int) -> None:
        self.now += steps / 16

    @invariant()
    def no_window_grants_more_than_it_was_given(self) -> None:
        """In any nine tenths of `ttl`: at most the reserve, and the ratio of the deposits of a `ttl`.

        Nine tenths, because the tenth slot is the one that has just begun (Finagle's WindowedAdder too).
        """
        if not hasattr(self, "budget"):
            return
        self.seen()
        for until in self.grants:
            grants = sum(until - 0.9 * self.ttl < at <= until for at in self.grants)
            deposits = sum(until - self.ttl < at <= until for at in self.deposits)
            assert grants <= self.reserve + self.worth * deposits + 1e-6
        assert self.budget.balance(self.now) >= 0


TestDestination: Any = Destination.TestCase
TestDestination.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
