"""pymilvus, with three milvus-lite servers, each a process of its own."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Adopt
from tests.clients.town import Process, Town, needs

needs("pymilvus", "milvus_lite.adapter.grpc.server")

from pymilvus import AsyncMilvusClient, MilvusClient  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SERVER = """
import sys, threading
from milvus_lite.adapter.grpc.server import start_server_in_thread
from pymilvus import MilvusClient
server, db, port = start_server_in_thread(sys.argv[1], port=0)
client = MilvusClient(f"http://127.0.0.1:{port}")
client.create_collection(sys.argv[2], dimension=4)  # what it has says who it is
client.close()
print(port, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def town(town: Town, tmp_path: Path) -> Town:
    """With three vector databases, each with one collection that has the server's name."""
    town.settle({name: Process(name, SERVER, tmp_path) for name in "abc"})
    return town


def _uri() -> tuple[str, str]:
    """A place that does not exist; another each time, for pymilvus shares connections by URI."""
    target = f"milvus-{uuid.uuid4().hex[:8]}.test:19530"
    return target, f"http://{target}"


def test_sync(town: Town, brought: Adopt) -> None:
    """`MilvusClient` calls all three, survives SIGKILL of one and follows an edit."""
    target, uri = _uri()
    client: Any = brought(lambda: MilvusClient(uri), target)
    town.lives(lambda: client.list_collections()[0])
    client.close()


def test_asyncio(town: Town, brought: Adopt) -> None:
    """`AsyncMilvusClient`, which opens its channel in its first call and appends interceptors to it."""
    target, uri = _uri()

    async def begin() -> Any:
        client: Any = brought(lambda: AsyncMilvusClient(uri), target)

        async def call() -> str:
            return str((await client.list_collections())[0])

        return call

    town.lives_on_a_loop(begin)


def test_a_decorated_subclass(town: Town) -> None:
    """The decorator on a class of one's own, derived from the library's."""
    import proxyless

    @proxyless.meshed(town.service, mesh=town.mesh)
    class Vectors(MilvusClient):  # type: ignore[misc]
        """Ours."""

    client = Vectors(_uri()[1])
    town.lives(lambda: client.list_collections()[0])
    client.close()
