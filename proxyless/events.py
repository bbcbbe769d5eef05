"""What the mesh has to tell: frozen events, and whoever wants to hear them.

Events are state changes, not calls: none is made on the success path. Observers are called by the thread in
which the change happened; they must not block and must not raise (what they raise is logged and dropped).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from proxyless.model.findings import Finding

log = logging.getLogger("proxyless")


@dataclass(frozen=True, slots=True)
class ConfigApplied:
    """A new snapshot is in effect; `changed` names the documents and services that made it new."""

    version: int
    changed: Sequence[str]


@dataclass(frozen=True, slots=True)
class ConfigRejected:
    """A document is invalid and has no effect; what held before it goes on holding."""

    document: str
    findings: Sequence[Finding]
    kept: bool
    """Whether an earlier version of it serves on."""


@dataclass(frozen=True, slots=True)
class EndpointsDropped:
    """Instances were registered that nobody may be sent to: a malformed or forbidden address, an absurd weight."""

    service: str
    count: int
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class SourceStale:
    """The source stopped answering; the last good state serves on."""

    source: str
    watch: str
    reason: str


@dataclass(frozen=True, slots=True)
class SourceRecovered:
    """The source answers again."""

    source: str
    watch: str
    after: float
    """Seconds it was stale."""


@dataclass(frozen=True, slots=True)
class Suspicious:
    """The source said something that is not believed yet, such as that everything is suddenly gone."""

    source: str
    watch: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeEjected:
    """Outlier detection keeps calls away from an endpoint for a while."""

    destination: str
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeReadmitted:
    """An ejected endpoint has passed its probation."""

    destination: str
    address: str


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """The circuit breaker of a destination is CLOSED, OPEN or HALF_OPEN now."""

    destination: str
    state: str


@dataclass(frozen=True, slots=True)
class PanicChanged:
    """So many endpoints of a destination fail that ejected ones are called as well; or that is over."""

    destination: str
    on: bool
    reason: str
    """Why it began; empty when it is over."""


@dataclass(frozen=True, slots=True)
class SpillChanged:
    """The nearest endpoints of a destination can't hold all of its calls, and some go elsewhere; or that is over."""

    destination: str
    on: bool
    shares: str
    """Who gets how much, as it begins; empty when it is over."""


Event: TypeAlias = (
    ConfigApplied
    | ConfigRejected
    | EndpointsDropped
    | SourceStale
    | SourceRecovered
    | Suspicious
    | NodeEjected
    | NodeReadmitted
    | BreakerChanged
    | PanicChanged
    | SpillChanged
)
Observer: TypeAlias = Callable[[Event], None]


def of_destination(what: str, destination: str, address: str, why: str) -> Event:
    """The event for what a destination tells: `ejected`, `readmitted`, `panic`, `spill`, or a breaker's new state."""
    if what == "panic":
        return PanicChanged(destination, bool(why), why)
    if what == "spill":
        return SpillChanged(destination, bool(why), why)
    if what == "ejected":
        return NodeEjected(destination, address, why)
    return NodeReadmitted(destination, address) if what == "readmitted" else BreakerChanged(destination, why)


def emitter(observers: Sequence[Observer]) -> Observer:
    """One observer that tells all of `observers`; an observer's own failure never reaches the mesh."""

    def emit(event: Event) -> None:
        for observer in observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed on %s; the mesh goes on", type(event).__name__)

    return emit


def log_event(event: Event) -> None:
    """The observer that writes the `proxyless` log: one line a state change, none a call."""
    match event:
        case ConfigApplied(version, changed):
            log.info("snapshot v%d is in effect (%s)", version, _some(changed))
        case ConfigRejected(document, findings, kept):
            effect = "the last good version stays in effect" if kept else "no earlier version is known"
            log.error("%s is invalid, %s: %s", _plain(document), effect, _some([str(f) for f in findings]))
        case EndpointsDropped(service, count, reasons):
            log.warning("%d instances of %s are left out: %s", count, _plain(service), _some(reasons))
        case SourceStale(source, watch, reason):
            log.warning(
                "%s: no answer for %s (%s); the last good state serves on",
                _plain(source),
                _plain(watch),
                _plain(reason),
            )
        case SourceRecovered(source, watch, after):
            log.info("%s: answers again for %s after %.1f s", _plain(source), _plain(watch), after)
        case NodeEjected(destination, address, reason):
            log.warning("%s of %s is ejected: %s", address, destination, reason)
        case NodeReadmitted(destination, address):
            log.info("%s of %s is back", address, destination)
        case BreakerChanged(destination, state):
            log.warning("the circuit breaker of %s is %s", destination, state)
        case PanicChanged(destination, True, reason):
            log.warning("%s is in a panic, its ejected endpoints are called as well: %s", destination, reason)
        case PanicChanged(destination):
            log.info("the panic of %s is over", destination)
        case SpillChanged(destination, True, shares):
            log.warning("%s: the nearest endpoints can't hold all calls, which go to: %s", destination, _plain(shares))
        case SpillChanged(destination):
            log.info("%s: all calls are with the nearest endpoints again", destination)
        case Suspicious(source, watch, reason):
            log.warning("%s: %s: %s", _plain(source), _plain(watch), _plain(reason))


def _some(items: Sequence[str], most: int = 8) -> str:
    shown = "; ".join(_plain(item) for item in items[:most])
    return f"{shown}; and {len(items) - most} more" if len(items) > most else shown


def _plain(text: str) -> str:
    """One line, whatever the text holds: names and errors come from outside, and a log is read line by line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:500])
