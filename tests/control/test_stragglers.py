"""After a Consul that was restarted: what it does not name yet is waited for, what it takes back is gone at once."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from proxyless.control import RawDocument
from proxyless.control.consul_documents import Documents
from proxyless.control.consul_endpoints import Endpoints
from proxyless.control.watcher import Answer, News
from proxyless.model.topology import Endpoint

HOLD = 30.0


class Stage:
    """One of the two beliefs, in virtual time; names stand for endpoints or documents alike."""

    def __init__(self) -> None:
        self.now = self.index = 0.0
        self.there: tuple[str, ...] = ()
        self.told: list[list[str]] = []
        self.belief: Any = None

    def answer(self) -> Answer:
        raise NotImplementedError

    def known(self, *names: str) -> Any:
        raise NotImplementedError

    def hears(self, *names: str, index: int, unbroken: bool = True, after: float = 0.0) -> float | None:
        """So many seconds later these are there."""
        self.now += after
        self.there = names
        before, self.index = self.index, index
        wish: float | None = self.belief.take(News(self.answer(), index, int(before), unbroken))
        return wish

    def ask(self, path: str, *_flags: str) -> Answer:
        if path.startswith(("kv/p/mesh", "discovery-chain")):
            return Answer(404, {}, b"")
        return Answer(200, {}, b"{}") if path == "catalog/services" else self.answer()


class OfEndpoints(Stage):
    def __init__(self) -> None:
        super().__init__()

        def tell(endpoints: Sequence[Endpoint], _dropped: Sequence[str]) -> None:
            self.told.append(sorted(endpoint.address.removesuffix(":1") for endpoint in endpoints))

        self.belief = Endpoints("web", self.ask, tell, elsewhere=lambda: False, hold=HOLD, now=lambda: self.now)

    def answer(self) -> Answer:
        entries = [{"Node": {"Datacenter": "dc1"}, "Service": {"Address": name, "Port": 1}} for name in self.there]
        return Answer(200, {}, json.dumps(entries).encode())

    def known(self, *names: str) -> list[Endpoint]:
        return [Endpoint(f"{name}:1") for name in names]


class OfDocuments(Stage):
    def __init__(self) -> None:
        super().__init__()

        def tell(documents: Mapping[str, RawDocument]) -> None:
            self.told.append(sorted(key.removeprefix("services/") for key in documents))

        self.belief = Documents("p", self.ask, tell, hold=HOLD, now=lambda: self.now)

    def answer(self) -> Answer:
        value = base64.b64encode(b"{}").decode()
        keys = [{"Key": f"p/services/{name}", "Value": value, "ModifyIndex": 1} for name in self.there]
        return Answer(200 if keys else 404, {}, json.dumps(keys).encode())

    def known(self, *names: str) -> dict[str, RawDocument]:
        return {f"services/{name}": RawDocument(f"services/{name}", "{}", "1", "") for name in names}


@pytest.fixture(params=[OfEndpoints, OfDocuments])
def stage(request: pytest.FixtureRequest) -> Stage:
    stage: Stage = request.param()
    return stage


@pytest.mark.parametrize(("index", "unbroken"), [(8, True), (8, False), (25, False)])
def test_who_is_missing_after_a_restart_or_an_outage_is_waited_for(stage: Stage, index: int, unbroken: bool) -> None:
    """The index is lower, or the watch was interrupted: they stay, that is said, and who does not come is given up."""
    stage.hears("a", "b", "c", index=20)
    assert stage.hears("a", index=index, unbroken=unbroken) == HOLD
    assert stage.told[-1] == ["a", "b", "c"]
    assert "missing since Consul was restarted or away" in stage.belief.doubt
    assert stage.hears("a", "b", index=index + 1, after=10.0) == 20.0
    assert stage.told[-1] == ["a", "b", "c"]
    assert stage.hears("a", "b", index=index + 1, after=20.0) is None
    assert stage.told[-1] == ["a", "b"]
    assert stage.belief.doubt == ""


def test_who_is_removed_by_consuls_own_history_is_gone_at_once(stage: Stage) -> None:
    """Before a restart, and after it too while others are still waited for."""
    stage.hears("a", "b", "c", "d", index=20)
    assert stage.hears("a", "b", "c", index=21) is None
    assert stage.told[-1] == ["a", "b", "c"]
    stage.hears("a", "b", index=5, unbroken=False)
    stage.hears("a", index=6, after=1.0)
    assert stage.told[-1] == ["a", "c"]


def test_who_comes_back_is_no_longer_waited_for(stage: Stage) -> None:
    """From then on it can be removed like any other."""
    stage.hears("a", "b", index=20)
    stage.hears("a", index=5, unbroken=False)
    assert stage.hears("a", "b", index=6) is None
    assert stage.belief.doubt == ""
    assert stage.hears("a", index=7) is None
    assert stage.told[-1] == ["a"]


def test_a_consul_that_comes_up_empty_is_filled_one_by_one(stage: Stage) -> None:
    """Nobody is missed from the first that is there again to the last."""
    stage.hears("a", "b", "c", index=20)
    assert stage.hears(index=5, unbroken=False) == HOLD
    for number in range(1, 4):
        stage.hears(*"abc"[:number], index=5 + number, after=1.0)
        assert stage.told[-1] == ["a", "b", "c"]
    assert stage.belief.doubt == ""


def test_what_an_earlier_process_knew_gives_way_to_the_first_answer(stage: Stage) -> None:
    """It may be hours old: whoever Consul names is all there is."""
    stage.belief.assume(stage.known("old", "a"))
    assert stage.hears("a", index=20) is None
    assert stage.told == [["a"]]


def test_what_an_earlier_process_knew_does_not_give_way_to_emptiness(stage: Stage) -> None:
    """A Consul that was restarted, too: it is waited for until it is filled, or the hold is over."""
    stage.belief.assume(stage.known("a", "b"))
    assert stage.hears(index=3, unbroken=False) == HOLD
    assert stage.told == []
    stage.hears("a", index=4, after=1.0)
    assert stage.told[-1] == ["a", "b"]
    stage.hears("a", index=4, after=HOLD)
    assert stage.told[-1] == ["a"]
