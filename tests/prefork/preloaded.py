"""What a server loads before it forks: a mesh with a channel that has been used, and programs on it.

`wsgi` and `asgi` answer `GET /?N` after N calls through the mesh with `{"pid": …, "failed": […]}`. With
`HAMMER=1` a thread of the parent calls all the time, so that forks happen in the middle of its calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import proxyless

METHOD = "/bench.Echo/Call"

MESH = proxyless.connect(services=["echo"])
CALL: Any = MESH.channel("echo").unary_unary(METHOD)
AIO: Any = MESH.aio_channel("echo").unary_unary(METHOD)
PARENT = os.getpid()

CALL(b"before the fork", timeout=10.0)


def _hammer() -> None:
    while os.getpid() == PARENT:
        CALL(b"parent", timeout=10.0)


if os.environ.get("HAMMER"):
    threading.Thread(target=_hammer, daemon=True, name="hammer").start()


def called(number: int) -> dict[str, Any]:
    """Make so many calls, one after the other; who made them, and what went wrong."""
    failed = []
    for index in range(number):
        word = b"%d/%d" % (os.getpid(), index)
        try:
            answer = CALL(word, timeout=10.0)
            if answer != word:
                failed.append(f"{word!r} was answered with {answer!r}")
        except Exception as error:
            failed.append(repr(error)[:300])
    return {"pid": os.getpid(), "failed": failed}


async def called_on_a_loop(number: int) -> dict[str, Any]:
    """The same on asyncio, ten at a time."""
    failed = []

    async def some(words: Iterable[bytes]) -> None:
        for word in words:
            try:
                answer = await AIO(word, timeout=10.0)
                if answer != word:
                    failed.append(f"{word!r} was answered with {answer!r}")
            except Exception as error:
                failed.append(repr(error)[:300])

    words = [b"%d/%d" % (os.getpid(), index) for index in range(number)]
    await asyncio.gather(*(some(words[start::10]) for start in range(10)))
    return {"pid": os.getpid(), "failed": failed}


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """For gunicorn's gthread workers."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(called(int(environ["QUERY_STRING"]))).encode()]


async def asgi(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """For uvicorn's workers."""
    if scope["type"] != "http":
        return
    body = json.dumps(await called_on_a_loop(int(scope["query_string"]))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
