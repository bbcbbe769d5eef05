"""Keeping calls away from an endpoint that can't be connected, as gRPC's own balancers do.

"Picks among READY subchannels" (gRPC round_robin): with a channel per endpoint the mesh sees a connection fail
only when a call does, so the first failure marks the endpoint down for a while, and after that one call at a
time finds out whether it is back (Finagle `FailFastFactory`). This is about connections alone; endpoints that
answer with errors are outlier detection's.
"""

from __future__ import annotations

FIRST = 0.2
LONGEST = 5.0
"""As the reconnection backoff of the endpoint's own channel: earlier than that nothing is tried below us."""
PROBE = 1.0
"""Seconds that the one call which finds out has to itself: the default connect timeout."""


def pause(failures: int) -> float:
    """Seconds to keep away after `failures` failed connections in a row."""
    return min(LONGEST, FIRST * 2.0 ** min(failures - 1, 10))
