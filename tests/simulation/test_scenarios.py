"""The fault scenarios with pass limits (table 21): which test holds each, or why none does. None is forgotten."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.policy.rows import FOLDER

TESTS = Path(__file__).parents[1]

HELD: dict[str, Sequence[str]] = {
    "amp-total-outage-budget20": [
        "simulation/test_storms.py::test_the_longer_an_outage_lasts_the_less_it_is_fed",
        "oracle/test_bad_days.py::test_with_every_server_failing_attempts_stay_within_the_budget",
    ],
    "amp-total-outage-budget10": ["simulation/test_storms.py::test_without_a_reserve_a_share_is_a_share"],
    "amp-three-layers": [
        "simulation/test_storms.py::test_nor_do_those_of_three_layers",
        "oracle/test_bad_days.py::test_retries_of_a_chain_do_not_multiply",
    ],
    "no-retry-when-deadline-spent": ["simulation/test_limits_of_time.py::test_no_attempt_begins_when_the_time_is_up"],
    "metastable-70": ["simulation/test_metastability.py::test_the_defaults_recover_at_every_load"],
    "metastable-90": ["simulation/test_metastability.py::test_the_defaults_recover_at_every_load"],
    "blackhole-one-of-n": [
        "simulation/test_bad_servers.py::test_a_black_hole_with_nothing_but_a_timeout",
        "simulation/test_bad_servers.py::test_a_black_hole_costs_its_detection_and_its_probes",
        "oracle/test_bad_days.py::test_a_black_hole_that_takes_connections",
        "oracle/test_bad_days.py::test_a_black_hole_that_takes_calls",
    ],
    "rst-one-of-n": [
        "simulation/test_limits_of_time.py::test_a_server_that_died_is_called_once_by_each_process_and_then_by_its_probes",
        "oracle/test_bad_days.py::test_a_server_that_dies_costs_the_calls_that_are_under_way_there",
    ],
    "slow-one-of-n": ["simulation/test_slow_endpoint.py::test_slow_one_of_n"],
    "flapping-endpoint": [
        "simulation/test_bad_servers.py::test_one_that_fails_whenever_it_is_back_is_out_for_longer_each_time"
    ],
    "max-ejection": [
        "simulation/test_bad_servers.py::test_no_more_than_the_share_is_ejected",
        "oracle/test_envoy_outliers.py::test_five_in_a_row_eject_in_order_up_to_the_share",
    ],
    "panic": [
        "filters/test_locality.py::test_ten_endpoints_of_which_six_are_ejected_are_all_called",
        "filters/test_locality.py::test_without_panic_nobody_ejected_is_called",
        "filters/test_outliers.py::test_a_panic_by_the_threshold_is_told_as_well",
    ],
    "graceful-drain": [
        "simulation/test_bad_servers.py::test_servers_replaced_one_by_one_fail_no_call",
        "consul/test_mesh_live.py::test_a_rolling_restart_of_all_servers_loses_none_of_twenty_thousand_calls",
    ],
    "deregister-lag": [
        "simulation/test_limits_of_time.py::test_a_server_that_died_is_called_once_by_each_process_and_then_by_its_probes"
    ],
    "discovery-outage": [
        "consul/test_mesh_faults.py::test_consul_hung",
        "consul/test_mesh_faults.py::test_consul_answering_500",
    ],
    "discovery-empty-list": ["consul/test_mesh_faults.py::test_consul_killed_and_restarted_empty"],
    "bad-config-push": ["consul/test_mesh_faults.py::test_garbage_in_kv"],
    "config-swap-under-load": ["wire/test_swaps.py::test_a_hundred_swaps_lose_no_call"],
    "reconnect-herd": ["simulation/test_limits_of_time.py::test_a_server_that_comes_back_is_not_overrun"],
    "ring-change": ["policy/test_ring_hash.py::test_ring_change"],
    "priority-failover": ["simulation/test_zones.py::test_priorities_fail_over_step_by_step_and_back"],
    "locality-spill": ["simulation/test_zones.py::test_zones_spill_by_the_table"],
    "deadline-chain": [
        "simulation/test_limits_of_time.py::test_a_chain_stops_where_the_time_is_up",
        "wire/test_chain.py::test_each_service_has_less_time_than_the_one_before",
        "wire/test_chain.py::test_no_call_is_made_once_the_deadline_has_passed",
    ],
    "hedge-extra-load": ["simulation/test_hedges.py::test_hedges_mend_what_the_budget_pays_for"],
    "mirror-isolation": [
        "simulation/test_hedges.py::test_a_mirror_is_nobodys_affair_but_its_own",
        "wire/test_mirror.py::test_a_shadow_that_is_gone_costs_nothing",
    ],
    "breaker-limit": [
        "simulation/test_limits_of_time.py::test_no_more_are_under_way_than_the_limit_says",
        "oracle/test_envoy_retries.py::test_as_many_requests_at_once_as_the_limit_says",
    ],
    "cardinality-cap": ["otel/test_cardinality.py::test_made_up_methods_headers_and_authorities_share_series"],
    "clock-jump": ["simulation/test_limits_of_time.py::test_nobody_asks_what_time_it_is_on_the_wall"],
    "fork-safety": ["prefork/test_prefork.py::test_gunicorn_preloads_and_forks"],
    "gil-stall": ["simulation/test_bad_servers.py::test_a_process_that_stands_still_ejects_nobody"],
    "memory-soak": ["simulation/test_limits_of_time.py::test_change_leaves_nothing_behind"],
}
"""Scenario -> the tests that hold its limit."""

NOT_OURS = {
    "amp-total-outage-a6": "gRPC's retryThrottling is not the contract's budget; beside it, the same calls are tried "
    "again: oracle/test_core_retries.py, an outage starves retries and good times feed them",
    "adaptive-throttle": "the SRE book's throttle refuses calls by chance; the contract has a breaker and limits",
    "canary-rollback": "shifting weights by error rate is a controller's work; a mesh that is told weights has none",
}
"""Scenario -> why no test holds it."""


def test_none_is_forgotten() -> None:
    """Every row of the table is here once, and nothing else is."""
    file = FOLDER / "21_sim_scenarios.json"
    if not file.exists():
        pytest.skip("the peers' number tables do not lie beside this checkout")
    rows = [row["id"] for row in json.loads(file.read_text())["vectors"]]
    assert sorted([*HELD, *NOT_OURS]) == sorted(rows)


@pytest.mark.parametrize("scenario", HELD)
def test_the_tests_are_there(scenario: str) -> None:
    """A test that is renamed takes its row along."""
    for test in HELD[scenario]:
        file, _, name = test.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
