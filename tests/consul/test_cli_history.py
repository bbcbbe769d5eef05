"""`history` and `rollback` over a real Consul: what apply, delete and rollback record, who may, what is woken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from proxyless.cli.app import COMMANDS
from proxyless.control.history import KEPT
from proxyless.control.store import Change, KvStore
from tests.agent import ACL_HCL, ROOT_TOKEN, ConsulAgent
from tests.cli.invoking import Run, call, forget_the_machine
from tests.consul.recorder import following, mesh_is


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own settings."""
    forget_the_machine(monkeypatch, tmp_path / "cache")


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Of each test its own part of KV."""
    return f"h/{request.node.name}".replace("[", "-").replace("]", "")


@pytest.fixture
def run(consul: ConsulAgent, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call a command on the test's own part of KV."""
    monkeypatch.setenv("PROXYLESS_SOURCE", f"consul://{consul.address}?prefix={prefix}")
    return call


def text(timeout: str) -> str:
    return f"service: web\nroutes:\n- timeout: {timeout}\n"


def applied(run: Run, folder: Path, timeout: str, *more: str) -> None:
    path = folder / "web.yaml"
    path.write_text(text(timeout))
    result = run("apply", "-f", path, *more)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


def test_the_history_of_a_document(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """Three versions, the last one bad: listed with who, when and why; back to the one before, and back again."""
    applied(run, tmp_path, "1s")
    applied(run, tmp_path, "2s", "-m", "a bit more")
    applied(run, tmp_path, "3s")
    listed = run("history", "web")
    assert listed.exit_code == 0, listed.output
    head, three, two, one = listed.stdout.splitlines()
    assert head.split() == ["N", "WHEN", "WHO", "WHAT", "BYTES", "WHY"]
    assert re.fullmatch(r"3 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +\S+@\S+ +applied; IN EFFECT +35 +-", three)
    assert two.endswith("a bit more")
    assert one.split()[0] == "1"
    assert run("history", "web", "2").stdout == text("2s")

    back = run("rollback", "web", "-m", "errors since 3")
    assert back.exit_code == 0, back.output
    assert consul.get_kv(f"{prefix}/services/web") == text("2s").encode()
    said, undo = back.stdout.splitlines()
    assert re.fullmatch(r"services/web   rolled back to 2 of .*Z by \S+@\S+ \(version \d+\)", said)
    assert undo == "to take that back: proxyless rollback web --to 3"
    assert run("rollback", "web").exit_code == 0
    assert consul.get_kv(f"{prefix}/services/web") == text("1s").encode()
    assert run(*undo.partition("proxyless ")[2].split()).exit_code == 0
    assert consul.get_kv(f"{prefix}/services/web") == text("3s").encode()

    versions = json.loads(run("history", "web", "-o", "json").stdout)["versions"]
    assert [(one["number"], one["action"], one["restores"], one["in_effect"]) for one in versions] == [
        (1, "applied", None, False),
        (2, "applied", None, False),
        (3, "applied", None, False),
        (4, "rolled back", 2, False),
        (5, "rolled back", 1, False),
        (6, "rolled back", 3, True),
    ]
    assert versions[3]["note"] == "errors since 3"


def test_a_document_and_its_history_are_one_transaction(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """Both have the same ModifyIndex: there is no moment in which one is there without the other."""
    applied(run, tmp_path, "1s")
    applied(run, tmp_path, "2s")
    (document,) = consul.do("GET", f"kv/{prefix}/services/web").json()
    entries = consul.do("GET", f"kv/{prefix}-history/?recurse").json()
    assert [entry["Key"] for entry in entries] == [
        f"{prefix}-history/services/web/0000000{number}" for number in (1, 2)
    ]
    assert entries[-1]["ModifyIndex"] == document["ModifyIndex"]


def test_a_deleted_document_comes_back(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """`delete` says how, and the history outlives the document."""
    applied(run, tmp_path, "1s")
    deleted = run("delete", "web", "--yes")
    assert deleted.stdout.splitlines()[1] == "to take that back: proxyless rollback web"
    assert "deleted" in run("history", "web").stdout
    assert run("rollback", "web", "--to", "2").exit_code == 1  # that is the deletion
    back = run("rollback", "web")
    assert back.exit_code == 0, back.output
    assert consul.get_kv(f"{prefix}/services/web") == text("1s").encode()
    assert back.stdout.splitlines()[1] == "to take that back: proxyless delete web"


def test_what_somebody_wrote_by_hand_is_recorded_too(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """It is said that it is not, and the next command records it before it replaces it."""
    consul.put_kv(f"{prefix}/services/web", text("1s"))
    assert run("history", "web").exit_code == 1
    applied(run, tmp_path, "2s")
    consul.put_kv(f"{prefix}/services/web", text("666s"))
    assert "NOT RECORDED YET: what is there now is none of these" in run("history", "web").stdout
    assert run("rollback", "web").exit_code == 0
    assert consul.get_kv(f"{prefix}/services/web") == text("2s").encode()
    versions = json.loads(run("history", "web", "-o", "json").stdout)["versions"]
    assert [(one["action"], one["by"] is None) for one in versions] == [
        ("found", True),
        ("applied", False),
        ("found", True),
        ("rolled back", False),
    ]
    assert run("history", "web", "3").stdout == text("666s")


def test_an_earlier_version_is_checked_like_any_other(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """It led to a subset that is gone meanwhile: refused with the finding, and nothing is written."""
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "web.yaml").write_text("service: web\nroutes:\n- split: [{service: shop, subset: canary}]\n")
    (folder / "shop.yaml").write_text("service: shop\nsubsets: {canary: {labels: {v: v2}}}\n")
    assert run("apply", "-f", folder).exit_code == 0
    applied(run, tmp_path, "1s")
    (folder / "shop.yaml").write_text("service: shop\n")
    assert run("apply", "-f", folder / "shop.yaml").exit_code == 0
    refused = run("rollback", "web")
    assert refused.exit_code == 1
    assert "version 1 of services/web is not valid any more; nothing was written" in refused.stderr
    assert 'version 1:3: routes[0].split[0].subset: shop has no subset "canary"' in refused.stderr
    assert consul.get_kv(f"{prefix}/services/web") == text("1s").encode()


def test_a_dry_run_and_mistakes(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """Nothing is written by a dry run, nor by what can't be meant; the exit code and the words say which it was."""
    assert run("rollback", "web").exit_code == 1
    applied(run, tmp_path, "1s")
    only = run("rollback", "web")
    assert (only.exit_code, "no version is recorded before the one in effect" in only.stderr) == (1, True)
    applied(run, tmp_path, "2s")
    dry = run("rollback", "web", "--dry-run")
    assert (dry.exit_code, dry.stdout.startswith("services/web   would be rolled back to 1 of ")) == (0, True)
    for number, words in (("9", "there is no version 9 of web"), ("2", "is in effect already")):
        wrong = run("rollback", "web", "--to", number)
        assert (wrong.exit_code, words in wrong.stderr) == (1, True), wrong.stderr
    assert consul.get_kv(f"{prefix}/services/web") == text("2s").encode()
    assert len(consul.do("GET", f"kv/{prefix}-history/?keys").json()) == 2
    file = tmp_path / "mesh.yaml"
    file.write_text("services: {web: {}}\n")
    for command in ("history", "rollback"):
        assert run(command, "web", "--source", f"file:{file}").exit_code == 2
    assert {"history", "rollback"} <= COMMANDS.keys()


def test_so_many_versions_are_kept(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """The oldest go, and numbers go on; a deleted document keeps its history."""
    for number in range(1, KEPT + 6):
        applied(run, tmp_path, f"{number}s")
    keys = consul.do("GET", f"kv/{prefix}-history/?keys").json()
    assert len(keys) == KEPT
    assert (keys[0][-8:], keys[-1][-8:]) == ("00000006", f"000000{KEPT + 5}")


def test_rubbish_in_the_history_is_no_obstacle(run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path) -> None:
    """What nobody recorded is left out, and a change goes on even where its number is taken by rubbish."""
    applied(run, tmp_path, "1s")
    for key in ("00000002", "x", "00000001/deeper", "7"):
        consul.put_kv(f"{prefix}-history/services/web/{key}", "rubbish")
    path = tmp_path / "web.yaml"
    path.write_text(text("2s"))
    result = run("apply", "-f", path)
    assert result.exit_code == 0
    assert consul.get_kv(f"{prefix}/services/web") == text("2s").encode()
    assert "it is done, but not in the history" in result.stderr
    assert [line.split()[0] for line in run("history", "web").stdout.splitlines()[1:2]] == ["1"]


def test_many_documents_at_once_have_their_histories_too(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """Sixty documents leave no room in their transaction: the histories are written after it."""
    for number in range(60):
        (tmp_path / f"s{number}.yaml").write_text(f"service: s{number}\n")
    result = run("apply", "-f", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(consul.do("GET", f"kv/{prefix}-history/?keys").json()) == 60


def test_a_document_as_large_as_consul_takes_is_recorded(
    run: Run, consul: ConsulAgent, prefix: str, tmp_path: Path
) -> None:
    """500,000 bytes, which are not written in a transaction: there and back."""
    path = tmp_path / "web.yaml"
    large = "service: web\n" + "#".ljust(99, "x") * 5050
    path.write_text(large)
    assert run("apply", "-f", path).stderr == ""
    applied(run, tmp_path, "1s")
    assert run("rollback", "web").exit_code == 0
    assert consul.get_kv(f"{prefix}/services/web") == large.encode()


def test_no_watcher_hears_of_a_history(consul: ConsulAgent) -> None:
    """Clients follow the documents: a version that is written beside them is no answer to any of their queries."""
    consul.put_kv("quiet/v1/mesh", "one")
    with following(consul.address, query="?prefix=quiet/v1") as (_, sink):
        sink.until("documents", mesh_is("one"))
        before = consul.do("GET", "kv/quiet/v1/?recurse").json()[0]["ModifyIndex"]
        watch = consul.ask_later("GET", f"kv/quiet/v1/?recurse&index={before}&wait=1s")
        for number in range(20):
            consul.put_kv(f"quiet/v1-history/services/web/{number:08}", "x" * 100_000)
        consul.delete_kv("quiet/v1-history/", recurse=True)
        answer = watch.result()
        assert (answer.index, len(answer.body) < 1000, answer.took >= 1.0) == (before, True, True)
        consul.put_kv("quiet/v1/mesh", "two")
        sink.until("documents", mesh_is("two"))
        assert len(sink.all("documents")) == 2


def test_a_token_without_rights_on_the_history(
    consul_bin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document is written all the same; that it is not recorded is said, with the right that is missing."""
    with ConsulAgent(consul_bin, tmp_path, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent:
        monkeypatch.setenv("PROXYLESS_SOURCE", f"consul://{agent.address}")
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", agent.create_token('key_prefix "proxyless/v1/" { policy = "write" }'))
        path = tmp_path / "web.yaml"
        path.write_text(text("1s"))
        result = call("apply", "-f", path, "-o", "json")
        assert result.exit_code == 0, result.output
        why = (
            "the token may not write proxyless/v1-history/ in KV; "
            'grant it key_prefix "proxyless/v1-history/" { policy = "write" }'
        )
        assert f"note: it is done, but not in the history: {why}" in result.stderr
        assert json.loads(result.stdout)["unrecorded"] == why
        assert agent.get_kv("proxyless/v1/services/web") == text("1s").encode()
        assert call("delete", "web", "--yes").exit_code == 0

        monkeypatch.setenv("CONSUL_HTTP_TOKEN", agent.create_token('key_prefix "proxyless/" { policy = "write" }'))
        assert call("apply", "-f", path).stderr == ""
        assert call("history", "web").exit_code == 0

        monkeypatch.setenv("CONSUL_HTTP_TOKEN", agent.create_token('key_prefix "proxyless/" { policy = "read" }'))
        path.write_text(text("2s"))
        refused = call("apply", "-f", path)
        assert refused.exit_code == 3
        assert f"proxyless: consul://{agent.address}: the token may not write proxyless/v1/ in KV" in refused.stderr
        assert "nothing was written" in refused.stderr
        assert agent.get_kv("proxyless/v1/services/web") == text("1s").encode()

        monkeypatch.setenv("CONSUL_HTTP_TOKEN", agent.create_token('key_prefix "proxyless/v1/" { policy = "read" }'))
        for command in ("history", "rollback"):  # there is a history: "nothing is recorded" would be a lie
            hidden = call(command, "web")
            assert hidden.exit_code == 3
            assert 'grant it key_prefix "proxyless/v1-history/" { policy = "read" }' in hidden.stderr


def test_two_at_once(
    run: Run, consul: ConsulAgent, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of two rollbacks in the same moment one is a conflict, and records nothing."""
    applied(run, tmp_path, "1s")
    applied(run, tmp_path, "2s")
    write = KvStore.write

    def late(store: KvStore, changes: list[Change], *rest: object) -> object:
        monkeypatch.setattr(KvStore, "write", write)
        consul.put_kv(f"{prefix}/services/web", text("9s"))
        return write(store, changes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(KvStore, "write", late)
    result = run("rollback", "web")
    assert result.exit_code == 1
    assert "was changed by somebody else in this very moment; nothing was written" in result.stderr
    assert consul.get_kv(f"{prefix}/services/web") == text("9s").encode()
    assert len(consul.do("GET", f"kv/{prefix}-history/?keys").json()) == 2
