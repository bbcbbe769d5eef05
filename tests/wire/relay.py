"""A TCP relay before a server: counts connections and bytes, and can see a connection end."""

from __future__ import annotations

import socket
import threading
from typing import Any


class Relay:
    """Listens on loopback and passes everything on to `target`, both ways."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        """Connections so far."""
        self.open = 0
        """Connections that the client has not ended."""
        self.sent = 0
        """Bytes from clients to the server."""
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Relay:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in [self._listener, *self._sockets]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was quicker
            one.close()
        for thread in self._threads:
            thread.join(5.0)

    def _begin(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(self._target)
            with self._lock:
                self._sockets += [client, server]
                self.accepted += 1
                self.open += 1
            self._begin(self._pass_on, client, server, True)
            self._begin(self._pass_on, server, client, False)

    def _pass_on(self, one: socket.socket, other: socket.socket, from_client: bool) -> None:
        try:
            while data := one.recv(65536):
                if from_client:
                    with self._lock:
                        self.sent += len(data)
                other.sendall(data)
        except OSError:
            pass  # one of the two is gone
        if from_client:
            with self._lock:
                self.open -= 1
        try:
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass
