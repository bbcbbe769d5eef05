"""The documents of a source, for the commands that read and change them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from proxyless.cli.failures import Failure, Misuse
from proxyless.cli.files import drafts
from proxyless.cli.session import Address, address, guarded, unreachable
from proxyless.control import MESH_KEY, SERVICES, RawDocument
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.store import KvStore
from proxyless.control.watcher import Unanswered


def key_of(which: str) -> str:
    """`mesh`, or the key of a service's document. Raises Misuse for what is no name of one."""
    if not which or which.startswith("/") or {".", "..", ""} & set(which.split("/")):
        raise Misuse(f'"{which[:80]}" is no name of a service', "`proxyless services` lists them")
    return MESH_KEY if which == MESH_KEY else SERVICES + which


@contextmanager
def kv(source: str | None, verb: str) -> Iterator[KvStore]:
    """The documents in Consul's KV; raises Misuse for a source that is not written to, and Unreachable."""
    where = address(source)
    if where.scheme == "file":
        raise Misuse(
            f"{where} is a file, and a file is edited, not {verb}",
            "clients see what you save within 0.1 s; check it before with: proxyless validate -f FILE",
            f"to write to Consul, name it: --source consul://HOST:PORT{_instead(where)}",
        )
    if not where.is_consul:
        raise Misuse(f"documents of {where} can't be {verb} from here; --source consul://HOST:PORT names a Consul")
    with _open(where) as store:
        yield store


def _instead(where: Address) -> str:
    """The quick start leaves it set, and it goes before CONSUL_HTTP_ADDR."""
    return f"; or unset {where.named_by}, which named the file" if where.named_by == "PROXYLESS_SOURCE" else ""


@contextmanager
def _open(where: Address) -> Iterator[KvStore]:
    with KvStore(guarded(where, lambda: ConsulSettings.parse(where.url))) as store:
        try:
            yield store
        except Unanswered as silent:
            raise unreachable(where, str(silent)) from None


def kept(raw: RawDocument | None) -> bytes | None:
    """The text of a document as it is there; None where there is none."""
    if raw is None:
        return None
    return raw.text.encode() if isinstance(raw.text, str) else raw.text


def stored(source: str | None) -> tuple[str, Mapping[str, RawDocument]]:
    """The name of the source, and its documents by key, each with its text."""
    where = address(source)
    if where.is_consul:
        with _open(where) as store:
            return store.name, store.documents()
    if where.scheme != "file":
        raise Misuse(f"{where} is a plug-in's, and documents can't be read from it here; see `proxyless status`")
    if not where.path.exists():
        raise unreachable(where, "no such file or folder")
    made = {}
    for draft in drafts([where.path]):
        text: str | bytes = draft.text
        try:
            text = draft.text.decode()
        except UnicodeDecodeError:
            pass  # the dialect says so
        raw = draft.raw
        made[draft.key] = RawDocument(raw.key, text, raw.version, raw.origin, raw.data, raw.lines, raw.findings)
    return str(where), made


def missing(which: str, name: str, documents: Mapping[str, RawDocument]) -> Failure:
    """That there is no such document, and which there are."""
    known = sorted(key.removeprefix(SERVICES) for key in documents)
    near = difflib.get_close_matches(which, known, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are documents for: {', '.join(known) or 'nothing'}"
    return Failure(f"there is no document for {which} at {name}, so the defaults hold", hint)
