"""An outgoing call's record: what its caller passed, and what it inherits from the call that is being served.

Both stacks begin a call here, so that neither inherits a deadline, a key or a cancellation that the other
does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxyless.channel import wire
from proxyless.context import CARRIED, DEADLINE, SCOPE, with_carried
from proxyless.errors import AioInvalidMetadata, InvalidMetadata
from proxyless.model.codes import Code
from proxyless.script import Replay, Rpc

if TYPE_CHECKING:
    from proxyless.channel.aio import AioMeshChannel
    from proxyless.channel.sync import MeshChannel


def outgoing(
    channel: MeshChannel | AioMeshChannel,
    method: str,
    timeout: float | None,
    metadata: Any,
    wait_for_ready: bool | None,
    replay: Replay | None,
    invalid: type[InvalidMetadata] | type[AioInvalidMetadata],
) -> Rpc:
    """The earliest of the caller's, the inherited and (further down) the route's deadline holds.

    Raises `invalid` on metadata that no peer should see.
    """
    if metadata is not None:
        try:
            metadata = wire.checked(metadata)
        except ValueError as bad:
            raise invalid(Code.INTERNAL, "metadata", f"proxyless: metadata: {bad}") from None
    inherited = CARRIED.get()
    if inherited:
        metadata = with_carried(metadata, inherited)
    now = channel.clock()
    deadline = DEADLINE.get()
    if timeout is not None and (deadline is None or now + timeout < deadline):
        deadline = now + timeout
    scope = SCOPE.get()
    if scope is not None and scope.has_gone():
        deadline = now  # whoever this call would be for has no time left at all
    return Rpc(
        channel.service,
        method,
        channel.authority,
        metadata,
        wait_for_ready,
        deadline,
        now,
        channel.rng,
        channel.slot.current,
        replay,
        channel.identity,
    )


def identity(rng: Callable[[], float]) -> int:
    """64 random bits by which calls of one channel can be told from those of others (`hash: [{channel: true}]`)."""
    return int(rng() * (1 << 64))
