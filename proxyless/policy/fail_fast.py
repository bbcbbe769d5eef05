"""Keeping calls away from an endpoint that can't be connected, as gRPC's own balancers do.

gRPC's round_robin picks among those that are READY: with a channel per endpoint the mesh sees a connection fail only
when a call does, so the first failure marks the endpoint down for a while, and after that one call at a time finds out
whether it is back (Finagle `FailFastFactory`). This is about connections alone; endpoints that answer with errors are
outlier detection's.
"""

from __future__ import annotations

FIRST = 0.2
LONGEST = 5.0
"""As the reconnection backoff of the endpoint's own channel: earlier than that nothing is tried below us."""
PROBE = 1.0
"""Seconds that the one call which finds out has to itself: the default connect timeout."""
JITTER = 0.2
"""As gRPC's connection backoff ("jitter = 0.2" - doc/connection-backoff.md): processes that lost a server at one
instant must not look for it in step. Without it the fullest tenth of a second sees 33 times the mean, with it 2.2."""


def pause(failures: int, draw: float) -> float:
    """Seconds to keep away after `failures` failed connections in a row; `draw` is from [0, 1)."""
    return min(LONGEST, FIRST * 2.0 ** min(failures - 1, 10)) * (1 + JITTER * (2 * draw - 1))
