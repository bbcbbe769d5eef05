"""Which methods may be made twice: what their authors say in the .proto file.

`option idempotency_level = NO_SIDE_EFFECTS;` or `IDEMPOTENT` in a method's definition (descriptor.proto) is
known wherever the generated code has been imported, for that registers it in protobuf's descriptor pool. Of
a method that the pool doesn't know nothing is promised. For those, a route is the way to promise it: one that
matches their paths and does not say `idempotentOnly`.
"""

from __future__ import annotations

from typing import Any

NO_SIDE_EFFECTS, IDEMPOTENT = 1, 2
"""`google.protobuf.MethodOptions.IdempotencyLevel`."""


def is_idempotent(method: str) -> bool:
    """Whether `/package.Service/Method` may be made twice. Asked after a failure, and only there (some 2 µs)."""
    try:
        from google.protobuf import descriptor_pool

        found: Any = descriptor_pool.Default().FindMethodByName(method.lstrip("/").replace("/", "."))
    except (ImportError, KeyError):
        return False
    return found.GetOptions().idempotency_level in (NO_SIDE_EFFECTS, IDEMPOTENT)
