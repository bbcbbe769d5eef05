"""The JSON Schema of the documents: what the language takes it takes, what the language refuses it refuses.

`jsonschema` is no dependency of ours, not even of the tests, so the words of JSON Schema that ours is written
in are read here; a word that is new to `problems` fails the test that meets it.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from proxyless.control.dialects import native
from proxyless.control.syntax import parse
from proxyless.model.documents import MeshDocument, ServiceDocument
from tests.control.test_native import CONTRACT, WRITTEN, nested

KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "number": (int, float),
    "integer": int,
    "null": type(None),
}
SAYING_NOTHING = {"$schema", "$defs", "description", "default", "examples"}
MEMBERS = {"properties", "patternProperties", "additionalProperties"}


def problems(value: Any, schema: Any, root: Any, at: str = "") -> list[str]:
    """What the schema has against `value`."""
    said = {word: meaning for word, meaning in schema.items() if word not in SAYING_NOTHING}
    kind = said.pop("type", None)
    as_number = kind in ("number", "integer") and isinstance(value, bool)
    if kind is not None and (as_number or not isinstance(value, KINDS[kind])):
        return [f"{at}: is no {kind}"]
    found: list[str] = []
    members = {word: said.pop(word) for word in MEMBERS & said.keys()}
    for key, part in value.items() if members else ():
        found += _member(key, part, members, root, f"{at}.{key}")
    for word, meaning in said.items():
        good = True
        match word:
            case "$ref":
                found += problems(value, root["$defs"][meaning.rsplit("/", 1)[1]], root, at)
            case "anyOf":
                found += sorted((problems(value, option, root, at) for option in meaning), key=len)[0]
            case "items":
                for index, item in enumerate(value):
                    found += problems(item, meaning, root, f"{at}[{index}]")
            case "propertyNames":
                for key in value:
                    found += problems(key, meaning, root, f"{at}.{key}")
            case "enum" | "const":
                good = value in (meaning if word == "enum" else [meaning])
            case "pattern":
                good = re.search(meaning, value) is not None
            case "minimum":
                good = value >= meaning
            case "maximum":
                good = value <= meaning
            case "minLength":
                good = len(value) >= meaning
            case "maxLength" | "maxItems" | "maxProperties":
                good = len(value) <= meaning
            case "required":
                good = set(meaning) <= value.keys()
            case _:
                raise AssertionError(f"this test does not know {word}: {meaning}")
        found += [] if good else [f"{at}: {word} {meaning}"]
    return found


def _member(key: str, part: Any, said: Any, root: Any, at: str) -> list[str]:
    patterns = said.get("patternProperties", {})
    shaped = [wanted for pattern, wanted in patterns.items() if re.search(pattern, key)]
    wanted = said.get("properties", {}).get(key, shaped[0] if shaped else said.get("additionalProperties", {}))
    if wanted is False:
        return [f"{at}: is unknown"]
    return [] if wanted is True else problems(part, wanted, root, at)


@pytest.mark.parametrize(
    "text", [CONTRACT, *(nested(place, text) for place, text in WRITTEN.items() if place[0] != "defaults")]
)
def test_the_schema_takes_what_the_language_has(text: str) -> None:
    """The contract's document, and every field that is for later: an editor must not strike them out."""
    schema = native.schema(ServiceDocument)
    assert problems(parse(text).data, schema, schema) == []


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: proxyless/v9",
        "service: ''",
        "routes: {}",
        "routes: [{tiemout: 1s}]",
        "routes: [{timeout: 5}]",
        "routes: [{timeout: fast}]",
        "routes: [{retry: {attempts: 11}}]",
        "routes: [{retry: {on: [unavailble]}}]",
        "routes: [{directResponse: {}}]",
        "routes: [{match: [{headers: {X-A: {exact: b}}}]}]",
        "routes: [{split: [{weight: '10'}]}]",
        "routes: [{split: [{weight: -1}]}]",
        "trafficPolicy: {tls: {mode: x}}",
    ],
)
def test_the_schema_refuses_what_the_language_refuses(text: str) -> None:
    """What an editor can show while it is being typed."""
    schema = native.schema(ServiceDocument)
    assert problems(parse(text).data, schema, schema) != []
    assert native.read(parse(text), ServiceDocument)[0] is None


def test_every_default_of_the_schema_is_a_value_that_a_document_may_have() -> None:
    """Editors write them down: a duration without a unit would be refused by what proposed it."""
    for kind in (ServiceDocument, MeshDocument):
        schema = native.schema(kind)
        fields = [
            (name, field)
            for made in (schema, *schema["$defs"].values())
            for name, field in made.get("properties", {}).items()
            if "default" in field
        ]
        assert ("base", "25ms") in [(name, field["default"]) for name, field in fields]
        assert [name for name, field in fields if problems(field["default"], field, schema)] == []


def test_the_schema_says_no_default_where_a_field_inherits() -> None:
    """A field that is left out takes the value of the level above: null is no value of it."""
    for kind in (ServiceDocument, MeshDocument):
        schema = native.schema(kind)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        balancer = schema["$defs"]["LoadBalancer"]["properties"]
        assert not [name for name, field in balancer.items() if "default" in field]
        assert schema["additionalProperties"] is False
