"""A door in each of grpcio's four channel factories, through which the channels of adopted clients leave.

A door asks `scopes.choose` and, unless that answers, calls the factory behind it with the very arguments it
was given. `__wrapped__` leads to that factory, so whoever needs grpcio itself (`native.py`) unwraps the door
like any instrumentation. Libraries that did `from grpc import insecure_channel` hold the factory under a name
of their own; those names are found by identity in the modules that are loaded.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import grpc

from proxyless.channel.native import aio_factories, sync_factories
from proxyless.channel.rules import authority
from proxyless.channel.scopes import choose

log = logging.getLogger("proxyless")

Factory = Callable[..., Any]


def _insecure(target: Any, options: Any = None, compression: Any = None) -> Any:
    return _open(target, None, options, compression)


def _secure(target: Any, credentials: Any, options: Any = None, compression: Any = None) -> Any:
    return _open(target, credentials, options, compression)


def _open(target: Any, credentials: Any, options: Any, compression: Any) -> Any:
    chosen = choose(target)
    if chosen is None:
        return None
    mesh, service = chosen
    return mesh.channel(service, credentials=credentials, options=_kept(target, options), compression=compression)


def _aio_insecure(target: Any, options: Any = None, compression: Any = None, interceptors: Any = None) -> Any:
    return _open_aio(target, None, options, compression, interceptors)


def _aio_secure(
    target: Any, credentials: Any, options: Any = None, compression: Any = None, interceptors: Any = None
) -> Any:
    return _open_aio(target, credentials, options, compression, interceptors)


def _open_aio(target: Any, credentials: Any, options: Any, compression: Any, interceptors: Any) -> Any:
    chosen = choose(target)
    if chosen is None:
        return None
    mesh, service = chosen
    return mesh.aio_channel(
        service,
        credentials=credentials,
        options=_kept(target, options),
        compression=compression,
        interceptors=interceptors or (),
    )


def _kept(target: Any, options: Any) -> list[tuple[str, Any]]:
    """The client's options, and what grpcio would make of its target: the name that servers see and certificates
    are checked against. Where the endpoints are is the mesh's business; who they are is not."""
    kept = [(str(name), value) for name, value in options or ()]
    given = dict(kept)
    if "grpc.default_authority" not in given:
        name = given.get("grpc.ssl_target_name_override") or authority(target)
        if name:
            kept.append(("grpc.default_authority", name))
    return kept


_PLACES: tuple[tuple[Any, str, Factory], ...] = (
    (grpc, "insecure_channel", _insecure),
    (grpc, "secure_channel", _secure),
    (grpc.aio, "insecure_channel", _aio_insecure),
    (grpc.aio, "secure_channel", _aio_secure),
)


class Doors:
    """The doors of this process. Safe in every thread; put in place once, and anew where somebody removed them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._doors: dict[int, tuple[Factory, Factory]] = {}
        """By the identity of what is behind a door: (what is behind it, the door)."""
        self._searched: dict[str, int] = {}
        """The modules that were looked through, by the identity of each."""
        self._complete = 0
        """How many modules there were when all of them had been, and none was half loaded."""

    def put(self) -> list[str]:
        """See that every way to a channel that is known leads through a door; the names that were rebound."""
        with self.lock:
            rebound = [
                f"{place.__name__}.{name}"
                for (place, name, opens), native in zip(_PLACES, (*sync_factories(), *aio_factories()), strict=True)
                if self._place(place, name, opens, native)
            ]
            rebound += self._search()
        if rebound:
            log.info("channels opened by these names may lead through the mesh now: %s", ", ".join(rebound))
        return rebound

    def remove(self) -> list[str]:
        """Give every name back what it was bound to; the names."""
        with self.lock:
            back = {id(door): behind for behind, door in self._doors.values()}
            restored = []
            for place, name, _ in _PLACES:
                restored += self._rebind(place.__name__, place, back, only=name)
            for module_name, module in list(sys.modules.items()):
                if _is_a_users(module_name, module):
                    restored += self._rebind(module_name, module, back)
            self._forget()
        return restored

    def _place(self, place: Any, name: str, opens: Factory, native: Factory) -> bool:
        """A door before what is there now, and before all that it was made of: others may hold those."""
        present = getattr(place, name)
        chain = list(_unwrapped(present))
        if any(id(door) in map(id, chain) for _, door in self._doors.values()):
            return False  # it is a door, or something that was put before one
        for behind in [*chain, native]:
            if id(behind) not in self._doors:
                self._doors[id(behind)] = (behind, _door(behind, opens))
        setattr(place, name, self._doors[id(present)][1])
        self._forget()  # there is more to be looked for
        return True

    def _forget(self) -> None:
        self._searched.clear()
        self._complete = 0

    def _search(self) -> list[str]:
        """Rebind what modules bound to a factory that were loaded since they were last looked through."""
        loaded = len(sys.modules)
        if loaded == self._complete:  # somebody may make clients all day long
            return []
        doors = {behind: door for behind, (_, door) in self._doors.items()}
        rebound, complete = [], True
        for name, module in list(sys.modules.items()):
            if self._searched.get(name) == id(module) or not _is_a_users(name, module):
                continue
            if _is_loading(module):
                complete = False
            else:
                self._searched[name] = id(module)
            rebound += self._rebind(name, module, doors)
        self._complete = loaded if complete else 0
        return rebound

    @staticmethod
    def _rebind(module_name: str, module: Any, new: dict[int, Factory], only: str | None = None) -> list[str]:
        bound = vars(module)
        found = [name for name, value in list(bound.items()) if id(value) in new and only in (None, name)]
        for name in found:
            bound[name] = new[id(bound[name])]  # a module may have its own idea of what can be set
        return [f"{module_name}.{name}" for name in found]


def _door(behind: Factory, opens: Factory) -> Factory:
    takes = inspect.signature(opens)

    @functools.wraps(behind)
    def door(*args: Any, **kwargs: Any) -> Any:
        try:
            takes.bind(*args, **kwargs)
        except TypeError:
            return behind(*args, **kwargs)  # which says itself what is wrong with these arguments
        channel = opens(*args, **kwargs)
        return behind(*args, **kwargs) if channel is None else channel

    return door


def _unwrapped(factory: Any) -> Iterator[Any]:
    """The factory, and what is behind it, one after the other."""
    seen: set[int] = set()
    while factory is not None and id(factory) not in seen:
        seen.add(id(factory))
        yield factory
        factory = getattr(factory, "__wrapped__", None)


def _is_loading(module: Any) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _is_a_users(name: str, module: Any) -> bool:
    """grpcio's own modules keep the factories themselves, and so does whoever has to reach them."""
    return isinstance(module, ModuleType) and name.partition(".")[0] not in ("grpc", "proxyless")


DOORS = Doors()
