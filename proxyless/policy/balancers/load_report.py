"""What a server reports of its load in the trailers of a call: `xds.data.orca.v3.OrcaLoadReport` (gRFC A51).

Envoy knows three ways to write it, and all are read: `endpoint-load-metrics` as text
(`cpu_utilization:0.3,rps_fractional:120,eps:1`), the same as JSON, and the message itself in
`endpoint-load-metrics-bin`. The last is gRPC's own, and grpcio does not show it: C-core keeps it to itself, as of every
release so far. So servers that are called from Python send one of the others.

Four doubles of a report are of use here. They are read by hand, from bytes that a server sent and nobody has checked:
bounded, and None for what is no report.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from math import isfinite
from typing import Any, NamedTuple

TEXT = "endpoint-load-metrics"
JSON = "endpoint-load-metrics-json"
KEY = "endpoint-load-metrics-bin"

LONGEST = 16 * 1024
"""Bytes of a report. gRPC servers send 8 KB of trailers at most by default; one with names for every metric fits."""

HEAVIEST = 2.0**32 - 1
LIGHTEST = 1.0 / HEAVIEST
"""No weight beyond these: "std::numeric_limits<uint32_t>::max()" (Envoy `calculateWeightFromOrcaReport`), and as far
down. A server may report any numbers, and the sum of two that are nearly infinite is."""

_CPU, _QPS, _EPS, _APPLICATION = 1, 6, 7, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class LoadReport(NamedTuple):
    """Utilizations as parts of 1, queries and errors per second; 0 where the server does not say."""

    cpu: float = 0.0
    application: float = 0.0
    qps: float = 0.0
    eps: float = 0.0


def read(trailers: Iterable[tuple[str, str | bytes]]) -> LoadReport | None:
    """The report among a call's trailers; None where there is none that can be read."""
    for key, value in trailers:
        if key.startswith(TEXT) and len(value) <= LONGEST:
            if key == KEY and isinstance(value, bytes):
                return decode(value)
            if key == TEXT and isinstance(value, str):
                return of_text(value)
            if key == JSON and isinstance(value, str):
                return of_json(value)
    return None


def of_text(text: str) -> LoadReport | None:
    """Read `name:value,…`; names that are not known are of other metrics."""
    pairs = [part.partition(":")[::2] for part in text.split(",")]
    try:
        return _named({name.strip(): float(value) for name, value in pairs if name.strip() in _NAMES})
    except ValueError:
        return None


def of_json(text: str) -> LoadReport | None:
    """Read the message as protobuf writes it in JSON, in either spelling of its names."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    numbers = {name: value for name, value in found.items() if type(value) in (int, float)}
    return _named(numbers)


_NAMES = {
    "cpu_utilization": "cpu",
    "cpuUtilization": "cpu",
    "application_utilization": "application",
    "applicationUtilization": "application",
    "rps_fractional": "qps",
    "rpsFractional": "qps",
    "eps": "eps",
}


def _named(numbers: dict[str, Any]) -> LoadReport:
    return LoadReport(**{_NAMES[name]: _sane(value) for name, value in numbers.items() if name in _NAMES})


def decode(data: bytes) -> LoadReport | None:
    """Read the message as protobuf writes it in bytes; None if it is malformed."""
    if len(data) > LONGEST:
        return None
    doubles: dict[int, float] = {}
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            field, kind = tag >> 3, tag & 7
            if kind == _FIXED64:
                if field in (_CPU, _QPS, _EPS, _APPLICATION):
                    (doubles[field],) = struct.unpack_from("<d", data, at)
                at += 8
            elif kind == _VARINT:
                _, at = _varint(data, at)
            elif kind == _BYTES:
                length, at = _varint(data, at)
                at += length
            elif kind == _FIXED32:
                at += 4
            else:
                return None  # groups are of an older time
    except (IndexError, struct.error):
        return None
    if at != len(data):
        return None
    cpu, qps, eps, application = (_sane(doubles.get(field, 0.0)) for field in (_CPU, _QPS, _EPS, _APPLICATION))
    return LoadReport(cpu, application, qps, eps)


def _sane(value: float) -> float:
    """A JSON integer may be too large for a float."""
    return float(value) if 0 < value < 1e300 else 0.0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; IndexError where there is no end."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a varint has at most ten bytes")


def weight(report: LoadReport, penalty: float) -> float:
    """What a server can take, as gRFC A58 has it: `qps / (utilization + eps/qps * error_utilization_penalty)`.

    Utilization is the application's own measure, else the CPU's. 0: the report says nothing to go by.
    """
    utilization = report.application or report.cpu
    if not (report.qps and utilization):
        return 0.0
    found = report.qps / (utilization + report.eps / report.qps * penalty)
    return min(max(found, LIGHTEST), HEAVIEST) if isfinite(found) else 0.0
