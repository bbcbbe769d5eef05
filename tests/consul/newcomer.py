"""A process that has only just begun: `python -m tests.consul.newcomer URL`.

It connects, calls once, closes, and says as JSON how that went.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import proxyless
from tests.consul.fleet import called, stub


def main(url: str) -> None:
    started = time.monotonic()
    mesh = proxyless.connect(url)
    connected = time.monotonic()
    served_by = called(stub(mesh), timeout=10.0)
    answered = time.monotonic()
    from_disk = mesh.status()["from_disk"]
    closing = time.monotonic()
    mesh.close()
    closed = time.monotonic()
    said = {
        "connected": connected - started,
        "answered": answered - started,
        "closed": closed - closing,
        "served_by": served_by,
        "from_disk": from_disk,
        "threads": [thread.name for thread in threading.enumerate()],
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
