"""What a document says to no effect: good by itself, and obeyed nowhere.

None of it is an error. A route that answers by itself may keep the retries it will have again tomorrow, and fields of a
balancer may stand ready for the day it is named. But whoever wrote it may believe that it holds, so whoever checks a
document is told. Consul refuses the settings of a balancer that is not named, Istio's analysis tells of routes that
can't be reached (IST0130).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from proxyless.control.scanner import quoted
from proxyless.control.syntax import render_path
from proxyless.model.documents import MeshDocument, ServiceDocument
from proxyless.model.findings import Finding
from proxyless.model.matches import Match
from proxyless.model.quantities import camel
from proxyless.model.routes import Route
from proxyless.model.traffic import TrafficPolicy

_BOTH = ("hash_balance_factor",)

USED: Mapping[str, frozenset[str]] = {
    "least_request": frozenset(("choices", "active_request_bias", "slow_start")),
    "maglev": frozenset(("table_size", *_BOTH)),
    "peak_ewma": frozenset(("decay_time", "failure_penalty", "slow_start")),
    "random": frozenset(("slow_start",)),
    "ring_hash": frozenset(("minimum_ring_size", "maximum_ring_size", "entries_per_endpoint", *_BOTH)),
    "round_robin": frozenset(("slow_start",)),
    "weighted_round_robin": frozenset(
        (
            "blackout_period",
            "weight_expiration_period",
            "weight_update_period",
            "error_utilization_penalty",
            "slow_start",
        )
    ),
}
"""The fields of `loadBalancer` that each balancer goes by; what a plug-in goes by, it alone knows."""

_SENDS = ("mirror", "retry", "hedge", "sticky", "hash", "headers")
"""What a route can say of calls that are sent somewhere."""


def idle(document: ServiceDocument | MeshDocument) -> Iterator[Finding]:
    """A finding for everything in `document` that has no effect, and why; without its line."""
    if isinstance(document, MeshDocument):
        yield from _of_policy(document.defaults.traffic_policy, "defaults.trafficPolicy")
        return
    for index, route in enumerate(document.routes):
        yield from _of_route(route, f"routes[{index}]")
    yield from _unreached(document)
    yield from _of_policy(document.traffic_policy, "trafficPolicy")
    for name, subset in document.subsets.items():
        yield from _of_policy(subset.traffic_policy, f"subsets.{name}.trafficPolicy")


def _of_route(route: Route, where: str) -> Iterator[Finding]:
    if route.direct_response is not None:
        for name in _SENDS:
            if getattr(route, name):
                yield Finding(f"{where}.{name}", "has no effect: directResponse answers the call, and nothing is sent")
    elif route.sticky is not None and len(route.split) < 2:
        yield Finding(f"{where}.sticky", "has no effect: there is only one destination to stick to")
    if route.fault is not None and route.fault.delay is None and route.fault.abort is None:
        reason = "has no effect: it has neither delay nor abort"
        hint = "their percentages cap what headers ask for" if route.fault.headers else ""
        yield Finding(f"{where}.fault", reason, hint=hint)
    if route.retry is not None and route.retry.attempts and not route.retry.on:
        yield Finding(f"{where}.retry.on", "is empty: nothing is ever tried again", hint="leave it out for the default")
    for index, block in enumerate(route.match):
        yield from _of_block(block, f"{where}.match[{index}]")


def _of_block(block: Match, where: str) -> Iterator[Finding]:
    if block.path is not None:
        for way in ("exact", "prefix"):
            wanted = getattr(block.path, way)
            if wanted is not None and not wanted.startswith("/"):
                hint = f"did you mean {quoted(f'/{wanted}')}?"
                yield Finding(f"{where}.path.{way}", "is never true: a path is /package.Service/Method", hint=hint)
    for kind, headers in (("headers", block.headers), ("withoutHeaders", block.without_headers)):
        for name in headers:
            if name.endswith("-bin"):
                yield Finding(
                    f"{where}.{render_path((kind, name))}", "is never there: keys that end in -bin can't be matched"
                )
        for name, match in headers.items():
            if match.range is not None and match.range.start == match.range.end:
                path = render_path((kind, name, "range"))
                yield Finding(f"{where}.{path}", "holds no number: it ends before it begins, for `end` is not in it")


def _unreached(document: ServiceDocument) -> Iterator[Finding]:
    """Routes after one that takes every call; the first of them is named, and how many more there are."""
    for index, route in enumerate(document.routes[:-1]):
        if not route.match:
            more = len(document.routes) - index - 2
            reason = f"is never reached: routes[{index}] has no match, so it takes every call"
            hint = f"nor {'is the one' if more == 1 else f'are the {more}'} after it" if more else ""
            yield Finding(f"routes[{index + 1}]", reason, hint=hint)
            return


def _of_policy(policy: TrafficPolicy | None, where: str) -> Iterator[Finding]:
    block = policy.load_balancer if policy is not None else None
    used = USED.get(block.policy) if block is not None else None
    if block is None or used is None:
        return  # which balancer it is for, another document or block says
    for field in fields(block):
        if field.name not in used and field.name != "policy" and getattr(block, field.name) is not None:
            whose = " and ".join(sorted(name for name, its in USED.items() if field.name in its))
            whose = whose if field.name != "slow_start" else "balancers that don't go by a hash"
            yield Finding(
                f"{where}.loadBalancer.{camel(field.name)}", f"has no effect on {block.policy}: it is for {whose}"
            )
