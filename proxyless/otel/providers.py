"""Whom to tell: the providers that `connect()` was given, else the process's own, once it has some.

Nothing of OpenTelemetry's is imported for a process that does not use it: as long as nobody has imported its API,
nobody can have set a provider.
"""

from __future__ import annotations

import sys
from typing import Any

_NONE = ("ProxyTracerProvider", "NoOpTracerProvider", "_ProxyMeterProvider", "NoOpMeterProvider")
"""What the API hands out while nobody has set a provider, and what somebody sets who wants none."""


def tracer_provider(given: Any) -> Any:
    """The one that was given, else the process's own; None while there is none, and where one does nothing."""
    return _real(_own("opentelemetry.trace", "get_tracer_provider") if given is None else given)


def meter_provider(given: Any) -> Any:
    """The one that was given, else the process's own; None while there is none, and where one does nothing."""
    return _real(_own("opentelemetry.metrics", "get_meter_provider") if given is None else given)


def _own(module: str, getter: str) -> Any:
    # Without an attribute of that name it is still being imported, by another thread.
    get = getattr(sys.modules.get(module), getter, None)
    return get() if get is not None else None


def _real(provider: Any) -> Any:
    return None if type(provider).__name__ in _NONE else provider


def does_nothing(instrumentation: Any) -> bool:
    """Whether a provider has handed out a meter or tracer that keeps nothing, as the SDK does where
    `OTEL_SDK_DISABLED` says so."""
    return type(instrumentation).__name__ in ("NoOpMeter", "NoOpTracer")
