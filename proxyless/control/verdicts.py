"""What became of documents: in effect, or set aside and why."""

from __future__ import annotations

from dataclasses import dataclass

from proxyless.control import RawDocument
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.findings import Finding


@dataclass(frozen=True, slots=True)
class Accepted:
    """A document in effect."""

    value: ServiceDocument | MeshDocument
    raw: RawDocument


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that has no effect, and why."""

    raw: RawDocument
    findings: tuple[Finding, ...]
    value: ServiceDocument | MeshDocument | None = None
    """What it says, if it is valid by itself and only can't stand beside the others: it is tried again."""

    @property
    def why(self) -> str:
        """For who calls a service of which no other document is known."""
        first = str(self.findings[0]) if self.findings else "invalid"
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        return f"{self.raw.origin} is invalid and no earlier version of it is known: {first}{more}"


def differs(one: RawDocument, other: RawDocument) -> bool:
    """Whether they say different things, of whichever version."""
    return (one.text, one.data, one.findings) != (other.text, other.data, other.findings)


def needed(who: str, finding: Finding, *, gone: bool) -> Finding:
    """Why a document can't lose what it loses: somebody sends there."""
    what = "was deleted" if gone else "leaves out a subset"
    reason = f"{what}, but {who} still sends there ({finding.path}: {finding.reason})"
    return Finding("" if gone else "subsets", reason, hint=f"change {who} first")
