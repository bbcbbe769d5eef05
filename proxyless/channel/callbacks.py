"""Who asked to be told of a call's end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

log = logging.getLogger("proxyless")


def call_back(callbacks: Iterable[Callable[..., Any]], *told: Any) -> None:
    """Call each with what it is `told`.

    One that fails takes neither the others nor grpcio's thread with it, nor whoever waits for the call, and is no
    reason why a call that succeeded has not: grpcio's asyncio calls raise it to the one who awaits, its own for threads
    don't.
    """
    for callback in callbacks:
        try:
            callback(*told)
        except Exception:
            log.exception("a callback of a finished call failed")
