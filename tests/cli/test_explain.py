"""`proxyless explain`: the decision, in words and as the contract's keys, and the draws that follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.invoking import Run

KEYS = [
    *("service", "method", "route", "refusal", "rejected", "split", "endpoints"),
    *("timeout", "retry", "fault", "mirror", "policy"),
]


def explained(run: Run, *arguments: object) -> Any:
    return json.loads(run("explain", *arguments, "-o", "json").stdout)


def test_json_has_the_keys_of_the_contract_and_the_policy(run: Run, shop: str) -> None:
    """CONTRACT section 1, key by key: nothing is missing and nothing is added, at either level."""
    made = explained(run, "shop", "/shop.Products/Get", "--source", shop)
    assert list(made) == KEYS
    assert made["route"] == "rollout"
    assert made["refusal"] is None
    assert made["timeout"] == 10.0  # the mesh's default
    assert made["split"] == [
        {"service": "shop", "subset": "stable", "percent": 90.0},
        {"service": "shop", "subset": "canary", "percent": 10.0},
    ]
    assert made["endpoints"][1] == {
        "address": "127.0.0.1:50052",
        "service": "shop",
        "subset": "stable",
        "locality": "eu/b",
        "weight": 3,
        "state": "healthy",
    }
    assert made["rejected"][0] == {"route": "premium", "why": 'header x-tier is not exact "premium"'}
    assert made["policy"]["shop/canary"]["loadBalancer"]["policy"] == "round_robin"


def test_the_screen_shows_route_reasons_split_endpoints_and_every_default(run: Run, shop: str) -> None:
    """What a person needs at night, in one screen."""
    result = run("explain", "shop", "/shop.Products/Get", "-H", "x-tier=premium", "--source", shop)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "shop /shop.Products/Get"
    assert lines[1] == "Route      rollout"
    assert lines[2] == 'Not taken  premium: header x-flags is not regex ".*new-ui.*"'
    assert lines[3] == '           advice: path /shop.Products/Get is not prefix "/shop.Advice/"'
    assert "Timeout    10s for the whole call" in lines
    assert "Split          90%  shop/stable  2 endpoints" in lines
    assert "               10%  shop/canary  1 endpoint" in lines
    assert "Policy of shop/stable (defaults included)" in lines
    assert "  loadBalancer        policy least_request, choices 2, activeRequestBias 1" in lines
    squeezed = " ".join(result.stdout.split())
    assert "connection connectTimeout 1s, idleTimeout 30m, keepaliveTime 0s, keepaliveTimeout" in squeezed


def test_metadata_and_labels_decide(run: Run, shop: str) -> None:
    """-H is the request's metadata, in lower case whatever is typed; --label is the client's own."""
    tier = ("-H", "X-Tier=premium", "-H", "x-flags=a,new-ui=1")
    assert explained(run, "shop", "/shop.Products/Get", *tier, "--source", shop)["route"] == "premium"
    blue = explained(run, "shop", "/shop.Products/Get", "--label", "team=blue", "--source", shop)
    assert blue["route"] == "inside"


def test_a_route_that_answers_itself_is_no_failure(run: Run, shop: str) -> None:
    """direct_response is a decision as asked for: exit code 0, and the answer is shown."""
    result = run("explain", "shop", "/shop.Teapot/Brew", "--source", shop)
    assert result.exit_code == 0
    assert 'by the route itself, with NOT_FOUND "no tea here"' in result.stdout
    assert explained(run, "shop", "/shop.Teapot/Brew", "--source", shop)["refusal"] == "direct_response"


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        ("{attempts: 0, perTryTimeout: 250ms}", "none, and the try at most 250ms"),
        ("{attempts: 0, perTryTimeout: 0s}", "none"),
        ("{attempts: 1, perTryTimeout: 0s, on: [reset]}", "up to 1 more tries, after reset"),
    ],
)
def test_the_screen_says_what_bounds_a_try(run: Run, tmp_path: Path, retry: str, said: str) -> None:
    """Also where there is but one."""
    path = tmp_path / "mesh.yaml"
    path.write_text(
        f"services: {{web: {{routes: [{{retry: {retry}}}]}}}}\nendpoints: {{web: [{{address: '127.0.0.1:1'}}]}}\n"
    )
    shown = run("explain", "web", "/shop.Products/Get", "--source", f"file:{path}").stdout
    assert f"Retry      {said}" in shown.splitlines()


def test_the_screen_says_what_keeps_a_user_in_place(run: Run, tmp_path: Path) -> None:
    """The side of the split, what the place is a hash of, and that hash; or that chance decides."""
    path = tmp_path / "mesh.yaml"
    path.write_text(
        "services: {web: {trafficPolicy: {loadBalancer: {policy: ring_hash}}, routes: [{sticky: {header: x-user}, "
        "hash: [{header: x-user, terminal: true}]}]}}\n"
        "endpoints: {web: [{address: '127.0.0.1:50051'}]}\n"
    )
    asked = ("explain", "web", "/shop.Products/Get", "--source", f"file:{path}")
    shown = run(*asked, "-H", "x-user=alice", "--samples", "10").stdout
    assert "Sticky     by x-user; this request goes to web\n" in shown
    assert "Hash       header x-user, terminal true; this request's is 73a3ea485f2e6049\n" in shown
    without = run(*asked).stdout
    assert "Sticky     by x-user; drawn: it has no such header\n" in without
    assert "this request's is none: its place is drawn\n" in without


@pytest.mark.parametrize(
    ("service", "reason", "words"),
    [
        ("strict", "no_route", "no route of strict (1 in its document) matches; a last one without `match`"),
        ("empty", "no_endpoints", "empty has no endpoint that may be called"),
        ("broken", "not_ready", "is invalid and no earlier version of it is known: routes[0].timeout"),
    ],
)
def test_a_refusal_is_said_with_its_cause(run: Run, tmp_path: Path, service: str, reason: str, words: str) -> None:
    """A call that would be refused ends with 1, the reason's word and where it comes from."""
    path = tmp_path / "mesh.yaml"
    path.write_text(
        "services:\n"
        "  strict: {routes: [{name: only, match: [{path: {exact: /a.B/C}}]}]}\n"
        "  empty: {}\n"
        "  broken: {routes: [{name: a, timeout: 5}]}\n"
    )
    result = run("explain", service, "/shop.Products/Get", "--source", f"file:{path}")
    assert result.exit_code == 1
    assert f"REFUSED    {reason}: " in result.stdout
    assert words in result.stdout


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("Get", "is not the full name of a method"),
        ("shop.Products/Get", 'did you mean "/shop.Products/Get"?'),
        ("/shop/Products/Get", "is not the full name of a method"),
        ("/shop.Products/", "is not the full name of a method"),
    ],
)
def test_a_method_has_its_full_name(run: Run, shop: str, method: str, words: str) -> None:
    """Anything but /package.Service/Method is misuse, with what to write instead."""
    result = run("explain", "shop", method, "--source", shop)
    assert result.exit_code == 2
    assert words in result.stderr


def test_metadata_without_a_value_is_misuse_that_does_not_repeat_it(run: Run, shop: str) -> None:
    """What was typed there may have been a secret."""
    result = run("explain", "shop", "/a.B/C", "-H", "authorization S3CR3T", "--source", shop)
    assert result.exit_code == 2
    assert "-H takes KEY=VALUE" in result.stderr
    assert "S3CR3T" not in result.output


def test_the_values_of_the_metadata_are_not_shown(run: Run, shop: str) -> None:
    """Neither the screen nor the JSON repeats a header's value, whatever was decided on it."""
    headers = ("-H", "x-tier=S3CR3T", "-H", "authorization=S3CR3T")
    for output in ("table", "json"):
        made = run("explain", "shop", "/a.B/C", *headers, "--samples", "10", "--source", shop, "-o", output)
        assert made.exit_code == 0
        assert "S3CR3T" not in made.output


def test_of_thousands_of_endpoints_a_screen_shows_some_and_json_all(run: Run, tmp_path: Path) -> None:
    """The reason and the policy stay in sight."""
    path = tmp_path / "mesh.yaml"
    listed = ", ".join(f'{{address: "127.0.0.1:{port}"}}' for port in range(1000, 3000))
    path.write_text(f"endpoints: {{web: [{listed}]}}\n")
    result = run("explain", "web", "/a.B/C", "--source", f"file:{path}")
    assert "and 1960 more; -o json has all of them" in result.stdout
    assert result.stdout.count("127.0.0.1:") == 40
    assert len(explained(run, "web", "/a.B/C", "--source", f"file:{path}")["endpoints"]) == 2000


def test_a_service_that_nobody_knows_is_named_with_the_nearest(run: Run, shop: str) -> None:
    """To a client it would be a service without endpoints; to a person it is a slip."""
    result = run("explain", "shpo", "/a.B/C", "--source", shop)
    assert result.exit_code == 1
    assert 'nobody knows a service "shpo"' in result.stderr
    assert 'did you mean "shop"?' in result.stderr


def test_samples_fall_as_the_split_and_the_weights_say(run: Run, shop: str) -> None:
    """20,000 draws over 90/10 and, inside the 90, over weights 1/3: each share within 3 sigma."""
    samples = explained(run, "shop", "/a.B/C", "--samples", "20000", "--seed", "1", "--source", shop)["samples"]
    assert samples["calls"] == 20000
    assert {one["route"] for one in samples["went"]} == {"rollout"}
    calls = {one["address"]: one["calls"] for one in samples["went"]}
    # n = 20000; sigma = sqrt(n p (1 - p))
    assert abs(calls["127.0.0.1:50053"] - 2000) <= 3 * 42.4  # p = 0.10
    assert abs(calls["127.0.0.1:50051"] + calls["127.0.0.1:50052"] - 18000) <= 3 * 42.4
    # of the stable 18000 a least-request schedule of weights 1 and 3 serves a quarter and three quarters
    assert abs(calls["127.0.0.1:50051"] - 4500) <= 3 * 58.1  # p = 0.225


def test_the_same_seed_draws_the_same(run: Run, tmp_path: Path) -> None:
    """Whatever the mesh's own dice said when it was connected: its turns begin where the seed says."""
    path = tmp_path / "mesh.yaml"
    listed = ", ".join(f'{{address: "127.0.0.1:{port}"}}' for port in range(1000, 1020))
    path.write_text(
        "services: {web: {trafficPolicy: {loadBalancer: {policy: round_robin}}}}\n"
        f"endpoints: {{web: [{listed}]}}\n"
    )
    arguments = ("web", "/a.B/C", "--samples", "1", "--source", f"file:{path}")
    drawn = [explained(run, *arguments, "--seed", "5")["samples"] for _ in range(4)]
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]
    others = [explained(run, *arguments, "--seed", seed)["samples"]["went"] for seed in (6, 7, 8)]
    assert any(other != drawn[0]["went"] for other in others)


def test_a_fraction_is_drawn_and_what_no_route_takes_is_counted_as_refused(run: Run, tmp_path: Path) -> None:
    """A quarter follows the route, three quarters find none: n = 10000, sigma = 43.3."""
    path = tmp_path / "mesh.yaml"
    path.write_text(
        "services: {web: {routes: [{name: some, match: [{fraction: 25}]}]}}\n"
        'endpoints: {web: [{address: "127.0.0.1:1"}]}\n'
    )
    result = run("explain", "web", "/a.B/C", "--samples", "10000", "--source", f"file:{path}")
    assert result.exit_code == 0
    assert "REFUSED: no_route" in result.stdout
    samples = explained(run, "web", "/a.B/C", "--samples", "10000", "--source", f"file:{path}")["samples"]
    calls = {one["route"]: one["calls"] for one in samples["went"]}
    assert abs(calls["some"] - 2500) <= 3 * 43.3
    assert calls["some"] + calls[None] == 10000
