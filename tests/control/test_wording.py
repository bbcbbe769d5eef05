"""What is said of a document that is wrong: everything at once, where it is, and the way out."""

from __future__ import annotations

import json

import pytest

from proxyless.control.dialects.native import REGEXES, read
from proxyless.control.syntax import parse
from proxyless.control.wording import MOST
from proxyless.model.documents import MeshDocument, ServiceDocument


def told(text: str, kind: type[ServiceDocument] | type[MeshDocument] = ServiceDocument) -> list[str]:
    """The findings of a document that has some."""
    value, findings = read(parse(text), kind)
    assert value is None
    assert findings
    return [str(finding) for finding in findings]


SLIPS = """\
apiVersion: proxyless/v1
service: web
discoverie: {}
subsets:
  stable: {labels: {version: 1}}
  canary: {filter: 'Service.Meta.version = "v2"'}
routes:
- name: a
  split: [{subst: stable, weight: "10"}]
  timeout: 5
  retry: {attempts: 11, perTryTimeout: 2, on: [unavailble]}
- name: a
  match:
  - headers: {x-user-tier: premium}
  - headers: {X-User: {exact: a}}
  - {}
  - path: {exact: a, prefix: b}
  - path: {prefix: ""}
  - path: {regex: "a("}
  - headers: {x: {range: {start: 10, end: 5}}}
  - grpc: {method: Get}
  split: [{subset: stabel, weight: -1}, {subset: stable}, {subset: stable}]
- split: {subset: stable}
  headers: {set: {te: trailers, x-a: 5}, remove: [grpc-timeout]}
- split: [{weight: 0}]
  directResponse: {status: unavailable}
  mirror: [{subset: stable}]
trafficPolicy:
  loadBalancer: {choices: 1}
  connection: {connectTimeout: 0s}
  tls: {mode: MUTUAL}
"""


def test_all_findings_come_at_once_with_line_and_path_and_the_way_out() -> None:
    """Each slip in its own words, in the order of the lines: what one hides from a decoder is there as well
    (the name given twice, the reserved header beside the number, the split beside the answer)."""
    assert told(SLIPS) == [
        'discoverie (line 3): is not a key that is known here; did you mean "discovery"?',
        "subsets.stable.labels.version (line 5): must be text, got 1 (a number); put it in quotes",
        "subsets.canary.filter (line 6): must be a Consul filter expression: column 21: no operator; "
        "expected "
        '"==", "!=", or between white space "in", "contains", "matches", "is empty"; '
        'at Service.Meta.version>>> = "v2"',
        'routes[0].split[0].weight (line 9): must be a number, got "10" (text); write it without quotes',
        'routes[0].split[0].subst (line 9): is not a key that is known here; did you mean "subset"?',
        'routes[0].timeout (line 10): must be a duration with a unit, got the bare number 5: did you mean "5s"?',
        "routes[0].retry.attempts (line 11): must be 0 to 10, got 11",
        "routes[0].retry.perTryTimeout (line 11): must be a duration with a unit, got the bare number 2: "
        'did you mean "2s"?',
        'routes[0].retry.on[0] (line 11): must be one of 22 known words, got "unavailble" (text); '
        'did you mean "unavailable"?',
        "routes[1].name (line 12): 'a' is already routes[0]",
        'routes[1].match[0].headers["x-user-tier"] (line 14): must be a mapping, got text; '
        "say how to compare, as in {exact: ...}",
        'routes[1].match[1].headers["X-User"] (line 15): must be a lower-case metadata key: letters, digits '
        'and _ . -, got "X-User": did you mean "x-user"?',
        "routes[1].match[2] (line 16): must have at least one condition; leave `match` out to match every call",
        "routes[1].match[3].path (line 17): must have exactly one of exact, prefix, suffix, contains, regex, "
        "has exact and prefix",
        "routes[1].match[4].path.prefix (line 18): must not be empty: it would match everything",
        "routes[1].match[5].path.regex (line 19): must be an RE2 regular expression: missing ): a(",
        "routes[1].match[6].headers.x.range (line 20): the end cannot be smaller than start, got 10..5",
        "routes[1].match[7].grpc.service (line 21): is required",
        "routes[1].split[0].weight (line 22): must be 0 to 4294967295, got -1",
        "routes[1].split[2] (line 22): names a destination that this split already has",
        'routes[1].split[0].subset (line 22): names no subset of this document: "stabel"; did you mean "stable"?',
        "routes[2].split (line 23): must be a list, got a mapping; begin each entry with a dash, or put [ ] around it",
        'routes[2].headers.set["x-a"] (line 24): must be text, got a number; put it in quotes',
        "routes[2].headers.set.te (line 24): is reserved by gRPC or HTTP/2 and can't be changed by a document",
        "routes[2].headers.remove[0] (line 24): is reserved by gRPC or HTTP/2 and can't be changed by a document",
        "routes[3].split (line 25): must have a weight above 0: all are 0, so no call could go anywhere",
        'routes[3].directResponse.status (line 26): must be one of 16 known words, got "unavailable" (text); '
        'did you mean "UNAVAILABLE"?',
        "trafficPolicy.loadBalancer.choices (line 29): must be 2 to 10, got 1",
        "trafficPolicy.connection.connectTimeout (line 30): must be 10ms to 5m, got 0s",
        'trafficPolicy.tls.mode (line 31): must be DISABLE, got "MUTUAL" (text)',
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "routes: none",
            'routes (line 1): must be a list, got "none" (text); begin each entry with a dash, or put [ ] around it',
        ),
        (
            "trafficPolicy: {loadBalancer: }",
            "trafficPolicy.loadBalancer (line 1): must be a mapping, got nothing; leave the key out "
            "where there is nothing to say",
        ),
        (
            "service: [a]",
            "service (line 1): must be text, got a list",
        ),
        (
            "service: my web",
            'service (line 1): must be letters, digits and inner . _ -, got "my web": did you mean "my-web"?',
        ),
        (
            "routes: [{retry: 3}]",
            "routes[0].retry (line 1): must be a mapping, got 3 (a number)",
        ),
        (
            "routes: [{retry: {attempts: 2.5}}]",
            "routes[0].retry.attempts (line 1): must be a whole number, got 2.5 (a number)",
        ),
        (
            "routes: [{retry: {attempts: true}}]",
            "routes[0].retry.attempts (line 1): must be a whole number, got true (a truth value)",
        ),
        (
            "routes: [{timeout: 5 s}]",
            'routes[0].timeout (line 1): must be a duration such as "250ms", "1.5s" or "1m30s", got "5 s"',
        ),
        (
            "routes: [{timeout: '5'}]",
            'routes[0].timeout (line 1): must be a duration such as "250ms", "1.5s" or "1m30s", got "5": '
            'did you mean "5s"?',
        ),
        (
            "routes: [{timeout: -1s}]",
            'routes[0].timeout (line 1): must be a duration such as "250ms", "1.5s" or "1m30s", got "-1s"',
        ),
        (
            "routes: [{timeout: 1000h}]",
            "routes[0].timeout (line 1): must be at most 720h, got 1000h",
        ),
        (
            "routes: [{retry: {backoff: {base: 1s, max: 10ms}}}]",
            "routes[0].retry.backoff.max (line 1): must be at least base (1s)",
        ),
        (
            "routes: [{directResponse: {status: NOT_FOUND}, split: [{}]}]",
            "routes[0].directResponse (line 1): can't stand beside split: a call is either sent or answered here",
        ),
        (
            "routes: [{match: [{fraction: 101}]}]",
            "routes[0].match[0].fraction (line 1): must be 0 to 100, got 101",
        ),
        (
            "routes: [{headers: {set: {t-bin: '!'}}}]",
            'routes[0].headers.set["t-bin"] (line 1): must be base64, because the key ends in -bin',
        ),
        (
            'routes: [{headers: {set: {x-a: "a\\r\\nb"}}}]',
            'routes[0].headers.set["x-a"] (line 1): must be printable ASCII: a stray control character '
            "would end the connection for every caller",
        ),
        (
            "routes: [{split: [{subset: a}]}]",
            'routes[0].split[0].subset (line 1): names no subset of this document: "a"; its subsets are: none',
        ),
        (
            "trafficPolicy: {retryBudget: {ttl: 100s}}",
            "trafficPolicy.retryBudget.ttl (line 1): must be 1s to 1m, got 1m40s",
        ),
        (
            "colour: red",
            "colour (line 1): is not a key that is known here; the keys here are apiVersion, discovery, "
            "routes, service, subsets, trafficPolicy",
        ),
    ],
)
def test_each_mistake_is_said_in_words_that_mend_it(text: str, says: str) -> None:
    """What, where, why, and what to write instead."""
    assert told(text) == [says]


def test_the_mesh_document_has_its_own_keys() -> None:
    """What is good in a service's document may be unknown in the mesh's."""
    assert told("defaults: {tmeout: 1s}\nroutes: []", MeshDocument) == [
        'defaults.tmeout (line 1): is not a key that is known here; did you mean "timeout"?',
        "routes (line 2): is not a key that is known here; the keys here are apiVersion, defaults",
    ]


@pytest.mark.parametrize("name", ["regex", "filter"])
def test_a_label_may_have_any_name(name: str) -> None:
    """A label called regex is no regular expression, and one called filter no filter."""
    text = json.dumps(
        {
            "subsets": {"filter": {"labels": {name: "a ( b"}}},
            "routes": [{"match": [{"sourceLabels": {name: "a ( b"}}]}],
        }
    )
    assert read(parse(text), ServiceDocument)[1] == []


def test_a_report_stays_readable() -> None:
    """Fifty thousand mistakes are not listed one by one."""
    for text in (
        json.dumps({f"k{number}": 1 for number in range(20_000)}),
        json.dumps({"routes": [{"x": 1}] * 16_000}),
        json.dumps({"routes": [{"split": [{"subset": f"s{number}"}]} for number in range(1024)]}),
    ):
        findings = told(text)
        assert MOST <= len(findings) <= MOST + 1
        assert sum(map(len, findings)) < 40_000
    assert findings[-1] == f"{MOST} mistakes up to here; the rest is not listed"


def test_regular_expressions_are_counted() -> None:
    """The worst that RE2 takes cost 6 ms and 110 KB each: a document of thousands would be an attack."""
    blocks = [{"path": {"regex": f"/{number}.*"}} for number in range(64)]
    text = json.dumps({"routes": [{"match": blocks}] * 8})
    assert read(parse(text), ServiceDocument)[1] == []
    text = json.dumps({"routes": [{"match": blocks}] * 9})
    assert told(text) == [
        f"routes (line 1): has more than {REGEXES} regular expressions; say with exact or prefix what they can say"
    ]


def test_what_a_slip_hides_is_looked_for_without_inventing_more() -> None:
    """A matcher whose only way is wrong is not also said to have none; a split item that is no mapping is not
    also said to be there twice."""
    assert told("routes: [{match: [{path: {exact: 5}}]}]") == [
        "routes[0].match[0].path.exact (line 1): must be text, got 5 (a number); put it in quotes"
    ]
    assert told("routes: [{split: [{}, 7]}]") == ["routes[0].split[1] (line 1): must be a mapping, got 7 (a number)"]
    assert told("routes: [{match: [{grpc: {}}]}]") == ["routes[0].match[0].grpc.service (line 1): is required"]


@pytest.mark.parametrize(
    ("written", "way_out"),
    [
        ('"90"', "; write it without quotes"),
        ("90%", "; write it as 90"),
        ("0.5 %", "; write it as 0.5"),
        ("0x10", ""),
        ("1_000", ""),
        ("ten", ""),
    ],
)
def test_who_wrote_no_quotes_is_not_told_to_leave_them_out(written: str, way_out: str) -> None:
    """A weight of 90% is text to YAML as it stands: what is said has to be a way out."""
    (said,) = told(f"routes:\n- split: [{{weight: {written}}}]\n")
    assert said.startswith("routes[0].split[0].weight (line 2): must be a number, got ")
    assert said.partition(" (text)")[2] == way_out


@pytest.mark.parametrize(
    ("written", "way_out"),
    [
        ("retryBudget: {ratio: 20%}", "0.2"),
        ("retryBudget: {ratio: 12.5%}", "0.125"),
        ("locality: {overprovisioning: 140%}", "1.4"),
        ("locality: {panicThreshold: 50%}", "50"),
        ("loadBalancer: {hashBalanceFactor: 150%}", "150"),
    ],
)
def test_a_percentage_is_turned_into_what_the_field_counts_in(written: str, way_out: str) -> None:
    """Whoever wrote `ratio: 20%` was told to write 20: a budget that allows twenty retries a call."""
    (said,) = told(f"trafficPolicy: {{{written}}}\n")
    assert said.partition(" (text)")[2] == f"; write it as {way_out}"


@pytest.mark.parametrize(("written", "way_out"), [('"true"', "; write it without quotes"), ("yes", ""), ("on", "")])
def test_yes_and_on_are_no_booleans_and_have_no_quotes(written: str, way_out: str) -> None:
    """They are text in YAML 1.2."""
    (said,) = told(f"discovery: {{onlyPassing: {written}}}\n")
    assert said.startswith("discovery.onlyPassing (line 1): must be true or false, got ")
    assert said.partition(" (text)")[2] == way_out
