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

    def _look(self, client: socket.socket, data: bytes) -> None:
        """What a client is about to say to the server."""

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
                        self._look(one, data)
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


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""With which every connection begins; in one piece, for it is the first thing that is written (- RFC 9113, 3.4)."""
_HEAD = 9
_DATA, _HEADERS, _RST_STREAM = 0x0, 0x1, 0x3
_END_STREAM = 0x1


class Frames(Relay):
    """Sees how clients end their requests. A handler can't tell: grpcio's server says that there are no more
    requests before it says that the call was cancelled."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.endings: list[str] = []
        """`whole` (END_STREAM) or `broken off` (RST_STREAM), as they come."""
        self._said: dict[socket.socket, bytes] = {}

    def _look(self, client: socket.socket, data: bytes) -> None:
        """A frame is its length in three bytes, type, flags and stream (- RFC 9113, 4.1)."""
        said = self._said.get(client, b"") + data
        if said.startswith(_PREFACE):
            said = said[len(_PREFACE) :]
        while len(said) >= _HEAD and len(said) >= (end := _HEAD + int.from_bytes(said[:3], "big")):
            kind, flags = said[3], said[4]
            if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
                self.endings.append("whole")
            if kind == _RST_STREAM:
                self.endings.append("broken off")
            said = said[end:]
        self._said[client] = said
