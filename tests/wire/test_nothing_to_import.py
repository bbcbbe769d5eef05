"""Once a mesh knows its documents no call has to import anything: files may be out, or replaced by a deployment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire.echo import dead_address

SCENE = """
import asyncio, sys
import grpc, proxyless
from proxyless.protos import echo_pb2_grpc
from proxyless.protos.echo_pb2 import EchoRequest as Request

class Refusing:
    def find_spec(self, name, path=None, target=None):
        raise OSError(24, f"Too many open files: import of {name}")

mesh = proxyless.connect(sys.argv[1], services=["echo"])
assert mesh.ready("echo", timeout=5.0)
stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
grpc.insecure_channel("127.0.0.1:1").close()  # grpcio itself imports with its first channel
asyncio.run(asyncio.sleep(0))
sys.meta_path.insert(0, Refusing())

def said(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "nothing"

async def scene():
    stub = echo_pb2_grpc.EchoStub(mesh.aio_channel("echo"))
    told = []
    for call in (lambda: stub.Unary(Request(), timeout=3), lambda: stub.ClientStream(iter([Request()]), timeout=3)):
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            told.append(error.code().name)
    return told

if sys.argv[2] == "asyncio":
    print(asyncio.run(scene()))
else:
    calls = (
        lambda: stub.Unary(Request(), timeout=3),
        lambda: stub.Unary.future(Request(), timeout=3).result(),
        lambda: list(stub.ServerStream(Request(), timeout=3)),
        lambda: stub.ClientStream(iter([Request()]), timeout=3),
    )
    print([said(call) for call in calls])
sys.meta_path.pop(0)
mesh.close()
"""


@pytest.mark.parametrize(("stack", "calls"), [("threads", 4), ("asyncio", 2)])
def test_a_call_that_fails_first_imports_nothing(stack: str, calls: int, tmp_path: Path) -> None:
    """Nobody listens; the very first calls of a process are tried again, fail, and say so in gRPC's words."""
    file = tmp_path / "mesh.yaml"
    file.write_text(f"endpoints: {{echo: [{{address: '{dead_address()}'}}]}}\n")
    command = [sys.executable, "-c", SCENE, f"file:{file}", stack]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60.0, check=False)
    assert run.stdout.strip() == str(["UNAVAILABLE"] * calls), run.stderr
