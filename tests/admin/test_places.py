"""Where sockets are: folders that are used and others, names, long paths, what the killed leave behind."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxyless.admin import places


def test_which_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is named and no other; else the session's and the temporary one, which is per user."""
    monkeypatch.setattr("tempfile.tempdir", "/var/tmp")
    temporary = Path(f"/var/tmp/proxyless-{os.geteuid()}")
    assert places.folders({"PROXYLESS_RUNTIME_DIR": "/a", "XDG_RUNTIME_DIR": "/b"}) == [Path("/a")]
    assert places.folders({"XDG_RUNTIME_DIR": "/run/user/7"}) == [Path("/run/user/7/proxyless"), temporary]
    assert places.folders({}) == [temporary]


def test_a_socket_is_the_users_alone(tmp_path: Path) -> None:
    """Folder and socket are closed to others, whatever the umask; the name is the process's number."""
    before = os.umask(0)
    try:
        listening, path = places.listen(tmp_path / "run")
    finally:
        os.umask(before)
    with listening:
        assert path == tmp_path / "run" / f"{os.getpid()}.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert places.sockets(path.parent) == {path: os.getpid()}
        with places.connect(path, 1.0):
            pass
    assert os.listdir(tmp_path / "run") == [path.name]


def test_a_folder_that_others_may_enter_is_not_used(tmp_path: Path) -> None:
    """Not by a process, and not by whoever looks for one."""
    (folder := tmp_path / "open").mkdir()
    for mode in (0o755, 0o770, 0o701):
        folder.chmod(mode)
        for use in (places.listen, places.check):
            with pytest.raises(OSError, match=r"is open to others \(mode 07"):
                use(folder)
    assert os.listdir(folder) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever was first in a folder where everybody may write could lead us anywhere."""
    (elsewhere := tmp_path / "elsewhere").mkdir(mode=0o700)
    (link := tmp_path / "run").symlink_to(elsewhere)
    with pytest.raises(OSError, match="is a symbolic link"):
        places.listen(link)
    assert os.listdir(elsewhere) == []
    (file := tmp_path / "file").touch()
    with pytest.raises(OSError, match="is no folder"):
        places.listen(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """Root looks into it, and does not listen there; nobody else does either."""
    (folder := tmp_path / "run").mkdir(mode=0o700)
    os.chown(folder, 4711, -1)
    places.check(folder)
    with pytest.raises(OSError, match="belongs to another user"):
        places.listen(folder)
    os.chown(tmp_path, 4712, -1)
    program = (
        "import os, sys; from pathlib import Path; os.setuid(4712); from proxyless.admin import places\n"
        "try: places.listen(Path(sys.argv[1]))\nexcept OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("another user may not read this checkout")
    assert "belongs to another user (uid 4711)" in done.stdout or "Permission denied" in done.stdout


def test_a_path_of_any_length(tmp_path: Path) -> None:
    """A socket's path has 108 bytes; where the folder's is longer the socket is reached by another way."""
    folder = tmp_path / ("x" * 120)
    if not os.path.isdir("/proc/self/fd"):
        with pytest.raises(OSError, match="is too long for a socket"):
            places.listen(folder)
        return
    listening, path = places.listen(folder)
    with listening, places.connect(path, 1.0):
        asked, _ = listening.accept()
        asked.close()
    assert len(str(path)) > places.LONGEST


def test_what_the_killed_leave_behind_is_removed(tmp_path: Path) -> None:
    """A socket of a process that is gone and half a socket; not one that somebody answers, nor anybody's file."""
    with subprocess.Popen(["true"]) as gone:
        pass
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)

    def bound(name: str) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(folder / name))
        return made

    bound(f"{gone.pid}.sock").close()
    bound(".0123").close()
    os.utime(folder / ".0123", (time.time() - 100, time.time() - 100))
    bound(".4567").close()
    (folder / "note.txt").touch()
    with bound(f"{gone.pid}-0.sock") as alive:
        alive.listen()
        listening, path = places.listen(folder)
        with listening:
            assert sorted(os.listdir(folder)) == sorted([".4567", "note.txt", f"{gone.pid}-0.sock", path.name])


def test_two_processes_of_one_number(tmp_path: Path) -> None:
    """Containers that share the folder: the second takes another name; what nobody answers to is replaced."""
    first, path = places.listen(tmp_path / "run")
    second, other = places.listen(tmp_path / "run")
    assert (path.name, other.name) == (f"{os.getpid()}.sock", f"{os.getpid()}-0.sock")
    first.close()
    third, again = places.listen(tmp_path / "run")
    assert again == path
    second.close()
    third.close()
    assert places.sockets(tmp_path / "run") == {path: os.getpid(), other: os.getpid()}
