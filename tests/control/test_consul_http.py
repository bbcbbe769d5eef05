"""The transport against servers that are slow on purpose: none keeps a reader longer than it was told to wait."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxyless.control.consul_http import ConsulClient
from proxyless.control.consul_settings import ConsulSettings
from proxyless.control.watcher import Unanswered

Serve = Callable[[Iterator[bytes]], ConsulClient]


def drip() -> Iterator[bytes]:
    """A header, one byte each 50 ms, and never its end."""
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"x"


def go_on() -> Iterator[bytes]:
    """The answer will come, it is said again and again."""
    while True:
        yield b"HTTP/1.1 100 Continue\r\n\r\n"


def slowly(text: bytes) -> Iterator[bytes]:
    """An answer that is whole in the end."""
    for at in range(0, len(text), 8):
        yield text[at : at + 8]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answers the first connection with these bytes, 50 ms apart."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads: list[threading.Thread] = []
    clients: list[ConsulClient] = []

    def start(answer: Iterator[bytes]) -> ConsulClient:
        def work() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                for part in answer:
                    if over.wait(0.05):
                        return
                    try:
                        peer.sendall(part)
                    except OSError:
                        return

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        port = listener.getsockname()[1]
        clients.append(ConsulClient(ConsulSettings.parse(f"consul://127.0.0.1:{port}")))
        return clients[-1]

    yield start
    over.set()
    for client in clients:
        client.close()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.parametrize("answer", [drip, go_on])
def test_headers_that_never_end_are_given_up(serve: Serve, answer: Callable[[], Iterator[bytes]]) -> None:
    """Each byte comes in time; a watch that went on waiting would never be known to hear nothing."""
    client = serve(answer())
    began = time.monotonic()
    with pytest.raises(Unanswered, match=r"no answer within 0\.4 s"):
        client.read("kv/x", timeout=0.4)
    assert 0.35 < time.monotonic() - began < 1.5


def test_a_body_has_its_own_time(serve: Serve) -> None:
    """What has begun in time may take longer than that: a large answer over a slow line."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n"
    client = serve(iter([head, *slowly(b"x" * 64)]))
    answer = client.read("kv/x", timeout=0.2)
    assert (answer.status, answer.body) == (200, b"x" * 64)
    assert answer.transfer > 0.2
