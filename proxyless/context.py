"""The ambient deadline: how much time whoever called us has left, carried to the calls that we make.

One ContextVar holds an absolute instant of the monotonic clock, so it follows threads started with a copied
context, tasks and `await`s. Server interceptors set it from an incoming call; `deadline()` sets it by hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

DEADLINE: ContextVar[float | None] = ContextVar("proxyless_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Bound every call made inside by `seconds` from now; an earlier bound that is already there stays."""
    at = time.monotonic() + seconds
    earlier = DEADLINE.get()
    token = DEADLINE.set(at if earlier is None else min(at, earlier))
    try:
        yield
    finally:
        DEADLINE.reset(token)


def remaining() -> float | None:
    """Seconds that are left of the ambient deadline (0.0 once it has passed), or None if there is none."""
    at = DEADLINE.get()
    return None if at is None else max(0.0, at - time.monotonic())


@contextmanager
def shield() -> Iterator[None]:
    """Make calls inside without the ambient deadline: for work that must go on after the caller has gone."""
    token = DEADLINE.set(None)
    try:
        yield
    finally:
        DEADLINE.reset(token)
