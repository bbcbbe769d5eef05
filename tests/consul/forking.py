"""A process that forks once it is connected: `python -m tests.consul.forking URL HOW`.

`HOW` says what there was before the fork: "mesh" alone, a "channel" on it, or a channel that was "called".
Both processes call until `new` answers, and say in a line each by whom they were served and how long closing
took. "ready" is said when the child has been served once.
"""

from __future__ import annotations

import json
import os
import sys
import time

import proxyless
from tests.consul.fleet import called, stub


def say(line: str) -> None:
    """In one piece: two processes say it to the same pipe."""
    os.write(1, f"{line}\n".encode())


def follow(mesh: proxyless.Mesh, who: str, made: object) -> None:
    """Call until `new` answers."""
    echo = made or stub(mesh)
    served = [called(echo)]
    if who == "child":
        say("ready")
    until = time.monotonic() + 8.0
    while served[-1] != "new" and time.monotonic() < until:
        served.append(called(echo))
        time.sleep(0.005)
    closing = time.monotonic()
    mesh.close()
    closed = time.monotonic() - closing
    say(json.dumps({"who": who, "served": sorted(set(served)), "closed": closed}))


def main(url: str, how: str) -> None:
    mesh = proxyless.connect(url)
    echo = stub(mesh) if how != "mesh" else None
    if how == "called":
        called(echo)
    child = os.fork()
    if not child:
        follow(mesh, "child", echo)
        os._exit(0)
    follow(mesh, "parent", echo)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
