"""A forked child's loop begins with what its parent's knew, and holds what its source says against that."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from proxyless.control import RawDocument, Sink
from proxyless.control.compiler import Compiler
from proxyless.control.loop import Loop
from proxyless.control.standing import Here
from proxyless.events import ConfigRejected
from proxyless.model.topology import Endpoint, Watched
from proxyless.policy.balancers import BALANCERS
from proxyless.stack import compose
from tests.control.hearing import GONE, Hearing, Spoken, answer


def _forked(parent: Hearing) -> Hearing:
    """The loop of a child: its source and its compiler are new, the nodes are its parent's."""
    child = Hearing()
    child.nodes, child.published = parent.nodes, [parent.snapshot]
    child.compiler = Compiler(child.nodes, compose, BALANCERS, Here(), random.Random(2).random)
    child.source, child.said = Spoken(), dict(parent.said)
    version = parent.snapshot.version
    child.loop = Loop(child.source, child.compiler, child.published.append, child.told, child.clock, version)
    child.loop.begin(parent.loop, parent.snapshot)
    return child


def test_a_child_serves_on_before_its_source_has_spoken() -> None:
    """Documents and endpoints are those of the parent, and all of it is followed; its version goes on from there."""
    parent = Hearing("web").says(web="routes: [{name: all}]").lives("web", "10.0.0.1:80")
    child = _forked(parent)
    assert child.call()[1].ok
    assert child.snapshot.version == parent.snapshot.version + 1
    assert child.source.asked == ["watch web"]


def test_documents_alone_are_not_all() -> None:
    """A source that tells the documents and has nothing to say of endpoints yet takes none away."""
    child = _forked(Hearing("web").says(web="routes: [{name: all}]").lives("web", "10.0.0.1:80"))
    child.says(web="routes: [{name: other}]")
    assert child.call()[1].ok
    assert child.snapshot.services["web"].routes[0].name == "other"


def test_what_the_source_says_the_same_changes_nothing() -> None:
    """Nothing is published again when the source confirms what the parent knew."""
    parent = Hearing("web").says(web="routes: [{name: all}]").lives("web", "10.0.0.1:80")
    child = _forked(parent)
    count = len(child.published)
    child.says().lives("web", "10.0.0.1:80")
    assert len(child.published) == count
    assert child.loop.status()["from_disk"] == []


def test_ejections_are_inherited() -> None:
    """Whoever was ejected in the parent is in the child: the nodes are the same, and were never without a place."""
    parent = Hearing("web").says(web="routes: [{name: all}]").lives("web", *(f"10.0.0.{n}:80" for n in (1, 2, 3)))
    (cluster,) = parent.snapshot.clusters.values()
    bad = cluster.nodes[0]
    for _ in range(5):
        cluster.state.begin(bad)
        cluster.state.ended(bad, 14, False, 0.0)
    assert bad.outlier.out
    child = _forked(parent)
    (cluster,) = child.snapshot.clusters.values()
    assert cluster.nodes[0] is bad
    assert bad.outlier.out
    assert cluster.state.sick() == {bad.address}


def test_an_invalid_document_stays_one() -> None:
    """What the parent had set aside is set aside, the version before it holds, and that is not told again."""
    parent = Hearing("web").says(web=GONE % "good").lives("web", "10.0.0.1:80").says(web="routes: 5")
    child = _forked(parent)
    child.says()
    assert answer(child) == "good"
    assert list(child.errors()) == ["services/web"]
    assert child.told.of(ConfigRejected) == []


def test_what_the_parent_was_about_to_judge_is_no_inheritance() -> None:
    """The parent forks while it looks at a document that can't stand beside the others: the child begins afresh."""
    parent = Hearing("web").says(web="routes: [{name: all}]", api="{}").lives("web", "10.0.0.1:80")
    other = Hearing("web").says(web="routes: [{split: [{service: api, subset: x}]}]", api="subsets: {x: {labels: {}}}")
    parent.loop._accepted["services/web"] = other.loop._accepted["services/web"]
    child = _forked(parent)
    assert child.call()[1].ok  # by the snapshot there was
    assert child.loop.known() is None
    child.loop.want("web")
    child.says(web=GONE % "new", api="{}")
    assert answer(child) == "new"


def test_a_child_of_a_loop_that_knows_nothing_begins_with_nothing() -> None:
    """The parent has not heard anything yet; the child waits for its own source."""
    parent = Hearing("web")
    child = Hearing()
    child.loop.begin(parent.loop, None)
    assert child.published == []
    child.loop.want("web")
    child.says(web="routes: [{name: all}]").lives("web", "10.0.0.1:80")
    assert child.call()[1].ok


def test_the_source_is_told_what_to_doubt_before_it_is_started() -> None:
    """Afterwards it might have heard already that all is gone, and believed it."""
    parent = Hearing("web").says(web="{}").lives("web", "10.0.0.1:80")
    child = Hearing()
    child.source = doubting = _Doubting()
    child.loop = Loop(doubting, child.compiler, child.published.append, child.told, child.clock)
    child.loop.begin(parent.loop, parent.snapshot)
    assert doubting.asked == ["assume services/web, web", "start", "watch web"]


class _Doubting(Spoken):
    """It does not believe at once that all is gone."""

    def start(self, sink: Sink) -> None:
        super().start(sink)
        self.asked.append("start")

    def assume(self, documents: Mapping[str, RawDocument], endpoints: Mapping[Watched, Sequence[Endpoint]]) -> None:
        self.asked.append(f"assume {', '.join([*documents, *map(str, endpoints)])}")


def test_only_what_is_followed_is_inherited() -> None:
    """Endpoints that nobody follows any more would grow old unseen."""
    parent = Hearing("web").says(web="{}").lives("web", "10.0.0.1:80").lives("api", "10.0.0.2:80")
    known = _forked(parent).loop.known()
    assert known is not None
    assert list(known[1]) == [Watched("web")]
