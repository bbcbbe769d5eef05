"""How a call ends, in the words that grpcio has for threads."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from proxyless.script import Outcome

log = logging.getLogger("proxyless")


def trailers_of(outcome: Outcome) -> Any:
    """The trailing metadata of a call that no server answers for."""
    return () if outcome.refused in ("", "cancelled") else (("proxyless-reason", outcome.refused),)


def call_back(callbacks: Iterable[Any]) -> None:
    """Call each; one that fails takes neither the others nor grpcio's thread with it."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("a callback of a finished call failed")
