"""`proxyless explain`: the decision for one request that is never made, every default spelt out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxyless.cli import endpoints as places
from proxyless.cli import screen
from proxyless.cli.failures import Misuse
from proxyless.cli.names import check_known
from proxyless.cli.options import Format, Labels, Output, Source, pairs
from proxyless.cli.routes import destination, percent, seconds
from proxyless.cli.screen import BAD, NONE, QUIET, TITLE
from proxyless.cli.session import View, look

if TYPE_CHECKING:
    from proxyless.model.snapshot import Cluster

MOST = 40
"""Endpoints that are shown to a person; of thousands nobody reads the rest."""

Service = Annotated[str, typer.Argument(metavar="SERVICE", help="The service that the channel is opened to.")]
Method = Annotated[str, typer.Argument(metavar="METHOD", help="The full name: /package.Service/Method.")]
Headers = Annotated[
    list[str] | None, typer.Option("-H", metavar="KEY=VALUE", help="Metadata of the request. Repeatable.")
]
Samples = Annotated[
    int,
    typer.Option("--samples", metavar="N", min=0, max=1_000_000, help="Draw N times, and count where calls go."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the draws: the same seed gives the same draws.")]


def explain(
    service: Service,
    method: Method,
    headers: Headers = None,
    samples: Samples = 0,
    seed: Seed = 0,
    labels: Labels = None,
    source: Source = None,
    output: Output = Format.table,
) -> int:
    """Which way one request would go, and why. Sends nothing."""
    from proxyless.explain import explain as decide

    _check_method(method)
    metadata = [(key.lower(), value) for key, value in pairs(headers, "-H")]
    view = look(source, [service], labels=dict(pairs(labels, "--label")))
    check_known(view, service)
    made = decide(view.snapshot, service, method, metadata).to_dict()
    made["endpoints"] = [places.shown(entry) for entry in made["endpoints"]]
    if samples and view.snapshot.services.get(service) is not None:
        from proxyless.cli.samples import draw

        made["samples"] = draw(view.snapshot, service, method, metadata, samples, seed)
    if output is Format.json:
        screen.as_json(made)
    else:
        _show(view, made)
    return view.end(made["refusal"] not in (None, "direct_response"))


def _check_method(method: str) -> None:
    service, slash, name = method.removeprefix("/").rpartition("/")
    if not slash or not service or not name or "/" in service:
        raise Misuse(
            f'"{method[:80]}" is not the full name of a method',
            "write /package.Service/Method, e.g. /shop.Products/Get",
        )
    if not method.startswith("/"):
        raise Misuse(f'a method begins with a slash; did you mean "/{method[:80]}"?')


def _show(view: View, made: Mapping[str, Any]) -> None:
    screen.line((f"{made['service']} {made['method']}", TITLE))
    _fact("Route", made["route"] or NONE)
    if made["refusal"]:
        _refusal(view, made)
    for number, rejected in enumerate(made["rejected"]):
        _fact("" if number else "Not taken", f"{rejected['route']}: {rejected['why']}")
    if made["route"] is None:
        return
    _fact(
        "Timeout",
        f"{seconds(made['timeout'])} for the whole call"
        if made["timeout"]
        else "none; only the caller's deadline holds",
    )
    hedge = made.get("hedge")
    _fact("Retry", _retry(made["retry"]) if hedge is None else "none: this route is hedged")
    if hedge is not None:
        _fact("Hedge", _hedge(hedge))
    _fact("Fault", _block(made["fault"]) if made["fault"] else "none")
    _fact("Mirror", "; ".join(map(_mirror, made["mirror"])) or "none")
    _placed(made)
    _split(made)
    if made["endpoints"]:
        screen.line()
        screen.line(("Endpoints", TITLE))
        places.table(made["endpoints"][:MOST], indent=2)
        if len(made["endpoints"]) > MOST:
            screen.line((f"  and {len(made['endpoints']) - MOST} more; -o json has all of them", QUIET))
    if made.get("ladder"):
        screen.line()
        screen.line(("Localities", TITLE), (", nearest first", QUIET))
        places.ladder(made["ladder"], indent=2)
    places.left_out(
        [(one["address"], destination(one["service"], one["subset"]), one["why"]) for one in made.get("left_out", ())]
    )
    _policy(made)
    _samples(made.get("samples"))


def _placed(made: Mapping[str, Any]) -> None:
    """What keeps a user on one side of a split, and on one endpoint there."""
    if stuck := made.get("sticky"):
        goes = "drawn: it has no such header"
        if stuck["service"]:
            goes = f"this request goes to {destination(stuck['service'], stuck['subset'])}"
        _fact("Sticky", f"by {stuck['header']}; {goes}")
    if hashed := made.get("hash"):
        by = "; ".join(_block(source) for source in hashed["of"])
        _fact("Hash", f"{by}; this request's is {hashed['hash'] or 'none: its place is drawn'}")


def _fact(name: str, text: str) -> None:
    screen.line(f"{name:<11}", text)


def _refusal(view: View, made: Mapping[str, Any]) -> None:
    """The reason's word, as the trailing metadata of the call has it, and what it comes from."""
    service, reason = made["service"], made["refusal"]
    table = view.snapshot.services.get(service)
    if reason == "direct_response":
        route = next(route.route for route in table.routes if route.name == made["route"]) if table else None
        answer = route.direct_response if route else None
        said = f' "{answer.message}"' if answer and answer.message else ""
        _fact(
            "Answered",
            f"by the route itself, with {answer.status if answer else '?'}{said}: no endpoint is called",
        )
        return
    why = {
        "no_route": f"no route of {service} ({len(table.routes) if table else 0} in its document) matches; "
        "a last one without `match` would catch the rest",
        "no_endpoints": "; ".join(places.why_none(view, cluster) for cluster in _clusters(view, made)),
        "limit": "limits.maxRequests lets in no more calls than there are",
        "not_ready": (table.rejected if table else "")
        or "the source has not said yet where it leads; calls wait for it",
    }.get(reason, "")
    screen.line(f"{'REFUSED':<11}", (reason, BAD), f": {why}")


def _clusters(view: View, made: Mapping[str, Any]) -> list[Cluster]:
    named = [(part["service"], part["subset"] or "", False) for part in made["split"]]
    return [cluster for key, cluster in view.snapshot.clusters.items() if tuple(key) in named]


def _retry(retry: Mapping[str, Any] | None) -> str:
    if retry is None:
        return "none"
    if not retry["attempts"]:
        return f"none, and the try at most {seconds(retry['per_try_timeout'])}"
    each = f", each try at most {seconds(retry['per_try_timeout'])}" if retry["per_try_timeout"] else ""
    return f"up to {retry['attempts']} more tries{each}, after {', '.join(retry['on'])}"


def _hedge(hedge: Mapping[str, Any]) -> str:
    more = f"up to {hedge['attempts']} more at the same time, {seconds(hedge['delay'])} apart"
    return f"{more}; at once after {', '.join(hedge['non_fatal'])}" if hedge["non_fatal"] else more


def _mirror(mirror: Mapping[str, Any]) -> str:
    to = destination(mirror["service"], mirror["subset"])
    there = mirror["endpoints"]
    along = f", with {' '.join(mirror['allow_headers'])}" if mirror["allow_headers"] else ""
    return f"{percent(mirror['percent'])} to {to} ({there} endpoint{'' if there == 1 else 's'}){along}"


def _split(made: Mapping[str, Any]) -> None:
    counted: dict[tuple[str, str | None], int] = {}
    for entry in made["endpoints"]:
        key = entry["service"], entry["subset"]
        counted[key] = counted.get(key, 0) + 1
    for number, part in enumerate(made["split"]):
        key = part["service"], part["subset"]
        there = counted.get(key, 0)
        endpoints = f"{there} endpoint{'' if there == 1 else 's'}"
        share = f"{percent(part['percent']):>7}  {destination(*key)}  "
        screen.line(f"{'' if number else 'Split':<11}", share, (endpoints, QUIET if there else BAD))


def _policy(made: Mapping[str, Any]) -> None:
    """Of each destination; once where all have the same."""
    policies = list(made["policy"].items())
    if not policies:
        return
    same = all(policy == policies[0][1] for _, policy in policies)
    for name, policy in policies[:1] if same else policies:
        screen.line()
        screen.line(("Policy", TITLE), "" if same else f" of {name}", (" (defaults included)", QUIET))
        for block, values in policy.items():
            for number, part in enumerate(textwrap.wrap(_block(values), 76)):
                screen.line(f"  {'' if number else block:<20}", part)


def _block(values: Any) -> str:
    """Nested settings in a line: `policy least_request, choices 2`."""
    if isinstance(values, Mapping):
        parts = (
            f"{key} ({_block(value)})" if isinstance(value, Mapping) else f"{key} {_block(value)}"
            for key, value in values.items()
            if value is not None
        )
        return ", ".join(parts)
    if isinstance(values, (list, tuple)):
        return " ".join(_block(value) for value in values)
    if isinstance(values, bool):
        return "true" if values else "false"
    return f"{values:.10g}" if isinstance(values, float) else str(values)


def _samples(samples: Mapping[str, Any] | None) -> None:
    if samples is None:
        return
    screen.line()
    screen.line(
        (f"{samples['calls']} simulated draws", TITLE),
        (f" (seed {samples['seed']}; nothing was sent)", QUIET),
    )
    rows = [
        (
            str(one["calls"]),
            percent(100 * one["calls"] / samples["calls"]),
            one["route"] or "REFUSED: no_route",
            destination(one["service"], one["subset"]) if one["service"] else NONE,
            one["address"] or ("answered by the route" if one["route"] and not one["service"] else "none"),
        )
        for one in samples["went"]
    ]
    screen.table(("CALLS", "SHARE", "ROUTE", "DESTINATION", "ENDPOINT"), rows, indent=2)
