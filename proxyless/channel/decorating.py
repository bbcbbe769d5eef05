"""How a function, a generator, a coroutine or a class is wrapped, so that what it opens is an `Adoption`'s.

The wrapped thing stays what it is: a function its signature, name and kind, a class the very same object, so
that isinstance, pickle, subclassing and introspection see no difference.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from proxyless.channel.scopes import MARK, Adoption, adoption_of


def function(adoption: Adoption, made_by: Callable[..., Any]) -> Callable[..., Any]:
    """`made_by`, with what is opened while it runs given to the mesh, and what it returns remembered."""
    manager = _manager(made_by)
    if manager is not None:
        again, body = manager
        made_again: Callable[..., Any] = again(function(adoption, body))
        return made_again
    if inspect.iscoroutinefunction(made_by):
        return _coroutine(adoption, made_by)
    if inspect.isasyncgenfunction(made_by):
        return _async_generator(adoption, made_by)
    if inspect.isgeneratorfunction(made_by):
        return _generator(adoption, made_by)

    @functools.wraps(made_by)
    def call(*args: Any, **kwargs: Any) -> Any:
        with adoption:
            made = made_by(*args, **kwargs)
        return _awaited(adoption, made) if inspect.iscoroutine(made) else adoption.owns(made)

    return call


def _manager(made_by: Any) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Of a function that `contextlib` made a context manager of: how to do so again, and the function's body.

    The body runs when the context is entered, long after the call that only prepared it.
    """
    body = getattr(made_by, "__wrapped__", None)
    if body is None or getattr(made_by, "__module__", None) != getattr(body, "__module__", None):
        return None
    code = getattr(made_by, "__code__", None)
    if code is None or code.co_filename != contextlib.contextmanager.__code__.co_filename:
        return None
    if inspect.isasyncgenfunction(body):
        return contextlib.asynccontextmanager, body
    return (contextlib.contextmanager, body) if inspect.isgeneratorfunction(body) else None


def _coroutine(adoption: Adoption, made_by: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(made_by)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await _awaited(adoption, made_by(*args, **kwargs))

    return call


async def _awaited(adoption: Adoption, making: Any) -> Any:
    with adoption:
        made = await making
    return adoption.owns(made)


def _generator(adoption: Adoption, made_by: Callable[..., Any]) -> Callable[..., Any]:
    """A generator runs in its caller's context: ours is set for each of its steps, and for nothing between them."""

    @functools.wraps(made_by)
    def call(*args: Any, **kwargs: Any) -> Any:
        body = made_by(*args, **kwargs)
        step, sent = body.send, None
        while True:
            try:
                with adoption:
                    made = step(sent)
            except StopIteration as end:
                return end.value
            try:
                sent = yield adoption.owns(made)
                step = body.send
            except GeneratorExit:
                with adoption:
                    body.close()
                raise
            except BaseException as error:
                step, sent = body.throw, error

    return call


def _async_generator(adoption: Adoption, made_by: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(made_by)
    async def call(*args: Any, **kwargs: Any) -> Any:
        body = made_by(*args, **kwargs)
        step, sent = body.asend, None
        while True:
            try:
                with adoption:
                    made = await step(sent)
            except StopAsyncIteration:
                return
            try:
                sent = yield adoption.owns(made)
                step = body.asend
            except GeneratorExit:
                with adoption:
                    await body.aclose()
                raise
            except BaseException as error:
                step, sent = body.athrow, error

    return call


_MAKES = ("__init__", "__enter__", "__setstate__")
"""Where objects open what they need: when made, when entered, when unpickled."""


def whole_class(adoption: Adoption, cls: type) -> type:
    """`cls` itself, changed in place: its instances' construction is given to the mesh."""
    try:
        setattr(cls, MARK, adoption)
    except TypeError as wrong:
        raise TypeError(
            f"{cls.__qualname__} can't be decorated in place ({wrong}): decorate a function that makes one instead"
        ) from None
    for name in _MAKES:
        _around(cls, name)
    _around_new(cls)
    _around_aenter(cls)
    return cls


def _around(cls: type, name: str) -> None:
    """The method, the class's own or the one it inherits, with the mark of the instance's class in effect.

    That mark is asked for at every call: a subclass that was decorated anew means its own.
    """
    own = vars(cls).get(name)
    present = own or getattr(cls, name, None)
    if not isinstance(present, FunctionType) or (own is None and name == "__init__" and _will_be_made(cls)):
        return

    @functools.wraps(present)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _mark(type(self)):
            if own is not None:
                return own(self, *args, **kwargs)
            return getattr(super(cls, self), name)(*args, **kwargs)

    setattr(cls, name, method)


def _around_new(cls: type) -> None:
    own = vars(cls).get("__new__")
    present = own.__func__ if isinstance(own, staticmethod) else getattr(cls, "__new__", None)
    if not isinstance(present, FunctionType):  # most often object's
        return
    actual = present

    @functools.wraps(actual)
    def __new__(of: type, *args: Any, **kwargs: Any) -> Any:
        with _mark(of):
            if own is not None:
                return actual(of, *args, **kwargs)
            return super(cls, of).__new__(of, *args, **kwargs)  # type: ignore[arg-type]

    setattr(cls, "__new__", staticmethod(__new__))  # noqa: B010 - mypy takes the plain assignment for a mistake


def _around_aenter(cls: type) -> None:
    own = vars(cls).get("__aenter__")
    present = own or getattr(cls, "__aenter__", None)
    if not isinstance(present, FunctionType):
        return

    @functools.wraps(present)
    async def __aenter__(self: Any) -> Any:
        with _mark(type(self)):
            return await (own(self) if own is not None else super(cls, self).__aenter__())  # type: ignore[arg-type]

    setattr(cls, "__aenter__", __aenter__)  # noqa: B010 - as above


def _mark(cls: type) -> Adoption:
    found = adoption_of(cls)
    assert found is not None, "a method of a decorated class runs on an instance of it"
    return found


def _will_be_made(cls: type) -> bool:
    """Whether `@dataclass` stands above us and has yet to make the `__init__`, which it does not where there is one."""
    return hasattr(cls, "__dataclass_fields__") and "__dataclass_fields__" not in vars(cls)
