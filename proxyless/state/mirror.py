"""What changes about the destination of a mirror: what any destination has, and how many copies went there."""

from __future__ import annotations

import threading
from typing import Any

from proxyless.state.destination import DestinationState


class MirrorState(DestinationState):
    """Its limits are the cap on copies under way: what is over it is refused, and that copy is not sent."""

    __slots__ = ("copies",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.copies = 0

    def mirrored(self) -> None:
        """A copy is sent here, or would be if there were room."""
        with self._lock:
            self.copies += 1

    def renew(self, lock: threading.RLock) -> None:
        """In a forked child: what the parent counted, the parent tells."""
        super().renew(lock)
        self.copies = 0

    def status(self, now: float) -> dict[str, Any]:
        """For `Mesh.status()`."""
        return {**super().status(now), "mirrored": self.copies - self.refused}
