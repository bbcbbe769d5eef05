"""What a server reports of its load in the trailers of a call: `xds.data.orca.v3.OrcaLoadReport` (gRFC A51).

Four doubles of it are of use here, so they are read by hand, from bytes that a server sent and nobody has checked:
bounded, and None for what is no protobuf message.
"""

from __future__ import annotations

import struct
from math import isfinite
from typing import NamedTuple

KEY = "endpoint-load-metrics-bin"

LONGEST = 16 * 1024
"""Bytes of a report. gRPC servers send 8 KB of trailers at most by default; one with names for every metric fits."""

_CPU, _QPS, _EPS, _APPLICATION = 1, 6, 7, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class LoadReport(NamedTuple):
    """Utilizations as parts of 1, queries and errors per second; 0 where the server does not say."""

    cpu: float = 0.0
    application: float = 0.0
    qps: float = 0.0
    eps: float = 0.0


def decode(data: bytes) -> LoadReport | None:
    """Read a report; None if it is malformed."""
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
    return value if isfinite(value) and value > 0 else 0.0


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
    return found if isfinite(found) else 0.0
