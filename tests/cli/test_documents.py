"""`validate`, `schema`, `get`, `diff` on files; and `apply`, `delete`, which a file has no use for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.cli.invoking import SHOP, Run


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_valid_file_is_called_valid(run: Run, tmp_path: Path) -> None:
    """One line, exit code 0."""
    result = run("validate", "-f", write(tmp_path, "shop.yaml", SHOP))
    assert (result.exit_code, result.stdout) == (0, "valid: 2 documents\n")


def test_every_finding_has_file_line_path_and_reason(run: Run, tmp_path: Path) -> None:
    """As compilers say it, all at once, in every file, the paths counted from the top of the file."""
    one = write(tmp_path, "one.yaml", "service: one\nroutes:\n- timeout: 5\n  colour: red\n")
    two = write(
        tmp_path,
        "two.yaml",
        "services:\n  two:\n    routes:\n    - split:\n      - {subset: canry}\n    subsets: {canary: {}}\n"
        "endpoints:\n  two:\n  - {address: nowhere}\nextra: 1\n",
    )
    result = run("validate", "-f", one, "-f", two)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f'{one}:3: routes[0].timeout: must be a duration with a unit, got the bare number 5: did you mean "5s"?',
        f"{one}:4: routes[0].colour: is not a key that is known here; the keys here are directResponse, "
        "fault, hash, headers, hedge, match, mirror, name, rateLimit, retry, split, sticky, timeout",
        f'{two}:5: services.two.routes[0].split[0].subset: names no subset of this document: "canry"; '
        'did you mean "canary"?',
        f"{two}:10: extra: is not a key that is known here; the keys here are apiVersion, mesh, services, endpoints",
        f"{two}:9: endpoints.two[0].address: must be host:port with a port of 1 to 65535, got 'nowhere'",
    ]
    assert result.stderr == ""


def test_findings_for_programs_have_their_parts_apart(run: Run, tmp_path: Path) -> None:
    """-o json: where, line, path, reason, hint."""
    path = write(tmp_path, "one.json", '{"service": "one",\n "routes": [{"timeout": "5"}]}')
    made = json.loads(run("validate", "-f", path, "-o", "json").stdout)
    (finding,) = made["findings"]
    assert (finding["where"], finding["line"], finding["path"]) == (str(path), 2, "routes[0].timeout")
    assert set(finding) == {"where", "line", "path", "reason", "hint"}


def test_what_has_no_effect_is_noted_and_no_finding(run: Run, tmp_path: Path) -> None:
    """The document is valid, and whoever believes that all of it holds is told with the line."""
    path = write(tmp_path, "web.yaml", "service: web\nroutes:\n- name: all\n- name: late\n")
    result = run("validate", "-f", path)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"note: {path}:4: routes[1]: is never reached: routes[0] has no match, so it takes every call"
    ]
    made = json.loads(run("validate", "-f", path, "-o", "json").stdout)
    assert made["findings"] == []
    assert [(note["line"], note["path"]) for note in made["notes"]] == [(4, "routes[1]")]


def test_a_slip_in_a_bundle_s_top_key_is_named_as_a_client_would(run: Run, tmp_path: Path) -> None:
    """It was said to be a service's document without a name."""
    result = run("validate", "-f", write(tmp_path, "mesh.yaml", "servces: {web: {}}\n"))
    assert result.exit_code == 1
    assert result.stdout.endswith(':1: servces: is not a key that is known here; did you mean "services"?\n')


def test_files_are_checked_beside_each_other(run: Run, tmp_path: Path) -> None:
    """A subset of another service has to be in that service's document, where that is given."""
    web = write(tmp_path, "web.yaml", "service: web\nroutes:\n- split:\n  - {service: shop, subset: canry}\n")
    shop = write(tmp_path, "shop.yaml", "service: shop\nsubsets: {canary: {labels: {v: c}}}\n")
    result = run("validate", "-f", web, "-f", shop)
    assert result.exit_code == 1
    assert result.stdout == (
        f'{web}:4: routes[0].split[0].subset: shop has no subset "canry"; did you mean "canary"?\n'
    )


def test_what_is_in_no_file_is_trusted_and_named(run: Run, tmp_path: Path) -> None:
    """Offline nobody knows the other document: no finding, but a note."""
    web = write(tmp_path, "web.yaml", "service: web\nroutes:\n- split:\n  - {service: shop, subset: canary}\n")
    result = run("validate", "-f", web)
    assert result.exit_code == 0
    assert "the subset canary of shop is not checked" in result.stderr


def test_an_invalid_document_makes_no_other_look_wrong(run: Run, tmp_path: Path) -> None:
    """What can't be read is not known: its subsets are not reported as missing."""
    web = write(tmp_path, "web.yaml", "service: web\nroutes:\n- split:\n  - {service: shop, subset: canary}\n")
    shop = write(tmp_path, "shop.yaml", "service: shop\nsubsets: {canary: 7}\n")
    result = run("validate", "-f", web, "-f", shop)
    assert result.exit_code == 1
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [str(shop)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [\n", ":2: not valid YAML at column 1"),
        ("", ":1: bad.yaml is empty"),
        ("routes: []\n", ":1: does not say which service it is for; add `service: NAME` at its top"),
        ("services:\n  web: 7\n", ":2: services.web: must be a mapping of keys to values"),
        ("service: 7\n", "service"),
    ],
)
def test_a_file_that_is_no_document_is_said_to_be_none(run: Run, tmp_path: Path, text: str, says: str) -> None:
    """Broken text, nothing at all, a document without a name: one finding, no traceback."""
    result = run("validate", "-f", write(tmp_path, "bad.yaml", text))
    assert result.exit_code == 1
    assert says in result.stdout


@pytest.mark.parametrize("name", ["a/b", "", " ", "a\\nb", "..", "\\0"])
def test_a_bundle_s_name_that_no_client_would_read_is_a_finding(run: Run, tmp_path: Path, name: str) -> None:
    """`apply` would write it, say "created", and it would have no effect: the keys of KV are names of services."""
    result = run("validate", "-f", write(tmp_path, "b.yaml", f'services:\n  ok: {{}}\n  "{name}": {{}}\n'))
    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()
    assert "b.yaml:3: services[" in line
    assert "the name of a service must " in line


def test_the_same_document_twice_is_a_finding(run: Run, tmp_path: Path) -> None:
    """Nobody can know which one is meant."""
    one = write(tmp_path, "one.yaml", "service: web\n")
    two = write(tmp_path, "two.yaml", "services: {web: {}}\n")
    result = run("validate", "-f", one, "-f", two)
    assert result.exit_code == 1
    assert f"services.web: services/web is given twice, first in {one}; keep one" in result.stdout


def test_a_file_that_is_not_there_is_misuse(run: Run, tmp_path: Path) -> None:
    """Exit code 2, and the path."""
    result = run("validate", "-f", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "none.yaml can't be read: No such file or directory" in result.stderr


def test_get_prints_a_document_of_its_own_as_it_was_written(run: Run, tmp_path: Path) -> None:
    """Comments and all: what is printed can be edited and applied again."""
    text = "# who wrote this?\nservice: web\nroutes: []\n"
    path = write(tmp_path, "web.yaml", text)
    assert run("get", "web", "--source", f"file:{path}").stdout == text


def test_get_lists_documents_with_their_state(run: Run, tmp_path: Path) -> None:
    """Without a name all of them; an invalid one with its first finding."""
    path = write(tmp_path, "mesh.yaml", "mesh: {}\nservices: {web: {routes: 7}}\n")
    result = run("get", "--source", f"file:{path}")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].startswith("mesh ")
    assert lines[1].endswith("valid")
    assert "INVALID: routes (line 2): must be a list" in lines[2]


def test_get_of_what_is_not_there_names_the_nearest(run: Run, shop: str) -> None:
    """Exit code 1, what holds instead, and what was probably meant."""
    result = run("get", "shpo", "--source", shop)
    assert result.exit_code == 1
    assert "there is no document for shpo" in result.stderr
    assert 'did you mean "shop"?' in result.stderr


def test_diff_ends_with_1_if_there_is_a_difference(run: Run, tmp_path: Path) -> None:
    """Like diff itself: 0 for none, 1 for some, and the lines."""
    source = write(tmp_path, "is.yaml", "service: web\nroutes: [{timeout: 1s}]\n")
    same = run("diff", "-f", source, "--source", f"file:{source}")
    assert (same.exit_code, same.stdout) == (0, "services/web: no difference\n")
    other = write(tmp_path, "will.yaml", "service: web\nroutes: [{timeout: 2s}]\n")
    result = run("diff", "-f", other, "--source", f"file:{source}")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-2:] == ["-routes: [{timeout: 1s}]", "+routes: [{timeout: 2s}]"]


def test_yaml_and_json_are_compared_by_what_they_say(run: Run, tmp_path: Path) -> None:
    """Two languages, one line apart: the difference is one line, not the whole text."""
    source = write(tmp_path, "is.json", '{"service": "web", "routes": [{"timeout": "1s"}]}')
    other = write(tmp_path, "will.yaml", "service: web\nroutes: [{timeout: 2s}]\n")
    result = run("diff", "-f", other, "--source", f"file:{source}")
    changed = [line for line in result.stdout.splitlines() if line[:1] in "+-" and line[1:2] == " "]
    assert changed == ['-      "timeout": "1s"', '+      "timeout": "2s"']


@pytest.mark.parametrize("command", [("apply", "-f", "x.yaml"), ("delete", "shop", "--yes")])
def test_a_file_source_is_edited_not_applied(
    run: Run, shop: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to write to: misuse, and what to do instead."""
    result = run(*command, "--source", shop)
    assert result.exit_code == 2
    assert "is a file, and a file is edited, not" in result.stderr
    assert "proxyless validate -f FILE" in result.stderr
    monkeypatch.setenv("PROXYLESS_SOURCE", shop)  # as the quick start leaves it: CONSUL_HTTP_ADDR does not help then
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:8500")
    assert "or unset PROXYLESS_SOURCE, which named the file" in run(*command).stderr


@pytest.mark.parametrize("kind", ["service", "mesh", "file"])
def test_the_schema_is_one_that_editors_take(run: Run, kind: str) -> None:
    """JSON Schema 2020-12; nothing unknown is allowed at the top."""
    made = json.loads(run("schema", kind).stdout)
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["additionalProperties"] is False
    expected = {
        "service": {"apiVersion", "service", "discovery", "subsets", "routes", "trafficPolicy"},
        "mesh": {"apiVersion", "defaults"},
        "file": {"apiVersion", "mesh", "services", "endpoints"},
    }
    assert set(made["properties"]) == expected[kind]


def test_the_schema_of_a_file_refers_to_the_others(run: Run) -> None:
    """Every reference in it leads somewhere."""
    made: Any = json.loads(run("schema", "file").stdout)
    text = json.dumps(made)
    names = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert names <= made["$defs"].keys()
    assert {"ServiceDocument", "MeshDocument", "Route"} <= names


def test_the_file_that_the_schema_describes_decodes(tmp_path: Path) -> None:
    """The schema is made of a value that takes the same file as the source does."""
    import yaml

    from proxyless.cli.schema import FileDocument

    made = TypeAdapter(FileDocument).validate_json(json.dumps(yaml.safe_load(SHOP)), strict=True)
    assert made.services["shop"].routes[0].name == "premium"
    assert made.endpoints["shop"][1].weight == 3
