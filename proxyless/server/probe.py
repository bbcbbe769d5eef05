"""The question that a registry's health check puts to a server, put to it by itself first.

An instance counts from the moment it is registered, before its first check. So nothing is registered as
healthy that would not pass it; and what would not is told why, which Consul tells nobody.
"""

from __future__ import annotations

import inspect
import threading
import time
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proxyless.model.instance import Instance

PATIENCE: Final = 5.0
"""Seconds that a server is given to answer: it may be about to be started."""

CONNECTIONS: Final = 8
"""Each reaches one of those who listen at the port, by chance: of two, both but once in 256."""

HASTE: Final = 0.5
"""Seconds for all of these: the server is leaving."""

SERVING: Final = health_pb2.HealthCheckResponse.SERVING

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


def doubt(instance: Instance, leaving: threading.Event) -> str:
    """Why a health check of `instance` would fail, or "". Ends early, with either, once `leaving` is set."""
    # Without the wrappers of instrumentations: this is no call of the program's.
    channel = inspect.unwrap(grpc.insecure_channel)(instance.target, options=_OPTIONS)
    question = health_pb2.HealthCheckRequest(service=instance.service)
    deadline = time.monotonic() + PATIENCE
    why = ""
    with channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        while not leaving.is_set():
            try:
                # A server that is not started yet has its port open already, and answers as soon as it is.
                status = check(question, timeout=0.25, wait_for_ready=True).status
                if status == SERVING:
                    return ""
                why = f"the health service at {instance.target} says that it is not serving"
            except grpc.RpcError as e:
                why = _meaning(e, instance)
            if time.monotonic() > deadline:
                break
            leaving.wait(0.05)
    return why


def another(instance: Instance) -> bool:
    """Whether somebody serves at the address of `instance` now that it has said that it doesn't any more.

    A port may have several processes behind it: a pool of workers, or the predecessor and the successor of a
    restart. The kernel shares its connections among them (SO_REUSEPORT, which gRPC sets by default on Linux).
    """
    question = health_pb2.HealthCheckRequest(service=instance.service)
    until = time.monotonic() + HASTE
    for _ in range(CONNECTIONS):
        left = until - time.monotonic()
        if left <= 0.0:
            break
        with inspect.unwrap(grpc.insecure_channel)(instance.target, options=_OPTIONS) as channel:
            try:
                if health_pb2_grpc.HealthStub(channel).Check(question, timeout=left).status == SERVING:
                    return True
            except grpc.RpcError:
                continue  # nobody, or nobody who knows the service
    return False


def _meaning(error: grpc.RpcError, instance: Instance) -> str:
    code, where = error.code(), instance.target
    if code is grpc.StatusCode.NOT_FOUND:
        return (
            f"the health service that answers at {where} does not know {instance.service!r}; "
            "if the server has one of its own, give it to register(health=…)"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"no server answers health checks at {where}; is it started, listening at that address, and "
            "without TLS? Else say register(address=…)"
        )
    return f"the health check at {where} fails with {code.name}: {error.details()}; Consul's will, too"
