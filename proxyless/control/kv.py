"""Consul's KV for somebody who waits: one read or one write, its answer or what is the matter with it.

Writes are check-and-set, alone or several in a transaction. Beside the watches of a mesh (`consul_http.py`), which
wait for hours and must be cancelled at once, these are the requests of a person.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import requests

from proxyless.control.consul_documents import ABSENT, OK
from proxyless.control.consul_http import ConsulClient
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.watcher import Answer, Unanswered

ANSWER_WITHIN: Final = 2.0
"""Seconds for an answer that is asked for by somebody who waits for it."""

MOST_OPERATIONS: Final = 64
"""In one transaction (Consul 1.8 refuses the 65th)."""

LARGEST: Final = 512 * 1024
"""Bytes of a request (`kv_max_value_size`, `txn_max_req_len`); in a transaction values grow by a third."""

FORBIDDEN, CONFLICT, TOO_LARGE = 403, 409, 413

NEW: Final = "0"
"""The version of what is not there: check-and-set with index 0 creates, and nothing else."""

Operation = Mapping[str, Any]


class TooMuch(ValueError):
    """More than Consul takes at once; nothing was written. The message says what to do."""


class Refused(Exception):
    """Nothing of a transaction was done. `failed` are the numbers of the operations that stood in its way;
    `denied` are those of them that the token has no right to."""

    def __init__(self, failed: frozenset[int], denied: frozenset[int]) -> None:
        super().__init__(f"operations {sorted(failed)} failed")
        self.failed, self.denied = failed, denied


class Kv:
    """Reads and writes of full keys. Every method raises Unanswered if Consul is silent or refuses."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._settings = settings
        self._client = ConsulClient(settings)
        place = (("dc", settings.dc), ("ns", settings.ns), ("partition", settings.partition))
        self._place = [(name, value) for name, value in place if value]

    def read(self, path: str, *params: tuple[str, str], accept: Sequence[int] = (OK,)) -> Answer:
        """What is at `path` below /v1/, as the leader has it."""
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

    def operation(self, verb: str, key: str, version: str = NEW, value: bytes | None = None) -> Operation:
        """A part of a transaction: `cas`, `delete-cas`, `check-index`, `delete`."""
        made: dict[str, Any] = {"Verb": verb, "Key": key, "Index": int(version)}
        if value is not None:
            made["Value"] = base64.b64encode(value).decode()
        if self._settings.ns:  # of a transaction's keys each has its own
            made["Namespace"] = self._settings.ns
        return {"KV": made}

    def transact(self, operations: Sequence[Operation]) -> dict[str, str]:
        """Do all of them or none; the new versions of the keys that were written. Raises Refused, TooMuch."""
        size = room(operations)
        if size < 0:
            raise TooMuch(
                f"the documents make a transaction of {LARGEST - size} bytes, and Consul takes {LARGEST}; "
                "nothing was written; apply fewer at once"
            )
        answer = self._put("/v1/txn", [], json.dumps(operations).encode())
        if answer.code == CONFLICT:
            errors = json.loads(answer.body).get("Errors") or []
            failed = {error["OpIndex"]: str(error.get("What")) for error in errors if "OpIndex" in error}
            denied = frozenset(number for number, what in failed.items() if "ermission denied" in what)
            raise Refused(frozenset(failed), denied)
        if answer.code != OK:
            raise self._refused(answer)
        results = [result["KV"] for result in json.loads(answer.body)["Results"] or ()]
        return {entry["Key"]: str(entry["ModifyIndex"]) for entry in results}

    def put(self, key: str, value: bytes, version: str = NEW) -> bool:
        """Write one value, which may be larger than a transaction takes; whether it was still at `version`."""
        answer = self._put(f"/v1/kv/{quote(key)}", [("cas", version)], value)
        if answer.code != OK:
            raise self._refused(answer)
        return bool(answer.body.strip() == "true")

    def denied(self) -> Unanswered:
        """That the token may not write the documents, and what would let it."""
        prefix = self._settings.prefix
        return Unanswered(f"the token may not write {prefix}/ in KV; nothing was written; {grant(prefix)}")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

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
            return self.denied()
        token = self._client.prepare_headers().get("X-Consul-Token")
        if token:  # of whoever answers by showing the request
            said = said.replace(token, "<token>")
        return Unanswered(f"Consul answered {answer.code} {said!r}; nothing was written")


def grant(prefix: str, policy: str = "write") -> str:
    """What to do about a token that may not read or write below `prefix`."""
    return f'grant it key_prefix "{prefix}/" {{ policy = "{policy}" }}'


def room(operations: Sequence[Operation]) -> int:
    """The bytes that are left in a transaction of these; negative where it is too large or too long."""
    if len(operations) > MOST_OPERATIONS:
        return -len(operations)
    return LARGEST - len(json.dumps(operations).encode())


_HINTS: Final = {
    401: "; the agent has no ACLs, or wants a token",
    403: "; the token is unknown, expired or may not read this",
    429: "; too many requests or connections: see http_max_conns_per_client in the agent's limits",
    500: "; an agent without a leader says so: see `consul operator raft list-peers`",
}
