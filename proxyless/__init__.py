"""`proxyless`: the service mesh that Python gRPC programs carry inside themselves.

Importing this module costs next to nothing: every name below is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxyless.channel.adopt import install, meshed, uninstall
    from proxyless.context import deadline, propagate, remaining, shield
    from proxyless.errors import ConfigError, MeshRpcError
    from proxyless.explain import Explanation
    from proxyless.mesh import Mesh, connect
    from proxyless.registrar import register
    from proxyless.server.aio_deadlines import aio_server_interceptor
    from proxyless.server.deadlines import server_interceptor

__version__ = "0.1.0"

_HOMES = {
    "ConfigError": "proxyless.errors",
    "Explanation": "proxyless.explain",
    "Mesh": "proxyless.mesh",
    "MeshRpcError": "proxyless.errors",
    "aio_server_interceptor": "proxyless.server.aio_deadlines",
    "connect": "proxyless.mesh",
    "deadline": "proxyless.context",
    "install": "proxyless.channel.adopt",
    "meshed": "proxyless.channel.adopt",
    "propagate": "proxyless.context",
    "register": "proxyless.registrar",
    "remaining": "proxyless.context",
    "server_interceptor": "proxyless.server.deadlines",
    "shield": "proxyless.context",
    "uninstall": "proxyless.channel.adopt",
}

__all__ = [
    "ConfigError",
    "Explanation",
    "Mesh",
    "MeshRpcError",
    "__version__",
    "aio_server_interceptor",
    "connect",
    "deadline",
    "install",
    "meshed",
    "propagate",
    "register",
    "remaining",
    "server_interceptor",
    "shield",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'proxyless' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
