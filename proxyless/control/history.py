"""The earlier versions of documents: what is recorded of a change, what is kept of it, and which one came before.

Beside the documents, not among them: the versions of `proxyless/v1/services/shop` are the keys
`proxyless/v1-history/services/shop/00000001` and so on. Clients follow `proxyless/v1/` and nothing else, so a
version neither wakes them nor travels to them. Whoever may write there may lie about the past, so what is read
is checked as everything that comes from outside is.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

KEPT: Final = 20
"""Versions of a document. Of one as large as Consul takes (512 KiB) that is 10 MiB, which an agent still answers in
a second; of a usual one (4 KiB) it is less than that one document may have."""

PLAIN: Final = 32 * 1024
"""Bytes of a text that is kept as it is, to be read in Consul's own UI too; a larger one is deflated."""

LARGEST_TEXT: Final = 1024 * 1024
"""Bytes of a text that is inflated: twice what Consul takes as a document. A deflated megabyte may be a gigabyte."""

_WORD: Final = 200
"""Characters of what somebody says about a change."""

APPLIED, DELETED, ROLLED_BACK, FOUND = "applied", "deleted", "rolled back", "found"


@dataclass(frozen=True, slots=True)
class Signature:
    """Who changes documents, when, and why: texts for people. `restores` is the version that is to come back."""

    by: str
    at: str
    note: str = ""
    restores: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A document as a change left it; without `text` that change deleted it.

    `action` is applied, deleted, rolled back, or found: what somebody else had written by other means.
    """

    number: int
    action: str
    at: str
    by: str
    text: bytes | None
    note: str = ""
    restores: int | None = None

    @property
    def key(self) -> str:
        """The last part of its key in KV; of one width, so that keys are sorted as numbers are."""
        return f"{self.number:08}"

    def encode(self) -> bytes:
        """As it is kept in KV."""
        about: dict[str, Any] = {"action": self.action, "at": self.at, "by": self.by}
        about |= {"note": self.note} if self.note else {}
        about |= {"restores": self.restores} if self.restores is not None else {}
        kept = json.dumps({**about, **_packed(self.text)}, ensure_ascii=False, indent=1)
        return kept.encode(errors="backslashreplace")  # a note typed in another coding has halves of characters

    @classmethod
    def decode(cls, key: str, content: bytes) -> Version:
        """Read one back; raises ValueError for what nobody here has written."""
        if not (key.isascii() and key.isdigit() and len(key) == 8):
            raise ValueError(f"{key[:40]!r} is no number of a version")
        try:
            kept = json.loads(content)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
        if not isinstance(kept, dict):
            raise ValueError("it is not an object")
        restores = kept.get("restores")
        action, at, by, note = (str(kept.get(name) or "")[:_WORD] for name in ("action", "at", "by", "note"))
        text = _unpacked(kept)
        return cls(int(key), action, at, by, text, note, restores if isinstance(restores, int) else None)


def recorded(
    kept: Sequence[Version], before: bytes | None, after: bytes | None, signed: Signature
) -> tuple[list[Version], list[Version]]:
    """The versions that a change from `before` to `after` adds to those `kept`, and those that it pushes out.

    What was there before is added too, unless it is the newest: somebody wrote it by other means, and it must
    not be lost.
    """
    number = kept[-1].number if kept else 0
    new = []
    if before is not None and (not kept or kept[-1].text != before):
        number += 1
        new.append(Version(number, FOUND, signed.at, "", before))
    action = DELETED if after is None else APPLIED if signed.restores is None else ROLLED_BACK
    new.append(Version(number + 1, action, signed.at, signed.by, after, signed.note[:_WORD], signed.restores))
    return new, [*kept][: max(0, len(kept) + len(new) - KEPT)]


def earlier(versions: Sequence[Version], now: bytes | None) -> Version | None:
    """The version to go back to from the text that is there `now`: the newest before it that is another text.

    After going back from 3 to 2, "before" is before 2: whoever goes back twice does not want 3 again.
    """
    stands = None
    if versions and versions[-1].text == now:
        newest = versions[-1]
        stands = newest.number if newest.restores is None else newest.restores
    for version in reversed(versions):
        if version.text is not None and version.text != now and (stands is None or version.number < stands):
            return version
    return None


def _packed(text: bytes | None) -> dict[str, str | None]:
    if text is not None and len(text) > PLAIN:
        return {"deflated": base64.b64encode(zlib.compress(text)).decode()}
    try:
        return {"text": None if text is None else text.decode()}
    except UnicodeDecodeError:  # a document that somebody wrote by other means may be anything
        return {"deflated": base64.b64encode(zlib.compress(text or b"")).decode()}


def _unpacked(kept: dict[str, Any]) -> bytes | None:
    if "deflated" in kept:
        inflate = zlib.decompressobj()
        try:
            text = inflate.decompress(base64.b64decode(str(kept["deflated"]), validate=True), LARGEST_TEXT)
        except (binascii.Error, zlib.error, ValueError) as error:
            raise ValueError(f"its text can't be inflated: {error}") from None
        if not inflate.eof:
            raise ValueError("its text is larger than a document can be, or cut off")
        return text
    plain = kept.get("text")
    if plain is None:
        return None
    if not isinstance(plain, str):
        raise ValueError("its text is no text")
    return plain.encode(errors="surrogatepass")
