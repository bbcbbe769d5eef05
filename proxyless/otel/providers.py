"""Whom to tell: the providers that `connect()` was given, else the process's own, once it has some.

Nothing of OpenTelemetry's is imported for a process that does not use it: as long as nobody has imported its API,
nobody can have set a provider.
"""

from __future__ import annotations

import sys
from typing import Any

_NONE = ("ProxyTracerProvider", "NoOpTracerProvider", "_ProxyMeterProvider", "NoOpMeterProvider")
"""What the API hands out while nobody has set a provider, and what somebody sets who wants none."""


def tracer_provider() -> Any:
    """The process's own, or None while there is none."""
    return _own("opentelemetry.trace", "get_tracer_provider")


def meter_provider() -> Any:
    """The process's own, or None while there is none."""
    return _own("opentelemetry.metrics", "get_meter_provider")


def _own(module: str, getter: str) -> Any:
    # Without an attribute of that name it is still being imported, by another thread.
    get = getattr(sys.modules.get(module), getter, None)
    provider = get() if get is not None else None
    return None if type(provider).__name__ in _NONE else provider
