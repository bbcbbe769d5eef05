"""`services`, `routes`, `endpoints`, `status`: what a client would see now, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.invoking import SHOP, Run


def columns(text: str) -> list[list[str]]:
    """The rows of a table: cells stand three blanks apart."""
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines()]


def test_services_are_those_with_a_document_and_those_with_endpoints(run: Run, shop: str) -> None:
    """A service without a document has the defaults, and is listed."""
    result = run("services", "--source", shop)
    assert result.exit_code == 0
    rows = columns(result.stdout)
    assert rows[0] == ["SERVICE", "DOCUMENT", "REGISTERED", "TAGS"]
    assert rows[1] == ["advice", "none: defaults", "yes", "-"]
    assert rows[2][0] == "shop"
    assert rows[2][1].startswith("version ")


@pytest.mark.parametrize("before", [["--source", "{}"], ["--source={}"]])
def test_the_source_may_be_named_before_the_command(run: Run, shop: str, before: list[str]) -> None:
    """ "`--source URL` everywhere": an option that all commands have is looked for at either place."""
    named = [part.format(shop) for part in before]
    assert run(*named, "services").stdout == run("services", "--source", shop).stdout
    assert run(*named, "routes", "shop", "-o", "json").exit_code == 0
    assert run(*named).exit_code == 2
    refused = run(*named, "schema").stderr
    assert "No such option" in refused
    assert "--source" in refused


def test_routes_are_shown_in_the_order_in_which_they_are_tried(run: Run, shop: str) -> None:
    """Each with what it asks of a call, where it leads, and its timeout, inherited ones too."""
    result = run("routes", "shop", "--source", shop)
    assert result.exit_code == 0
    assert columns(result.stdout) == [
        ["SERVICE", "ROUTE", "CALLS THAT", "GO TO", "TIMEOUT"],
        ["shop", "premium", 'x-tier exact "premium" and x-flags regex ".*new-ui.*"', "canary", "5s"],
        ["advice", 'path prefix "/shop.Advice/"', "advice", "10s"],
        ["inside", "client has team=blue", "canary", "10s"],
        ["teapot", "method shop.Teapot/*", "an answer of our own: NOT_FOUND", "10s"],
        ["rollout", "match no earlier route", "90% stable, 10% canary", "10s"],
    ]


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ("{headers: {a: {present: true, invert: true}}}", "a present inverted"),
        ("{withoutHeaders: {a: {exact: b}}}", 'not a exact "b"'),
        ("{grpc: {service: a.B, method: C}, fraction: 0.5}", "method a.B/C and 0.5% of them"),
        ("{authority: {suffix: .test, ignoreCase: true}}", 'authority suffix ".test" in any case'),
        ("{fraction: 1}, {fraction: 2}", "1% of them or 2% of them"),
    ],
)
def test_every_kind_of_match_has_its_words(run: Run, tmp_path: Path, match: str, words: str) -> None:
    """A table of routes is read by people: no JSON in it."""
    path = tmp_path / "mesh.yaml"
    path.write_text(f"services: {{web: {{routes: [{{name: r, match: [{match}]}}]}}}}")
    assert words in columns(run("routes", "--source", f"file:{path}").stdout)[1]


def test_the_share_of_a_ten_thousandth_is_not_rounded_away(run: Run, tmp_path: Path) -> None:
    """99.99 and 0.01 per cent are shown as that."""
    path = tmp_path / "mesh.yaml"
    path.write_text(
        "services: {web: {subsets: {a: {labels: {v: a}}, b: {labels: {v: b}}},"
        " routes: [{name: r, split: [{subset: a, weight: 9999}, {subset: b, weight: 1}]}]}}"
    )
    assert "99.99% a, 0.01% b" in run("routes", "--source", f"file:{path}").stdout


def test_endpoints_are_shown_for_every_destination(run: Run, shop: str) -> None:
    """One line for each endpoint of each destination; in JSON with exactly the contract's fields."""
    result = run("endpoints", "shop", "--source", shop)
    assert result.exit_code == 0
    rows = columns(result.stdout)
    assert rows[0] == ["ADDRESS", "SERVICE", "SUBSET", "LOCALITY", "WEIGHT", "STATE"]
    assert ["127.0.0.1:50052", "shop", "stable", "eu/b", "3", "healthy"] in rows
    assert ["127.0.0.1:50061", "advice", "-", "-", "1", "healthy"] in rows
    listed = json.loads(run("endpoints", "shop", "--source", shop, "-o", "json").stdout)
    assert {tuple(one) for one in listed} == {("address", "service", "subset", "locality", "weight", "state")}


def test_endpoints_of_a_service_whose_calls_are_refused_are_a_finding(run: Run, tmp_path: Path) -> None:
    """They are healthy, and nobody is sent to them: its first document is invalid. `get` says the same of it."""
    path = tmp_path / "mesh.yaml"
    path.write_text(
        "services:\n  web: {trafficPolicy: {loadBalancer: {policy: rnadom}}}\n"
        'endpoints: {web: [{address: "127.0.0.1:1"}]}\n'
    )
    says = 'trafficPolicy.loadBalancer.policy (line 2): no balancer is named "rnadom"; did you mean "random"?'
    for named in ([], ["web"]):
        result = run("endpoints", *named, "--source", f"file:{path}")
        assert result.exit_code == 1
        assert says in result.stderr
    assert says in run("get", "--source", f"file:{path}").stdout


def test_a_destination_without_an_endpoint_is_a_finding(run: Run, tmp_path: Path) -> None:
    """`endpoints` and `status` end with 1 and name it: calls there fail."""
    path = tmp_path / "mesh.yaml"
    path.write_text("services: {web: {subsets: {canary: {labels: {v: c}}}, routes: [{split: [{subset: canary}]}]}}")
    endpoints = run("endpoints", "web", "--source", f"file:{path}")
    assert endpoints.exit_code == 1
    assert "web/canary has no endpoint that may be called" in endpoints.stderr
    status = run("status", "--source", f"file:{path}")
    assert status.exit_code == 1
    assert ["web", "canary", "0", "NO ENDPOINT: calls fail with UNAVAILABLE"] in columns(status.stdout)


def test_status_is_good_news_when_all_is_well(run: Run, shop: str) -> None:
    """Where from, which documents are in effect, where calls can go; exit code 0."""
    result = run("status", "--source", shop)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Source     {shop}   in sync\n")
    rows = columns(result.stdout)
    assert ["shop", "stable", "2", "2 healthy"] in rows
    assert [row[2] for row in rows if row and row[0] in ("mesh", "services/shop")] == [
        "in effect",
        "in effect",
    ]


def test_status_names_every_finding_of_an_invalid_document(run: Run, tmp_path: Path) -> None:
    """What is invalid is said with its path and line, and what becomes of calls; exit code 1."""
    path = tmp_path / "mesh.yaml"
    path.write_text("services:\n  web:\n    routes:\n    - timeout: 5\n      colour: red\n")
    result = run("status", "--source", f"file:{path}")
    assert result.exit_code == 1
    assert "INVALID; a client that starts now refuses its calls" in result.stdout
    assert "routes[0].timeout (line 4): must be a duration with a unit" in result.stdout
    assert "routes[0].colour (line 5): is not a key that is known here" in result.stdout


def test_status_of_nothing_says_what_holds_then(run: Run, tmp_path: Path) -> None:
    """No document is no error: the defaults hold, and the next command is named."""
    path = tmp_path / "mesh.yaml"
    path.write_text("services: {}\n")
    result = run("status", "--source", f"file:{path}")
    assert result.exit_code == 0
    assert "No document: every call goes to every healthy instance" in result.stdout


def test_status_as_json_is_what_the_library_says(run: Run, shop: str) -> None:
    """The keys of `Mesh.status()`, so that a script and a program read the same."""
    made = json.loads(run("status", "--source", shop, "-o", "json").stdout)
    assert {"version", "documents", "stale", "suspicious", "dropped", "services", "endpoints"} <= made.keys()
    assert made["source"]["name"] == shop


def test_the_environment_names_the_source(run: Run, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROXYLESS_SOURCE counts where --source is not given, and --source wins."""
    monkeypatch.setenv("PROXYLESS_SOURCE", shop)
    assert shop in run("status").stdout
    result = run("status", "--source", "file:elsewhere.yaml")
    assert result.exit_code == 3
    assert "the source was named by --source" in result.stderr


def test_a_folder_of_files_is_one_source(run: Run, tmp_path: Path) -> None:
    """`file:FOLDER`: documents of single services beside bundles."""
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "web.json").write_text('{"service": "web", "routes": [{"split": [{"service": "shop"}]}]}')
    result = run("services", "--source", f"file:{tmp_path}")
    assert [row[0] for row in columns(result.stdout)[1:]] == ["advice", "shop", "web"]


def test_nothing_that_a_terminal_obeys_is_printed(run: Run, tmp_path: Path) -> None:
    """Names come from whoever may write: an escape sequence is shown as text (Envoy CVE-2024-45808)."""
    path = tmp_path / "mesh.yaml"
    path.write_text('services: {"we\\e[31mb": {}, web: {routes: [{split: [{subset: "a\\e]0;x"}]}]}}')
    for command in ("services", "routes", "endpoints", "status", "get"):
        result = run(command, "--source", f"file:{path}")
        assert "\x1b" not in result.output, command
    assert "we\\x1b[31mb" in run("services", "--source", f"file:{path}").stdout
