"""`proxyless routes`: the routes in effect, in the order in which they are tried, and where they lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyless.cli import screen
from proxyless.cli.names import check_known
from proxyless.cli.options import Format, OneService, Output, Source
from proxyless.cli.screen import BAD, NONE, Cell
from proxyless.cli.session import View, look

if TYPE_CHECKING:
    from proxyless.model.matches import Match
    from proxyless.model.route_table import ServiceTable
    from proxyless.model.snapshot import ClusterKey, PlannedRoute


def routes(service: OneService = None, source: Source = None, output: Output = Format.table) -> int:
    """The routes in effect: the first that matches a call is followed."""
    view = look(source, [service] if service else (), every=service is None)
    if service is not None:
        check_known(view, service)
    if output is Format.json:
        screen.as_json(view.status["services"])
    else:
        _show(view)
    return view.end(any(table.rejected for table in view.snapshot.services.values()))


def _show(view: View) -> None:
    rows: list[tuple[Cell, ...]] = []
    for name, table in sorted(view.snapshot.services.items()):
        rows += _rows(name, table)
    if rows:
        screen.table(("SERVICE", "ROUTE", "CALLS THAT", "GO TO", "TIMEOUT"), rows)
    else:
        screen.line("no service has a document: every call goes to every healthy instance of its service")


def _rows(name: str, table: ServiceTable) -> list[tuple[Cell, ...]]:
    if table.rejected:
        return [(name, NONE, NONE, ("REFUSED: " + table.rejected, BAD), NONE)]
    return [
        (
            name if not number else "",
            route.name,
            matching(route.route.match),
            _leads_to(name, route),
            seconds(route.timeout),
        )
        for number, route in enumerate(table.routes)
    ]


def _leads_to(service: str, route: PlannedRoute) -> str:
    answer = route.route.direct_response
    if answer is not None:
        return f"an answer of our own: {answer.status}"
    if len(route.clusters) == 1:
        return _named(route.clusters[0].key, service)
    parts = zip(route.clusters, route.shares, strict=False)
    return ", ".join(f"{percent(100 * share)} {_named(cluster.key, service)}" for cluster, share in parts)


def _named(key: ClusterKey, of: str) -> str:
    return destination(key.service, key.subset, of)


def destination(service: str, subset: str | None, of: str = "") -> str:
    """`service/subset`; the service is left out where it is the one that is spoken of."""
    if subset:
        return subset if service == of else f"{service}/{subset}"
    return "every endpoint" if service == of else service


def percent(share: float) -> str:
    """As exact as splits are: 0.01 % steps are not rounded away."""
    return f"{round(share, 4):.10g}%"


def seconds(timeout: float | None) -> str:
    """A timeout as documents write it."""
    from proxyless.model.quantities import Duration

    return NONE if timeout is None else str(Duration(timeout))


def matching(blocks: tuple[Match, ...]) -> str:
    """What a route asks of a call, in words."""
    return " or ".join(" and ".join(_conditions(block)) for block in blocks) or "match no earlier route"


def _conditions(block: Match) -> list[str]:
    from proxyless.model.matches import veiled
    from proxyless.policy.matcher import describe

    words = []
    if block.path is not None:
        words.append(f"path {describe(block.path)}")
    if block.grpc is not None:
        words.append(f"method {block.grpc.service}/{block.grpc.method or '*'}")
    if block.authority is not None:
        words.append(f"authority {describe(block.authority)}")
    words += [f"{name} {describe(veiled(name, match))}" for name, match in block.headers.items()]
    words += [f"not {name} {describe(veiled(name, match))}" for name, match in block.without_headers.items()]
    words += [f"client has {name}={value}" for name, value in block.source_labels.items()]
    if block.fraction is not None:
        words.append(f"{percent(block.fraction)} of them")
    return words
