"""`proxyless run`: an unmodified program, with its gRPC channels in the mesh."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from proxyless.cli.failures import Misuse
from proxyless.cli.options import Source

# Everything from the program's name on is the program's; what is before it and unknown to us is `-m`.
CONTEXT = {"allow_interspersed_args": False, "ignore_unknown_options": True}

_PYTHON = re.compile(r"python[0-9.]*(\.exe)?")

pending: Callable[[], None] | None = None
"""The program, once it is known: it runs when the command line's own machinery is through, see `proxyless.cli`."""


def run(
    program: Annotated[
        list[str], typer.Argument(metavar="PROGRAM [ARGUMENTS]...", help="app.py, a folder or zip file, or -m MODULE.")
    ],
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rules",
            "-r",
            metavar="TARGET=SERVICE|FILE",
            help="Which targets lead to which service: milvus:19530=vectors, or a YAML or JSON file that maps them. "
            "Repeatable; the first that fits counts. Without any, a target leads to the service of its own name.",
        ),
    ] = None,
    source: Source = None,
) -> None:
    """Run a program as `python` would, its gRPC channels to known services opened in the mesh.

    Exit code, signals, arguments and standard streams are the program's own.
    """
    from proxyless.cli.session import address, guarded
    from proxyless.control.sources import factory

    global pending  # noqa: PLW0603 - one program a process
    told = _rules(rules or ())
    where = address(source)
    guarded(where, lambda: factory(where.url))  # said now, not by the program's first channel
    if source is not None:
        os.environ["PROXYLESS_SOURCE"] = source  # for the program's own decorators, and its children, too
    _check(program)
    pending = lambda: _run(program, told)  # noqa: E731 - what is left to do


def _check(program: list[str]) -> None:
    name = program[0]
    if name == "-m":
        if len(program) < 2:
            raise Misuse("-m takes the name of a module", "proxyless run -m package.module")
        if not _is_there(program[1]):
            raise Misuse(
                f"there is no module {program[1][:200]}", f"looked for it in {Path.cwd()} and where python does"
            )
    elif name.startswith("-"):
        raise Misuse(f"run has no option {name[:40]}", "options of the program go after its name")
    elif _PYTHON.fullmatch(Path(name).name) and not Path(name).is_dir():
        raise Misuse(f"run is python itself, in the mesh: leave {name[:200]} out", "proxyless run app.py")
    elif not Path(name).exists():
        command = shutil.which(name)  # gunicorn, celery: where there are Python programs of that name
        advice = f"if the command is written in Python: proxyless run {command}" if command else ""
        raise Misuse(f"there is no program {name[:200]}", advice or f"looked for it in {Path.cwd()}")


def _is_there(module: str) -> bool:
    """Whether the top of it is: what is wrong further down, python tells when it runs it."""
    top = module.partition(".")[0]
    sys.path.insert(0, os.getcwd())
    try:
        return bool(top) and importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):  # one that is loaded and has no spec, such as __main__
        return True
    finally:
        sys.path.pop(0)


def _run(program: list[str], rules: dict[str, str] | None) -> None:
    from proxyless.channel.adopt import install

    install(rules)
    name, *arguments = program
    if name == "-m":
        name, *arguments = arguments
        sys.argv = [name, *arguments]  # runpy puts the module's file in the first place
        sys.path[0] = os.getcwd()
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [name, *arguments]
        # "the directory containing that file is added to the start of sys.path" - as python itself does
        sys.path[0] = str(Path(name).resolve().parent)
        runpy.run_path(name, run_name="__main__")


def _rules(given: Any) -> dict[str, str] | None:
    """What `--rules` say, together; None where nobody gave any."""
    if not given:
        return None
    rules: dict[str, str] = {}
    for one in given:
        target, equals, service = one.rpartition("=")
        found = {target: service} if equals and not Path(one).is_file() else _read(Path(one))
        for pattern, name in found.items():
            rules.setdefault(pattern, name)
    from proxyless.channel.rules import Rules
    from proxyless.errors import ConfigError

    try:
        Rules(rules)
    except ConfigError as wrong:
        raise Misuse(f"--rules: {wrong}") from None
    return rules


def _read(path: Path) -> dict[str, str]:
    import yaml

    try:
        text = path.read_text()
        found = yaml.safe_load(text)
    except OSError as wrong:
        advice = "a rule is TARGET=SERVICE, such as milvus:19530=vectors; or the name of a file that maps them"
        raise Misuse(f"--rules {str(path)[:200]}: {wrong.strerror or wrong}", advice) from None
    except (yaml.YAMLError, UnicodeDecodeError) as wrong:
        raise Misuse(f"--rules {path}: neither YAML nor JSON ({str(wrong).splitlines()[0]})") from None
    if not isinstance(found, dict):
        raise Misuse(f"--rules {path}: must map targets to services, as in  milvus:19530: vectors")
    return found
