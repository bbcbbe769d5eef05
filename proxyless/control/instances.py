"""Consul's list of a service's instances, read into endpoints; what can't be one is left out with the reason.

Each instance was written by whoever may register one, so nothing in it is trusted: a field of the wrong type,
a forbidden address or an absurd weight costs that instance and no other.

An answer about 10,000 instances is 15 MB, and most of them are as they were. So it is never decoded as a
whole, which would hold up every other thread of the process: it is cut where one instance ends and the next
begins, and only the pieces that were not in the answer before are decoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from proxyless.model.findings import Invalid
from proxyless.model.topology import NOWHERE, Endpoint, Locality

T = TypeVar("T")

# How an answer begins, where its first entry does, what stands between two entries, how much of that is the
# end of the first and how much is not yet the second, and how the answer ends. Quotes and newlines inside
# JSON's strings are escaped, and checks, the only other objects with a "Node", have a text there: so neither
# separator can stand anywhere else. The second form is a dev agent's, which indents.
_FORMS: Final = (
    (b'[{"Node":{', 1, b'},{"Node":{', 1, 2, b"}]", 1),
    (b"[\n    {\n", 6, b"\n    },\n    {\n", 6, 12, b"\n    }\n]", 2),
)

_OBJECT: Final[dict[str, Any]] = {}
_LIST: Final[list[Any]] = []
_OURS: Final = ("proxyless_region", "proxyless_zone", "proxyless_subzone")
_PLAIN: Final = ("region", "zone", "subzone")

_SEVERITY: Final = {"passing": 0, "warning": 1, "critical": 2}

_POOLED: Final = 4096
"""Texts and localities that are kept to be shared; far more than differ where sharing pays."""


class Instances:
    """Reads one service's answers in turn; what an entry was read into is kept for the next answer.

    `elsewhere` says that the service is in another datacenter than we, where its WAN addresses count.
    """

    def __init__(self, *, elsewhere: bool = False) -> None:
        self._elsewhere = elsewhere
        # Keyed by the very text that the endpoint holds as its `entry`, so the text is in memory once.
        self._read: dict[str, Endpoint | str] = {}
        self._texts: dict[str, str] = {}
        self._localities: dict[tuple[str, str, str], Locality] = {}

    def read(self, body: bytes) -> tuple[list[Endpoint], list[str]]:
        """The endpoints, and a reason for every instance left out. Both are empty only if the list is.

        Raises ValueError if `body` is no list.
        """
        read = self._pieces(body)
        if read is None:
            read = self._whole(body)
        self._read = read
        best: dict[str, Endpoint] = {}
        dropped = []
        for endpoint in read.values():
            if isinstance(endpoint, str):
                dropped.append(endpoint)
                continue
            # After a crash an instance may be registered twice, under its old and its new id.
            other = best.setdefault(endpoint.address, endpoint)
            if _SEVERITY[endpoint.status] < _SEVERITY[other.status]:
                best[endpoint.address] = endpoint
        return list(best.values()), dropped

    def _pieces(self, body: bytes) -> dict[str, Endpoint | str] | None:
        """Cut instead of decoded; None if it is not written as Consul writes it.

        Every new piece proves its cut: if each of them is JSON, then so was the whole, with its brackets and
        commas between them.
        """
        before, read = self._read, {}
        try:
            for text in _cut(body):
                known = before.get(text)
                if known is None:
                    read[text] = self._entry(json.loads(text), text)
                elif isinstance(known, str):
                    read[text] = known
                else:
                    read[known.entry] = known
        except (ValueError, RecursionError):
            return None
        return read or None

    def _whole(self, body: bytes) -> dict[str, Endpoint | str]:
        try:
            entries = json.loads(body)
            if not isinstance(entries, list):
                raise ValueError(f"it is {_kind(entries)}")
            return {text: self._entry(entry, text) for entry in entries for text in (json.dumps(entry),)}
        except (ValueError, RecursionError) as e:
            why = str(e)[:100] or "too deep"
            raise ValueError(f"the answer is not a JSON list of instances: {why}") from None

    def _entry(self, entry: object, text: str) -> Endpoint | str:
        """The endpoint, or why there is none."""
        name = "an instance"
        try:
            if not isinstance(entry, dict):
                raise Invalid(("", f"must be an object, got {_kind(entry)}"))
            service = _part(entry, "Service", _OBJECT)
            if id := service.get("ID"):
                name = _shown(id)
            return self._endpoint(_part(entry, "Node", _OBJECT), service, _part(entry, "Checks", _LIST), text)
        except Invalid as e:
            return f"{name}: {e}"

    def _endpoint(self, node: Mapping[str, Any], service: Mapping[str, Any], checks: list[Any], text: str) -> Endpoint:
        meta = _part(service, "Meta", _OBJECT)
        weights = _part(service, "Weights", _OBJECT)
        passing = _part(weights, "Passing", 1)
        return Endpoint(
            address=self._address(node, service),
            weight=passing,
            # Consul's own default is 1/1, but a registration that gives Passing alone has Warning 0.
            warning_weight=_part(weights, "Warning", 0 if "Passing" in weights else 1),
            locality=self._locality(node, service, meta),
            labels=self._labels(_part(service, "Tags", _LIST), meta),
            status=_status(checks),
            entry=text,
        )

    def _address(self, node: Mapping[str, Any], service: Mapping[str, Any]) -> str:
        """Consul's `CheckServiceNode.BestAddress` (agent/structs): the service's, else the node's, and from
        another datacenter the WAN address of each first."""
        port = _part(service, "Port", 0)
        host = ""
        if self._elsewhere:
            wan = _part(_part(service, "TaggedAddresses", _OBJECT), "wan", _OBJECT)
            host = _part(wan, "Address", "")
            port = (_part(wan, "Port", 0) if host else 0) or port
        host = host or _part(service, "Address", "")
        if not host and self._elsewhere:
            host = _part(_part(node, "TaggedAddresses", _OBJECT), "wan", "")
        host = host or _part(node, "Address", "")
        if not port:
            socket = _part(service, "SocketPath", "")
            forgotten = "must not be 0: register it with its port"
            raise Invalid(("port", "is a unix socket, which nobody else can reach" if socket else forgotten))
        return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"

    def _locality(self, node: Mapping[str, Any], service: Mapping[str, Any], meta: Mapping[str, Any]) -> Locality:
        """The first of the places where it may be said; where none names a region the datacenter is it."""
        node_meta = _part(node, "Meta", _OBJECT)
        region = zone = subzone = ""
        for place in (service, node):
            if said := _part(place, "Locality", _OBJECT):
                region, zone = _part(said, "Region", ""), _part(said, "Zone", "")
                if region or zone:
                    break
        else:
            if whole := _part(meta, "proxyless_locality", ""):
                parts = whole.split("/")
                if len(parts) > len(_PLAIN):
                    raise Invalid(("proxyless_locality", f"must be region/zone/subzone, got {_shown(whole)}"))
                region, zone, subzone = (*parts, "", "")[: len(_PLAIN)]
            else:
                for place, names in ((meta, _OURS), (meta, _PLAIN), (node_meta, _PLAIN)):
                    if not place.keys().isdisjoint(names):
                        region, zone, subzone = (_part(place, name, "") for name in names)
                        if region or zone or subzone:
                            break
        key = (region or _part(node_meta, "region", "") or _part(node, "Datacenter", ""), zone, subzone)
        found = self._localities.get(key)
        if found is None:
            found = Locality(*key) if any(key) else NOWHERE
            _keep(self._localities, key, found)
        return found

    def place(self, meta: Mapping[str, Any], datacenter: str) -> Locality:
        """Where a node is that has this meta, by the same names."""
        return self._locality({"Meta": meta, "Datacenter": datacenter}, {}, meta)

    def _labels(self, tags: list[Any], meta: Mapping[str, Any]) -> dict[str, str]:
        """The tags, and over them the meta: a tag `k=v` is a label k, any other is a label that is there."""
        labels = {}
        for tag in tags:
            if not isinstance(tag, str):
                raise Invalid(("Tags", f"must be texts, got {_kind(tag)}"))
            name, given, value = tag.partition("=")
            if name and given:
                labels[self._same(name)] = self._same(value)
            else:
                labels[self._same(tag)] = "true"
        for name, value in meta.items():
            if not isinstance(value, str):
                raise Invalid((f"Meta.{_shown(name)}", f"must be a text, got {_kind(value)}"))
            labels[self._same(name)] = self._same(value)
        return labels

    def _same(self, text: str) -> str:
        """One object for equal texts: ten thousand instances have the same few versions and zones."""
        found = self._texts.get(text)
        if found is None:
            found = text
            if len(text) <= 64:
                _keep(self._texts, text, text)
        return found


def _cut(body: bytes) -> Iterator[str]:
    """The text of each entry, searched and copied one by one: no step takes longer than an entry does."""
    end = len(body) - body.endswith(b"\n")
    for opening, start, between, first, skip, closing, last in _FORMS:
        if body.startswith(opening) and body.endswith(closing, 0, end):
            here = start
            while (at := body.find(between, here)) >= 0:
                yield body[here : at + first].decode()
                here = at + skip
            yield body[here : end - last].decode()


def _status(checks: list[Any]) -> str:
    """The worst of its checks (Consul's `HealthChecks.AggregatedStatus`); an instance without any passes.

    Node checks count like its own. Maintenance is worse than critical to Consul; to a client it is the same.
    """
    worst = "passing"
    for check in checks:
        if not isinstance(check, dict):
            raise Invalid(("Checks", f"must be objects, got {_kind(check)}"))
        status = _part(check, "Status", "")
        name = _part(check, "CheckID", "")
        if status not in _SEVERITY or name == "_node_maintenance" or name.startswith("_service_maintenance:"):
            return "critical"
        if _SEVERITY[status] > _SEVERITY[worst]:
            worst = status
    return worst


def _part(whole: Mapping[str, Any], name: str, empty: T) -> T:
    """A field of the type of `empty`, which stands for one that is missing or null."""
    value = whole.get(name)
    if value is None:
        return empty
    if type(value) is not type(empty):
        raise Invalid((name, f"must be {_kind(empty)}, got {_kind(value)}"))
    return value


def _keep(pool: dict[Any, Any], key: object, value: object) -> None:
    if len(pool) >= _POOLED:
        pool.clear()
    pool[key] = value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a fraction"}
    return kinds.get(type(value), "a truth value" if isinstance(value, bool) else "nothing")


def _shown(text: object) -> str:
    return ascii(text)[:60]
