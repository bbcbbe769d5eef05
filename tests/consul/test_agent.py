"""The agent that the Consul tests stand on does what its methods say."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.agent import ACL_HCL, ROOT_TOKEN, AgentError, ConsulAgent, find_consul


def test_what_is_written_is_read_back_and_deleted_again(consul: ConsulAgent) -> None:
    """A key takes any bytes, and a recursive delete takes the whole prefix."""
    consul.put_kv("shop/services/product service", b"\x00\xff")
    assert consul.get_kv("shop/services/product service") == b"\x00\xff"
    consul.delete_kv("shop/", recurse=True)
    assert consul.get_kv("shop/services/product service") is None


def test_an_instance_is_seen_with_its_meta_weights_and_status(consul: ConsulAgent) -> None:
    """What is registered is what Consul's health endpoint shows, until it is deregistered."""
    meta = {"version": "v1"}
    id = consul.register("web", 4711, meta=meta, tags=["blue"], weights=(10, 2), status="passing")
    (entry,) = consul.health("web")
    service = entry["Service"]
    assert (service["ID"], service["Port"]) == (id, 4711)
    assert (service["Meta"], service["Tags"]) == (meta, ["blue"])
    assert service["Weights"] == {"Passing": 10, "Warning": 2}
    consul.set_status(id, "critical")
    assert consul.health("web") == []
    assert len(consul.health("web", passing=False)) == 1
    consul.deregister(id)
    assert consul.health("web", passing=False) == []


def test_a_watch_in_the_background_wakes_with_a_write(consul: ConsulAgent) -> None:
    """`ask_later` tells when a blocking query returned, `put_kv` when the write was done."""
    consul.put_kv("watched", "1")
    index = consul.ask("GET", "kv/watched").index
    assert index > 0
    watch = consul.ask_later("GET", f"kv/watched?index={index}&wait=10s")
    written_at = consul.put_kv("watched", "2")
    answer = watch.result(timeout=5)
    assert answer.ok
    assert answer.index > index
    assert abs(answer.at - written_at) < 1.0


def test_a_request_never_raises(consul_bin: str, tmp_path: Path) -> None:
    """Where nobody listens the answer says so, and `do` turns it into an error that names the agent."""
    agent = ConsulAgent(consul_bin, tmp_path)
    answer = agent.ask("GET", "status/leader")
    assert (answer.ok, answer.status, answer.error) == (False, 0, "ConnectionRefusedError")
    with pytest.raises(AgentError, match=agent.node):
        agent.do("GET", "status/leader")


def test_a_dev_agent_killed_comes_back_empty_at_the_same_address(consul_bin: str, tmp_path: Path) -> None:
    """kill -9 is noticed at once, and the restart on the same port has forgotten all, its index too."""
    with ConsulAgent(consul_bin, tmp_path) as agent:
        for n in range(20):
            agent.put_kv("mark", str(n))
        address, index = agent.address, agent.ask("GET", "kv/mark").index
        agent.kill9()
        assert agent.ask("GET", "kv/mark").error == "ConnectionRefusedError"
        agent.start()
        assert agent.address == address
        assert agent.get_kv("mark") is None
        assert agent.ask("GET", "kv/_probe").index < index


def test_a_server_with_a_disk_keeps_its_state(consul_bin: str, tmp_path: Path) -> None:
    """After kill -9 and a restart the KV is as it was."""
    with ConsulAgent(consul_bin, tmp_path, disk=True) as agent:
        agent.put_kv("mark", "kept")
        agent.restart()
        assert agent.get_kv("mark") == b"kept"


def test_a_frozen_agent_takes_connections_and_answers_none(consul_bin: str, tmp_path: Path) -> None:
    """SIGSTOP looks like an endless wait to a client; SIGCONT ends the wait, and SIGTERM the agent."""
    with ConsulAgent(consul_bin, tmp_path) as agent:
        process = agent.process
        assert process is not None
        agent.pause()
        assert agent.ask("GET", "status/leader", timeout=0.3).error == "TimeoutError"
        agent.cont()
        assert agent.ask("GET", "status/leader").ok
        assert agent.stop() < 9
        assert process.poll() is not None


def test_a_token_may_do_what_its_rules_say_until_it_is_deleted(consul_bin: str, tmp_path: Path) -> None:
    """With ACL_HCL nothing is allowed that no token allows, and a deleted token is refused at once."""
    with ConsulAgent(consul_bin, tmp_path, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent:
        agent.put_kv("shop/mesh", "{}")
        reader = agent.create_token('key_prefix "shop/" { policy = "read" }')
        assert agent.ask("GET", "kv/shop/mesh", token="").status == 403
        assert agent.ask("GET", "kv/shop/mesh", token=reader).ok
        assert agent.ask("PUT", "kv/shop/mesh", "x", token=reader).status == 403
        agent.delete_token(reader)
        assert agent.ask("GET", "kv/shop/mesh", token=reader).status == 403


def test_an_agent_that_cannot_start_says_why(consul_bin: str, tmp_path: Path) -> None:
    """The error carries what the agent itself wrote."""
    with pytest.raises(AgentError, match="nonsense"):
        ConsulAgent(consul_bin, tmp_path, hcl=["nonsense = true"]).start()


def test_a_port_taken_meanwhile_is_replaced_on_the_first_start_only(consul_bin: str, tmp_path: Path) -> None:
    """Two agents never share a port unnoticed: a first start takes other ports, a restart fails loudly."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with ConsulAgent(consul_bin, tmp_path / "one") as one:
        two = ConsulAgent(consul_bin, tmp_path / "two")
        two.http_port = one.http_port
        with two:
            assert two.address != one.address
            two.kill9()
            two.http_port = one.http_port
            started = time.monotonic()
            with pytest.raises(AgentError, match="address already in use"):
                two.start()
            assert time.monotonic() - started < 10


def test_the_named_binary_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$CONSUL_BIN comes before PATH, and where it names no program nothing is found instead of another."""
    (tmp_path / "consul").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CONSUL_BIN", raising=False)
    assert find_consul() == str(tmp_path / "consul")
    monkeypatch.setenv("CONSUL_BIN", sys.executable)
    assert find_consul() == sys.executable
    monkeypatch.setenv("CONSUL_BIN", str(tmp_path / "nothing"))
    assert find_consul() is None
