"""Consul itself is the oracle of its filter language: what it answers to an expression, we answer too.

It is asked on 1.8, whose grammar, selectors and quirks `proxyless.control.bexpr` follows; a newer one knows
more and would disagree, so there these tests are skipped.
"""

from __future__ import annotations

import time
import urllib.parse
from random import Random
from typing import Any

import pytest

from proxyless.control.bexpr import FilterError, compile_filter
from tests.agent import ConsulAgent

Entry = dict[str, Any]

SERVICES: list[Entry] = [
    {
        "ID": "web-1",
        "Name": "web",
        "Tags": ["v1", "primary"],
        "Address": "10.0.0.1",
        "Port": 9001,
        "Meta": {"version": "v1", "zone": "a", "a-b": "tab\there", "snow": "\u2603 \u00e9", "empty": ""},
        "TaggedAddresses": {
            "lan": {"Address": "10.0.0.1", "Port": 9001},
            "wan": {"Address": "192.0.2.1", "Port": 16},
        },
        "Weights": {"Passing": 10, "Warning": 2},
        "EnableTagOverride": True,
        "Connect": {"Native": True},
        "Checks": [{"CheckID": "web-1-ttl", "TTL": "24h", "Status": "passing", "Notes": "by hand"}],
    },
    {
        "ID": "web-2",
        "Name": "web",
        "Tags": ["v2", ""],
        "Port": 16,
        "Meta": {"version": "v2", "not": "x", "in": "y"},
        "Checks": [
            {"CheckID": "web-2-ttl", "TTL": "24h", "Status": "warning"},
            {"CheckID": "web-2-tcp", "TTL": "24h", "Status": "passing"},
        ],
    },
    {"ID": "web-3", "Name": "web", "Meta": {"version": "v1.2"}, "Weights": {"Passing": 1}},
]
# The catalog takes what an agent would not: nodes without one, with odd keys or next to nothing.
NODES: list[Entry] = [
    {
        "Node": "external",
        "Address": "10.9.9.9",
        "TaggedAddresses": {"lan": "10.9.9.9"},
        "NodeMeta": {"zone": "b", "rack.unit": "v1"},
        "Service": {"ID": "web-4", "Service": "web", "Port": 8, "Kind": "typical", "Meta": {"a_b": "v1"}},
        "Checks": [
            {
                "Node": "external",
                "CheckID": "c",
                "Status": "critical",
                "ServiceID": "web-4",
                "Output": "v1\nrefused",
            }
        ],
    },
    {"Node": "bare", "Address": "10.9.9.8", "Service": {"ID": "web-5", "Service": "web"}},
]

STRINGS = r"""
    Service.ID Service.Service Service.Kind Service.Address Service.Meta.version Service.Meta.zone
    Service.Meta.none Service.Meta["a-b"] Service["Meta"][`snow`] Service.Meta.not Service.Meta.in
    Service.Meta[""] Service.Meta["empty"] Service.Meta["\x7aone"] Service.TaggedAddresses.lan.Address
    Node.Node Node.Datacenter Node.Address Node.Meta.zone Node.Meta["rack.unit"] Node.TaggedAddresses.lan
    Checks.Node Checks.CheckID Checks.Name Checks.Status Checks.Notes Checks.Output Checks.ServiceID
    Checks.ServiceName Checks.Type
""".split()
NUMBERS = """
    Service.Port Service.Weights.Passing Service.Weights.Warning
    Service.TaggedAddresses.wan.Port Service.TaggedAddresses.none.Port
""".split()
TRUTHS = ["Service.EnableTagOverride", "Service.Connect.Native"]
BOXES = """
    Service.Tags Checks.ServiceTags Service.Meta Service.TaggedAddresses Node.Meta Node.TaggedAddresses Checks
""".split()
NOTHINGS = """
    Service Node Service.Connect Service.Weights Service.TaggedAddresses.lan Service.Name Service.id
    service.ID Service.Meta.a.b Service.Tags.x Node.Meta.zone.x Checks.Status.x Checks.Definition
    Checks.Definition.HTTP Service.CreateIndex Service.Namespace Service.Locality.Zone Node.Partition
    Service[""] not in and x
""".split()
TEXTS = r"""
    v1 v2 "v1" `v2` "v1.2" v1.2 web "web-1" web-1 `web-5` a b a/b "" `` x.y x["y"] 'v1' passing critical
    warning lan version zone primary and or not in is empty contains matches `\d` "\\d" "\d" "\q" "\'" "a\"
    "open `open "\x76\u0031" "\62" "\162" "\400" "tab\there" "\xe2\x98\x83" "\xe2" "\ud800" "\U00110000" "☃" ☃
""".split()
TEXTS += ["v1", '"v2"', "`web-1`", "version", '"-2"', "primary", "passing", '"a"'] * 3  # these tell apart
TEXTS += ["x[`a b`]", '"a b"', '"tab\there"', '"tab\nhere"', "`v\r1`", "`v1\nrefused`"]
FIGURES = r"""
    0 1 -1 -0 9001 16 8 10 2 `9001` 9001.0 1.5 01 1. .5 +1 0x10 1_0 9a - "" "0x10" "0X1_0" "020" "0o20"
    "0b10000" "1_6" "_16" "16_" "1__6" "0_20" "+16" "-0" "08" "0x" "00" 9223372036854775807
    9223372036854775808 "-0x8000000000000000" "-0x8000000000000001" 99999999999999999999
""".split()
FIGURES += ['" 16"', '"16 "', '"\uff11"']
FLAGS = """
    true True TRUE t T 1 false False FALSE f F 0 "true" `0` yes tRUE "" 2 false.x
""".split()
PATTERNS = r"""
    `^v[12]$` `web-[[:digit:]]` `(?i)WEB` `a|b` `^$` `.` `` v . "v\\d" `v+?` `v**` `[` `(` `*` `a{2,1}`
    `x{1001}` `(?=v)` `(v)\1` `\pL\d` `\p{Greek}` `\p{Nope}` `[[:nope:]]` `\Bv` `\bv` `\z` `\Z` `(?U)v+`
    `v\_?` `v(?#x)` `\C` `\Q\C\E` `(?<n>v)` `(?P<n>v)` `(?P<é>v)` `[(?<]` `☃` `\x{2603}` "\xe2"
    `(?m)^refused$` `^refused` `[^\n]$`
""".split()
WHITE = [" "] * 40 + ["  ", "\t", "\r\n", "\n \t", "", "\u00a0"]
DIRT = " \t().,\"`'=!-_/[]<>\\aA1.9é"


def any_match(rng: Random) -> str:
    """One match, mostly of a selector with an operator and a value that befit it."""
    # The selectors of a kind, the values that befit them, and their operators.
    text = (STRINGS, TEXTS, ["==", "!=", "contains", "in"])
    regex = (STRINGS, PATTERNS, ["matches"])
    kinds = [text, text, regex, (NUMBERS, FIGURES, ["==", "!="]), (TRUTHS, FLAGS, ["==", "!="])]
    kinds += [(BOXES, TEXTS, ["contains", "in", "empty"])] * 2
    selectors, values, operators = rng.choice(kinds)
    if rng.random() < 0.04:
        selectors = NOTHINGS
    if rng.random() < 0.04:
        values = rng.choice([TEXTS, FIGURES, FLAGS, PATTERNS])
    if rng.random() < 0.04:
        operators = ["==", "!=", "contains", "in", "matches", "empty", "=", "<", "startswith"]
    selector, value, operator = rng.choice(selectors), rng.choice(values), rng.choice(operators)

    def gap() -> str:
        return rng.choice(WHITE)

    negation = f"not{gap()}" if rng.random() < 0.4 else ""
    if operator in ("==", "!=", "=", "<"):
        return f"{selector}{gap().strip(' ') or ' '}{operator}{rng.choice(['', ' ', gap()])}{value}"
    if operator == "in":
        return f"{value}{gap()}{negation}in{gap()}{selector}"
    if operator == "empty":
        return f"{selector}{gap()}is{gap()}{negation}empty"
    return f"{selector}{gap()}{negation}{operator}{gap()}{value}"


def any_expression(rng: Random, depth: int) -> str:
    """A match, or a few bound together; not deep, for the server's time is exponential in the depth."""
    shape = rng.random()
    if depth == 0 or shape < 0.45:
        return any_match(rng)
    first, second = any_expression(rng, depth - 1), any_expression(rng, depth - 1)
    if shape < 0.6:
        return f"not{rng.choice(WHITE)}{first}"
    if shape < 0.72:
        return f"({rng.choice(['', ' '])}{first}{rng.choice(['', ' '])})"
    word = rng.choice(["and", "or", "and", "or", "AND"])
    return f"{first}{rng.choice(WHITE)}{word}{rng.choice(WHITE)}{second}"


def soiled(rng: Random, text: str) -> str:
    """The text with one character too many, too few or wrong."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(["", rng.choice(DIRT)]) + text[at + rng.randrange(2) :]


# What grammar.peg decides in ways that one would not guess.
CURIOUS = """\
not in Service.Meta
not  in  Service.Meta
not not in Service.Meta
not in in Service.Meta
not  in  in  Service.Meta
not not in in Service.Meta
not in not in Service.Meta
not not in not in Service.Meta
not not not in Service.Meta
not in contains in Service.Meta
not.x in Service.Meta
in in Service.Meta
in not in Service.Meta
and in Service.Meta and or in Service.Meta
or in Service.Meta or and in Service.Meta
Service.Meta.not == x and Service.Meta.in != x
not(Service.Port == 16)
(Service.Port==16)and(Service.Port==16)
(Service.Port == 16) or (Service.Port == 8)
((( Service.Port == 16 )))
not not Service.Port == 16
not Service.Port == 16 and Service.Port == 8
Service.Port == 8 or Service.Port == 16 and Service.Port == 1
Service.Port == 16)
(Service.Port == 16
Service.Port == 16or Service.Port == 8
Service.Meta.version==v1 and Service.Meta[ "zone" ]==a
Service.Meta.version=="v1"and Service.Port==9001
Service.Meta ["version"] == v1
Service .Port == 16
Service. Port == 16
Service.Tags is emptyx
Service.Tags is not empty
Service.Tags contains"v1"
"v1"in Service.Tags
true == Service.EnableTagOverride
v1 in "v1"
Service.Port == 16 and
\u0020""".split("\n")


@pytest.fixture(scope="module")
def entries(consul: ConsulAgent) -> list[Entry]:
    """All instances, registered, and every check where it will stay."""
    version = consul.do("GET", "agent/self").json()["Config"]["Version"]
    if not version.startswith("1.8."):
        pytest.skip(f"the filter language is that of Consul 1.8, this is {version}")
    for service in SERVICES:
        consul.do("PUT", "agent/service/register", service)
    for node in NODES:
        consul.do("PUT", "catalog/register", node)
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        found = consul.health("web", passing=False)
        checks = sum(len(entry["Checks"]) for entry in found)
        # Five instances; serfHealth comes to the agent's three when the leader has seen the agent.
        if len(found) == 5 and checks == 3 + 3 + 1:
            return found
        time.sleep(0.05)
    pytest.fail("the instances or their checks did not all arrive within 20 s")


def asked(consul: ConsulAgent, text: str) -> list[str] | None:
    """The ids that the server's filter lets pass; None where it refuses the filter."""
    answer = consul.ask("GET", f"health/service/web?filter={urllib.parse.quote(text)}")
    if answer.status == 500 and b"boolean expression evaluator" in answer.body:
        return None
    assert answer.ok, f"{text!r}: {answer.status or answer.error} {answer.body[:200]!r}"
    return [entry["Service"]["ID"] for entry in answer.json()]


def evaluated(entries: list[Entry], text: str) -> list[str] | None:
    try:
        passes = compile_filter(text)
    except FilterError:
        return None
    return [entry["Service"]["ID"] for entry in entries if passes(entry)]


@pytest.mark.parametrize("text", CURIOUS)
def test_the_grammar_is_consuls_where_it_is_curious(consul: ConsulAgent, entries: list[Entry], text: str) -> None:
    """Keywords as values, parentheses without white space: what the server makes of them, we make."""
    assert evaluated(entries, text) == asked(consul, text)


def test_random_expressions_are_answered_as_consul_answers_them(consul: ConsulAgent, entries: list[Entry]) -> None:
    """600 expressions, valid and broken: each is refused by both or lets the same instances pass."""
    rng, refused, telling, different = Random(20), 0, 0, []
    for _ in range(600):
        text = any_expression(rng, depth=2)
        if rng.random() < 0.15:
            text = soiled(rng, text)
        theirs, ours = asked(consul, text), evaluated(entries, text)
        refused += theirs is None
        telling += theirs is not None and 0 < len(theirs) < len(entries)
        if ours != theirs:
            different.append(f"{text!r}: Consul {theirs}, we {ours}")
    assert different == []
    # Neither would show anything if nearly all were refused, or nearly all passed everything or nothing.
    assert refused > 80
    assert telling > 80
    assert entries == consul.health("web", passing=False)  # they did not change meanwhile
