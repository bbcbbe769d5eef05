"""The table of commands: what `--help` says, how a slip is answered, that nothing is loaded too early."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from proxyless.cli.app import COMMANDS
from tests.cli.invoking import CHECKOUT, Program, Run


def test_help_lists_every_command_with_what_it_does(run: Run) -> None:
    """`--help` is the table, word for word, and the exit codes."""
    result = run("--help")
    assert result.exit_code == 0
    for name, entry in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert entry.help.split(".", maxsplit=1)[0].split(",")[0] in result.stdout
    assert "Exit codes: 0 all is well" in result.stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_every_command_explains_itself(run: Run, name: str) -> None:
    """Each command loads, and has a help of its own that begins with its line in the table."""
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"Usage: proxyless {name}" in result.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_its_file(name: str) -> None:
    """The table promises no command that isn't there."""
    assert find_spec(f"proxyless.cli.{COMMANDS[name].module}") is not None


@pytest.mark.parametrize(
    ("slip", "answer"),
    [
        ("statsu", 'did you mean "status"?'),
        ("expalin", 'did you mean "explain"?'),
        ("zzz", "there are demo,"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_the_nearest_command(run: Run, slip: str, answer: str) -> None:
    """A command that isn't there is misuse, and the answer says what was probably meant."""
    result = run(slip)
    assert result.exit_code == 2
    assert answer in result.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("status", "--nonsense"), ("explain", "shop"), ("apply",), ("routes", "-o", "xml")]
)
def test_misuse_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    """Whatever is wrong with the command line itself, the exit code is 2."""
    assert run(*arguments).exit_code == 2


def test_the_version_is_the_packages_own(run: Run) -> None:
    """`--version` prints it and ends."""
    from proxyless import __version__

    assert run("--version").stdout == f"proxyless {__version__}\n"


def test_python_m_is_the_same_program(program: Program) -> None:
    """`python -m proxyless` calls itself proxyless."""
    done = program("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: proxyless ")


def test_help_loads_nothing_heavy() -> None:
    """`--help` comes from the table alone: neither rich nor grpc, pydantic or py-consul is loaded."""
    heavy = {"rich", "grpc", "pydantic", "consul", "requests", "yaml", "re2"}
    code = (
        "import sys, contextlib\n"
        "from proxyless.cli.app import app\n"
        "sys.argv = ['proxyless', '--help']\n"
        "with contextlib.suppress(SystemExit): app()\n"
        "print('LOADED', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert sorted(heavy & set(loaded)) == []


def test_help_is_there_within_400_ms(program: Program) -> None:
    """The median of five processes, measured up to three times: a busy machine is not a slow program."""
    for _ in range(3):
        took = []
        for _ in range(5):
            started = time.monotonic()
            program("--help")
            took.append(time.monotonic() - started)
        if statistics.median(took) <= 0.4:
            return
    pytest.fail(f"proxyless --help takes {statistics.median(took) * 1000:.0f} ms")


def test_a_demo_whose_services_are_too_new_says_what_to_do() -> None:
    """The generated code refuses an older grpcio in its own words, with a traceback; the mesh itself would work."""
    older = "import grpc, sys; grpc.__version__ = '1.0.0'; sys.argv = ['proxyless', 'demo']"
    code = f"{older}; from proxyless.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "generated for later libraries than are installed: The grpc package installed is at version" in done.stderr
    assert "pip install -U grpcio protobuf" in done.stderr
