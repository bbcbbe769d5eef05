"""Which of Consul's answers about a service's instances are believed, and when that nobody is left."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from proxyless.control.consul_endpoints import Endpoints
from proxyless.control.vanishing import LATER, SOON
from proxyless.control.watcher import Answer, News, Unanswered
from proxyless.model.topology import Endpoint

WATCH = "health/service/web"
CHAIN = "discovery-chain/web"
SERVICES = "catalog/services"


def listed(*ports: int, **headers: str) -> Answer:
    """An answer with an instance at each of these ports."""
    entries: list[dict[str, Any]] = [
        {"Node": {"Address": "10.0.0.1", "Datacenter": "dc1"}, "Service": {"ID": f"web-{port}", "Port": port}}
        for port in ports
    ]
    return Answer(200, headers, json.dumps(entries, separators=(",", ":")).encode())


class Stage:
    """`Endpoints` in virtual time; `says` is what the agent answers to reads beside the watch."""

    def __init__(self, *, elsewhere: bool = False) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.says = {
            WATCH: listed(),
            CHAIN: Answer(200, {}, b"{}"),
            SERVICES: Answer(200, {}, b'{"consul":[]}'),
        }
        self.told: list[tuple[list[str], list[str]]] = []
        self.where = 0
        self.elsewhere = elsewhere
        self.endpoints = Endpoints("web", self._ask, self._tell, elsewhere=self._where, hold=30.0, now=lambda: self.now)
        self.index = 0

    def hears(self, answer: Answer, index: int, *, unbroken: bool = True) -> float | None:
        before, self.index = self.index, index
        return self.endpoints.take(News(answer, index, before, unbroken))

    @property
    def ports(self) -> list[int]:
        """Of the endpoints that were told last."""
        return [int(address.rpartition(":")[2]) for address in self.told[-1][0]]

    @property
    def doubt(self) -> str:
        return self.endpoints.doubt

    def _ask(self, path: str, *flags: str) -> Answer:
        assert flags == (), "a read that is to be sure is not stale"
        self.asked.append(path)
        return self.says[path]

    def _tell(self, endpoints: Sequence[Endpoint], dropped: Sequence[str]) -> None:
        self.told.append(([endpoint.address for endpoint in endpoints], list(dropped)))

    def _where(self) -> bool:
        self.where += 1
        return self.elsewhere


@pytest.fixture
def stage() -> Stage:
    """One that has heard of two instances at index 20."""
    stage = Stage()
    assert stage.hears(listed(1, 2), 20, unbroken=False) is None
    return stage


def test_instances_are_told_with_what_was_left_out() -> None:
    """Both, each time."""
    stage = Stage()
    stage.hears(listed(1, 0), 5)
    assert stage.told == [(["10.0.0.1:1"], ["'web-0': port: must not be 0: register it with its port"])]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_whether_the_service_is_elsewhere_is_asked_once(elsewhere: bool) -> None:
    """And decides which address counts."""
    stage = Stage(elsewhere=elsewhere)
    entry = {
        "Node": {"Address": "10.0.0.1"},
        "Service": {"Port": 1, "TaggedAddresses": {"wan": {"Address": "192.0.2.1"}}},
    }
    for index in (5, 6):
        stage.hears(Answer(200, {}, json.dumps([entry]).encode()), index)
    assert stage.told[-1][0] == ["192.0.2.1:1" if elsewhere else "10.0.0.1:1"]
    assert stage.where == 1


def test_the_name_of_a_service_is_quoted() -> None:
    """Whatever it is, it stays one segment of the path."""
    endpoints = Endpoints("a/b c", Stage()._ask, lambda *_: None, elsewhere=lambda: False, hold=1, now=lambda: 0.0)
    assert endpoints.path == "health/service/a%2Fb%20c"


def test_a_missing_endpoint_is_a_failure() -> None:
    """Health never answers 404; a proxy does."""
    with pytest.raises(Unanswered, match="answered 404"):
        Stage().hears(Answer(404, {}, b""), 5)


def test_a_list_that_shrinks_is_believed_at_once(stage: Stage) -> None:
    """A rolling restart is no reason to hesitate."""
    assert stage.hears(listed(2), 21) is None
    assert stage.ports == [2]


def test_a_list_of_nothing_but_rubbish_is_not_empty(stage: Stage) -> None:
    """Somebody is registered, only nobody who can be called."""
    assert stage.hears(listed(0), 21) is None
    assert stage.told[-1][0] == []
    assert stage.asked == []


@pytest.mark.parametrize("fragile", [{"x-consul-knownleader": "false"}, {"x-consul-lastcontact": "12000"}])
def test_a_server_without_its_leader_can_add_but_not_remove(stage: Stage, fragile: dict[str, str]) -> None:
    """What it lacks may be new to it; a healthy answer settles it, and is asked for soon."""
    assert stage.hears(listed(2, 3, **fragile), 21) == SOON
    assert stage.ports == [2, 3, 1]
    assert "without a leader" in stage.doubt
    assert stage.hears(listed(2, 3), 21) is None
    assert stage.ports == [2, 3]
    assert stage.doubt == ""


def test_a_fragile_answer_that_lacks_nothing_is_as_good_as_any(stage: Stage) -> None:
    """There is nothing to doubt in it."""
    assert stage.hears(listed(1, 2, 3, **{"x-consul-knownleader": "false"}), 21) is None
    assert stage.doubt == ""


def test_a_service_that_never_had_an_instance_has_none() -> None:
    """It is told at once, so that calls fail instead of waiting in vain."""
    stage = Stage()
    assert stage.hears(listed(), 5, unbroken=False) is None
    assert stage.told == [([], [])]
    assert stage.doubt == ""


def test_an_instance_that_registers_between_two_answers_is_no_hidden_one() -> None:
    """The catalog knows it already, the watch not yet: the token is above suspicion."""
    stage = Stage()
    stage.says.update({SERVICES: Answer(200, {}, b'{"web":[]}'), WATCH: listed(1)})
    assert stage.hears(listed(), 5, unbroken=False) is None
    assert stage.doubt == ""
    stage.says[WATCH] = listed()
    assert stage.hears(listed(), 6) is None
    assert "the token may not see them" in stage.doubt


@pytest.mark.parametrize(
    ("path", "answer", "says"),
    [
        (CHAIN, Answer(403, {}, b"Permission denied"), "may not read the service web"),
        (SERVICES, Answer(200, {}, b'{"web":["v1"]}'), "has instances, but the token may not see them"),
    ],
)
def test_a_service_that_may_not_be_seen_is_told_and_said(path: str, answer: Answer, says: str) -> None:
    """Consul shows it as empty; what is missing is service:read or node:read."""
    stage = Stage()
    stage.says[path] = answer
    assert stage.hears(listed(), 5, unbroken=False) is None
    assert stage.told == [([], [])]
    assert says in stage.doubt
    assert 'node_prefix "" { policy = "read" }' in stage.doubt


def test_nobody_vanishes_at_an_unchanged_index(stage: Stage) -> None:
    """To deregister moves it, to lose the right to see does not; nothing more is asked."""
    assert stage.hears(listed(), 20) == math.inf
    assert len(stage.told) == 1
    assert "the index is as before" in stage.doubt
    assert stage.asked == []


def test_after_lost_rights_the_next_real_change_is_believed(stage: Stage) -> None:
    """Rights that come back show the list again, at the same index or a later one."""
    stage.hears(listed(), 20)
    assert stage.hears(listed(2), 22) is None
    assert stage.ports == [2]
    assert stage.doubt == ""


def test_consul_itself_says_that_it_filtered(stage: Stage) -> None:
    """A header of 1.11 and later."""
    assert stage.hears(listed(**{"x-consul-results-filtered-by-acls": "true"}), 25) == math.inf
    assert len(stage.told) == 1
    assert "not shown all" in stage.doubt


def test_the_last_instance_is_gone_when_it_stays_gone(stage: Stage) -> None:
    """Confirmed at once and again after the hold: a node that flaps is back by then."""
    assert stage.hears(listed(), 25) == 30.0
    assert stage.asked == [WATCH, CHAIN, SERVICES]
    assert "which may be a mistake" in stage.doubt
    stage.now = 30.0
    assert stage.hears(listed(), 25) is None
    assert stage.asked == [WATCH, CHAIN, SERVICES] * 2
    assert stage.told[-1] == ([], [])
    assert stage.doubt == ""


def test_any_instance_ends_the_hold(stage: Stage) -> None:
    """And the next emptiness starts one of its own."""
    stage.hears(listed(), 25)
    stage.now = 29.0
    assert stage.hears(listed(3), 26) is None
    assert stage.ports == [3]
    stage.now = 31.0
    assert stage.hears(listed(), 27) == 30.0
    stage.hears(listed(3), 40)
    assert stage.hears(listed(), 40) == math.inf, "what counts as unmoved is the last index with somebody"


def test_a_second_read_that_finds_somebody_is_believed(stage: Stage) -> None:
    """The empty answer came from a server that lagged, or a cache."""
    stage.says[WATCH] = listed(2)
    assert stage.hears(listed(), 25) is None
    assert stage.ports == [2]


def test_what_cannot_be_confirmed_is_a_failure(stage: Stage) -> None:
    """The watch tries again; the known ones stay."""
    stage.says[WATCH] = Answer(500, {}, b"No cluster leader")
    with pytest.raises(Unanswered, match="won't confirm"):
        stage.hears(listed(), 25)
    assert len(stage.told) == 1


@pytest.mark.parametrize(
    ("path", "answer"), [(CHAIN, Answer(403, {}, b"")), (SERVICES, Answer(200, {}, b'{"web":[]}'))]
)
def test_rights_lost_together_with_a_change_are_found_out(stage: Stage, path: str, answer: Answer) -> None:
    """The index grew, but the service is refused by name, or still in the catalog: nobody vanishes, ever."""
    stage.says[path] = answer
    assert stage.hears(listed(), 25) == LATER
    stage.now = 3600.0
    assert stage.hears(listed(), 25) == LATER
    assert len(stage.told) == 1
    assert "those that are known stay" in stage.doubt


def test_the_hold_begins_when_rights_are_back() -> None:
    """However long they were gone: only then is an empty list to be believed at all."""
    stage = Stage()
    stage.hears(listed(1), 20)
    assert stage.hears(listed(), 25) == 30.0
    stage.says[CHAIN] = Answer(403, {}, b"")
    stage.now = 3600.0
    stage.hears(listed(), 25)
    stage.says[CHAIN] = Answer(200, {}, b"{}")
    assert stage.hears(listed(), 25) == 30.0
    stage.now = 3610.0
    assert stage.hears(listed(), 25) == pytest.approx(20.0)


@pytest.mark.parametrize(("index", "unbroken"), [(8, True), (8, False), (25, False)])
def test_a_consul_that_was_restarted_is_given_time_to_fill(stage: Stage, index: int, unbroken: bool) -> None:
    """It comes up empty, and the instances register again."""
    assert stage.hears(listed(), index, unbroken=unbroken) == 30.0
    stage.now = 10.0
    assert stage.hears(listed(), index, unbroken=False) == 30.0, "another outage starts the hold anew"
    stage.now = 39.0
    assert stage.hears(listed(), index) == pytest.approx(1.0)
    assert len(stage.told) == 1
    stage.now = 40.0
    assert stage.hears(listed(), index) is None
    assert stage.told[-1] == ([], [])
