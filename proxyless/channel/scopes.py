"""Whose channel is being opened: the innermost construction that was given to the mesh, or nobody's.

A program opens a channel deep inside a client library. Where it leads is asked from the inside out: of each
construction under way in this thread or task, and of each object that was given to the mesh and has a method
under way here, for clients open channels long after they were made; then of the rules of the whole process.
What none of them knows stays grpcio's.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any, Protocol

from proxyless.channel.rules import Rules, own_name


class Opens(Protocol):
    """What is needed of a `Mesh`."""

    def channel(self, service: str, *, credentials: Any, options: Any, compression: Any) -> Any:
        """A `grpc.Channel`."""

    def aio_channel(self, service: str, *, credentials: Any, options: Any, compression: Any, interceptors: Any) -> Any:
        """A `grpc.aio.Channel`."""

    def ready(self, *services: str, timeout: float | None) -> bool:
        """Wait until these are known."""

    def status(self) -> dict[str, Any]:
        """What is known."""


PATIENCE = 2.0
"""Seconds in which the source has to say whether it knows a service by a target's own name."""


class Adoption:
    """Some channels, given to a mesh: which ones, and which mesh. Shared by all constructions of one decorator.

    `service` is where every target leads that no rule knows. Without it and without rules a target leads
    where its own name says, if the mesh knows a service of that name.
    """

    def __init__(self, service: str | None, rules: Rules | None, mesh: Callable[[], Opens]) -> None:
        self.service = service
        self.rules = rules
        self.mesh = mesh

    def service_of(self, target: Any) -> str | None:
        """The service that a channel to `target` leads to; None to leave it alone."""
        if self.rules is not None:
            return self.rules.service_of(target) or self.service
        if self.service is not None:
            return self.service
        name = own_name(target)
        return name if name is not None and self._knows(name) else None

    def _knows(self, name: str) -> bool:
        mesh = self.mesh()
        mesh.ready(name, timeout=PATIENCE)
        status = mesh.status()
        documented = any(document["document"] == f"services/{name}" for document in status["documents"])
        return documented or any(endpoint["service"] == name for endpoint in status["endpoints"])

    def owns(self, made: Any) -> Any:
        """Remember that `made` came of a decorated call: the channels its methods open later are meant too."""
        key = id(made)
        try:
            _MADE[key] = (weakref.ref(made, lambda _: _MADE.pop(key, None)), self)
        except TypeError:
            pass  # a tuple, a number: nothing that opens channels
        return made

    def __enter__(self) -> Adoption:
        _UNDER_WAY.set((*_UNDER_WAY.get(), (self, id(_user(sys._getframe(1))))))
        return self

    def __exit__(self, *_error: object) -> None:
        # No token: a generator may be closed in another context than it was begun in, where there is nothing to undo.
        under_way = _UNDER_WAY.get()
        if under_way and under_way[-1][0] is self:
            _UNDER_WAY.set(under_way[:-1])

    def __repr__(self) -> str:
        if self.rules is None:
            return f"<meshed: {self.service or 'by the names of targets'}>"
        return f"<meshed: by rules{f', else {self.service}' if self.service else ''}>"


_UNDER_WAY: ContextVar[tuple[tuple[Adoption, int], ...]] = ContextVar("proxyless_adoptions", default=())
"""The constructions under way, the innermost last, each with the identity of the frame that is in it."""
_MADE: dict[int, tuple[weakref.ref[Any], Adoption]] = {}

INSTALLED: list[Adoption] = []
"""The rules of the whole process, the newest first."""

MARK = "__meshed__"
"""Where a decorated class keeps its `Adoption`; a subclass may be decorated anew, and then its own counts."""


def adoption_of(cls: type) -> Adoption | None:
    """How `cls` was decorated, or what it inherits from."""
    found = next((vars(base)[MARK] for base in cls.__mro__ if MARK in vars(base)), None)
    return found if isinstance(found, Adoption) else None


def choose(target: Any) -> tuple[Opens, str] | None:
    """The mesh and the service that a channel to `target`, opened here and now, leads to; None for grpcio."""
    for adoption in _inside_out(sys._getframe(1)):
        service = adoption.service_of(target)
        if service is not None:
            return adoption.mesh(), service
    return None


def _inside_out(frame: FrameType | None) -> Iterator[Adoption]:
    """Everything that may have to do with a channel opened in `frame`, the innermost first."""
    under_way = list(_UNDER_WAY.get())
    while frame is not None:
        while under_way and under_way[-1][1] == id(frame):
            yield under_way.pop()[0]
        receiver = _receiver(frame)
        if receiver is not None:
            yield receiver
        frame = frame.f_back
    # Begun in another thread or task, of which this one has the context.
    yield from (adoption for adoption, _ in reversed(under_way))
    yield from INSTALLED


def _receiver(frame: FrameType) -> Adoption | None:
    """The adoption of the object, or the class, whose method this is."""
    code = frame.f_code
    if not code.co_argcount or code.co_varnames[0] not in ("self", "cls"):
        return None
    receiver = _first(frame)
    made = _MADE.get(id(receiver))
    if made is not None and made[0]() is receiver:
        return made[1]
    return adoption_of(receiver if isinstance(receiver, type) else type(receiver))


def _first(frame: FrameType) -> Any:
    """The first argument of the function that `frame` runs."""
    known = frame.f_locals
    first = known.get(frame.f_code.co_varnames[0])
    # Until Python 3.13 that is a dictionary, made now, and the frame keeps it: what the function drops later would live
    # as long as its call. It may be emptied while nobody has it but the frame and us (and the question how many do).
    if type(known) is dict and sys.getrefcount(known) == 3:
        known.clear()
    return first


def _user(frame: FrameType) -> FrameType:
    """The frame that has what it does given to the mesh: not `__enter__` itself, nor what calls it for us."""
    while frame.f_code.co_name in ("__enter__", "__aenter__") and frame.f_back is not None:
        if not str(frame.f_globals.get("__name__", "")).startswith("proxyless.channel."):
            break
        frame = frame.f_back
    return frame
