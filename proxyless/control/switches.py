"""`PROXYLESS_DISABLE`: features that are switched off in this process, whatever documents say."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping

NAME = "PROXYLESS_DISABLE"
FEATURES = ("fault", "hedge", "mirror")

log = logging.getLogger("proxyless")


def switched_off(environ: Mapping[str, str]) -> frozenset[str]:
    """The features that are named there, in any case, with commas or blanks between them.

    A word that is none of them is told and passed over: whoever sets this has an emergency, and a program that does
    not start is a worse one. Not to be told that the faults go on would be as bad.
    """
    words = environ.get(NAME, "").lower().replace(",", " ").split()
    for word in words:
        if word not in FEATURES:
            near = difflib.get_close_matches(word[:60], FEATURES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FEATURES)}"
            log.warning(
                "%s names %s, which nothing is called that can be switched off: %s", NAME, ascii(word[:60]), hint
            )
    return frozenset(words) & frozenset(FEATURES)
