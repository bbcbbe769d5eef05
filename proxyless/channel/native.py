"""grpcio's own channel factories, without whatever instrumentation has been wrapped around them; and its poller.

Endpoint channels are below the mesh: a tracer that wraps them would count attempts as calls. On the sync side
wrappers (OpenTelemetry, Sentry, ddtrace) can be unwrapped; on asyncio OpenTelemetry replaces the function
outright, and the only way back is a private module. This file is the one place that knows of it; where it is
gone, the public function serves, and `tests/wire/test_native.py` notices.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import grpc


def sync_factories() -> tuple[Callable[..., grpc.Channel], Callable[..., grpc.Channel]]:
    """(insecure_channel, secure_channel) as grpcio defined them."""
    return inspect.unwrap(grpc.insecure_channel), inspect.unwrap(grpc.secure_channel)


def aio_factories() -> tuple[Callable[..., grpc.aio.Channel], Callable[..., grpc.aio.Channel]]:
    """(aio.insecure_channel, aio.secure_channel) as grpcio defined them."""
    module: Any = grpc.aio
    try:
        from grpc.aio import _channel as module
    except ImportError:  # pragma: no cover - a grpcio that moved it; the public names serve
        pass
    return inspect.unwrap(module.insecure_channel), inspect.unwrap(module.secure_channel)


def polls() -> bool:
    """Whether grpcio's asyncio API is in use in this process, by whomever: one thread polls for all of its channels,
    from the first to the last. Python names it after its function; under another name it would not be seen."""
    return any("(_poll_wrapper)" in thread.name for thread in threading.enumerate())
