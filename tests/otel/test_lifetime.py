"""When telemetry begins and ends: providers that come late, meshes that are closed, processes that fork."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

import proxyless
from proxyless.otel.store import BATCH
from proxyless.protos import echo_pb2_grpc
from proxyless.stack import ENTRY
from tests.otel.world import Telling
from tests.wire.echo import Request, eventually
from tests.wire.test_fork import in_a_child
from tests.wire.ways import Net


def count(told: Telling, name: str = "rpc.client.call.duration") -> int:
    """How many calls were told of."""
    return sum(point.count for point in told.points(name))


def test_closing_hands_over_what_is_left(net: Net, told: Telling) -> None:
    """And a mesh that is closed stands at nothing."""
    net.server()
    with proxyless.connect(net.source, meter_provider=told.meters) as mesh:
        stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
        for _ in range(10):
            stub.Unary(Request())
    assert count(told) == 10
    assert told.points("proxyless.endpoints") == []


def test_two_meshes_share_a_provider(net: Net, told: Telling) -> None:
    """An instrument can be made only once: what one counts is not lost to the other."""
    net.server()
    one, other = (proxyless.connect(net.source, meter_provider=told.meters) for _ in range(2))
    for mesh in (one, other):
        echo_pb2_grpc.EchoStub(mesh.channel("echo")).Unary(Request())
    (endpoints,) = told.points("proxyless.endpoints")
    assert (count(told), endpoints.value) == (2, 1)
    one.close()
    echo_pb2_grpc.EchoStub(other.channel("echo")).Unary(Request())
    assert (count(told), len(told.points("proxyless.endpoints"))) == (3, 1)
    other.close()


def test_nothing_grows_while_nobody_collects(net: Net, told: Telling) -> None:
    """A series that has grown long is handed over by another thread than the callers'."""
    net.server()
    with proxyless.connect(net.source, meter_provider=told.meters) as mesh:
        stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
        for _ in range(BATCH + 500):
            stub.Unary(Request())
        series = mesh._telemetry._store._series  # type: ignore[union-attr]
        eventually(lambda: all(len(values) < BATCH for known in series.values() for values in known.values()))
        assert count(told) == BATCH + 500


def test_threads_lose_nothing(net: Net, told: Telling) -> None:
    """Eight threads call while others collect: every call is told of once."""
    net.server()
    with proxyless.connect(net.source, meter_provider=told.meters) as mesh:
        stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
        threads = [threading.Thread(target=lambda: [stub.Unary(Request()) for _ in range(150)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            told.metrics()
        assert count(told) == 1200


def test_a_child_begins_at_nothing(net: Net, told: Telling) -> None:
    """What the parent has not handed over yet is the parent's to tell."""
    net.server()
    with proxyless.connect(net.source, meter_provider=told.meters) as mesh:
        stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
        for _ in range(5):
            stub.Unary(Request())

        def work() -> int:
            stub.Unary(Request(), timeout=2.5)
            return count(told)

        assert in_a_child(work) == "1"
        assert count(told) == 5


def test_a_child_that_never_calls_has_nothing_to_tell(net: Net, told: Telling) -> None:
    """It collects, and ends, also where it was forked while a thread of the parent's was compiling."""
    net.server()
    with proxyless.connect(net.source, meter_provider=told.meters) as mesh:
        echo_pb2_grpc.EchoStub(mesh.channel("echo")).Unary(Request())
        compiling, forked = threading.Event(), threading.Event()

        def compile() -> None:
            with mesh._feed.loop._lock:
                compiling.set()
                forked.wait(10.0)

        def work() -> str:
            points = told.points("proxyless.endpoints")
            mesh.close()
            return f"{len(points)} points, and closed"

        thread = threading.Thread(target=compile)
        thread.start()
        compiling.wait(2.0)
        said = in_a_child(work)
        forked.set()
        thread.join()
        assert said == "0 points, and closed"
        assert len(told.points("proxyless.endpoints")) == 1


def test_without_an_sdk_nothing_stands_in_the_way(net: Net) -> None:
    """After the first call the head of the stack is the plain one."""
    net.server()
    channel = net.channel()
    echo_pb2_grpc.EchoStub(channel).Unary(Request())
    assert channel.entry is ENTRY  # type: ignore[attr-defined]


def test_providers_that_do_nothing_leave_calls_alone(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given so, or because the environment has disabled the SDK."""
    net.server()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    disabled = Telling()
    for given in (
        {"meter_provider": NoOpMeterProvider(), "tracer_provider": NoOpTracerProvider()},
        disabled.both,
    ):
        with proxyless.connect(net.source, **given) as mesh:
            channel = mesh.channel("echo")
            echo_pb2_grpc.EchoStub(channel).Unary(Request())
            assert channel.entry is ENTRY
    disabled.close()


PROGRAM = """
import sys, time
import proxyless
from proxyless.protos import echo_pb2, echo_pb2_grpc
mesh = proxyless.connect(sys.argv[1])
stub = echo_pb2_grpc.EchoStub(mesh.channel("echo"))
assert not any(name.startswith("opentelemetry") for name in sys.modules), "imported, and nobody asked"
if "after" in sys.argv[2]:
    stub.Unary(echo_pb2.EchoRequest())
from opentelemetry import metrics, trace
from tests.otel.world import Telling
told = Telling()
metrics.set_meter_provider(told.meters)
trace.set_tracer_provider(told.tracers)
if "after" in sys.argv[2]:
    time.sleep(float(sys.argv[2].split()[1]))
for _ in range(3):
    stub.Unary(echo_pb2.EchoRequest())
print(len(told.spans()), sum(point.count for point in told.points("rpc.client.call.duration")))
mesh.close()
"""


@pytest.mark.parametrize("when", ["before the first call", "after 6"])
def test_the_process_s_own_providers_may_come_late(net: Net, when: str) -> None:
    """After `connect()`, and after calls, too: those are found within some seconds. Until then nothing of
    OpenTelemetry's is even imported."""
    net.server()
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), net.source, when]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout.strip(), done.stderr) == ("3 3", "")
