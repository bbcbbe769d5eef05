"""How a call ends, in the words that grpcio has for threads."""

from __future__ import annotations

from typing import Any

from proxyless.script import Outcome


def trailers_of(outcome: Outcome) -> Any:
    """The trailing metadata of a call that no server answers for."""
    return () if outcome.refused in ("", "cancelled") else (("proxyless-reason", outcome.refused),)
