"""`proxyless run`: a program in its own process, run as `python` would run it, its channels in the mesh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.invoking import CHECKOUT, SHOP, start

PROGRAM = """\
import sys
import grpc
import beside  # in the program's own folder
print(sys.argv[1:], __name__, beside.here, sys.modules["__main__"].beside is beside)
for target in ("shop:50051", "shop.service.consul:50051", "milvus:19530", "127.0.0.1:50051"):
    for module in (grpc, grpc.aio):
        print(target, type(module.insecure_channel(target)).__name__)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A program, what it imports, and a mesh with the services shop and advice."""
    (tmp_path / "app.py").write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("here = True\n")
    (tmp_path / "mesh.yaml").write_text(SHOP)
    return tmp_path


def _run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return start("run", "--source", f"file:{folder / 'mesh.yaml'}", *arguments)


def _kinds(done: subprocess.CompletedProcess[str]) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for line in done.stdout.splitlines()[1:]:
        target, kind = line.split()
        kinds.setdefault(target, set()).add(kind)
    return kinds


OURS, THEIRS = {"MeshChannel", "AioMeshChannel"}, {"Channel"}


def test_a_program_finds_tls_untouched(folder: Path) -> None:
    """gevent's `patch_all` replaces `ssl` for whoever imports it later; of urllib3, imported before, no TLS works."""
    (folder / "app.py").write_text(
        "import sys; print([name for name in ('requests', 'urllib3') if name in sys.modules])"
    )
    done = start("run", "--source", "consul+https://127.0.0.1:1", folder / "app.py")
    assert (done.stdout, done.returncode) == ("[]\n", 0)


def test_without_rules_targets_lead_to_the_services_they_name(folder: Path) -> None:
    """What is called after a service that the mesh knows is that service; everything else is left alone."""
    done = _run(folder, folder / "app.py", "--rules", "-x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "['--rules', '-x'] __main__ True True"
    assert _kinds(done) == {
        "shop:50051": OURS,
        "shop.service.consul:50051": OURS,
        "milvus:19530": THEIRS,
        "127.0.0.1:50051": THEIRS,
    }


@pytest.mark.parametrize("form", ["options", "yaml", "json"])
def test_rules_say_what_is_meant(folder: Path, form: str) -> None:
    """Rules from the command line or a file; with rules nothing else is meant."""
    given: dict[str, list[object]] = {
        "options": ["--rules", "milvus:19530=shop", "-r", "127.0.0.*=advice"],
        "yaml": ["--rules", folder / "rules.yaml"],
        "json": ["--rules", folder / "rules.json"],
    }
    (folder / "rules.yaml").write_text("milvus:19530: shop\n127.0.0.*: advice\n")
    (folder / "rules.json").write_text('{"milvus:19530": "shop", "127.0.0.*": "advice"}')
    done = _run(folder, *given[form], folder / "app.py")
    assert done.returncode == 0, done.stderr
    assert {target for target, kinds in _kinds(done).items() if kinds == OURS} == {"milvus:19530", "127.0.0.1:50051"}


def test_a_module_is_run(folder: Path) -> None:
    """`-m` as python has it: from the working directory, and all that follows the name is the module's."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "proxyless", "run", "--source", "file:mesh.yaml", "-m", "app", "--source", "x"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[0] == "['--source', 'x'] __main__ True True"
    assert _kinds(done)["shop:50051"] == OURS


@pytest.mark.parametrize(
    ("ending", "code", "says"),
    [
        ("", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('no luck')", 1, "no luck\n"),
        ("raise KeyError('lost')", 1, "KeyError: 'lost'\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("raise BrokenPipeError", 1, "BrokenPipeError\n"),
    ],
)
def test_a_program_ends_as_it_would(folder: Path, ending: str, code: int, says: str) -> None:
    """Exit codes, signals and tracebacks are the program's own."""
    (folder / "app.py").write_text(f"{ending}\n")
    done = _run(folder, folder / "app.py")
    assert done.returncode == code
    assert done.stderr.endswith(says)
    assert done.stdout == ""


def test_a_program_s_log_is_its_own(folder: Path) -> None:
    """What the library has to say of a program's mesh is told, as in any program that has set no logging up."""
    (folder / "mesh.yaml").write_text("services: {shop: {routse: []}}\n")
    done = _run(folder, folder / "app.py")
    assert "routse" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py"], "there is no program nowhere.py"),
        (["python", "app.py"], "leave python out"),
        ([sys.executable, "app.py"], "proxyless run app.py"),
        (["env", "app.py"], "if the command is written in Python: proxyless run /"),
        (["-m", "nowhere.at_all"], "there is no module nowhere.at_all"),
        (["-m"], "-m takes the name of a module"),
        (["--no-such", "app.py"], "no option --no-such"),
        (["--rules", "nowhere.yaml", "app.py"], "--rules nowhere.yaml"),
        (["--rules", "=shop", "app.py"], "rule"),
        ([], "PROGRAM"),
    ],
)
def test_what_can_not_be_meant_is_misuse(folder: Path, arguments: list[str], says: str) -> None:
    """Exit code 2 and a word of advice, before anything runs."""
    done = _run(folder, *(folder / a if a == "app.py" else a for a in arguments))
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_a_source_that_can_not_be_meant_is_misuse(folder: Path) -> None:
    """It is said before the program runs, not by its first channel."""
    done = start("run", folder / "app.py", PROXYLESS_SOURCE="etcd://127.0.0.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "etcd" in done.stderr
    assert "PROXYLESS_SOURCE" in done.stderr
