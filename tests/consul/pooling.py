"""A program with a pool of processes: `main(START, CALLS)`, START being fork, spawn or forkserver.

It is called with `python -c`: a spawned child loads the file of `__main__` again, and would have two meshes.
The mesh is connected when the module is loaded, and used before the pool is made: a forked child has the parent's,
a spawned one its own. Each of four children makes its first calls from eight threads at once, and so many in all;
it says what failed, by whom it was served, and which threads of the mesh it has. With START fork each child forks
another one, too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import proxyless
from tests.consul.fleet import called, stub

MESH = proxyless.connect(os.environ["PROXYLESS_SOURCE"])
ECHO = stub(MESH)
BARRIER: Any = None
"""Of a child: that of the pool."""


def child(calls: int) -> dict[str, Any]:
    """All that one child does."""
    BARRIER.wait(30.0)  # so that no child takes another one's turn
    failed: list[str] = []
    served: set[str] = set()
    together = threading.Barrier(8)

    def some(number: int) -> None:
        together.wait(10.0)
        for _ in range(number):
            try:
                served.add(called(ECHO))
            except Exception as error:
                failed.append(repr(error)[:300])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(some, [calls // 8] * 8))
    watching = sorted(t.name for t in threading.enumerate() if t.name.startswith("proxyless-watch"))
    said = {"pid": os.getpid(), "failed": failed, "served": sorted(served), "watching": watching}
    return said | {"grandchild": grandchild() if multiprocessing.get_start_method() == "fork" else None}


def grandchild() -> str:
    """By whom a child of this child is served."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = called(ECHO)
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def adopt(barrier: Any) -> None:
    """A child begins."""
    global BARRIER  # noqa: PLW0603 - that is how a pool's initializer hands something over
    BARRIER = barrier


def main(start: str, calls: int) -> None:
    called(ECHO)
    multiprocessing.set_start_method(start)
    with multiprocessing.Pool(4, adopt, (multiprocessing.Barrier(4),)) as pool:
        children = pool.map(child, [calls] * 4, chunksize=1)
    called(ECHO)
    print(json.dumps(children))
