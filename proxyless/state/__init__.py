"""Everything that changes on the data path: the current snapshot, the nodes, and the destinations as a whole.

State is keyed by identity and outlives snapshots, so that an edit of a document never forgets what is under
way, who is ejected or which breaker is open ("We want to preserve the existing nodes if possible" - Finagle
`Balancer.update`). The numbers are policies' own; what is here adds the locks, which are held for a few
instructions and never across a `yield`. Never put here: a decision, a clock, anything of grpc's.
"""

from __future__ import annotations

from proxyless.state.destination import DestinationState
from proxyless.state.node import Node
from proxyless.state.registry import Nodes
from proxyless.state.slot import SnapshotSlot

__all__ = ["DestinationState", "Node", "Nodes", "SnapshotSlot"]
