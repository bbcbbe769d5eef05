"""The Consul source on an agent that does what it should, from the first answer to the end."""

from __future__ import annotations

import json
import os
import statistics
import threading
import time

import pytest

from proxyless.model.topology import Watched
from tests.agent import ConsulAgent
from tests.consul.lying_proxy import LyingProxy
from tests.consul.recorder import HOLD, following, is_empty, mesh_is
from tests.test_timers import refusing

# --- as it should be


def test_documents_and_endpoints_arrive_and_follow_each_change(consul: ConsulAgent, prefix: str) -> None:
    """At first, on a write, on a registration, on a check that turns."""
    consul.put_kv(f"{prefix}/mesh", "one")
    consul.put_kv(f"{prefix}0/mesh", "somebody else's")
    web = Watched(prefix.replace("/", "-"))
    with following(consul.address, web, query=f"?prefix={prefix}") as (source, sink):
        sink.until("documents", lambda documents: documents == {"mesh": "one"})
        sink.until("endpoints", is_empty)
        consul.put_kv(f"{prefix}/services/web", "two")
        sink.until("documents", lambda documents: documents == {"mesh": "one", "services/web": "two"})
        consul.register(web.service, 5001, status="passing")
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        consul.register(web.service, 0, id="rubbish")
        sink.until("dropped", lambda reasons: "must not be 0" in "".join(reasons))
        consul.delete_kv(f"{prefix}/mesh")
        sink.until("documents", lambda documents: documents == {"services/web": "two"})
        # once a watch, and once more after each time that Consul itself had a hiccup
        assert len(sink.all("fresh", since=0.0)) == 2 + len(sink.all("stale", since=0.0))
        assert sink.all("stale") == sink.all("suspicious") == []
        status = source.status()["watches"]
        assert set(status) == {"documents", web.service}
        assert status["documents"]["index"] > 0
        assert status["documents"]["age"] < 5
        assert json.dumps(status)


def test_two_hundred_edits_in_a_row_are_each_seen_within_milliseconds(consul: ConsulAgent, prefix: str) -> None:
    """From the moment that Consul was asked to write; the median, for the machine may be busy."""
    consul.put_kv(f"{prefix}/mesh", "")
    with following(consul.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("documents", mesh_is(""))
        lags = []
        for number in range(200):
            started = time.monotonic()
            consul.put_kv(f"{prefix}/mesh", str(number))
            lags.append(sink.until("documents", mesh_is(str(number)), since=started) - started)
        assert statistics.median(lags) < 0.05


def test_an_unrelated_write_storm_does_not_make_an_empty_prefix_spin(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str
) -> None:
    """A prefix without a key wakes on every write anywhere: three rounds at once, then one a second."""
    with following(proxy.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("documents", is_empty)
        started = time.monotonic()
        while time.monotonic() < started + 2.5:
            consul.put_kv("storm/unrelated", str(time.monotonic()))
        assert proxy.count(started, "recurse") <= 6


def test_a_last_instance_that_flaps_is_never_missed(consul: ConsulAgent, prefix: str) -> None:
    """Back within the hold: nobody is told of an empty list. Gone for good: told after the hold."""
    web = Watched(prefix.replace("/", "-"))
    id = consul.register(web.service, 5001)
    with following(consul.address, web, query=f"?prefix={prefix}") as (_, sink):
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        consul.deregister(id)
        sink.until("suspicious", lambda reason: "which may be a mistake" in reason)
        consul.register(web.service, 5002, id=id)
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5002"])
        gone = consul.deregister(id)
        told = sink.until("endpoints", is_empty, since=gone)
        assert HOLD <= told - gone < HOLD + 1.5
        assert [what for what in sink.all("endpoints") if not what] == [[]]


def test_the_own_datacenter_may_be_named_and_another_is_not_there(consul: ConsulAgent, prefix: str) -> None:
    """In our own, addresses are the plain ones; one that nobody knows is an outage of that watch alone."""
    name = prefix.replace("/", "-")
    tagged = {"wan": {"Address": "192.0.2.1", "Port": 19001}}
    body = {"ID": name, "Name": name, "Address": "127.0.0.1", "Port": 5001, "TaggedAddresses": tagged}
    consul.do("PUT", "agent/service/register", body)
    near, far = Watched(name, "dc1"), Watched(name, "dc9")
    with following(consul.address, near, far, query=f"?prefix={prefix}") as (source, sink):
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        sink.until("stale", lambda reason: "No path to datacenter" in reason)
        assert sink.all("stale", "documents") == sink.all("stale", str(near)) == []
        assert source.status()["watches"][str(far)]["errors"] > 0


# --- the end


def test_closing_ends_blocked_threads_at_once_and_nothing_is_told_after(consul: ConsulAgent, prefix: str) -> None:
    """Twenty watches in the middle of a long wait."""
    web = [Watched(f"{prefix.replace('/', '-')}-{number}") for number in range(20)]
    consul.put_kv(f"{prefix}/mesh", "old")
    with following(consul.address, *web, query=f"?prefix={prefix}", wait=60.0) as (source, sink):
        sink.until("documents", mesh_is("old"))
        for one in web:
            sink.until("fresh", lambda _: True)
            consul.register(one.service, 5001)
        time.sleep(0.2)
        mine = [t for t in threading.enumerate() if t.name.startswith("proxyless-watch-")]
        assert len(mine) == 21
        assert all(t.daemon for t in mine)
        closing = time.monotonic()
        source.close()
        took = time.monotonic() - closing
        told = len(sink.told)
        assert took < 0.1
        assert [t for t in mine if t.is_alive()] == []
        consul.put_kv(f"{prefix}/mesh", "new")
        source.watch(Watched("late"))
        source.close()
        time.sleep(0.1)
        assert len(sink.told) == told


def test_a_service_that_is_no_longer_wanted_is_no_longer_watched(consul: ConsulAgent, prefix: str) -> None:
    """Its thread ends at once; it can be wanted again."""
    web = Watched(prefix.replace("/", "-"))
    consul.register(web.service, 5001)
    with following(consul.address, web, query=f"?prefix={prefix}", wait=60.0) as (source, sink):
        sink.until("endpoints", lambda addresses: len(addresses) == 1)
        thread = next(t for t in threading.enumerate() if t.name == f"proxyless-watch-{web}")
        source.unwatch(web)
        source.unwatch(web)
        thread.join(0.5)
        assert not thread.is_alive()
        assert set(source.status()["watches"]) == {"documents"}
        again = time.monotonic()
        source.watch(web)
        sink.until("endpoints", lambda addresses: len(addresses) == 1, since=again)
        assert sink.all("stale") == []


def test_a_watch_that_got_no_thread_may_be_asked_for_again(
    consul: ConsulAgent, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process at its limit of threads is so for a moment."""
    with following(consul.address, query=f"?prefix={prefix}") as (source, sink):
        relent = refusing(monkeypatch, "proxyless-watch-nobody")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            source.watch(Watched("nobody"))
        relent()
        source.watch(Watched("nobody"))
        sink.until("endpoints", is_empty, watch="nobody")


def test_a_forked_child_leaves_its_parents_connections_alone(
    consul: ConsulAgent, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the same connections: shut down in the child, they would be shut down for the parent."""
    consul.put_kv(f"{prefix}/mesh", "old")
    with following(consul.address, query=f"?prefix={prefix}", wait=60.0) as (source, sink):
        sink.until("documents", mesh_is("old"))
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            source.close()
        consul.put_kv(f"{prefix}/mesh", "new")
        sink.until("documents", mesh_is("new"))
        assert sink.all("stale") == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_has_none_of_its_parents_connections(consul: ConsulAgent, prefix: str) -> None:
    """Threads that are greenlets go on in a child: there what they wait on has ended, and the news is the parent's."""
    consul.put_kv(f"{prefix}/mesh", "old")
    with following(consul.address, query=f"?prefix={prefix}", wait=60.0) as (source, sink):
        sink.until("documents", mesh_is("old"))
        (watch,) = source._watches.values()
        child = os.fork()
        if child == 0:
            source.forked()
            (connection,) = watch._client.http.connections._open
            os._exit(0 if connection.sock.recv(1) == b"" and not watch.open else 1)
        assert os.waitpid(child, 0)[1] == 0
        consul.put_kv(f"{prefix}/mesh", "new")
        sink.until("documents", mesh_is("new"))
        assert sink.all("stale") == []


def test_nobody_listening_is_an_outage_with_a_plain_reason(prefix: str) -> None:
    """A closed port, a name that does not exist."""
    with following("127.0.0.1:1") as (source, sink):
        sink.until("stale", lambda reason: reason == "connection refused")
        assert source.status()["watches"]["documents"]["last_error"] == "connection refused"
