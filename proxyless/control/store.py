"""Documents in Consul's KV, for people and programs that change them: read, and written with check-and-set.

What is written was decided on what had been read, so it is written only if that still holds: every key with
the index it was read at, and beside them the keys that the decision was based on. Several documents go in one
transaction: clients see all of them or none.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import requests

from proxyless.control import RawDocument
from proxyless.control.consul_documents import ABSENT, FORBIDDEN, OK, Documents
from proxyless.control.consul_http import ConsulClient
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.instances import Instances
from proxyless.control.watcher import Answer, News, Unanswered

ANSWER_WITHIN: Final = 2.0
"""Seconds for an answer that is asked for by somebody who waits for it."""

MOST_OPERATIONS: Final = 64
"""In one transaction (Consul 1.8 refuses the 65th)."""

LARGEST: Final = 512 * 1024
"""Bytes of a request (`kv_max_value_size`, `txn_max_req_len`); in a transaction values grow by a third."""

CONFLICT, TOO_LARGE = 409, 413

NEW: Final = "0"
"""The version of a document that is not there: check-and-set with index 0 creates, and nothing else."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one document. `version` is the one it was decided on; without `text` it is deleted."""

    key: str
    text: bytes | None
    version: str = NEW


class Conflict(Exception):
    """Somebody else wrote in between, so nothing was written. `keys` are the documents that they wrote."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(", ".join(keys))
        self.keys = tuple(keys)


class TooMuch(ValueError):
    """More than Consul takes at once; nothing was written. The message says what to do."""


class KvStore:
    """The documents below one prefix. Every method raises Unanswered if Consul is silent or refuses."""

    def __init__(self, settings: ConsulSettings, now: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.name = f"{settings.name}/{settings.prefix}"
        self._now = now
        self._client = ConsulClient(settings)
        place = (("dc", settings.dc), ("ns", settings.ns), ("partition", settings.partition))
        self._place = [(name, value) for name, value in place if value]

    def documents(self) -> dict[str, RawDocument]:
        """All of them by key, as the leader has them; a document's version is its ModifyIndex."""
        told: dict[str, RawDocument] = {}

        def ask(path: str, *flags: str) -> Answer:
            return self._read(path, *((flag, "") for flag in flags), accept=(OK, FORBIDDEN, ABSENT))

        found = Documents(self.settings.prefix, ask, told.update, hold=0.0, now=self._now)
        answer = self._read(found.path, ("recurse", ""), accept=(OK, ABSENT))
        found.take(News(answer, 0, 0, unbroken=False))
        return told

    def services(self) -> dict[str, list[str]]:
        """The services in the catalog that the token may see, with their tags."""
        services = json.loads(self._read("catalog/services").body)
        return {str(name): list(tags or ()) for name, tags in services.items()}

    def instances(self, service: str) -> Counter[str]:
        """How many instances of `service` Consul has in each state; "malformed" are those nobody may call."""
        answer = self._read(f"health/service/{quote(service, safe='')}")
        endpoints, dropped = Instances().read(answer.body)
        counted = Counter(endpoint.status for endpoint in endpoints)
        if dropped:
            counted["malformed"] = len(dropped)
        return counted

    def write(self, changes: Sequence[Change], unchanged: Mapping[str, str] | None = None) -> dict[str, str]:
        """Write all `changes`, if their documents and those of `unchanged` (key to version) are as they were.

        Of `unchanged` as many are checked as there is room for: a service that a hundred others lead to must
        be writable too. Returns the new versions. Raises Conflict or TooMuch, and then nothing was written.
        """
        if len(changes) > MOST_OPERATIONS:
            raise TooMuch(
                f"{len(changes)} documents are more than the {MOST_OPERATIONS} that Consul writes at once; "
                "nothing was written; apply fewer at once"
            )
        beside = list((unchanged or {}).items())[: MOST_OPERATIONS - len(changes)]
        operations = [self._operation(change) for change in changes]
        operations += [self._kv("check-index", key, version) for key, version in beside]
        body = json.dumps(operations).encode()
        if len(body) > LARGEST:
            if len(changes) == 1 and changes[0].text is not None:
                return self._put_alone(changes[0].key, changes[0].text, changes[0].version)
            raise TooMuch(
                f"the documents make a transaction of {len(body)} bytes, and Consul takes {LARGEST}; "
                "nothing was written; apply fewer at once"
            )
        answer = self._put("/v1/txn", [], body)
        if answer.code == CONFLICT:
            raise self._conflict(answer, [*(change.key for change in changes), *(key for key, _ in beside)])
        if answer.code != OK:
            raise self._refused(answer)
        results = [result["KV"] for result in json.loads(answer.body)["Results"] or ()]
        versions = {entry["Key"]: str(entry["ModifyIndex"]) for entry in results}
        return {change.key: versions.get(self._full(change.key), "") for change in changes}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> KvStore:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- inside

    def _full(self, key: str) -> str:
        return f"{self.settings.prefix}/{key}"

    def _operation(self, change: Change) -> dict[str, Any]:
        if change.text is None:
            return self._kv("delete-cas", change.key, change.version)
        return self._kv("cas", change.key, change.version, Value=base64.b64encode(change.text).decode())

    def _kv(self, verb: str, key: str, version: str, **more: str) -> dict[str, Any]:
        if self.settings.ns:  # of a transaction's keys each has its own
            more["Namespace"] = self.settings.ns
        return {"KV": {"Verb": verb, "Key": self._full(key), "Index": int(version), **more}}

    def _put_alone(self, key: str, text: bytes, version: str) -> dict[str, str]:
        """A document too large for a transaction, though not for a value; nothing can be checked with it."""
        answer = self._put(f"/v1/kv/{quote(self._full(key))}", [("cas", version)], text)
        if answer.code != OK:
            raise self._refused(answer)
        if answer.body.strip() != "true":
            raise Conflict([key])
        return {key: ""}

    def _read(self, path: str, *params: tuple[str, str], accept: Sequence[int] = (OK,)) -> Answer:
        try:
            answer = self._client.read(path, [*params, *self._place], ANSWER_WITHIN)
        except ValueError as no_token:
            raise Unanswered(str(no_token)) from None
        if answer.status not in accept:
            said = answer.body[:200].decode(errors="replace").strip()
            raise Unanswered(f"Consul answered {answer.status} {said!r}{_HINTS.get(answer.status, '')}")
        if answer.status in (OK, ABSENT) and not answer.headers.get("x-consul-index", "").isdecimal():
            # A 404 of anybody else would be taken for an empty KV.
            raise Unanswered(f"the answer ({answer.status}) has no X-Consul-Index: is that really Consul?")
        return answer

    def _put(self, path: str, params: Sequence[tuple[str, str]], body: bytes) -> Any:
        # py-consul's own txn.put and kv.put know neither namespaces nor, the first, a token: its client does.
        try:
            headers = self._client.prepare_headers()
        except ValueError as no_token:
            raise Unanswered(str(no_token)) from None
        http = self._client.http
        http.connections_timeout = ANSWER_WITHIN * 2
        try:
            return http.put(lambda answer: answer, path, params=[*params, *self._place], data=body, headers=headers)
        except requests.exceptions.ConnectTimeout:
            raise Unanswered("no connection; nothing was written") from None
        except (requests.RequestException, OSError) as lost:
            raise Unanswered(
                f"no answer to the write ({type(lost).__name__}): it may be done or not; see `proxyless get`"
            ) from None

    def _refused(self, answer: Any) -> Exception:
        """What came of a write that was not done. `answer` is py-consul's: code, headers, body."""
        if answer.code == TOO_LARGE:
            return TooMuch(f"larger than Consul takes ({LARGEST} bytes); nothing was written")
        said = str(answer.body)[:200].strip()
        if answer.code == FORBIDDEN or "ermission denied" in said:
            return Unanswered(
                f"the token may not write {self.settings.prefix}/ in KV; nothing was written; grant it "
                f'key_prefix "{self.settings.prefix}/" {{ policy = "write" }}'
            )
        token = self._client.prepare_headers().get("X-Consul-Token")
        if token:  # of whoever answers by showing the request
            said = said.replace(token, "<token>")
        return Unanswered(f"Consul answered {answer.code} {said!r}; nothing was written")

    def _conflict(self, answer: Any, keys: Sequence[str]) -> Exception:
        """Which of `keys` a transaction failed on; that the token may not write them, Consul tells alike."""
        errors = json.loads(answer.body).get("Errors") or []
        if any("ermission denied" in str(error.get("What")) for error in errors):
            return self._refused(answer)
        failed = {error["OpIndex"] for error in errors if "OpIndex" in error}
        return Conflict([key for number, key in enumerate(keys) if number in failed])


_HINTS: Final = {
    401: "; the agent has no ACLs, or wants a token",
    403: "; the token is unknown, expired or may not read this",
    429: "; too many requests or connections: see http_max_conns_per_client in the agent's limits",
    500: "; an agent without a leader says so: see `consul operator raft list-peers`",
}
