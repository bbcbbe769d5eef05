"""The laws of the house: what may know what, where `async` stands, how files are named, what an import costs.

A unit is a folder or a file directly under proxyless/. One that has no row in MAY_IMPORT fails: a new unit
gets its law first.
"""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "proxyless"

INSIDE = {
    "model",
    "policy",
    "script",
    "events",
    "errors",
    "context",
    "explain",
    "filters",
    "overview",
    "stack",
    "state",
}
INSIDE |= {"control", "channel", "server", "otel"}

# What a unit may import of ours, beside itself.
MAY_IMPORT = {
    "model": set(),
    "policy": {"model"},
    "script": {"model"},
    "events": {"model"},
    "errors": {"model"},
    "context": set(),
    "explain": {"model", "policy"},
    "overview": {"model", "explain"},
    "filters": {"model", "policy", "script", "events"},
    "stack": {"model", "filters", "script", "events"},
    "state": {"model", "policy"},
    "control": {"model", "policy", "events"},
    "channel": {"model", "script", "state", "context", "errors"},
    "server": {"model", "script", "state", "context", "errors"},
    "otel": {"events"},
    "protos": set(),
    "demo": {"mesh", "events", "protos", "__init__"},
    "registrar": {"control", "server", "errors", "model"},
    "forks": set(),
    "admin": {"model", "script"},
    "entrance": {"forks", "script", "stack"},
    "mesh": INSIDE | {"forks", "entrance", "admin"},
    "__init__": INSIDE | {"mesh", "registrar"},
    "cli": INSIDE | {"admin", "mesh", "protos", "demo", "__init__"},
    "__main__": {"cli"},
}

# What a file may import inside functions only: adopt makes the process-wide mesh when a client first asks.
MAY_IMPORT_LATER = {"channel.adopt": {"mesh"}}

# Whose imports inside functions are free: these put the house together, late, to make importing it cheap.
LATE_IS_FREE = {"mesh", "__init__", "cli"}

AMBIENT = {"time", "datetime", "random", "secrets", "threading", "asyncio"}
OUTSIDE = {"grpc", "socket", "http", "urllib", "requests", "consul", "os", "subprocess"}

# What a unit may not import of the world: time and chance are arguments, threads and the wire are the edge's.
MAY_NOT_IMPORT = {
    "model": AMBIENT | {"grpc"},
    "policy": AMBIENT | {"grpc"},
    "explain": AMBIENT | {"grpc"},
    "overview": AMBIENT | {"grpc"},
    "script": AMBIENT | OUTSIDE,
    "events": AMBIENT | OUTSIDE,
    "filters": AMBIENT | {"grpc", "opentelemetry"},
    "state": {"grpc", "asyncio"},
    "control": {"grpc", "asyncio"},
    "admin": {"grpc", "asyncio", "opentelemetry"},
    "channel": {"opentelemetry"},
    "server": {"opentelemetry"},
}

# Whose files do not know each other; only their __init__, which holds the registry, knows them all.
STRANGERS = {"policy", "filters"}

MAY_AWAIT = {"channel", "server", "demo"}

NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "base", "misc"}

LONGEST_FILE = 350

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_pb2" not in path.name)


def name_of(path: Path) -> str:
    """proxyless/policy/matcher.py → policy.matcher."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(name: str, tree: ast.AST, late: bool = False) -> Iterator[tuple[str, bool, int]]:
    """Every import as (dotted name, is it inside a function, line), relative ones made absolute."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ["proxyless", *name.split(".")][: -node.level] if node.level else []
            start = [*above, *filter(None, [node.module])]
            yield from ((".".join([*start, alias.name]), late, node.lineno) for alias in node.names)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(name, node, late or inside)


def is_async(node: ast.AST) -> bool:
    if isinstance(node, ast.comprehension):
        return bool(node.is_async)
    return isinstance(node, (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await))


def breaches(name: str, source: str) -> list[str]:
    """What this file does against the laws, a line each."""
    unit, _, inner = name.partition(".")
    if unit not in MAY_IMPORT:
        return [f"{name}: {unit} has no law; give it a row in MAY_IMPORT"]
    found = []
    tree = ast.parse(source)
    for target, late, line in imports(name, tree):
        top, *rest = target.split(".")
        where = f"{name}:{line} imports {target}"
        if top != "proxyless":
            if any(top == never or top.startswith(f"{never}_") for never in MAY_NOT_IMPORT.get(unit, ())):
                found.append(f"{where}: {unit} may not know {top}")
            continue
        if late and unit in LATE_IS_FREE:
            continue
        other = rest[0] if rest and rest[0] in MAY_IMPORT else "__init__"
        allowed = MAY_IMPORT[unit] | (MAY_IMPORT_LATER.get(name, set()) if late else set())
        if other not in allowed | {unit}:
            found.append(f"{where}: {unit} may not know {other}")
        if other == unit and unit in STRANGERS and inner != "__init__" and rest[1:2] != [inner.split(".")[0]]:
            found.append(f"{where}: the files of {unit} do not know each other")
    if unit not in MAY_AWAIT and any(map(is_async, ast.walk(tree))):
        found.append(f"{name}: async stands only in {' and '.join(sorted(MAY_AWAIT))}")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_keeps_the_laws(path: Path) -> None:
    """No file imports what its unit may not know, and none but the drivers and the server is asynchronous."""
    assert breaches(name_of(path), path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    """Its name says something, its first docstring says the rest, and it can be read in one sitting."""
    text = path.read_text()
    assert not NAMES_THAT_SAY_NOTHING & set(name_of(path).split("."))
    assert ast.get_docstring(ast.parse(text)), "it begins without a docstring"
    assert text.count("\n") <= LONGEST_FILE, "it is too long: split it by concept"


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda folder: folder.name)
def test_every_folder_has_a_charter(folder: Path) -> None:
    """An `__init__.py` says what the folder is for (and, being a file, begins with a docstring)."""
    assert (folder / "__init__.py").exists()


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("model.topology", "import time", "may not know time"),
        ("model.topology", "from proxyless.policy import matcher", "may not know policy"),
        ("policy.matcher", "from random import random", "may not know random"),
        ("policy.matcher", "from proxyless.policy.split import pick", "do not know each other"),
        ("policy.matcher", "from . import split", "do not know each other"),
        ("policy.balancers.ring", "from ..split import pick", "do not know each other"),
        ("policy.split", "def f():\n    from proxyless import state", "may not know state"),
        ("filters.retry", "from proxyless.filters.route import route", "do not know each other"),
        ("filters.retry", "if TYPE_CHECKING:\n    import grpc.aio", "may not know grpc"),
        ("control.loop", "import grpc_health.v1", "may not know grpc_health"),
        ("channel.sync", "from proxyless.mesh import Mesh", "may not know mesh"),
        ("channel.adopt", "from proxyless.mesh import Mesh", "may not know mesh"),
        ("otel", "import proxyless", "may not know __init__"),
        ("mesh", "from proxyless.cli import main", "may not know cli"),
        ("registrar", "def f():\n    from proxyless.mesh import Mesh", "may not know mesh"),
        ("server.presence", "from proxyless.control.registry import Registry", "may not know control"),
        ("cli.demo", "async def f(): ...", "async stands only in channel"),
        ("cli.demo", "x = [i async for i in y]", "async stands only in channel"),
        ("gossip.ring", "", "gossip has no law"),
    ],
)
def test_a_breach_is_seen(name: str, source: str, says: str) -> None:
    """The laws can be broken: each kind of breach, planted, is named."""
    (found,) = breaches(name, source)
    assert says in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("policy.balancers.__init__", "from proxyless.policy.balancers.random import random"),
        ("policy.balancers.ring", "from .schedule import Schedule"),
        ("policy.balancers.ring", "from proxyless.model.topology import Endpoint"),
        ("policy.__init__", "from . import split"),
        ("channel.adopt", "def f():\n    from proxyless.mesh import Mesh"),
        ("channel.aio", "import grpc\nasync def f(): ..."),
        ("__init__", "def __getattr__(name):\n    from proxyless.cli import main"),
        ("cli.demo", "from proxyless import connect\nfrom proxyless.protos import shop_pb2"),
    ],
)
def test_what_is_allowed_is_not_a_breach(name: str, source: str) -> None:
    """The exceptions that the laws name are no breaches."""
    assert breaches(name, source) == []


def python(program: str) -> str:
    """What the program prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_package_brings_in_none_of_its_heavy_dependencies() -> None:
    """What only some of its users need comes when it is used."""
    heavy = {"pydantic", "consul", "requests", "yaml", "typer", "rich", "tenacity", "re2", "opentelemetry"}
    loaded = python("import sys, proxyless; print(*sys.modules)").split()
    assert "proxyless" in loaded
    assert sorted(heavy & set(loaded)) == []


def test_importing_the_package_adds_at_most_30_ms_to_importing_grpc() -> None:
    """The median of five interpreters, measured up to three times: a busy machine is not a slow import."""
    program = "import time, grpc; t = time.perf_counter(); import proxyless; print(time.perf_counter() - t)"
    for _ in range(3):
        took = statistics.median(float(python(program)) for _ in range(5))
        if took <= 0.030:
            return
    pytest.fail(f"importing proxyless takes {took * 1000:.0f} ms on top of grpc")
