"""What the page for the person on call says is true: its commands are typed, in its order, at a mesh at work."""

from __future__ import annotations

import os
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyless
from proxyless.cli.app import COMMANDS
from proxyless.model.codes import Code
from tests.agent import ConsulAgent
from tests.cli.invoking import call, forget_the_machine
from tests.consul.fleet import Fleet

PAGE = (Path(__file__).parents[1] / "docs" / "on-call.md").read_text(encoding="utf-8")

TYPED = re.findall(r"^    proxyless (.*)$", PAGE, flags=re.MULTILINE)
"""The commands that stand on a line of their own."""

NAMED = re.findall(r"`(?:sudo -u USER |docker exec CONTAINER |PROXYLESS_RUNTIME_DIR=\S+ )?proxyless ([a-z]+)", PAGE)
"""Those that are named within a sentence."""

DOCUMENT = """\
service: product-service
routes:
- name: rollout
  timeout: {timeout}
"""


@pytest.fixture
def at_work(consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process with a mesh that calls `product-service`, whose document was changed three times, and a service that
    nobody offers."""
    forget_the_machine(monkeypatch, tmp_path / "cache")
    monkeypatch.setenv("PROXYLESS_RUNTIME_DIR", str(tmp_path / "run"))
    source = f"consul://{consul.address}?snapshot=off"
    monkeypatch.setenv("PROXYLESS_SOURCE", source)
    for timeout in ("1s", "2s", "3s"):
        (path := tmp_path / "product.yaml").write_text(DOCUMENT.format(timeout=timeout))
        assert call("apply", "-f", path).exit_code == 0
    stop = threading.Event()
    with Fleet(consul, "product-service") as fleet, proxyless.connect(source) as mesh:
        server = fleet.add("a")
        product = mesh.channel("product-service").unary_unary("/echo.Echo/Unary")
        other = mesh.channel("product-service").unary_unary("/shop.Products/GetProduct")
        product(b"", timeout=5.0)

        def run() -> None:
            while not stop.wait(0.02):
                product(b"", timeout=5.0)
                other.future(b"", timeout=5.0).exception()  # no such method there: UNIMPLEMENTED

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10.0)
            consul.deregister(server.id)


def test_the_commands_do_what_the_page_says(at_work: None) -> None:
    """Each is typed as it stands there, with this process's number: none is misused, and each says something."""
    assert len(TYPED) >= 12
    said: dict[str, str] = {}
    for typed in TYPED:
        words = shlex.split(typed.replace("41211", str(os.getpid())))
        result = call(*words)
        assert result.exit_code in (0, 1), f"{typed}: {result.output}"
        assert result.stdout, f"{typed}: {result.output}"
        if words[0] in ("history", "rollback", "tap", "explain"):
            assert result.exit_code == 0, f"{typed}: {result.output}"
        said.setdefault(typed, result.stdout)
    assert str(os.getpid()) in said["ps"]
    assert "product-service" in said["status --pid 41211"]
    assert "UNIMPLEMENTED" in said["tap --status error --seconds 10"]
    assert said["tap --service product-service --method GetProduct --count 20"].count("GetProduct") == 20
    assert "Timeout    3s" in said["explain product-service /shop.Products/GetProduct -H x-user-tier=premium"]
    assert "rolled back to 2" in said['rollback product-service -m "errors since 03:05"']
    assert "rolled back to 1" in said['rollback product-service -m "errors since the last change"']


def test_the_tables_it_shows_have_the_columns_of_the_real_ones(at_work: None) -> None:
    """What the page shows of `ps` and of `tap` has the heads that these print."""
    for command in (("ps",), ("tap", "--count", "1")):
        head = call(*command).stdout.splitlines()[0].split()
        shown = [line.split() for line in PAGE.splitlines() if line.startswith(f"    {head[0]} ")]
        assert head in shown


def test_every_command_that_it_names_is_one() -> None:
    """Nobody is sent to a command that does not exist."""
    assert {word for word in NAMED if word} <= COMMANDS.keys()
    assert {"ps", "status", "tap", "explain", "history", "rollback"} <= {typed.split()[0] for typed in TYPED}


def test_every_reason_of_a_refusal_is_explained() -> None:
    """The reasons that the library refuses with, and no others; with a code that exists."""
    rows = re.findall(r"^\| `([a-z_]+)` \| ([A-Z_]+|as configured) \|", PAGE, flags=re.MULTILINE)
    code = "".join(path.read_text() for path in Path(proxyless.__file__).parent.rglob("*.py"))
    refusing = r'(?:\brefuse|MeshRpcError|invalid)\(\s*[\w.[\]]+,\s*"([a-z_]+)"|refused="([a-z_]+)"'
    given = {first or second for first, second in re.findall(refusing, code)}
    assert {"no_route", "no_endpoints", "circuit_open", "limit", "deadline", "fault", "rate_limit"} <= given
    ours_alone = {"moved", "cancelled"}  # nobody sees the first, and the second is the caller's own doing
    assert {reason for reason, _ in rows} == given - ours_alone
    assert all(code == "as configured" or code in Code.__members__ for _, code in rows)


def test_its_links_lead_somewhere() -> None:
    """Every link within the page is to a heading of the page."""
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= headings
