"""Where the sockets are: a folder that nobody else may enter, and in it one socket for each process.

The folder is `$PROXYLESS_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/proxyless`, else `proxyless-<uid>` in the system's folder
for temporary files, where everybody may write: somebody else may have been there first, with a folder or a link
of that name. It is used only if it is a folder of our own that is closed to others.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST = 107 if sys.platform == "linux" else 103
"""Bytes of a socket's path: `sun_path` has 108 (on BSD 104), and a zero at its end."""

_NAME = re.compile(r"([0-9]{1,10})(-[0-9])?\.sock")

ABANDONED = 60.0
"""Seconds after which a socket that never got its name belongs to nobody."""


class Unsafe(OSError):
    """The folder is not one to be used; the message says why."""


def folders(environ: Mapping[str, str]) -> list[Path]:
    """Where a process may listen, the best first; and so, where to look for one."""
    named = environ.get("PROXYLESS_RUNTIME_DIR")
    if named:
        return [Path(named)]
    session = environ.get("XDG_RUNTIME_DIR")
    theirs = [Path(session) / "proxyless"] if session else []
    return [*theirs, Path(tempfile.gettempdir()) / f"proxyless-{os.geteuid()}"]


def check(folder: Path) -> None:
    """Raise OSError unless `folder` is there, is ours, and is closed to everybody else."""
    about = os.lstat(folder)  # a link is not followed: whoever made it could lead us anywhere
    if not stat.S_ISDIR(about.st_mode):
        raise Unsafe(f"{folder} is {'a symbolic link' if stat.S_ISLNK(about.st_mode) else 'no folder'}")
    if about.st_uid != os.geteuid() and os.geteuid() != 0:  # root may look everywhere
        raise Unsafe(f"{folder} belongs to another user (uid {about.st_uid})")
    if about.st_mode & 0o077:
        raise Unsafe(f"{folder} is open to others (mode {stat.S_IMODE(about.st_mode):04o}); chmod 700 it")


def listen(folder: Path) -> tuple[socket.socket, Path]:
    """A socket that listens under this process's name in `folder`; raises OSError.

    It gets its name when it listens: nobody ever finds one that does not answer yet. A name that somebody answers to
    is theirs: where containers share the folder, several processes have the number 1.
    """
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    check(folder)
    if os.lstat(folder).st_uid != os.geteuid():
        raise Unsafe(f"{folder} belongs to another user, and root does not listen there")
    _sweep(folder)
    nameless = folder / f".{secrets.token_hex(4)}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _reached(nameless) as path:
            listening.bind(path)
        os.chmod(nameless, 0o600)
        listening.listen(16)
        name = next(name for name in _names(folder) if not _answered(name))
        os.rename(nameless, name)
    except BaseException as failure:
        listening.close()
        with suppress(OSError):
            os.unlink(nameless)
        if isinstance(failure, StopIteration):
            raise OSError(f"too many processes with the number {os.getpid()} in {folder}") from None
        raise
    return listening, name


def connect(path: Path, within: float) -> socket.socket:
    """A connection to the process that listens at `path`; raises OSError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(within)
        with _reached(path) as reached:
            made.connect(reached)
    except BaseException:
        made.close()
        raise
    return made


def sockets(folder: Path) -> dict[Path, int]:
    """The sockets in `folder`, each with the number of its process as its name has it."""
    found = {}
    for entry in sorted(os.listdir(folder)):
        if match := _NAME.fullmatch(entry):
            found[folder / entry] = int(match[1])
    return found


def _names(folder: Path) -> Iterator[Path]:
    pid = os.getpid()
    yield folder / f"{pid}.sock"
    yield from (folder / f"{pid}-{number}.sock" for number in range(10))


def _answered(path: Path) -> bool:
    """Whether somebody listens there; a process that is too busy to answer does."""
    try:
        connect(path, 0.2).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        pass
    return True


def _sweep(folder: Path) -> None:
    """Remove what processes left behind that were killed."""
    with suppress(OSError):
        for path, pid in sockets(folder).items():
            if not _alive(pid) and not _answered(path):
                path.unlink(missing_ok=True)
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and entry.stat(follow_symlinks=False).st_mtime < time.time() - ABANDONED:
                os.unlink(entry.path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def _reached(path: Path) -> Iterator[str]:
    """A name of `path` that is short enough for a socket."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    if not os.path.isdir("/proc/self/fd"):
        raise OSError(f"{path} is too long for a socket ({LONGEST} bytes); set PROXYLESS_RUNTIME_DIR to a shorter one")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
