"""The snapshot as calls on a wrapped channel see it: the same routes, and one member wherever they lead."""

from __future__ import annotations

from proxyless.channel.given import HERE, GivenSlot
from proxyless.stack import compose
from proxyless.state import SnapshotSlot
from tests.worlds import WEB, Known, document


def test_before_anything_is_known_nothing_is() -> None:
    """A call waits for the first snapshot there as elsewhere."""
    slot = SnapshotSlot()
    given = GivenSlot(slot, "web", compose)
    assert (given.current.services, given.current.version) == ({}, 0)
    slot.publish(Known().lives("web", "a:1", "b:1").snapshot())
    (cluster,) = given.current.clusters.values()
    assert (cluster.key, [node.address for node in cluster.nodes]) == (WEB, [HERE])


def test_a_route_is_made_once_for_as_long_as_it_lasts() -> None:
    """A change elsewhere makes a new snapshot, and leaves the routes of this service what they were."""
    world = Known().lives("web", "a:1").lives("other", "o:1")
    world.services["web"] = document("routes: [{name: one, timeout: 1s}]")
    slot = SnapshotSlot()
    given = GivenSlot(slot, "web", compose)
    slot.publish(world.snapshot())
    before = given.current
    (one,) = before.services["web"].routes
    assert given.current is before
    world.services["other"] = document("routes: [{name: two, timeout: 2s}]")
    slot.publish(world.snapshot())
    assert given.current is not before
    assert [route is one for route in given.current.services["web"].routes] == [True]
    world.services["web"] = document("routes: [{name: one, timeout: 3s}]")
    slot.publish(world.snapshot())
    assert [route.timeout for route in given.current.services["web"].routes] == [3.0]
