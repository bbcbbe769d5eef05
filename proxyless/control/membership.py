"""Who is a member of a destination, who is missing from it, and why anybody is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxyless.control.bexpr import compile_filter
from proxyless.model.documents import Subset
from proxyless.model.topology import Discovery, Endpoint


def select(endpoints: Sequence[Endpoint], discovery: Discovery, subset: Subset | None) -> list[Endpoint]:
    """The endpoints that may be called: healthy enough, weighing something, and in the subset."""
    return _chosen([endpoint for endpoint in endpoints if not _unwell(endpoint, discovery)], discovery, subset)


def absent(endpoints: Sequence[Endpoint], discovery: Discovery, subset: Subset | None) -> list[Endpoint]:
    """Those that would be called if the registrar thought them healthy: what is missing of the destination's capacity.

    An instance whose normal weight is 0 was taken out by somebody, and is not missed.
    """
    unwell = [endpoint for endpoint in endpoints if endpoint.weight > 0 and _unwell(endpoint, discovery)]
    return _chosen(unwell, discovery, subset)


def why_not(endpoint: Endpoint, discovery: Discovery, subset: Subset | None) -> str | None:
    """Why an endpoint is no member; "" if neither for its health nor a filter, None if it is of another subset."""
    if discovery.filter and not _chosen([endpoint], discovery, None):
        return "discovery.filter leaves it out"
    if subset is not None and not _chosen([endpoint], discovery, subset):
        return None
    return _unwell(endpoint, discovery)


def _unwell(endpoint: Endpoint, discovery: Discovery) -> str:
    if endpoint.status == "critical":
        return "its checks are critical"
    if endpoint.status == "warning" and discovery.only_passing:
        return "one of its checks warns (discovery.onlyPassing)"
    return "" if endpoint.effective_weight > 0 else "its weight is 0"


def _chosen(endpoints: list[Endpoint], discovery: Discovery, subset: Subset | None) -> list[Endpoint]:
    """Those that the labels and filters take."""
    wanted = subset.labels if subset is not None else {}
    if wanted:
        pairs = tuple(wanted.items())
        endpoints = [e for e in endpoints if all(e.labels.get(key) == value for key, value in pairs)]
    filters = [compile_filter(text) for text in (discovery.filter, subset.filter if subset else "") if text]
    if filters:
        endpoints = [e for e in endpoints if _passes(e, filters)]
    return endpoints


def _passes(endpoint: Endpoint, filters: Sequence[Callable[[Mapping[str, Any]], bool]]) -> bool:
    try:
        entry = json.loads(endpoint.entry) if endpoint.entry else {}
    except (ValueError, RecursionError):
        return False  # a source of somebody else's wrote it
    return isinstance(entry, dict) and all(passes(entry) for passes in filters)
