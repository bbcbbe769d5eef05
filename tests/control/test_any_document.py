"""What the language takes, a client can compile, explain and call by: documents drawn from the schema itself.

Whoever may write the KV prefix may write anything that is valid. A combination that nobody thought of must not end the
thread that learns of it, nor keep any other document from taking effect.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from proxyless.control import RawDocument
from proxyless.control.compiler import Compiler
from proxyless.control.dialects import decode, native
from proxyless.control.idle import idle
from proxyless.explain import explain
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.topology import Endpoint, Locality
from proxyless.policy.balancers import BALANCERS
from proxyless.script import OK
from proxyless.stack import ENTRY
from tests.control.hearing import Hearing
from tests.fakes import START, UNAVAILABLE, Simulation
from tests.worlds import Known, document, rpc

TEXTS = "web rec a b x-a x-b t-bin us us/z1 eu/* * k=v /s/M /s. 0s 1ms 250ms 5s 1h version v1 v2 .* [a-z]+".split()
TEXTS += ['Service.Meta.version == "v2"', *BALANCERS]
KEYS = "a b x-a x-b v1 v2 us/z1 us/* eu version".split()
MOST = 60
"""Rounds of taking out what is wrong; a document that is drawn has a dozen mistakes."""

Draw = Callable[[dict[str, Any]], Any]


def _drawn(schema: dict[str, Any], dice: random.Random) -> Any:
    """Something of the shape that `schema` describes; its texts and numbers may be wrong."""

    def draw(node: dict[str, Any]) -> Any:
        if "$ref" in node:
            return draw(schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
        if "anyOf" in node:
            return draw(dice.choice([option for option in node["anyOf"] if option.get("type") != "null"]))
        if "const" in node or "enum" in node:
            return dice.choice(node.get("enum") or [node["const"]])
        shape = SHAPES.get(node.get("type", ""))
        return shape(node, draw, dice) if shape is not None else dice.choice(TEXTS)

    return draw(schema)


def _mapping(node: dict[str, Any], draw: Draw, dice: random.Random) -> Any:
    if "properties" in node:
        required = node.get("required", ())
        return {key: draw(of) for key, of in node["properties"].items() if key in required or dice.random() < 0.4}
    of = next(iter(node.get("patternProperties", {}).values()), None) or node.get("additionalProperties")
    return {dice.choice(KEYS): draw(of if isinstance(of, dict) else {}) for _ in range(dice.choice((0, 1, 2)))}


def _list(node: dict[str, Any], draw: Draw, dice: random.Random) -> Any:
    return [draw(node.get("items", {})) for _ in range(dice.choice((0, 1, 1, 2, 3)))]


def _number(node: dict[str, Any], _draw: Draw, dice: random.Random) -> Any:
    low, high = node.get("minimum", 0), node.get("maximum", 100)
    drawn = dice.choice((low, high, low + 1, (low + high) / 2, 0, 1, 2, 50))
    return int(drawn) if node["type"] == "integer" else drawn


def _truth(_node: dict[str, Any], _draw: Draw, dice: random.Random) -> Any:
    return dice.random() < 0.5


SHAPES = {"object": _mapping, "array": _list, "number": _number, "integer": _number, "boolean": _truth}


def _valid(kind: Any, dice: random.Random) -> Any:
    """A document that is taken: what is found wrong with one is taken out, until nothing is."""
    data = _drawn(native.schema(kind), dice)
    data.pop("service", None)
    for _ in range(MOST):
        raw = RawDocument("mesh" if kind is MeshDocument else "services/web", json.dumps(data, indent=1), "1", "drawn")
        value, findings = decode(raw, BALANCERS)
        if value is not None:
            return value
        for finding in findings:
            _take_out(data, finding.path)
    raise AssertionError(f"nothing is left that is valid: {data}")


def _take_out(data: Any, path: str) -> None:
    """What stands at `path`, or what is around it, where nothing does."""
    parts: list[Any] = [
        json.loads(part) if part.startswith('"') else int(part) if part.isdecimal() else part
        for part in path.replace("][", "\0").replace("].", "\0").replace("[", "\0").replace(".", "\0").split("\0")
        for part in [part.removesuffix("]")]
    ]
    while parts:
        around = data
        try:
            for part in parts[:-1]:
                around = around[part]
            del around[parts[-1]]
        except (KeyError, IndexError, TypeError):
            parts.pop()
        else:
            return


@pytest.mark.parametrize("seed", range(5))
def test_what_is_valid_can_be_compiled_explained_and_called_by(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Twelve documents each, and the mesh's: whatever stands beside whatever. Every call ends, and leaves nothing."""
    for turn in range(12):
        dice = random.Random(1000 * seed + turn)
        world = Known(seed=turn, locality=dice.choice((Locality(), Locality("us", "z1"))), labels={"a": "v1"})
        world.services["web"], world.mesh = _valid(ServiceDocument, dice), _valid(MeshDocument, dice)
        assert all(map(str, idle(world.services["web"])))
        places = (Locality(), Locality("us", "z1"), Locality("us", "z2"), Locality("eu"))
        world.lives("rec", "r:1").lives(
            "web",
            *(
                Endpoint(f"{name}:1", dice.choice((1, 1, 5)), locality=dice.choice(places), labels={"version": "v1"})
                for name in "abcd"[: dice.choice((0, 1, 4))]
            ),
        )
        compiled = world.compiled()
        if compiled.snapshot is None:  # it names a subset of rec's, which has no document
            continue
        simulation = Simulation(compiled.snapshot, now=START)
        for name in "abcdr":
            simulation.behaviours[f"{name}:1"] = dice.choice((OK, UNAVAILABLE))
        calls = []
        for metadata in ((), (("x-a", "v1"), ("x-b", "5")), (("t-bin", b"\0"),)):
            call = rpc(compiled.snapshot, method="/s/M", metadata=metadata, timeout=5.0, now=simulation.clock.now)
            call.rng = dice.random
            calls.append(simulation.call(ENTRY, call))
            json.dumps(explain(compiled.snapshot, "web", "/s/M", metadata, simulation.clock.now).to_dict())
        simulation.run()
        assert all(call.outcome is not None for call in calls)
        for cluster in compiled.snapshot.clusters.values():
            status = cluster.state.status(simulation.clock.now)
            assert (status["requests"], status["pending"]) == (0, 0)
    assert not [told for told in caplog.messages if "defect" in told or "can't be built" in told]


def test_what_sticks_beside_an_answer_is_compiled() -> None:
    """Nothing sticks to an answer. The compiler did not take it, though it is valid, and no document of any service
    took effect from then on."""
    world = Known().lives("web", "a:1")
    world.services["web"] = document("routes: [{sticky: {header: x-user}, directResponse: {status: NOT_FOUND}}]")
    assert explain(world.snapshot(), "web", "/s/M", (("x-user", "a"),)).refusal == "direct_response"


def test_a_defect_of_the_compiler_is_one_service_s_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last good routes stay, with those they lead to; a service that had none is refused, and told why. The others'
    documents take effect, and so do its own as soon as they can."""
    hearing = Hearing("web", "new", "rec").lives("web", "a:1").lives("new", "n:1").lives("rec", "r:1")
    hearing.says(web="routes: [{name: old}]", rec="routes: [{name: r1}]")
    plan = Compiler._plan

    def failing(self: Any, world: Any, service: str, index: int, route: Any, clusters: Any) -> Any:
        if route.name == "odd":
            raise ZeroDivisionError("by nobody foreseen")
        return plan(self, world, service, index, route, clusters)

    monkeypatch.setattr(Compiler, "_plan", failing)
    hearing.says(web="routes: [{name: odd}]", new="routes: [{name: odd}]", rec="routes: [{name: r2}]")
    assert [route.name for route in hearing.snapshot.services["web"].routes] == ["old"]
    assert [route.name for route in hearing.snapshot.services["rec"].routes] == ["r2"]
    assert hearing.call("web")[0] == ["send a"]
    assert hearing.call("rec")[0] == ["send r"]
    outcome = hearing.call("new")[1]
    assert outcome.refused == "not_ready"
    assert (
        "can't be compiled (ZeroDivisionError: by nobody foreseen), which is a defect of proxyless" in outcome.details
    )
    hearing.lives("rec", "q:1")
    assert hearing.call("rec")[0] == ["send q"]
    assert len([told for told in caplog.messages if "defect" in told]) == 2  # once for each of the two
    hearing.says(web="routes: [{name: mended}]", new="routes: [{name: mended}]")
    assert [route.name for route in hearing.snapshot.services["web"].routes] == ["mended"]
    assert hearing.call("new")[0] == ["send n"]
    hearing.says(web="routes: [{name: odd}]", new="routes: [{name: mended}]")
    assert len([told for told in caplog.messages if "defect" in told]) == 3  # told again, for it was mended
