"""Who of a destination's members is well, and whom that concerns: the ladder, panic, and whoever reads the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import ReferenceType, WeakSet, ref

from proxyless.model.traffic import LOCALITY
from proxyless.policy.locality import Ladder
from proxyless.state.node import Node


class Health:
    """Guarded by its destination's lock, which every method takes for held."""

    __slots__ = (
        "_everybody",
        "_ladders",
        "_latest",
        "_members",
        "_panicking",
        "_spilling",
        "on_change",
        "sick",
        "threshold",
    )

    def __init__(self) -> None:
        self.sick: set[Node] = set()
        """Members that are ejected, on probation or unreachable."""
        self.threshold: float = LOCALITY.panic_threshold
        self.on_change: Callable[[], None] | None = None
        """Called when a member fell sick or got well; must not block."""
        self._members: frozenset[Node] = frozenset()
        self._ladders: WeakSet[Ladder] = WeakSet()
        """The present snapshot's, and earlier ones' while calls hold them."""
        self._latest: ReferenceType[Ladder] | None = None
        self._everybody = False
        """Whether those in rotation fail too, so that being ejected counts for nothing (`policy.panic`)."""
        self._panicking = self._spilling = ""
        """What was told last: why ejected members are called as well, and where calls go instead; "" if they don't."""

    def follow(self, nodes: Sequence[Node], threshold: float) -> None:
        """These are the members now, as well as they are."""
        self._members, self.threshold = frozenset(nodes), threshold
        self.sick = {node for node in nodes if node.sick}
        self._settle()

    def watch(self, ladder: Ladder) -> None:
        """Keep `ladder` told, as long as anybody has it."""
        self._ladders.add(ladder)
        self._latest = ref(ladder)
        ladder.settle(self._missing())

    def changed(self, node: Node) -> None:
        """A member may have fallen sick, or got well."""
        if node not in self._members:
            return
        sick = node.sick
        if self.on_change is not None and (node in self.sick) != sick:
            self.on_change()
        (self.sick.add if sick else self.sick.discard)(node)
        for ladder in self._ladders:
            ladder.changed(node, sick and (not self._everybody or node.reachable_at > 0))

    def call(self, everybody: bool) -> None:
        """A panic because of those in rotation began, or is over."""
        if everybody != self._everybody:
            self._everybody = everybody
            self._settle()

    def panics(self, node: Node) -> bool:
        """Whether an ejected member is to be called: too few are well, or those who are fail too.

        With priorities each has a panic of its own; without them all members are one.
        """
        if self._everybody:
            return True
        if self._ladders:
            return any(ladder.panics(node) for ladder in self._ladders)
        return self._few

    @property
    def _few(self) -> bool:
        size = len(self._members)
        return 100 * (size - len(self.sick)) < self.threshold * size

    @property
    def panic(self) -> bool:
        """Whether anybody is called who is sick."""
        if not self.sick or self._everybody:
            return bool(self.sick)
        return any(ladder.panicking for ladder in self._ladders) if self._ladders else self._few

    def news(self) -> list[tuple[str, str]]:
        """What is to be told, each once: a panic or a spill-over that began (with why, or where to) or is over."""
        told = []
        panic = self.panic
        if panic != bool(self._panicking):
            few = f"fewer than {self.threshold:g} % of its endpoints, or of a priority's, are well"
            most = "most of the endpoints that maxEjectionPercent keeps in fail too"
            self._panicking = (most if self._everybody else few) if panic else ""
            told.append(("panic", self._panicking))
        ladder = self._latest() if self._latest is not None else None
        spill = ladder.spill() if ladder is not None else ""
        if bool(spill) != bool(self._spilling):
            self._spilling = spill
            told.append(("spill", spill))
        return told

    def _missing(self) -> set[Node]:
        return {node for node in self.sick if node.reachable_at > 0} if self._everybody else self.sick

    def _settle(self) -> None:
        for ladder in self._ladders:
            ladder.settle(self._missing())
