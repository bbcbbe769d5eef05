"""Who is at the keyboard, and what time it is: what a change of documents is signed with."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxyless.control.history import Signature


def signature(why: str, restores: int | None = None) -> Signature:
    """`user@host` and the time in UTC: a hint for colleagues, not a proof; Consul's tokens say who may."""
    from proxyless.control.history import Signature

    now = datetime.now(timezone.utc)
    return Signature(f"{_user()}@{socket.gethostname()}", f"{now:%Y-%m-%d %H:%M:%S}Z", why, restores)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        return f"uid {os.getuid()}"
