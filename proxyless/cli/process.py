"""One process out of those that can be looked into, for the commands that take --pid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from proxyless.cli import screen
from proxyless.cli.failures import Failure, Unreachable

if TYPE_CHECKING:
    from proxyless.admin.asking import Process

Pid: TypeAlias = Annotated[
    int | None, typer.Option("--pid", metavar="PID", help="A running process of yours; see `proxyless ps`.")
]


def chosen(pid: int | None) -> list[Process]:
    """The process with that number, or all of them; a Failure where there is none."""
    from proxyless.admin.asking import processes

    found, trouble = processes(os.environ)
    wanted = [process for process in found if pid is None or process.pid == pid]
    if not wanted:
        for one in trouble:
            screen.note(f"not looked into: {one}")
        which = "has a mesh that can be looked into" if pid is None else f"with the number {pid} has a mesh"
        there = ", ".join(str(process.pid) for process in found[:20])
        raise Failure(
            f"no process of this user {which}",
            f"there are: {there}" if there else "`proxyless ps` says where it looked",
            "another user's are seen by that user: sudo -u USER proxyless ps",
        )
    return wanted


def asked(pid: int, question: str) -> Mapping[str, Any]:
    """The answer of the process with that number."""
    from proxyless.admin.asking import NoAnswer, ask

    (process, *_) = chosen(pid)
    try:
        return ask(process.path, {"ask": question})
    except (NoAnswer, OSError) as silent:
        raise Unreachable(f"process {pid} gives no answer: {silent}", "is it stopped, or ending?") from None
