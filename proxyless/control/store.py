"""Documents in Consul's KV, for people and programs that change them: read, and written with check-and-set.

What is written was decided on what had been read, so it is written only if that still holds: every key with
the index it was read at, and beside them the keys that the decision was based on. Several documents go in one
transaction: clients see all of them or none. Their histories are written in that same transaction where it has
room for them, else right after it; a history that can't be written is said, and prevents nothing.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from proxyless.control import RawDocument
from proxyless.control.consul_documents import ABSENT, FORBIDDEN, OK, Documents
from proxyless.control.consul_endpoints import hidden
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.history import Signature, Version, recorded
from proxyless.control.instances import Instances
from proxyless.control.kv import LARGEST, MOST_OPERATIONS, NEW, Kv, Operation, Refused, TooMuch, grant, room
from proxyless.control.watcher import Answer, News, Unanswered

__all__ = ["LARGEST", "NEW", "Change", "Conflict", "KvStore", "TooMuch", "Written"]

HISTORY = "-history"
"""What the histories' prefix has after that of the documents."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one document; without `text` it is deleted. `version` is the one it was decided on, `before`
    the text of that."""

    key: str
    text: bytes | None
    version: str = NEW
    before: bytes | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What came of a write: the documents' new versions, and why it is not in their histories, or ""."""

    versions: Mapping[str, str]
    unrecorded: str = ""


class Conflict(Exception):
    """Somebody else wrote in between, so nothing was written. `keys` are the documents that they wrote."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(", ".join(keys))
        self.keys = tuple(keys)


class KvStore:
    """The documents below one prefix. Every method raises Unanswered if Consul is silent or refuses."""

    def __init__(self, settings: ConsulSettings, now: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.name = f"{settings.name}/{settings.prefix}"
        self._now = now
        self._kv = Kv(settings)

    def documents(self) -> dict[str, RawDocument]:
        """All of them by key, as the leader has them; a document's version is its ModifyIndex."""
        told: dict[str, RawDocument] = {}
        found = Documents(self.settings.prefix, self._ask, told.update, hold=0.0, now=self._now)
        answer = self._kv.read(found.path, ("recurse", ""), accept=(OK, ABSENT))
        found.take(News(answer, 0, 0, unbroken=False))
        return told

    def services(self) -> dict[str, list[str]]:
        """The services in the catalog that the token may see, with their tags."""
        services = json.loads(self._kv.read("catalog/services").body)
        return {str(name): list(tags or ()) for name, tags in services.items()}

    def instances(self, service: str) -> Counter[str]:
        """How many instances of `service` Consul has in each state; "malformed" are those nobody may call."""
        answer = self._kv.read(f"health/service/{quote(service, safe='')}")
        endpoints, dropped = Instances().read(answer.body)
        counted = Counter(endpoint.status for endpoint in endpoints)
        if dropped:
            counted["malformed"] = len(dropped)
        return counted

    def hidden(self, service: str) -> str:
        """Why the token would not be shown the instances of `service` if there were any, or ""."""
        return hidden(service, self._ask)

    def history(self, key: str) -> list[Version]:
        """The recorded versions of a document, the oldest first; without those that can't have been recorded."""
        found = self._recorded(key)
        if not found and self._ask(f"kv/{quote(self._past(key))}").status == FORBIDDEN:
            # Asked for all keys below one, Consul has the same answer where there is none and where none may be read.
            past = f"{self.settings.prefix}{HISTORY}"
            raise Unanswered(f"the token may not read {past}/ in KV; {grant(past, 'read')}")
        return found

    def write(
        self,
        changes: Sequence[Change],
        unchanged: Mapping[str, str] | None = None,
        signed: Signature | None = None,
    ) -> Written:
        """Write all `changes`, if their documents and those of `unchanged` (key to version) are as they were.

        Of `unchanged` as many are checked as there is room for: a service that a hundred others lead to must
        be writable too. What is `signed` is recorded in the histories of its documents. Raises Conflict or
        TooMuch, and then nothing was written.
        """
        if len(changes) > MOST_OPERATIONS:
            raise TooMuch(
                f"{len(changes)} documents are more than the {MOST_OPERATIONS} that Consul writes at once; "
                "nothing was written; apply fewer at once"
            )
        beside = list((unchanged or {}).items())[: MOST_OPERATIONS - len(changes)]
        operations = [self._operation(change) for change in changes]
        operations += [self._kv.operation("check-index", self._full(key), version) for key, version in beside]
        keys = [*(change.key for change in changes), *(key for key, _ in beside)]
        if signed is not None and (records := self._records(changes, signed)):
            try:
                written = self._kv.transact([*operations, *records])
                return Written(self._versions(changes, written))
            except TooMuch:
                pass  # they have no room in it
            except Refused as refused:
                if min(refused.failed, default=0) < len(operations):
                    raise self._conflict(refused, keys) from None
                # The histories alone stand in the way; the documents don't wait for them.
        if len(changes) == 1 and changes[0].text is not None and room(operations) < 0:
            written = self._put_alone(changes[0], changes[0].text)
        else:
            try:
                written = self._kv.transact(operations)
            except Refused as refused:
                raise self._conflict(refused, keys) from None
        return Written(self._versions(changes, written), self._record(changes, signed) if signed is not None else "")

    def close(self) -> None:
        """Close the connection."""
        self._kv.close()

    def __enter__(self) -> KvStore:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- inside

    def _ask(self, path: str, *flags: str) -> Answer:
        return self._kv.read(path, *((flag, "") for flag in flags), accept=(OK, FORBIDDEN, ABSENT))

    def _full(self, key: str) -> str:
        return f"{self.settings.prefix}/{key}"

    def _past(self, key: str) -> str:
        """Where the versions of a document are: beside the prefix, where no client looks."""
        return f"{self.settings.prefix}{HISTORY}/{key}/"

    def _versions(self, changes: Sequence[Change], written: Mapping[str, str]) -> dict[str, str]:
        return {change.key: written.get(self._full(change.key), "") for change in changes}

    def _operation(self, change: Change) -> Operation:
        verb = "delete-cas" if change.text is None else "cas"
        return self._kv.operation(verb, self._full(change.key), change.version, change.text)

    def _put_alone(self, change: Change, text: bytes) -> dict[str, str]:
        """A document too large for a transaction, though not for a value; nothing can be checked with it."""
        if not self._kv.put(self._full(change.key), text, change.version):
            raise Conflict([change.key])
        return {}

    def _conflict(self, refused: Refused, keys: Sequence[str]) -> Exception:
        """Which of `keys` a transaction failed on; that the token may not write them, Consul tells alike."""
        if any(number < len(keys) for number in refused.denied):
            return self._kv.denied()
        return Conflict([key for number, key in enumerate(keys) if number in refused.failed])

    # -- what was before

    def _recorded(self, key: str) -> list[Version]:
        start = self._past(key)
        answer = self._kv.read(f"kv/{quote(start)}", ("recurse", ""), accept=(OK, ABSENT))
        found = []
        for entry in json.loads(answer.body) if answer.status == OK else ():
            try:
                content = base64.b64decode(entry["Value"] or "", validate=True)
                found.append(Version.decode(entry["Key"].removeprefix(start), content))
            except ValueError:
                continue
        return found

    def _records(self, changes: Sequence[Change], signed: Signature) -> list[Operation]:
        """What writes `changes` into their histories; nothing where these can't be read."""
        try:
            return [operation for change in changes for operation in self._recording(change, signed)]
        except Unanswered:
            return []  # `_record` says why

    def _recording(self, change: Change, signed: Signature) -> list[Operation]:
        past = self._past(change.key)
        new, out = recorded(self._recorded(change.key), change.before, change.text, signed)
        made = [self._kv.operation("cas", past + version.key, NEW, version.encode()) for version in new]
        return made + [self._kv.operation("delete", past + version.key) for version in out]

    def _record(self, changes: Sequence[Change], signed: Signature) -> str:
        """Write `changes`, which are done, into their histories; why some are not in there, or ""."""
        why = ""
        for change in changes:
            try:
                self._kv.transact(self._recording(change, signed))
            except Refused as refused:
                past = f"{self.settings.prefix}{HISTORY}"
                denied = f"the token may not write {past}/ in KV; {grant(past)}"
                why = denied if refused.denied else f"somebody else records a change of {change.key} as well"
            except (Unanswered, TooMuch) as failure:
                why = str(failure)
        return why
