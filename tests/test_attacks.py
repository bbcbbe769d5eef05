"""Whoever may write the KV prefix chooses these bytes: every attack ends in a finding, and nothing is lost.

The rows of the attack table that concern documents. Each is thrown at a loop that serves a good document:
calls go on as before, the finding says what is wrong, and what it costs is bounded. What is told of it (logs,
status, explain) is in test_attacks_told.py.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyless.control import RawDocument
from proxyless.control.dialects.native import read
from proxyless.control.syntax import Parsed, parse
from proxyless.model.documents import ServiceDocument
from proxyless.model.topology import Endpoint
from tests.control.hearing import GONE, Hearing, answer

GOOD = GONE % "good"
SIZE = 512 * 1024


def attack(text: str | bytes) -> tuple[list[str], float]:
    """The findings, and the seconds, of a text that replaces a good document, which must serve on."""
    hearing = Hearing("web").says(web=GOOD)
    started = time.perf_counter()
    hearing.loop.documents({"services/web": RawDocument("services/web", text, "666", "kv/services/web")})
    took = time.perf_counter() - started
    assert answer(hearing) == "good"
    errors = hearing.errors().get("services/web", [])
    assert errors, "it was taken for a good document"
    assert all(error.isprintable() for error in errors)
    assert sum(map(len, errors)) < 100_000
    return errors, took


# --- regular expressions ---


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(.*a){25}"])
@pytest.mark.parametrize("where", ["path", "header"])
def test_no_regular_expression_holds_a_call_up(pattern: str, where: str) -> None:
    """ReDoS: 50 x `a` + `!` against patterns that keep a backtracking engine for ever; 1 ms a match."""
    condition = {"path": {"regex": pattern}} if where == "path" else {"headers": {"x-a": {"regex": pattern}}}
    hearing = Hearing("web").lives("web", "a:1").says(web=json.dumps({"routes": [{"match": [condition]}, {}]}))
    value = "a" * 50 + "!"
    took = []
    for number in range(20):
        # Another value each time: verdicts are kept.
        method = f"/{value}{number}" if where == "path" else "/a/B"
        started = time.perf_counter()
        effects, _ = hearing.call(method=method, metadata=[("x-a", f"{value}{number}")])
        took.append(time.perf_counter() - started)
        assert effects == ["send a"]
    assert sorted(took)[10] < 0.001 + 0.002, "1 ms for the match, and the rest of the call on a busy machine"


@pytest.mark.parametrize("pattern", ["x{1000}{1000}", "(" * 200, "a" * 257, r"(a)\1", "(?<=a)b", "[b-a]"])
def test_a_regular_expression_that_cannot_be_cheap_is_refused(pattern: str) -> None:
    """Too large, too long, or only to be had by backtracking."""
    errors, _ = attack(json.dumps({"routes": [{"match": [{"path": {"regex": pattern}}]}]}))
    assert all(error.startswith("routes[0].match[0].path.regex (line 1): must ") for error in errors)


# --- numbers ---


@pytest.mark.parametrize(
    "weights",
    [
        "[.nan]",
        "[.inf]",
        "[-.inf]",
        "[-1]",
        "[1e308, 1e308]",
        '["10"]',
        "[true]",
        "[0, 0]",
        "[4294967296]",
        "[4294967295, 1]",
        "[null]",
    ],
)
def test_weights_that_cannot_be_are_refused(weights: str) -> None:
    """NaN, infinity, -1, what overflows, what is no number, all 0: the whole document is refused."""
    splits = ", ".join(f"{{service: s{i}, weight: {w}}}" for i, w in enumerate(weights[1:-1].split(", ")))
    errors, _ = attack(f"routes: [{{split: [{splits}]}}]")
    assert all(error.startswith("routes[0].split") for error in errors)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("routes: [{retry: {attempts: 1000000000}}]", "routes[0].retry.attempts"),
        ("routes: [{retry: {backoff: {base: 2h, max: 3h}}}]", "routes[0].retry.backoff.base"),
        ("routes: [{retry: {perTryTimeout: 25h}}]", "routes[0].retry.perTryTimeout"),
        ("routes: [{timeout: 99999999999999999999h}]", "routes[0].timeout"),
        ("routes: [{timeout: 1e308}]", "routes[0].timeout"),
        ("routes: [{timeout: .inf}]", "routes[0].timeout"),
        ("routes: [{fault: {delay: {percent: 100, fixed: 2h}}}]", "routes[0].fault.delay.fixed"),
        ("routes: [{fault: {delay: {percent: 1000, fixed: 1s}}}]", "routes[0].fault.delay.percent"),
        ("routes: [{hedge: {attempts: 100}}]", "routes[0].hedge.attempts"),
        ("routes: [{mirror: [{percent: 1e9}]}]", "routes[0].mirror[0].percent"),
        ("routes: [{match: [{fraction: -1}]}]", "routes[0].match[0].fraction"),
        (
            "trafficPolicy: {loadBalancer: {minimumRingSize: 2147483648}}",
            "trafficPolicy.loadBalancer.minimumRingSize",
        ),
        ("trafficPolicy: {loadBalancer: {choices: 1000000}}", "trafficPolicy.loadBalancer.choices"),
        ("trafficPolicy: {connection: {connectTimeout: 0s}}", "trafficPolicy.connection.connectTimeout"),
        ("trafficPolicy: {connection: {keepaliveTimeout: 1ns}}", "trafficPolicy.connection.keepaliveTimeout"),
        ("trafficPolicy: {retryBudget: {ratio: 1e9}}", "trafficPolicy.retryBudget.ratio"),
    ],
)
def test_numbers_have_bounds(text: str, path: str) -> None:
    """No document makes a call retry a billion times, wait for a year or build a ring of 2^31."""
    errors, _ = attack(text)
    assert any(error.startswith(f"{path} (line 1): must be ") for error in errors)


def test_an_instance_cannot_weigh_everything() -> None:
    """A weight of 2^32 would have all the calls; Consul's own limit is 65535."""
    with pytest.raises(ValueError, match="must be 0 to 65535"):
        Endpoint("10.0.0.1:1", weight=2**32)


# --- size and shape ---

SHAPES: dict[str, str | bytes] = {
    "depth 10,000": "routes: " + "[" * 10_000,
    "depth 10,000 in JSON": '{"routes":' * 10_000,
    "10 MB": b"routes: " + b"[]," * 3_500_000,
    "100,000 routes": json.dumps({"routes": [{}] * 100_000}),
    "16,000 routes": json.dumps({"routes": [{}] * 16_000}),
    "16,000 wrong routes": json.dumps({"routes": [{"x": 1}] * 16_000}),
    "7,000 regular expressions": json.dumps(
        {"routes": [{"match": [{"path": {"regex": f"{i}(a{{9}}){{9}}"}} for i in range(64)]}] * 110}
    ),
    "24,000 keys": json.dumps({f"k{number}": 1 for number in range(24_000)}),
    "24,000 headers": json.dumps({"routes": [{"headers": {"set": {f"h{n}": "v" for n in range(24_000)}}}]}),
    "1,024 subsets that are not there": json.dumps(
        {
            "subsets": {f"s{number}": {} for number in range(1000)},
            "routes": [{"split": [{"subset": f"t{number}"}]} for number in range(1024)],
        }
    ),
    "a key of 400 KB": json.dumps({"routes": [{"k" * 400_000: 1}]}),
    "a name of 400 KB": json.dumps({"routes": [{"name": "n" * 400_000}]}),
    "duplicate keys": "routes: []\nroutes: []",
    "anchors": "a: &a [x]\n" + "".join(f"k{i}: &k{i} [*a, *a, *a]\n" for i in range(9000)),
    "a billion laughs": "a: &a [x,x]\nb: &b [*a,*a]\nroutes: *b",
    "invalid UTF-8": b"routes: []\nname: \xff\xfe",
    "UTF-16": "routes: []".encode("utf-16"),
    "NUL": "routes: []\x00",
    "base64": base64.b64encode(b"routes: []" * 1000),
    "a program": "!!python/object/apply:os.system ['true']",
    "a merge key": "<<: {routes: []}",
    "two documents": "routes: []\n---\nroutes: []",
    "nothing": "",
    "spaces": " " * SIZE,
    "a list": "[]",
    "a text": "routes",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_no_shape_of_text_costs_more_than_it_may(text: str | bytes) -> None:
    """Refused with a few findings in bounded time; a third of a second each where it was measured."""
    _, took = attack(text)
    assert took < 3.0


@pytest.mark.parametrize("text", ["\ufeff" + GOOD, ("\ufeff" + GOOD).encode(), GOOD.replace("\n", "\r\n")])
def test_what_an_editor_adds_is_no_attack(text: str | bytes) -> None:
    """A byte order mark, and the line ends of another system."""
    assert read(parse(text), ServiceDocument)[1] == []


def test_services_that_send_to_each_other_are_no_loop() -> None:
    """A destination is a set of endpoints, not another's routes: A -> B -> A ends at B."""
    hearing = Hearing("a", "b").lives("a", "a:1").lives("b", "b:1")
    hearing.says(a="routes: [{split: [{service: b}]}]", b="routes: [{split: [{service: a}]}]")
    assert (hearing.call("a")[0], hearing.call("b")[0]) == (["send b"], ["send a"])


# --- headers ---

NAMES = [
    "X-Up",
    ":path",
    ":authority",
    "te",
    "host",
    "content-type",
    "content-length",
    "connection",
    "user-agent",
]
NAMES += [
    "grpc-timeout",
    "grpc-encoding",
    "grpc-previous-rpc-attempts",
    "transfer-encoding",
    "x y",
    "x\r\ny",
    "",
    "é",
]
VALUES = ["a\rb", "a\nb", "a\r\nx-admin: 1", "a\x00b", "\x7f", "\x1b[31m", "é", "☃", "a\u2028b", "v" * 5000]


@pytest.mark.parametrize("verb", ["set", "add", "remove"])
@pytest.mark.parametrize("name", NAMES)
def test_no_document_sets_a_header_that_is_grpc_s_own(name: str, verb: str) -> None:
    """Upper case, pseudo-headers, hop-by-hop and reserved ones: of the route, and of a leg of its split."""
    edit = {verb: [name] if verb == "remove" else {name: "v"}}
    for route in ({"headers": edit}, {"split": [{"headers": edit}]}):
        errors, _ = attack(json.dumps({"routes": [route]}))
        assert all(f"headers.{verb}" in error for error in errors)


@pytest.mark.parametrize("verb", ["set", "add"])
@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_no_document_smuggles_a_header_in_another_s_value(value: str, verb: str) -> None:
    """CR, LF, NUL, all that is not printable ASCII: one such value ends the connection for every caller."""
    errors, _ = attack(json.dumps({"routes": [{"headers": {verb: {"x-a": value}}}]}))
    assert all(error.startswith(f'routes[0].headers.{verb}["x-a"] (line 1): must ') for error in errors)


@pytest.mark.parametrize("value", ["!", "AAE", "AA==AA", "A A=", "\r\n", "AAEC\n"])
def test_binary_headers_are_base64_to_the_letter(value: str) -> None:
    """CVE-2023-32732: bad base64 in a `-bin` header ends the connection."""
    errors, _ = attack(json.dumps({"routes": [{"headers": {"set": {"t-bin": value}}}]}))
    assert errors == ['routes[0].headers.set["t-bin"] (line 1): must be base64, because the key ends in -bin']


# --- requests that would slip past a rule ---

DENY = """
routes:
- name: admins
  match: [{headers: {role: {exact: admin}}}]
- name: not-guests
  match: [{withoutHeaders: {role: {contains: guest}}}]
- directResponse: {status: PERMISSION_DENIED, message: denied}
"""


@pytest.mark.parametrize(
    "metadata",
    [
        [("role", "guest"), ("role", "admin")],
        [("role", "admin"), ("role", "guest")],
        [("role", "admin,guest")],
        [("role", "x"), ("role", "admin,guest")],
        [("role", "guest,admin"), ("role", "")],
    ],
)
def test_a_header_sent_twice_is_one_value_to_every_rule(metadata: list[tuple[str, str]]) -> None:
    """CVE-2026-26308: rules that look at each value let `a` + `a,b` through; ours look at the joined one."""
    hearing = Hearing("web").lives("web", "a:1").says(web=DENY)
    assert hearing.call(metadata=metadata)[1].refused == "direct_response"


@pytest.mark.parametrize(
    "path",
    [
        *("/shop.Admin//Delete", "//shop.Admin/Delete", "/shop.Admin/Delete/", "shop.Admin/Delete"),
        *(
            "/shop%2EAdmin/Delete",
            "/shop.Admin%2FDelete",
            "/shop.Admin/Delete\x00",
            "/x/../shop.Admin/Delete",
        ),
        *("/SHOP.Admin/Delete", "/shop.Admin/delete"),
    ],
    ids=ascii,
)
def test_a_path_is_compared_as_it_is_sent(path: str) -> None:
    """Nothing is decoded, collapsed or folded between the rule and the wire: what isn't the path is another
    one, for the rule that lets it in as for the server behind it."""
    hearing = Hearing("web").lives("web", "a:1")
    blocks = [
        {"grpc": {"service": "shop.Admin", "method": "Delete"}},
        {"path": {"exact": "/shop.Admin/Delete"}},
    ]
    hearing.says(web=json.dumps({"routes": [{"match": blocks}]}))
    assert hearing.call(method="/shop.Admin/Delete")[0] == ["send a"]
    assert hearing.call(method=path)[1].refused == "no_route"


# --- anything at all ---

KEYS = st.sampled_from(
    "apiVersion service discovery subsets routes trafficPolicy name match split headers set add remove "
    "path regex "
    "exact weight subset timeout retry on attempts backoff base max labels filter directResponse status "
    "range start "
    "end x-a t-bin fraction grpc method loadBalancer policy choices connection connectTimeout".split()
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**29), 10**29)
    | st.floats()
    | st.sampled_from(["1s", "5", "a", "", "(", "v1", "UNAVAILABLE", "unavailable", "\n", "proxyless/v1", "a b"])
    | st.text(max_size=5)
)
DOCUMENTS = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
        max_leaves=12,
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS)
def test_no_data_makes_the_reader_raise(data: dict[str, Any]) -> None:
    """A value or findings, never both and never neither; and each finding is one plain line."""
    value, findings = read(Parsed(data, {}, ()), ServiceDocument)
    assert (value is None) is bool(findings)
    assert all(str(finding).isprintable() for finding in findings)
