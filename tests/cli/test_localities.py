"""Localities on the screen: the ladder, the loads, and why an endpoint is or isn't a candidate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.invoking import Run

WORLD = """
apiVersion: proxyless/v1
services:
  shop:
    trafficPolicy: {locality: {}, connection: {maxEndpoints: 2}}
  pay:
    discovery: {filter: 'Service.Meta.v == "1"'}
    trafficPolicy: {locality: {distribute: [{from: us-east-1, to: {us-east-1/*: 80, us-west-2: 20}}]}}
endpoints:
  shop:
  - {address: "127.0.0.1:5001", locality: us-east-1/a}
  - {address: "127.0.0.1:5002", locality: us-east-1/a}
  - {address: "127.0.0.1:5003", locality: us-east-1/a}
  - {address: "127.0.0.1:5004", locality: us-east-1/b}
  - {address: "127.0.0.1:5005", locality: us-west-2/a, weight: 0}
  pay:
  - {address: "127.0.0.1:6001", locality: us-east-1/a, labels: {v: "1"}}
  - {address: "127.0.0.1:6002", locality: us-west-2/a, labels: {v: "1"}}
  - {address: "127.0.0.1:6003", locality: eu/a, labels: {v: "1"}}
  - {address: "127.0.0.1:6004", locality: eu/a, labels: {v: "2"}}
"""


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The source, seen from us-east-1/a by its client number 0."""
    monkeypatch.setenv("PROXYLESS_LOCALITY", "us-east-1/a")
    monkeypatch.setenv("PROXYLESS_CLIENT_NUMBER", "0")
    path = tmp_path / "mesh.yaml"
    path.write_text(WORLD)
    return f"file:{path}"


def test_explain_has_the_ladder_and_who_is_left_out(run: Run, placed: str) -> None:
    """As data: each place with its share, each endpoint with its priority, and a reason for who can't be called."""
    made = json.loads(run("explain", "pay", "/a.B/C", "--source", placed, "-o", "json").stdout)
    assert made["ladder"] == [
        {
            "service": "pay",
            "subset": None,
            "priority": 0,
            "locality": place,
            "weight": weight,
            "endpoints": 1,
            "healthy": 1,
            "percent": float(weight),
            "panic": False,
        }
        for place, weight in (("us-east-1/a", 80), ("us-west-2/a", 20))
    ]
    assert [(one["address"], one["priority"], one["place_percent"]) for one in made["endpoints"]] == [
        ("127.0.0.1:6001", 0, 80.0),
        ("127.0.0.1:6002", 0, 20.0),
    ]
    assert {one["address"]: one["why"] for one in made["left_out"]} == {
        "127.0.0.1:6003": "locality.distribute sends nothing to eu/a",
        "127.0.0.1:6004": "discovery.filter leaves it out",
    }


def test_the_screen_shows_the_same(run: Run, placed: str) -> None:
    """explain, endpoints and status, each in its place."""
    said = " ".join(run("explain", "shop", "/a.B/C", "--source", placed).stdout.split())
    assert "shop 0 us-east-1/a 2 of 2 100 % shop 1 us-east-1/b 1 of 1 0 %" in said
    assert "it is not among the 2 that this process may have (connection.maxEndpoints): 127.0.0.1:5003" in said
    said = " ".join(run("endpoints", "shop", "--source", placed).stdout.split())
    assert "127.0.0.1:5004 shop - us-east-1/b 1 healthy 1" in said
    assert "shop: its weight is 0: 127.0.0.1:5005" in said
    said = " ".join(run("status", "--source", placed).stdout.split())
    assert "pay 0 us-west-2/a 1 of 1 20 %" in said


def test_samples_are_drawn_from_the_ladder(run: Run, placed: str) -> None:
    """80/20 within three standard deviations of 10,000 draws."""
    made = json.loads(run("explain", "pay", "/a.B/C", "--samples", "10000", "--source", placed, "-o", "json").stdout)
    calls = {one["address"]: one["calls"] for one in made["samples"]["went"]}
    assert abs(calls["127.0.0.1:6001"] - 8000) <= 120


def test_status_counts_who_is_left_out_by_reason(run: Run, placed: str) -> None:
    """As the library has it: one number a reason."""
    made = json.loads(run("status", "--source", placed, "-o", "json").stdout)
    assert made["destinations"]["pay"]["left_out"] == {
        "locality.distribute sends nothing to eu/a": 1,
        "discovery.filter leaves it out": 1,
    }
    assert made["locality"] == "us-east-1/a"
