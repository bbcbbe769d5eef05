"""What the README says is true: its snippets run, its commands exist, its tree is the tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import proxyless
from proxyless.cli.app import COMMANDS, app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def mesh_file(tmp_path: Path) -> Path:
    """The quick start's file, as a reader would save it."""
    path = tmp_path / "mesh.yaml"
    path.write_text(_blocks("yaml")[0], encoding="utf-8")
    return path


def test_the_quick_start_document_is_valid_and_routes_as_it_says(mesh_file: Path) -> None:
    """The YAML is accepted whole, and a premium user goes to the canary."""
    with proxyless.connect(f"file:{mesh_file}") as mesh:
        explained = mesh.explain("product-service", "/shop.Products/GetProduct", [("x-user-tier", "premium")])
        rejected = [document for document in mesh.status()["documents"] if not document["accepted"]]
    assert rejected == []
    assert (explained.route, explained.split[0]["subset"]) == ("premium-users", "canary")


@pytest.mark.parametrize("snippet", _blocks("python"))
def test_the_python_snippets_are_python_and_use_names_that_exist(snippet: str) -> None:
    """Each snippet compiles, and every `proxyless.name` in it is a public name."""
    tree = ast.parse(snippet)
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "proxyless"
    }
    assert names <= set(proxyless.__all__)


def test_the_commands_on_the_file_do_what_they_say(mesh_file: Path) -> None:
    """`validate` finds nothing, and `explain` names the route."""
    commands = re.findall(r"^    proxyless ((?:validate|explain) .*)$", README, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = command.replace("mesh.yaml", str(mesh_file)).split()
        result = CliRunner().invoke(app, words, env={"PROXYLESS_SOURCE": f"file:{mesh_file}"})
        assert result.exit_code == 0, result.output
        if words[0] == "explain":
            assert "premium-users" in result.output


def test_every_command_it_names_is_a_command() -> None:
    """Nobody types a command from the README and is told that it does not exist."""
    named = set(re.findall(r"^    proxyless ([a-z]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= set(COMMANDS)


def test_the_make_targets_it_names_exist() -> None:
    """Both commands, and `make bench`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?:^    |`)make ([a-z]+)", README, flags=re.MULTILINE)
    assert {"demo", "test", "bench"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_tree_it_draws_is_the_tree() -> None:
    """Every file and folder that the README lists is there."""
    drawn = re.findall(r"^      ([a-z_]+(?:\.py|/))", README, flags=re.MULTILINE)
    assert len(drawn) > 8
    for name in drawn:
        assert (ROOT / "proxyless" / name).exists(), name
