"""What docs/adopting.md says is true: its snippets run, in their order, against a server; its commands parse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

import proxyless
from proxyless.channel import adopt
from proxyless.channel.aio import AioMeshChannel
from proxyless.channel.sync import MeshChannel
from proxyless.protos import shop_pb2, shop_pb2_grpc
from tests.cli.invoking import start

PAGE = (Path(__file__).parents[1] / "docs" / "adopting.md").read_text(encoding="utf-8")


class Products(shop_pb2_grpc.ProductsServicer):
    """Knows every product."""

    def GetProduct(self, request: Any, _context: Any) -> Any:
        return shop_pb2.Product(id=request.id, version="v1")


class SomeLibrary:
    """Somebody else's."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What somebody has who tries the page's snippets: a server, a mesh in the environment, the names used."""
    pool = futures.ThreadPoolExecutor(4)
    server = grpc.server(pool)
    shop_pb2_grpc.add_ProductsServicer_to_server(Products(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    endpoints = {"product-service": [{"address": f"127.0.0.1:{port}"}]}
    (tmp_path / "mesh.yaml").write_text(f"endpoints: {json.dumps(endpoints)}\n")
    monkeypatch.setenv("PROXYLESS_SOURCE", f"file:{tmp_path / 'mesh.yaml'}")
    monkeypatch.setattr(adopt, "_default", None)
    names: dict[str, Any] = {
        "ProductsStub": shop_pb2_grpc.ProductsStub,
        "GetProductRequest": shop_pb2.GetProductRequest,
        "SomeLibrary": SomeLibrary,
        "contextlib": contextlib,
    }
    yield names
    adopt._used_by_decorators = False
    proxyless.uninstall()
    for mesh in (adopt._default, names.get("mesh")):
        if mesh is not None:
            mesh.close()
    server.stop(None).wait()
    pool.shutdown()


def test_the_snippets_run(reader: dict[str, Any]) -> None:
    """One after the other, in one namespace; and what they made is what the page says it is."""
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(snippet, "docs/adopting.md", "exec"), reader)
        if "client.product" in snippet:
            assert reader["client"].product("7").version == "v1"
        if "def make_client" in snippet:
            assert isinstance(reader["make_client"]().channel, MeshChannel)
            assert isinstance(asyncio.run(reader["make_channel"]()), AioMeshChannel)
            with reader["client"]() as stub:
                assert stub.GetProduct(shop_pb2.GetProductRequest(id="7"), timeout=5).version == "v1"
        if "library_client" in snippet:
            assert isinstance(reader["library_client"].channel, MeshChannel)
        if "class Shop" in snippet:
            shop = reader["shop"]
            assert (shop.users.service, shop.products.service) == ("user-service", "product-service")
            assert not isinstance(shop.other, MeshChannel)
        if "on_a_loop" in snippet:
            assert asyncio.run(reader["on_a_loop"]()).version == "v1"
    assert {"rebound", "shop", "existing"} <= set(reader)
    assert "grpc.insecure_channel" in PAGE


def test_the_commands_are_commands(tmp_path: Path) -> None:
    """Each `proxyless run` of the page, with programs and files of those names."""
    (tmp_path / "app.py").write_text("import sys; print(len(sys.argv))\n")
    (tmp_path / "rules.yaml").write_text("shop.internal: product-service\n")
    commands = re.findall(r"^    proxyless (run .*)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = command.replace("app.py", str(tmp_path / "app.py")).replace("rules.yaml", str(tmp_path / "rules.yaml"))
        done = start(*words.replace("package.module", "this").split(), PROXYLESS_SOURCE=f"file:{tmp_path / 'm.yaml'}")
        assert done.returncode == 0, done.stderr
