"""Existing clients in the mesh, unchanged: `@meshed` for one of them, `install` for a whole process.

Client libraries open their own channels. Inside of what is decorated, grpcio's four channel factories return
channels of the mesh instead: sync or asyncio by which of them the client calls, with its own options,
credentials, compression and interceptors. Everybody else's channels stay grpcio's own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, TypeVar, overload

from proxyless.channel import scopes
from proxyless.channel.decorating import function, whole_class
from proxyless.channel.factories import DOORS
from proxyless.channel.rules import Rules
from proxyless.channel.scopes import Adoption, Opens
from proxyless.errors import ConfigError

T = TypeVar("T")


@overload
def meshed(
    service: str | None = None, *, mesh: Opens | None = None, rules: Mapping[str, str] | None = None
) -> Meshed: ...
@overload
def meshed(service: T) -> T: ...
def meshed(service: Any = None, *, mesh: Any = None, rules: Any = None) -> Any:
    """Give a client to the mesh: a decorator for what makes it, or `with meshed(…):` around code that does.

    It goes on a class, a function that returns a client or a channel, an async function, a generator or what
    `contextlib` made of one, a static or class method. While that runs, in this thread or task alone, every
    channel opened leads to `service`, whatever its target. An object's channels that its own methods open
    later lead there too.

    `rules`, `{"host:port or glob": "service"}`, are for clients that open several: they come first, and
    `service` is for the targets that none of them knows. Without both, a target leads to the service of its
    own name (`orders:50051`, or Consul's `orders.service.consul`) if the mesh knows it. What is not meant
    stays grpcio's, untouched. Rules pass outwards: what an inner decorator does not know, an outer one may.

    `mesh` defaults to `proxyless.connect()`, once for the process, when the first channel is opened.
    Raises ConfigError for a service or a rule that has no name.
    """
    if service is not None and not isinstance(service, str):
        if callable(service) and mesh is None and rules is None:
            return Meshed(None, mesh, rules)(service)  # @meshed, without the parentheses
        raise ConfigError(f"meshed(service): a service has a name, got {service!r}")
    return Meshed(service, mesh, rules)


class Meshed(Adoption):
    """What `meshed(…)` returns. One may be used many times, at the same time too."""

    def __init__(self, service: str | None, mesh: Opens | None, rules: Mapping[str, str] | None) -> None:
        if service == "":
            raise ConfigError("meshed(service): a service has a name, got ''")
        if mesh is not None and not (callable(getattr(mesh, "channel", None)) and hasattr(mesh, "aio_channel")):
            raise ConfigError(f"mesh=: a mesh is what proxyless.connect() returns; got {mesh!r}")
        super().__init__(
            service, None if rules is None else Rules(rules), default_mesh if mesh is None else lambda: mesh
        )

    def __call__(self, makes: T) -> T:
        """Decorate `makes`."""
        thing: Any = makes
        if isinstance(thing, type):
            decorated: Any = whole_class(self, thing)
        elif isinstance(thing, (staticmethod, classmethod)):
            decorated = type(thing)(function(self, thing.__func__))
        elif callable(thing):
            decorated = function(self, thing)
        else:
            raise TypeError(f"meshed decorates what makes a client, a class or a function; got {thing!r}")
        _decorated()
        return decorated  # type: ignore[no-any-return]

    def __enter__(self) -> Meshed:
        _decorated()
        super().__enter__()
        return self

    async def __aenter__(self) -> Meshed:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__(*error)


def install(rules: Mapping[str, str] | None = None, *, mesh: Opens | None = None) -> list[str]:
    """Give channels of the whole process to the mesh: those whose targets `rules` know.

    As in `meshed`; without rules, those that are called after a service which the mesh knows. Also for
    libraries that bound grpcio's factories at import: the names found to be bound to them are rebound. Returns
    the names that were rebound now, `module.name` each; a library that is imported later needs none. Channels
    that were opened before stay what they are. Called again, the newer rules come first. Raises ConfigError.
    """
    adoption = Meshed(None, mesh, rules)
    rebound = DOORS.put()
    scopes.INSTALLED.insert(0, adoption)
    return rebound


def uninstall() -> list[str]:
    """Take back every `install`; returns the names that have been given back what they were bound to.

    Channels that were opened meanwhile stay in the mesh. Where something is decorated with `meshed`, names stay
    bound to what serves it, which passes everything else on.
    """
    scopes.INSTALLED.clear()
    return [] if _used_by_decorators else DOORS.remove()


def default_mesh() -> Any:
    """The process's own mesh, connected when first asked for, and again after somebody closed it."""
    global _default  # noqa: PLW0603 - one a process
    # Made now, and not on import: a program under `proxyless run` may begin with gevent's `patch_all`, and of a lock
    # that was made before it the greenlets of one thread would wait for each other for ever.
    with _LOCK.setdefault("default", threading.Lock()):
        if _default is None or _default.closed:
            from proxyless.mesh import connect

            _default = connect()
        return _default


def _decorated() -> None:
    global _used_by_decorators  # noqa: PLW0603 - a fact about the process
    _used_by_decorators = True
    DOORS.put()


_default: Any = None
_LOCK: dict[str, threading.Lock] = {}
"""The one lock under which that mesh is connected, once it is needed."""
_used_by_decorators = False


def _after_fork() -> None:
    _LOCK.clear()  # another thread of the parent may have held it
    DOORS.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
