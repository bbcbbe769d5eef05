"""One file a document language, and the table of them: text that was read, made into values of `model/`.

A dialect is a function `(parsed, what) -> (value or None, findings)`. It never raises on any input and never
lets half a document through. A new one is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxyless.control.dialects import native

DIALECTS: Mapping[str, native.Dialect] = {"proxyless/v1": native.read}
"""By `apiVersion`."""
