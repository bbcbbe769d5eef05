"""The Consul source against a real agent: one that dies, hangs, forgets and forbids, and a proxy that
lies."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxyless.control import RawDocument
from proxyless.control.consul import ConsulSource
from proxyless.control.consul_http import ConsulClient
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.watcher import Unanswered
from proxyless.model.topology import Endpoint, Watched
from tests.agent import ACL_HCL, ROOT_TOKEN, ConsulAgent
from tests.consul.lying_proxy import (
    Lie,
    LyingProxy,
    dripping,
    echoing,
    failing,
    honest,
    index_is,
    late,
    lying_proxy,
    resetting,
    truncating,
    zipping,
)

WAIT, HOLD = 2.0, 1.0
WEB = Watched("web")
READ = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } '


class Recorder:
    """A sink that keeps what it is told, with the instant."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str, str, Any]] = []
        self._changed = threading.Condition()

    def documents(self, documents: Mapping[str, RawDocument]) -> None:
        self._add("documents", "documents", {key: raw.text for key, raw in documents.items()})

    def endpoints(self, watched: Watched, endpoints: Sequence[Endpoint]) -> None:
        self._add("endpoints", str(watched), [endpoint.address for endpoint in endpoints])

    def dropped(self, watched: Watched, reasons: Sequence[str]) -> None:
        self._add("dropped", str(watched), list(reasons))

    def stale(self, watch: str, reason: str) -> None:
        self._add("stale", watch, reason)

    def fresh(self, watch: str) -> None:
        self._add("fresh", watch, "")

    def suspicious(self, watch: str, reason: str) -> None:
        self._add("suspicious", watch, reason)

    def _add(self, kind: str, watch: str, what: Any) -> None:
        with self._changed:
            self.told.append((time.monotonic(), kind, watch, what))
            self._changed.notify_all()

    def all(self, kind: str, watch: str = "", since: float = 0.0) -> list[Any]:
        """Everything of this kind, for one watch or all."""
        return [what for at, k, w, what in list(self.told) if k == kind and watch in ("", w) and at >= since]

    def until(
        self,
        kind: str,
        is_it: Callable[[Any], bool],
        *,
        watch: str = "",
        since: float = 0.0,
        within: float = 5.0,
    ) -> float:
        """Wait until something of this kind was told, of one watch or any; the instant at which it was."""

        def find() -> float | None:
            told = (at for at, k, w, what in self.told if k == kind and watch in ("", w) and is_it(what))
            return next((at for at in told if at >= since), None)

        with self._changed:
            if not self._changed.wait_for(lambda: find() is not None, within):
                pytest.fail(f"no such {kind} within {within} s; told were {self.told[-6:]}")
            found = find()
        assert found is not None
        return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """The seconds that an answer is given, cut to one, so that no test has to wait so long."""
    monkeypatch.setattr("proxyless.control.watcher.SLACK", 1.0)
    monkeypatch.setattr("proxyless.control.watcher.PLAIN", 1.0)
    return 1.0


@contextmanager
def following(
    address: str,
    *watched: Watched,
    query: str = "",
    wait: float = WAIT,
    environ: Mapping[str, str] | None = None,
) -> Iterator[tuple[ConsulSource, Recorder]]:
    """A source on that agent, and what it tells."""
    settings = ConsulSettings.parse(f"consul://{address}{query}", environ or {})
    source, sink = ConsulSource(settings, wait=wait, empty_hold=HOLD), Recorder()
    source.start(sink)
    for one in watched:
        source.watch(one)
    try:
        yield source, sink
    finally:
        source.close()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix of its own for each test on the shared agent."""
    return "test/" + re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")[:60]


@pytest.fixture
def agent(consul_bin: str, tmp_path: Path) -> Iterator[ConsulAgent]:
    """An agent of the test's own, to be killed and frozen."""
    with ConsulAgent(consul_bin, tmp_path) as agent:
        yield agent


@pytest.fixture
def proxy(consul: ConsulAgent) -> Iterator[LyingProxy]:
    """A proxy in front of the shared agent."""
    with lying_proxy(consul.http_port) as proxy:
        yield proxy


def mesh_is(text: str) -> Callable[[Any], bool]:
    return lambda documents: documents.get("mesh") == text


def is_empty(what: Any) -> bool:
    return not what


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
        assert sorted(sink.all("fresh", since=0.0)) == ["", ""]
        assert sink.all("stale") == sink.all("suspicious") == []
        status = source.status()["watches"]
        assert set(status) == {"documents", web.service}
        assert status["documents"]["index"] > 0
        assert status["documents"]["age"] < 5
        assert json.dumps(status)


def test_two_hundred_edits_in_a_row_are_each_seen_within_milliseconds(
    consul: ConsulAgent, prefix: str
) -> None:
    """From the moment that Consul was asked to write; the median is what the machine allows, 50 ms is a
    snail."""
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
    """Deregistered and back within the hold: nobody is told of an empty list. Gone for good: told after the
    hold."""
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
    """In our own, addresses are the plain ones; a datacenter that nobody knows is an outage of that watch
    alone."""
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


# --- the agent dies, hangs, forgets


def test_an_agent_that_comes_up_empty_is_given_time_to_be_filled(agent: ConsulAgent) -> None:
    """kill -9 and restart on the same port: nothing known is dropped, and the next change is seen at once."""
    for number in range(20):
        agent.put_kv("proxyless/v1/mesh", f"old {number}")
    agent.register("web", 5001)
    with following(agent.address, WEB) as (source, sink):
        sink.until("documents", mesh_is("old 19"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        index = source.status()["watches"]["documents"]["index"]
        died = time.monotonic()
        agent.restart()
        agent.put_kv("proxyless/v1/mesh", "new")
        agent.register("web", 5002)
        sink.until("documents", mesh_is("new"), since=died)
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5002"], since=died)
        assert source.status()["watches"]["documents"]["index"] < index
        written = agent.put_kv("proxyless/v1/mesh", "newer")
        assert sink.until("documents", mesh_is("newer"), since=died) - written < 0.5
        assert not any(is_empty(what) for kind in ("documents", "endpoints") for what in sink.all(kind))
        assert len(sink.all("stale", "documents")) == 1
        assert len(sink.all("stale", "web")) == 1


def test_an_agent_that_stays_empty_is_believed_in_the_end(agent: ConsulAgent) -> None:
    """When the hold is over and a read that is not stale agrees."""
    agent.put_kv("proxyless/v1/mesh", "old")
    agent.register("web", 5001)
    with following(agent.address, WEB) as (_, sink):
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        agent.restart()
        up = time.monotonic()
        assert sink.until("documents", is_empty) - up >= HOLD - 0.2
        assert sink.until("endpoints", is_empty) - up >= HOLD - 0.2


def test_a_hung_agent_is_noticed_survived_and_closed_on(agent: ConsulAgent, impatient: float) -> None:
    """SIGSTOP: connections are accepted and never answered. Stale after the read's timeout, fresh after
    SIGCONT."""
    agent.put_kv("proxyless/v1/mesh", "old")
    with following(agent.address) as (_, sink):
        sink.until("documents", mesh_is("old"))
        agent.pause()
        hung = time.monotonic()
        with following(agent.address, WEB) as (cold, untold):
            time.sleep(0.3)
            closing = time.monotonic()
            cold.close()
            assert time.monotonic() - closing < 0.1
        noticed = sink.until("stale", lambda reason: "no answer within 3.1 s" in reason)
        assert noticed - hung < WAIT * 17 / 16 + impatient + 0.5
        agent.cont()
        sink.until("fresh", lambda _: True, since=hung)
        agent.put_kv("proxyless/v1/mesh", "new")
        sink.until("documents", mesh_is("new"))
        assert sink.all("documents") == [{"mesh": "old"}, {"mesh": "new"}]
        assert untold.told == []


def test_a_restored_snapshot_is_seen_though_its_index_is_lower(consul_bin: str, tmp_path: Path) -> None:
    """The watch in flight is answered with the old data and the old index: a naive one is blind for its whole
    wait."""
    with ConsulAgent(consul_bin, tmp_path, disk=True) as agent:
        agent.put_kv("proxyless/v1/mesh", "old")
        snapshot = agent.do("GET", "snapshot").body
        for number in range(5):
            agent.put_kv("proxyless/v1/mesh", f"new {number}")
        with following(agent.address, wait=20.0) as (_, sink):
            sink.until("documents", mesh_is("new 4"))
            started = time.monotonic()
            agent.do("PUT", "snapshot", snapshot)
            assert sink.until("documents", mesh_is("old"), since=started) - started < 2.0


# --- a proxy that lies


@pytest.mark.parametrize("lie", [failing, truncating, resetting], ids=lambda lie: lie.__name__)
def test_broken_answers_change_nothing(consul: ConsulAgent, proxy: LyingProxy, prefix: str, lie: Lie) -> None:
    """No partial apply, no index adopted, a few retries a second at most; and then it goes on as before."""
    for key in ("mesh", "services/a", "services/b"):
        consul.put_kv(f"{prefix}/{key}", "old")
    web = Watched(prefix.replace("/", "-"))
    consul.register(web.service, 5001)
    with following(proxy.address, web, query=f"?prefix={prefix}") as (_, sink):
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        proxy.lie = lie
        started = time.monotonic()
        consul.put_kv(f"{prefix}/mesh", "new")
        consul.register(web.service, 5002)
        sink.until("stale", lambda _: True, since=started)
        time.sleep(1.0)
        assert proxy.count(started, "recurse") <= 10
        assert [documents["mesh"] for documents in sink.all("documents")] == ["old"]
        assert len(sink.all("stale", "documents")) == 1
        proxy.lie = honest
        sink.until("documents", mesh_is("new"))
        sink.until("endpoints", lambda addresses: len(addresses) == 2)
        sink.until("fresh", lambda _: True, since=started)


@pytest.mark.parametrize("index", [0, 3, 1 << 63, "many"])
def test_no_index_is_trusted_further_than_it_reaches(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str, index: object
) -> None:
    """Rewritten in every answer: few queries, no overflow, and a change is still seen within a wait."""
    consul.put_kv(f"{prefix}/mesh", "old")
    with following(proxy.address, query=f"?prefix={prefix}", wait=1.0) as (_, sink):
        sink.until("documents", mesh_is("old"))
        proxy.lie = index_is(index)
        started = time.monotonic()
        consul.put_kv(f"{prefix}/mesh", "new")
        if str(index).isdecimal():
            sink.until("documents", mesh_is("new"), within=3.0)
        time.sleep(max(0.0, started + 2.0 - time.monotonic()))
        assert proxy.count(started) <= 8
        assert sink.all("documents")[0] == {"mesh": "old"}


def test_an_answer_may_be_compressed_or_not(consul: ConsulAgent, proxy: LyingProxy, prefix: str) -> None:
    """Whoever stands in between may decide."""
    proxy.lie = zipping
    consul.put_kv(f"{prefix}/mesh", "x" * 100_000)
    with following(proxy.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("documents", mesh_is("x" * 100_000))


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_does_not_come_is_given_up(proxy: LyingProxy, prefix: str) -> None:
    """Ten seconds late is too late for a plain read, and says so; closing does not wait for it."""
    proxy.lie = late(10.0)
    with following(proxy.address, query=f"?prefix={prefix}") as (source, sink):
        sink.until("stale", lambda reason: reason == "no answer within 1.0 s")
        time.sleep(0.6)
        closing = time.monotonic()
        source.close()
        assert time.monotonic() - closing < 0.1


def test_a_body_that_drips_is_given_up(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, and all of them together do not."""
    monkeypatch.setattr("proxyless.control.consul_http.TRANSFER_WITHIN", 0.3)
    consul.put_kv(f"{prefix}/mesh", "x")
    proxy.lie = dripping
    with following(proxy.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("stale", lambda reason: reason == "the answer was not complete within 0.3 s")
        assert sink.all("documents") == []


def test_an_answer_without_end_is_cut_off(
    consul: ConsulAgent, proxy: LyingProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing larger than the limit is taken in, compressed or not."""
    monkeypatch.setattr("proxyless.control.consul_http.LARGEST", 1 << 20)
    for number in range(4):
        consul.put_kv(f"{prefix}/services/s{number}", "x" * 400_000)
    with following(proxy.address, query=f"?prefix={prefix}") as (_, sink):
        sink.until("stale", lambda reason: reason == "answer larger than 1 MiB")
        assert sink.all("documents") == []


# --- rights


@pytest.fixture
def guarded(consul_bin: str, tmp_path: Path) -> Iterator[ConsulAgent]:
    """An agent that denies what no token allows, with one document and one instance."""
    with ConsulAgent(consul_bin, tmp_path, hcl=[ACL_HCL], token=ROOT_TOKEN) as agent:
        agent.put_kv("proxyless/v1/mesh", "old")
        agent.register("web", 5001)
        yield agent


def rewrite(agent: ConsulAgent, secret: str, rules: str) -> None:
    """Give the token's policy other rules."""
    (policy,) = agent.do("GET", "acl/token/self", token=secret).json()["Policies"]
    agent.do("PUT", f"acl/policy/{policy['ID']}", {"Name": policy["Name"], "Rules": rules})


def test_rights_that_are_taken_away_take_nothing_else_with_them(guarded: ConsulAgent) -> None:
    """A narrowed policy shows an empty catalog and an empty KV: all stays and is said; given back, all goes
    on."""
    rules = READ + 'key_prefix "proxyless/" { policy = "read" }'
    token = guarded.create_token(rules)
    with following(guarded.address, WEB, wait=1.0, environ={"CONSUL_HTTP_TOKEN": token}) as (_, sink):
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        started = time.monotonic()
        rewrite(guarded, token, 'key_prefix "elsewhere/" { policy = "read" }')
        sink.until("suspicious", lambda reason: "may no longer read proxyless/v1/" in reason)
        sink.until("suspicious", lambda reason: "no instance is listed any more" in reason)
        guarded.register("web", 5002)
        guarded.put_kv("proxyless/v1/mesh", "new")
        time.sleep(HOLD + 1.0)
        assert len(sink.all("documents")) == len(sink.all("endpoints")) == 1
        rewrite(guarded, token, rules)
        sink.until("documents", mesh_is("new"))
        sink.until("endpoints", lambda addresses: len(addresses) == 2)
        assert sink.all("stale") == []
        assert len(sink.all("fresh", "documents", since=started)) == 1


def test_a_token_is_replaced_in_its_file_while_we_run(guarded: ConsulAgent, tmp_path: Path) -> None:
    """A deleted one is 403, which is an outage; the new one counts with the next attempt."""
    rules = READ + 'key_prefix "proxyless/" { policy = "read" }'
    (path := tmp_path / "token").write_text(token := guarded.create_token(rules))
    path.chmod(0o644)
    with following(guarded.address, WEB, query=f"?token_file={path}") as (_, sink):
        sink.until("suspicious", lambda reason: "everybody on this machine can read" in reason)
        sink.until("documents", mesh_is("old"))
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        guarded.delete_token(token)
        for watch in ("documents", "web"):
            sink.until("stale", lambda reason: "403" in reason and "ACL not found" in reason, watch=watch)
        path.write_text(guarded.create_token(rules))
        guarded.put_kv("proxyless/v1/mesh", "new")
        sink.until("documents", mesh_is("new"), within=7.0)
        assert len(sink.all("endpoints")) == 1


def test_a_token_that_may_not_read_the_documents_is_an_outage_and_not_an_empty_mesh(
    guarded: ConsulAgent,
) -> None:
    """KV says 404 to it, as if there were none."""
    token = guarded.create_token(READ)
    with following(guarded.address, WEB, environ={"CONSUL_HTTP_TOKEN": token}) as (_, sink):
        sink.until("endpoints", lambda addresses: addresses == ["127.0.0.1:5001"])
        sink.until("stale", lambda reason: 'grant it key_prefix "proxyless/v1/"' in reason)
        assert sink.all("documents") == []


@pytest.mark.parametrize(
    "rules", ['node_prefix "" { policy = "read" }', 'service_prefix "" { policy = "read" }']
)
def test_a_service_that_may_not_be_seen_is_said_to_be(guarded: ConsulAgent, rules: str) -> None:
    """Without service:read or without node:read the list is empty from the start; nobody waits, and the way
    out is named."""
    token = guarded.create_token(rules + ' key_prefix "proxyless/" { policy = "read" }')
    with following(guarded.address, WEB, environ={"CONSUL_HTTP_TOKEN": token}) as (_, sink):
        sink.until("endpoints", is_empty)
        sink.until("suspicious", lambda reason: 'service "web" { policy = "read" }' in reason)


def test_the_token_is_sent_and_never_shown(
    guarded: ConsulAgent, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a log at any level, a repr, the status, a reason or an exception; not even if a proxy shows it
    to us."""
    caplog.set_level(logging.DEBUG)
    token = guarded.create_token(READ + 'key_prefix "proxyless/" { policy = "read" }')
    with lying_proxy(guarded.http_port) as proxy:
        proxy_settings = ConsulSettings.parse(f"consul://{proxy.address}", {"CONSUL_HTTP_TOKEN": token})
        with following(proxy.address, WEB, environ={"CONSUL_HTTP_TOKEN": token}) as (source, sink):
            sink.until("documents", mesh_is("old"))
            proxy.lie = echoing
            sink.until("stale", lambda reason: "<token>" in reason, within=WAIT + 1)
            shown = [repr(source), str(source.status()), source.name, str(sink.told), repr(proxy_settings)]
        client = ConsulClient(proxy_settings)
        proxy.lie = late(10.0)
        with pytest.raises(Unanswered) as caught:
            client.read("kv/x", timeout=0.1)
        client.close()
        shown += [str(caught.value), repr(caught.value), repr(client), str(vars(client)), caplog.text]
    assert proxy.tokens == {token}
    assert [text for text in shown if token in text] == []


def test_py_consul_itself_works_over_our_transport(
    guarded: ConsulAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading, writing, registering; CONSUL_HTTP_TOKEN does not beat the settings' token."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "not-this-one")
    settings = ConsulSettings.parse(f"consul://{guarded.address}", {"CONSUL_HTTP_TOKEN": ROOT_TOKEN})
    client = ConsulClient(settings)
    try:
        assert client.kv.put("proxyless/v1/services/web", "text", cas=0)
        assert client.kv.get("proxyless/v1/services/web")[1]["Value"] == b"text"
        assert client.agent.service.register("api", port=5003, address="127.0.0.1")
        assert client.catalog.service("api")[1][0]["ServicePort"] == 5003
    finally:
        client.close()
    with pytest.raises(Unanswered, match="closed"):
        client.read("status/leader")


# --- the end


def test_closing_ends_blocked_threads_at_once_and_nothing_is_told_after(
    consul: ConsulAgent, prefix: str
) -> None:
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


def test_a_forked_child_leaves_its_parents_connections_alone(
    consul: ConsulAgent, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the same connections: shut down in the child, they would be shut down for the parent."""
    consul.put_kv(f"{prefix}/mesh", "old")
    with following(consul.address, query=f"?prefix={prefix}", wait=60.0) as (source, sink):
        sink.until("documents", mesh_is("old"))
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: math.nan)
            source.close()
        consul.put_kv(f"{prefix}/mesh", "new")
        sink.until("documents", mesh_is("new"))
        assert sink.all("stale") == []


def test_nobody_listening_is_an_outage_with_a_plain_reason(prefix: str) -> None:
    """A closed port, a name that does not exist."""
    with following("127.0.0.1:1") as (source, sink):
        sink.until("stale", lambda reason: reason == "connection refused")
        assert source.status()["watches"]["documents"]["last_error"] == "connection refused"


# --- TLS


def test_tls_is_verified_with_the_agents_own_authority_and_name(consul_bin: str, tmp_path: Path) -> None:
    """CA, client certificate and server name from Consul's environment; another authority is refused."""
    for folder in ("", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        run = [consul_bin, "tls"]
        subprocess.run([*run, "ca", "create"], cwd=tmp_path / folder, check=True, capture_output=True)
    for kind in ("-server", "-client"):
        subprocess.run([*run, "cert", "create", kind], cwd=tmp_path, check=True, capture_output=True)
    ca, cert = tmp_path / "consul-agent-ca.pem", "dc1-{}-consul-0"
    agent = ConsulAgent(consul_bin, tmp_path)
    agent.hcl = (
        f'ca_file = "{ca}"  cert_file = "{tmp_path / cert.format("server")}.pem"',
        f'key_file = "{tmp_path / cert.format("server")}-key.pem"  verify_incoming_https = true',
        f"ports {{ https = {agent.http_port + 1} }}",
    )
    environ = {
        "CONSUL_HTTP_ADDR": f"https://127.0.0.1:{agent.http_port + 1}",
        "CONSUL_CACERT": str(ca),
        "CONSUL_CLIENT_CERT": str(tmp_path / f"{cert.format('client')}.pem"),
        "CONSUL_CLIENT_KEY": str(tmp_path / f"{cert.format('client')}-key.pem"),
        "CONSUL_TLS_SERVER_NAME": "server.dc1.consul",
    }
    with agent:
        agent.put_kv("proxyless/v1/mesh", "sealed")
        with following("", environ=environ) as (source, sink):
            sink.until("documents", mesh_is("sealed"))
            time.sleep(0.1)
            closing = time.monotonic()
            source.close()
            assert time.monotonic() - closing < 0.1
        for wrong, says in (
            ({"CONSUL_CACERT": str(tmp_path / "other" / ca.name)}, "TLS failed: unable to get"),
            ({"CONSUL_TLS_SERVER_NAME": "other.dc1.consul"}, "TLS failed: hostname mismatch"),
            ({"CONSUL_CLIENT_CERT": "", "CONSUL_CLIENT_KEY": ""}, "TLS"),
        ):
            with following("", environ=environ | wrong) as (_, sink):
                sink.until("stale", lambda reason, says=says: says.lower() in reason.lower())  # type: ignore[misc]
                assert sink.all("documents") == []
