"""The sources by their URL's scheme, and the door for plug-ins. A new one is one file and one line here."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path

from proxyless.control import Source
from proxyless.control.cache import Cache, default_folder
from proxyless.control.scanner import quoted

log = logging.getLogger("proxyless")

Factory = Callable[[], tuple[Source, Cache | None]]
"""Makes a source afresh (a forked child needs another one), and where its last good state is kept."""


def _consul(url: str) -> Factory:
    from proxyless.control.consul_settings import ConsulSettings

    settings = ConsulSettings.parse(url)
    folder = Path(settings.snapshot) if settings.snapshot else default_folder()
    # One state per cluster and per set of rights: what one token may see is not for another's process.
    secret = hashlib.blake2b((settings.token or "").encode(), digest_size=8).hexdigest()
    identity = "|".join(
        str(part) for part in (settings.address, settings.prefix, settings.dc, settings.ns, settings.partition, secret)
    )
    cache = None if settings.snapshot == "off" or folder is None else Cache(folder, identity)
    if folder is None:
        log.warning("nothing is kept on disk: this user has no home; set XDG_CACHE_HOME, or say ?snapshot=DIR")

    def make() -> tuple[Source, Cache | None]:
        # Not before it is needed: `proxyless run` reads the URL first, and if the program begins with gevent's
        # `patch_all`, a urllib3 imported by then is bound to the `ssl` that was: no TLS works (RecursionError).
        from proxyless.control.consul import ConsulSource

        return ConsulSource(settings), cache

    return make


def _file(url: str) -> Factory:
    from proxyless.control.file import FileSource

    path = url.partition(":")[2]
    path = path.removeprefix("//") if path.startswith("//") else path
    if not path:
        raise ValueError("file: names no file: write file:mesh.yaml, or file:FOLDER")
    return lambda: (FileSource(path), None)


SOURCES: Mapping[str, Callable[[str], Factory]] = {
    "consul": _consul,
    "consul+https": _consul,
    "file": _file,
}


def default_url() -> str:
    """Where the mesh's state comes from when the program doesn't say: PROXYLESS_SOURCE, else the local Consul."""
    return os.environ.get("PROXYLESS_SOURCE") or "consul://"


def given(source: Source) -> Factory:
    """The maker of one that is there already; raises ValueError for what is none."""
    if not all(callable(getattr(source, name, None)) for name in ("start", "watch", "close")):
        what = "a source is a URL in text, or an object with the methods of proxyless.control.Source"
        advice = f"; write 'file:{source}'" if isinstance(source, os.PathLike) else ""
        raise ValueError(f"{what}; got {source!r}{advice}")
    return lambda: (source, None)


def factory(url: str) -> Factory:
    """The maker of the source that `url` names; raises ValueError with what to write instead."""
    scheme, colon, _ = url.partition(":")
    if colon and scheme in SOURCES:
        return SOURCES[scheme](url)
    plugins = {entry.name: entry for entry in entry_points(group="proxyless.sources")}
    if colon and scheme in plugins:
        make = plugins[scheme].load()
        return lambda: (make(url), None)
    known = ", ".join(f"{name}:" for name in sorted({*SOURCES, *plugins}))
    # The URL itself is not repeated: whatever it is, it may hold a password.
    raise ValueError(f"the URL of a source begins with one of {known}, this one with {quoted(scheme)}")
