"""The message classes of a method, found by its name: what an interceptor is not told, protobuf knows.

"FindMethodByName: Loads the named service method descriptor from the pool." - google.protobuf.descriptor_pool.
Generated code puts its descriptors into the default pool when it is imported, so a stub's methods are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Messages:
    """How a method's requests are written and its responses are read."""

    request: type
    serialize: Callable[[Any], bytes]
    deserialize: Callable[[bytes], Any]


def messages_of(method: str, arity: str) -> Messages | None:
    """Those of "/package.Service/Method", None if protobuf knows no such method, or one of another arity."""
    try:
        from google.protobuf import descriptor_pool, message_factory
    except ImportError:  # no protobuf at all: whatever the caller's messages are, they are not its
        return None
    pool: Any = descriptor_pool.Default()
    try:
        found = pool.FindMethodByName(method.lstrip("/").replace("/", "."))
    except KeyError:
        return None
    sides = ("stream" if streams else "unary" for streams in (found.client_streaming, found.server_streaming))
    if "_".join(sides) != arity:
        return None
    request, response = map(message_factory.GetMessageClass, (found.input_type, found.output_type))
    return Messages(request, _serialize, response.FromString)


def _serialize(message: Any) -> bytes:
    written: bytes = message.SerializeToString()
    return written
