"""Documents in a real Consul: `get`, `apply`, `diff`, `delete`; conflicts, and what is too much at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyless.control import RawDocument
from proxyless.control.store import KvStore
from tests.agent import ConsulAgent
from tests.cli.invoking import Run, call, forget_the_machine

WEB = "# web's own\nservice: web\nroutes:\n- split: [{service: shop, subset: canary}]\n  timeout: 5s\n"
SHOP = "service: shop\nsubsets: {canary: {labels: {version: v2}}}\n"


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own settings."""
    forget_the_machine(monkeypatch, tmp_path / "cache")


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Of each test its own part of KV."""
    return f"t/{request.node.name}".replace("[", "-").replace("]", "")


@pytest.fixture
def run(consul: ConsulAgent, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call a command on the test's own part of KV."""
    monkeypatch.setenv("PROXYLESS_SOURCE", f"consul://{consul.address}?prefix={prefix}")
    return call


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def version(consul: ConsulAgent, key: str) -> int:
    (entry,) = consul.do("GET", f"kv/{key}").json()
    index: int = entry["ModifyIndex"]
    return index


def test_a_document_goes_in_as_it_was_written_and_comes_out_the_same(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """Apply, get, diff, edit, diff, apply, delete: the life of a document, comments and all."""
    shop, web = file(tmp_path, "shop.yaml", SHOP), file(tmp_path, "web.yaml", WEB)
    assert run("diff", "-f", web).exit_code == 1
    applied = run("apply", "-f", shop, "-f", web)
    assert applied.exit_code == 0, applied.output
    index = version(consul, f"{prefix}/services/web")
    assert applied.stdout.splitlines()[1] == f"services/web    created (version {index})"
    assert consul.get_kv(f"{prefix}/services/web") == WEB.encode()
    assert run("get", "web").stdout == WEB
    assert (run("diff", "-f", web).exit_code, run("diff", "-f", shop).exit_code) == (0, 0)

    web.write_text(WEB.replace("5s", "7s"))
    changed = run("diff", "-f", web)
    assert changed.exit_code == 1
    assert changed.stdout.splitlines()[-2:] == ["-  timeout: 5s", "+  timeout: 7s"]
    assert "services/web    changed (version " in run("apply", "-f", tmp_path).stdout
    assert version(consul, f"{prefix}/services/web") > index

    deleted = run("delete", "web", "--yes")
    assert deleted.exit_code == 0
    assert deleted.stdout.startswith("services/web   deleted (it was version ")
    assert consul.get_kv(f"{prefix}/services/web") is None
    assert run("get", "web").exit_code == 1


def test_three_documents_of_a_bundle_are_one_transaction(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """All have the same ModifyIndex, so every watcher sees them in one answer; parts are canonical JSON."""
    bundle = file(
        tmp_path,
        "mesh.yaml",
        "mesh: {defaults: {timeout: 3s}}\nservices:\n  b: {routes: [{timeout: 1s, name: x}]}\n  a: {}\n"
        'endpoints: {a: [{address: "127.0.0.1:1"}]}\n',
    )
    result = run("apply", "-f", bundle, "-o", "json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert {(one["document"], one["action"]) for one in made["documents"]} == {
        ("mesh", "created"),
        ("services/a", "created"),
        ("services/b", "created"),
    }
    keys = [f"{prefix}/{key}" for key in ("mesh", "services/a", "services/b")]
    assert {version(consul, key) for key in keys} == {int(made["documents"][0]["version"])}
    assert consul.get_kv(keys[2]) == (
        b'{\n  "routes": [\n    {\n      "name": "x",\n      "timeout": "1s"\n    }\n  ]\n}\n'
    )
    assert "`endpoints` are for a file: source and not written" in result.stderr


@pytest.mark.parametrize("wrong", ["timeout: 5", "split: [{service: shop, subset: nobody}]"], ids=["alone", "beside"])
def test_one_invalid_document_and_nothing_is_written(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path, wrong: str
) -> None:
    """Invalid alone, or beside the others: exit code 1, the finding with its line, and KV as it was."""
    bad = file(tmp_path, "web.yaml", f"service: web\nroutes:\n- {wrong}\n")
    result = run("apply", "-f", file(tmp_path, "shop.yaml", SHOP), "-f", bad)
    assert result.exit_code == 1
    assert "nothing was written" in result.stderr
    assert f"{bad}:3: routes[0]." in result.stderr
    assert consul.ask("GET", f"kv/{prefix}/?keys").status == 404


def test_a_dry_run_writes_nothing(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """All is checked and said as if it were done."""
    result = run("apply", "--dry-run", "-f", file(tmp_path, "shop.yaml", SHOP))
    assert result.exit_code == 0
    assert result.stdout == "services/shop   would be created\n"
    assert consul.ask("GET", f"kv/{prefix}/?keys").status == 404


def test_what_is_there_already_is_not_written_again(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """An apply that changes nothing wakes no watcher."""
    shop = file(tmp_path, "shop.yaml", SHOP)
    run("apply", "-f", shop)
    index = version(consul, f"{prefix}/services/shop")
    assert run("apply", "-f", shop).stdout == f"services/shop   unchanged (version {index})\n"
    assert version(consul, f"{prefix}/services/shop") == index


def in_between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have `act` done once, after the documents were read and before anything is written."""
    read = KvStore.documents

    def reads(store: KvStore) -> dict[str, RawDocument]:
        told = read(store)
        monkeypatch.setattr(KvStore, "documents", read)
        act()
        return told

    monkeypatch.setattr(KvStore, "documents", reads)


@pytest.mark.parametrize("there", [True, False])
def test_somebody_else_in_the_same_moment_is_a_conflict(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Their write stays, ours is not done, not even of the other document; exit code 1, and which it was."""
    key = f"{prefix}/services/shop"
    if there:
        consul.put_kv(key, "service: shop\n")
    in_between(monkeypatch, lambda: consul.put_kv(key, "service: shop # theirs\n"))
    other = file(tmp_path, "other.yaml", "service: other\n")
    result = run("apply", "-f", other, "-f", file(tmp_path, "shop.yaml", SHOP))
    assert result.exit_code == 1
    assert "services/shop was changed by somebody else in this very moment; nothing was written" in result.stderr
    assert consul.get_kv(key) == b"service: shop # theirs\n"
    assert consul.get_kv(f"{prefix}/services/other") is None


def test_a_change_of_what_the_check_was_based_on_is_a_conflict_too(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """web is valid because shop has a canary; if shop loses it meanwhile, web is not written."""
    consul.put_kv(f"{prefix}/services/shop", SHOP)
    consul.put_kv(f"{prefix}/services/apart", "service: apart\n")
    web = file(tmp_path, "web.yaml", WEB)

    in_between(monkeypatch, lambda: consul.put_kv(f"{prefix}/services/shop", "service: shop\n"))
    result = run("apply", "-f", web)
    assert result.exit_code == 1
    assert "services/shop was changed by somebody else" in result.stderr
    assert consul.get_kv(f"{prefix}/services/web") is None

    consul.put_kv(f"{prefix}/services/shop", SHOP)
    in_between(monkeypatch, lambda: consul.put_kv(f"{prefix}/services/apart", "service: apart # new\n"))
    assert run("apply", "-f", web).exit_code == 0  # which has nothing to do with it


def test_a_delete_in_the_same_moment_is_a_conflict(
    run: Run, consul: ConsulAgent, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is deleted is what was looked at."""
    consul.put_kv(f"{prefix}/services/shop", SHOP)
    in_between(monkeypatch, lambda: consul.put_kv(f"{prefix}/services/shop", "service: shop # theirs\n"))
    result = run("delete", "shop", "--yes")
    assert result.exit_code == 1
    assert "services/shop was changed by somebody else" in result.stderr
    assert consul.get_kv(f"{prefix}/services/shop") == b"service: shop # theirs\n"


def test_a_document_that_others_need_stays(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """Neither deleted nor changed so that another document would become invalid."""
    run("apply", "-f", file(tmp_path, "shop.yaml", SHOP), "-f", file(tmp_path, "web.yaml", WEB))
    finding = 'services/web: routes[0].split[0].subset: would become invalid: shop has no subset "canary"'
    deleted = run("delete", "shop", "--yes")
    assert deleted.exit_code == 1
    assert finding in deleted.stderr
    changed = run("apply", "-f", file(tmp_path, "shop.yaml", "service: shop\n"))
    assert changed.exit_code == 1
    assert finding in changed.stderr
    assert consul.get_kv(f"{prefix}/services/shop") == SHOP.encode()


def test_somebody_elses_invalid_document_is_no_obstacle(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """What was invalid before is named and left out; and it can be mended, or deleted."""
    consul.put_kv(f"{prefix}/services/shop", "service: shop\nroutes: 7\n")
    applied = run("apply", "-f", file(tmp_path, "web.yaml", WEB))
    assert applied.exit_code == 0, applied.output
    assert "services/shop is invalid as it is, and left out of the check: routes (line 2)" in applied.stderr
    assert "INVALID: routes (line 2)" in run("get").stdout
    assert run("apply", "-f", file(tmp_path, "shop.yaml", SHOP)).exit_code == 0
    consul.put_kv(f"{prefix}/services/other", "x")
    assert run("delete", "other", "--yes").exit_code == 0


def test_what_did_not_fit_before_is_not_blamed_on_this_change(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """web names a subset that shop never had: no reason to refuse a change of shop, or of a third one."""
    consul.put_kv(f"{prefix}/services/web", WEB)
    consul.put_kv(f"{prefix}/services/shop", "service: shop\n")
    assert run("apply", "-f", file(tmp_path, "shop.yaml", "service: shop\nroutes: []\n")).exit_code == 0
    assert run("apply", "-f", file(tmp_path, "third.yaml", "service: third\n")).exit_code == 0
    assert run("apply", "-f", file(tmp_path, "web.yaml", WEB + "# again\n")).exit_code == 1


def test_nobody_is_asked_where_nobody_can_answer(run: Run, consul: ConsulAgent, prefix: str) -> None:
    """In a script, delete without --yes is misuse, and deletes nothing."""
    consul.put_kv(f"{prefix}/services/shop", SHOP)
    result = run("delete", "shop")
    assert result.exit_code == 2
    assert "say --yes if you mean it" in result.stderr
    assert consul.get_kv(f"{prefix}/services/shop") == SHOP.encode()


def test_a_document_as_large_as_consul_takes_is_written(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """500,000 bytes are too many for a transaction, which carries them in base64, but not for a value."""
    large = file(tmp_path, "large.yaml", "service: large\n" + "#".ljust(99, "x") * 5050)
    result = run("apply", "-f", large)
    assert result.exit_code == 0, result.output
    assert consul.get_kv(f"{prefix}/services/large") == large.read_bytes()
    large.write_text(large.read_text() + "y")
    assert "services/large   changed" in run("apply", "-f", large).stdout


def test_a_large_document_is_checked_and_set_too(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of a transaction a conflict is still a conflict."""
    large = file(tmp_path, "large.yaml", "service: large\n" + "#".ljust(99, "x") * 5050)
    in_between(monkeypatch, lambda: consul.put_kv(f"{prefix}/services/large", "service: large\n"))
    result = run("apply", "-f", large)
    assert result.exit_code == 1
    assert "services/large was changed by somebody else" in result.stderr
    assert consul.get_kv(f"{prefix}/services/large") == b"service: large\n"


@pytest.mark.parametrize(("number", "size"), [(65, 0), (2, 2500)])
def test_more_than_a_transaction_holds_is_refused_whole(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path, number: int, size: int
) -> None:
    """Consul takes 64 operations and 512 KiB at once (1.8): nothing is written, and what to do is said."""
    for index in range(number):
        file(tmp_path, f"s{index}.yaml", f"service: s{index}\n" + "#".ljust(99, "x") * size)
    result = run("apply", "-f", tmp_path)
    assert result.exit_code == 1
    assert "nothing was written; apply fewer at once" in result.stderr
    assert consul.ask("GET", f"kv/{prefix}/?keys").status == 404


def test_a_service_that_a_hundred_others_lead_to_is_writable(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """The check of what leads there has no room in one transaction; the write itself has."""
    consul.put_kv(f"{prefix}/services/shop", SHOP)
    for index in range(100):
        consul.put_kv(f"{prefix}/services/s{index}", "routes: [{split: [{service: shop, subset: canary}]}]")
    shop = file(tmp_path, "shop.yaml", f"{SHOP}# changed\n")
    assert run("apply", "-f", shop).exit_code == 0
