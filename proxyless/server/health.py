"""The health service of a server (grpc.health.v1): one for all that the server is registered as.

It is grpcio-health-checking's. Every name that a server is registered under is SERVING until its registration
ends, and with the last one the whole server is NOT_SERVING for good.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from weakref import WeakKeyDictionary

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """What one server says about itself. `servicer` is one that it has already, else it gets one."""

    def __init__(self, server: Any, servicer: Any = None) -> None:
        self.is_aio = isinstance(server, grpc.aio.Server)
        kind = health.aio.HealthServicer if self.is_aio else health.HealthServicer
        if servicer is None:
            servicer = kind()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, _Generic(server))
        elif not isinstance(servicer, kind):
            raise TypeError(f"health= must be a {kind.__module__}.{kind.__name__}, got {type(servicer).__name__}")
        self._servicer = servicer
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._setting: asyncio.Task[None] | None = None  # held, or it might be collected unfinished

    def is_by(self, servicer: Any) -> bool:
        """Whether `servicer` is the one that answers."""
        return servicer is self._servicer

    def enter(self, service: str) -> None:
        """`service`, and the server as such, are SERVING."""
        with self._lock:
            self._names.append(service)
        if self.is_aio:
            self._set_soon(service)
        else:
            self._servicer.set("", SERVING)
            self._servicer.set(service, SERVING)

    def leave(self, service: str) -> bool:
        """`service` is NOT_SERVING; True if it was the server's last, then nothing of it is."""
        last, gone = self._left(service)
        if last:
            self._servicer.enter_graceful_shutdown()
        elif gone:
            self._servicer.set(service, NOT_SERVING)
        return last

    async def leave_aio(self, service: str) -> bool:
        """The same for a server on asyncio."""
        last, gone = self._left(service)
        if last:
            await self._servicer.enter_graceful_shutdown()
        elif gone:
            await self._servicer.set(service, NOT_SERVING)
        return last

    def _left(self, service: str) -> tuple[bool, bool]:
        with self._lock:
            self._names.remove(service)
            return not self._names, service not in self._names

    def _set_soon(self, service: str) -> None:
        async def set_both() -> None:
            await self._servicer.set("", SERVING)
            await self._servicer.set(service, SERVING)

        setting = set_both()
        try:
            self._setting = asyncio.get_running_loop().create_task(setting)
        except RuntimeError:
            # No loop runs yet, so nobody is watching, and nothing in it waits: one step is all of it.
            try:
                setting.send(None)
            except StopIteration:
                pass
            finally:
                setting.close()


class _Generic:
    """A server as the generated code sees it when a service is added, without pre-registered methods.

    Those are for speed, and a server that has been started takes no more of them.
    """

    def __init__(self, server: Any) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        pass


_BY_SERVER: WeakKeyDictionary[Any, Health] = WeakKeyDictionary()


def health_of(server: Any, servicer: Any = None) -> Health:
    """The health service of `server`, made with the first registration."""
    found = _BY_SERVER.get(server)
    if found is None:
        found = _BY_SERVER[server] = Health(server, servicer)
    elif servicer is not None and not found.is_by(servicer):
        raise ValueError("health=: this server was registered before, and got its health service then")
    return found
