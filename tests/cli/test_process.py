"""As a process: exit codes, pipes and terminals, and a source that is not there."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.invoking import CHECKOUT, Program, timed


def test_exit_codes_reach_the_shell(program: Program, shop: str, tmp_path: Path) -> None:
    """0 all is well, 1 something was found, 2 misused, 3 the source can't be reached."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("service: web\nroutes: 7\n")
    assert program("status", "--source", shop).returncode == 0
    assert program("validate", "-f", bad).returncode == 1
    assert program("explain", "shop", "nonsense", "--source", shop).returncode == 2
    assert program("status", "--source", f"file:{tmp_path}/none.yaml").returncode == 3


def test_into_a_pipe_goes_no_colour_and_no_broken_line(program: Program, shop: str) -> None:
    """`grep` finds a whole route in one line, and no escape sequence."""
    done = program("routes", "--source", shop)
    assert "\x1b" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "premium" in line]
    assert "x-flags regex" in line
    assert line == line.rstrip()


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What is written to a terminal of 80 columns."""
    master, slave = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm-256color", "COLUMNS": "80"}
    command = [sys.executable, "-m", "proxyless", *arguments]
    with subprocess.Popen(command, env=environ | environment, stdout=slave, stderr=slave, close_fds=True):
        os.close(slave)
        written = b""
        while True:
            try:
                read = os.read(master, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not read:
                break
            written += read
    os.close(master)
    return written.decode()


@pytest.mark.usefixtures("quiet_environment")
def test_a_terminal_gets_colours_unless_it_wants_none(shop: str) -> None:
    """NO_COLOR (no-color.org) turns them off."""
    assert "\x1b[32min sync" in on_a_terminal("status", "--source", shop)
    plain = on_a_terminal("status", "--source", shop, NO_COLOR="1")
    assert "in sync" in plain
    assert "\x1b[32m" not in plain


@pytest.mark.usefixtures("quiet_environment")
def test_a_terminal_gets_whole_cells_however_narrow_it_is(shop: str) -> None:
    """What doesn't fit is folded, never cut: the end of a long match is there."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal("routes", "--source", shop))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    squeezed = "".join(text.split())
    for word in ("new-ui", "premium", "NOT_FOUND", "canary"):
        assert word in squeezed


def test_a_source_that_refuses_connections_ends_with_3_at_once(program: Program) -> None:
    """Within 3 s, saying which address, who named it and what to check; no traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for command in (("status",), ("explain", "web", "/a.B/C"), ("get",)):
        done, seconds = timed(lambda: program(*command, CONSUL_HTTP_ADDR=address), within=3.0)  # noqa: B023
        assert seconds < 3.0
        assert done.returncode == 3
        assert done.stdout == ""
        assert f"no state from consul://{address}: connection refused" in done.stderr
        assert f"curl http://{address}/v1/status/leader" in done.stderr
        assert "CONSUL_HTTP_ADDR" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_source_that_only_listens_is_not_waited_for(program: Program) -> None:
    """A hung agent accepts and says nothing: 2 s of patience, then 3."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"consul://127.0.0.1:{server.getsockname()[1]}"
        for command in (("status",), ("get",)):
            # 2 s, and the start of a process
            done, seconds = timed(lambda: program(*command, "--source", address), within=4.0)  # noqa: B023
            assert seconds < 4.0
            assert done.returncode == 3
            assert f"no state from {address}: " in done.stderr


@pytest.mark.parametrize(
    "source",
    [
        "consul://127.0.0.1:1?token=S3CR3T-1",
        "consul://S3CR3T-1@127.0.0.1:1",
        "https://me:S3CR3T-1@127.0.0.1:1?token=S3CR3T-1",
        "consul://127.0.0.1:1?tokn=S3CR3T-1&prefix=x",
        "consul://127.0.0.1:1?prefix=x&secret=S3CR3T-1",
    ],
)
def test_no_token_of_a_mistaken_source_is_ever_shown(program: Program, source: str) -> None:
    """A token in the URL is misuse, and no message repeats it, nor the one of the environment."""
    for command in (("status",), ("delete", "web", "--yes")):
        done = program(*command, "--source", source, CONSUL_HTTP_TOKEN="S3CR3T-2")
        assert done.returncode == 2
        assert "S3CR3T" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_token_file_is_named(program: Program) -> None:
    """Asking without a token would be answered, with nothing in it: so nobody asks, and the file is named."""
    for command in (("status",), ("get",)):
        done = program(*command, "--source", "consul://127.0.0.1:1?token_file=/nowhere/token")
        assert done.returncode == 3
        assert "the token file /nowhere/token can't be read" in done.stderr
        assert "the token comes from ?token_file=PATH" in done.stderr


def test_json_is_json_in_any_locale(program: Program, tmp_path: Path) -> None:
    """With a terminal that knows ASCII only, nothing ends in a UnicodeEncodeError."""
    path = tmp_path / "mesh.yaml"
    path.write_text("services: {web: {routes: [{match: [{path: {exact: /Grüße}}]}]}}\n", encoding="utf-8")
    environment = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for output in ("table", "json"):
        done = program("routes", "--source", f"file:{path}", "-o", output, **environment)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["web"]["routes"][0]["match"][0]["path"]["exact"] == "/Grüße"
    shown = program("get", "web", "--source", f"file:{path}", **environment)
    assert shown.returncode == 0
    assert "\\xfc" in shown.stdout


@pytest.mark.parametrize("command", ["status", "get web", "get nobody", "explain web /a/B", "schema"])
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "| true"])
def test_a_closed_stream_is_no_traceback(command: str, streams: str, tmp_path: Path) -> None:
    """A daemon closes them, `head` has enough: the command does its work, and says nothing of itself."""
    (tmp_path / "mesh.yaml").write_text("services: {web: {}}\nendpoints: {web: [{address: '127.0.0.1:1'}]}\n")
    source = f"PROXYLESS_SOURCE=file:{tmp_path / 'mesh.yaml'}"
    line = f"{source} {sys.executable} -m proxyless {command} {streams}"
    ended = subprocess.run(line, shell=True, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.returncode == int("nobody" in command and "|" not in streams)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a system without /dev/zero")
@pytest.mark.parametrize(("command", "code"), [("validate -f /dev/zero", 1), ("status --source file:/dev/zero", 1)])
def test_a_file_without_an_end_is_not_read_to_its_end(program: Program, command: str, code: int) -> None:
    """A wrong path in a pipeline must not take all of the machine's memory."""
    ended = program(*command.split())
    assert ended.returncode == code
    assert "is larger than 524288 bytes" in ended.stdout + ended.stderr


@pytest.mark.parametrize("command", ["get", "history", "rollback", "delete --yes"])
@pytest.mark.parametrize("name", ["", "../secrets"])
def test_what_is_no_name_of_a_service_is_not_asked_for(program: Program, command: str, name: str) -> None:
    """Consul would answer such a path with a redirection to another one."""
    ended = program(*command.split(), name, "--source", "consul://127.0.0.1:1")
    assert ended.returncode == 2
    assert "is no name of a service" in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
@pytest.mark.parametrize("command", ["status", "get web", "explain web /a/B", "schema"])
def test_a_full_disk_is_said(command: str, tmp_path: Path) -> None:
    """One sentence, and 1: who redirects the state into a file must not take an empty one for it."""
    (tmp_path / "mesh.yaml").write_text("services: {web: {}}\nendpoints: {web: [{address: '127.0.0.1:1'}]}\n")
    source = f"PROXYLESS_SOURCE=file:{tmp_path / 'mesh.yaml'}"
    line = f"{source} {sys.executable} -m proxyless {command} > /dev/full"
    ended = subprocess.run(line, shell=True, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == "proxyless: the result can't be written: No space left on device\n"
    assert ended.returncode == 1
