"""Documents out of Consul's KV: what its answers hold, and how much of what they no longer hold is believed.

One blocking query follows the whole prefix, so a transaction over several keys arrives whole. Consul answers
404 where there is no key, and also where the token may read none of them.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from proxyless.control import MESH_KEY, SERVICES, RawDocument
from proxyless.control.vanishing import LATER, SOON, UNTIL_IT_MOVES, Stragglers, Vanishing
from proxyless.control.watcher import FLOORS, Answer, News, Unanswered

OK, FORBIDDEN, ABSENT = 200, 403, 404

MOST, LONGEST = 20, 120
"""How many keys that no client reads are named, and how much of each."""


class Ask(Protocol):
    """A read beside the watch: `path` under /v1/, parameters without a value. Raises Unanswered."""

    def __call__(self, path: str, *flags: str) -> Answer: ...


class Documents:
    """What is believed of the answers to one watch on `prefix`; `tell` hears of it.

    `doubt` says what is not believed at present, or ""; `unread` are keys below the prefix that are no document's.
    """

    def __init__(
        self,
        prefix: str,
        ask: Ask,
        tell: Callable[[Mapping[str, RawDocument]], None],
        *,
        hold: float,
        now: Callable[[], float],
    ) -> None:
        self._prefix = prefix
        self._ask, self._tell = ask, tell
        self._known: Mapping[str, RawDocument] = {}
        self._vanishing = Vanishing(hold, now)
        self._stragglers = Stragglers(hold, now)
        self.doubt = ""
        self.unread: Sequence[str] = ()

    @property
    def path(self) -> str:
        """With the slash, for `shop` is also the beginning of `shopping/mesh`."""
        return f"kv/{quote(self._prefix)}/"

    def assume(self, known: Mapping[str, RawDocument]) -> None:
        """An earlier process knew these: that they are gone takes as much to be believed as if we had."""
        self._known = known

    def take(self, news: News) -> float | None:
        """A `Deliver` of the watcher."""
        documents, unreadable = self._read(news.answer)
        if documents:
            broken = self._vanishing.broken(news)
            return self._some(documents, unreadable, fragile=news.answer.fragile, broken=broken)
        if self._known:
            return self._none(news)
        if news.answer.status == ABSENT and self._forbidden():
            # Not the same as no documents: there may be, and calls must not go where they forbid.
            why = f"the token may not read {self._prefix}/ in KV; {self._grant()}"
            raise Unanswered(why, FLOORS[FORBIDDEN])
        return self._some({}, unreadable)

    def _some(
        self,
        documents: dict[str, RawDocument],
        unreadable: str,
        *,
        fragile: bool = False,
        broken: bool = False,
    ) -> float | None:
        self._vanishing.over()
        self.doubt = unreadable
        missing = frozenset(key for key in self._known if key not in documents)
        if fragile and missing:
            # A server without a leader: what it has is true, what it has not may be new to it.
            self.doubt = "documents are missing from the answer of a server without a leader; they stay"
            stay = missing
        elif stay := self._stragglers.among(missing, broken=broken):
            names = ", ".join(sorted(stay)[:4])
            self.doubt = f"{names}: missing since Consul was restarted or away; they stay for a while"
        hidden = self._hidden(missing - stay)
        if hidden:
            names = ", ".join(sorted(hidden)[:4])
            self.doubt = f"the token may no longer read {names}; what is known stays; {self._grant()}"
        self._known = documents | {key: self._known[key] for key in stay | hidden}
        self._tell(self._known)
        again = SOON if fragile and missing else self._stragglers.remaining()
        return min(LATER, again if again is not None else LATER) if hidden else again

    def _hidden(self, gone: Iterable[str]) -> frozenset[str]:
        """Those of `gone` that were not deleted: a token that lost the right to read some is shown the others."""
        answers = {key: self._ask(f"{self.path}{quote(key)}").status for key in sorted(gone)}
        for key, status in answers.items():
            if status not in (OK, FORBIDDEN, ABSENT):
                raise Unanswered(f"{key} is gone, which Consul won't confirm: it answered {status}")
        return frozenset(key for key, status in answers.items() if status == FORBIDDEN)

    def _none(self, news: News) -> float | None:
        self._vanishing.told(news)
        if self._forbidden():
            self.doubt = f"the token may no longer read {self._prefix}/ in KV; documents stay; {self._grant()}"
            self._vanishing.impossible()
            return LATER
        if self._vanishing.unmoved(news):
            self.doubt = "all documents are gone, but nothing was deleted (the index is as before); they stay"
            return UNTIL_IT_MOVES
        sure = self._ask(self.path, "recurse", "consistent")
        if sure.status not in (OK, ABSENT):
            raise Unanswered(f"all documents are gone, which Consul won't confirm: it answered {sure.status}")
        documents, unreadable = self._read(sure)
        if documents:
            return self._some(documents, unreadable, broken=not self._vanishing.grown)
        if not self._vanishing.grown and (left := self._vanishing.remaining()):
            self.doubt = "all documents are gone since Consul was restarted or away; they stay for a while"
            return left
        return self._some({}, unreadable)

    def _forbidden(self) -> bool:
        """Asked for one key by name, Consul does say that it is not to be read."""
        answer = self._ask(f"{self.path}{MESH_KEY}")
        if answer.status not in (OK, FORBIDDEN, ABSENT):
            raise Unanswered(f"Consul won't say if {self._prefix}/ may be read: it answered {answer.status}")
        return answer.status == FORBIDDEN

    def _grant(self) -> str:
        return f'grant it key_prefix "{self._prefix}/" {{ policy = "read" }}'

    def _read(self, answer: Answer) -> tuple[dict[str, RawDocument], str]:
        """The documents in an answer, and what in it can't be read; raises ValueError if nothing can."""
        documents: dict[str, RawDocument] = {}
        unreadable, unread = "", []
        for entry in _entries(answer):
            full = entry.get("Key")
            key = full.removeprefix(f"{self._prefix}/") if isinstance(full, str) else ""
            service = key.removeprefix(SERVICES)
            if key in ("", full) or (key != MESH_KEY and (service in ("", key) or "/" in service)):
                if key not in ("", full) and not key.endswith("/"):  # a folder, as Consul's own pages make them
                    unread.append(key[:LONGEST])
                continue
            try:
                documents[key] = RawDocument(key, _text(entry), str(entry.get("ModifyIndex")), f"consul:{full}")
            except ValueError:
                unreadable = f"Consul's answer about {full} is not base64; it stays as it was"
                if key in self._known:
                    documents[key] = self._known[key]
        self.unread = sorted(unread)[:MOST]
        return documents, unreadable


def _entries(answer: Answer) -> list[dict[str, Any]]:
    if answer.status == ABSENT:
        return []
    try:
        entries = json.loads(answer.body)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"the answer is not JSON: {str(e)[:100]}") from None
    if not isinstance(entries, list):
        raise ValueError("the answer is not a list of keys")
    return [entry for entry in entries if isinstance(entry, dict)]


def _text(entry: Mapping[str, Any]) -> str | bytes:
    """The value; one that is null is empty. What is not UTF-8 is left to the dialect to refuse."""
    value = entry.get("Value") or ""
    if not isinstance(value, str):
        raise ValueError("not a text")
    try:
        content = base64.b64decode(value, validate=True)
    except binascii.Error as e:
        raise ValueError(str(e)) from None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content
