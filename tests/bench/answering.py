"""A server that answers each request with itself, at once: HTTP/2 by hand, so that it costs next to nothing.

A server in Python costs several times what its client does. On a machine with few cores the two stand in each other's
way, and what a client's own work is can't be told from that. This one takes frames apart and puts the answer's frames
together, and reads no header: it can't decode them, and has no need to. Good for one thing: to measure clients.
"""

from __future__ import annotations

import selectors
import socket
import sys
from typing import Any

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x6, 0x8  # RFC 9113, 6
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
WIDE = (1 << 31) - 1
"""The largest window there is (RFC 9113, 6.9.1)."""
AGAIN = 1 << 24
"""Bytes after which what was taken from the connection's window is given back."""


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing, its name and value as they are (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


STATUS_200 = b"\x88"  # RFC 7541, appendix A: index 8
BEGIN = STATUS_200 + _literal(b"content-type", b"application/grpc")
END = _literal(b"grpc-status", b"0")
HELLO = _frame(SETTINGS, 0, 0, b"\x00\x03" + WIDE.to_bytes(4, "big") + b"\x00\x04" + WIDE.to_bytes(4, "big")) + _frame(
    WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")
)
"""As many streams as the client likes, and no waiting for windows."""


class Connection:
    """One client's connection."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = peer
        self._rest = b""
        self._met = False
        self._bodies: dict[int, bytes] = {}
        self._taken = 0

    def read(self) -> bool:
        """Answer what has come; False when nothing will come any more."""
        data = self._peer.recv(1 << 18)
        if not data:
            return False
        self._rest += data
        answers: list[bytes] = []
        if not self._met:
            if len(self._rest) < len(PREFACE):
                return True
            self._met = True
            self._rest = self._rest[len(PREFACE) :]
            answers.append(HELLO)
        self._take_apart(answers)
        if self._taken >= AGAIN:
            answers.append(_frame(WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
            self._taken = 0
        if answers:
            self._peer.sendall(b"".join(answers))
        return True

    def _take_apart(self, answers: list[bytes]) -> None:
        rest, at = self._rest, 0
        while len(rest) - at >= 9:
            length = int.from_bytes(rest[at : at + 3], "big")
            if len(rest) - at - 9 < length:
                break
            kind, flags = rest[at + 3], rest[at + 4]
            payload = rest[at + 9 : at + 9 + length]
            if kind == DATA:
                stream = int.from_bytes(rest[at + 5 : at + 9], "big")
                self._taken += length
                body = self._bodies.pop(stream, b"") + payload
                if flags & END_STREAM:
                    answers.append(_frame(HEADERS, END_HEADERS, stream, BEGIN))
                    answers.append(_frame(DATA, 0, stream, body))
                    answers.append(_frame(HEADERS, END_HEADERS | END_STREAM, stream, END))
                else:
                    self._bodies[stream] = body
            elif kind in (SETTINGS, PING) and not flags & ACK:
                answers.append(_frame(kind, ACK, 0, payload if kind == PING else b""))
            at += 9 + length
        self._rest = rest[at:]


def serve(ports: int) -> None:
    """Listen on so many ports and print them; end with standard input."""
    selector = selectors.DefaultSelector()
    for _ in range(ports):
        listener = socket.create_server(("127.0.0.1", 0))
        selector.register(listener, selectors.EVENT_READ, listener)
        print(listener.getsockname()[1], flush=True)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            known: Any = key.data
            if known is None:
                return
            if isinstance(known, socket.socket):
                peer, _address = known.accept()
                selector.register(peer, selectors.EVENT_READ, Connection(peer))
            elif not known.read():
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    serve(int(sys.argv[1]))
