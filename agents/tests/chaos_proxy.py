"""A bad network between an agent and its centre: one TCP proxy on loopback, told what to do.

Each connection meets the next fault of the list; after the last the line is good. Knows a little of
HTTP: where the head of an answer ends, since a cut hurts differently on each side of that.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

PORTAL = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 41\r\n\r\n"
    b"<html>Please accept our terms</html>     "
)
REDIRECT = (
    b"HTTP/1.1 302 Found\r\nLocation: http://portal.invalid/\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What befalls a connection. `place` is where in the first answer: a number of its bytes, or
    `head` (in mid-head), `body` (its first byte), `middle` and `last` (before its last byte)."""

    kind: str  # refuse, deaf, cut, reset, stall, corrupt, slow, portal, redirect
    place: str | int = 0


class ChaosProxy:
    """`with ChaosProxy(port, faults) as proxy:` listens on `proxy.port` of loopback."""

    def __init__(self, upstream_port: int, faults: list[Fault]) -> None:
        self._upstream = ("127.0.0.1", upstream_port)
        self._faults: Iterator[Fault] = iter(faults)
        self.left = len(faults)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        with self._lock:
            for each in self._open:
                each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fault = next(self._faults, None)
            if fault is not None:
                self.left -= 1
            self._keep(client)
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _keep(self, each: socket.socket) -> socket.socket:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(each)
        return each

    def _drop(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(sockets)
        for each in sockets:
            each.close()

    def _serve(self, client: socket.socket, fault: Fault | None) -> None:
        try:
            match fault:
                case Fault(kind="refuse"):
                    _reset(client)
                case Fault(kind="deaf"):
                    _swallow(client)
                case Fault(kind="portal"):
                    client.recv(65_536)
                    client.sendall(PORTAL)
                case Fault(kind="redirect"):
                    client.recv(65_536)
                    client.sendall(REDIRECT)
                case _:
                    self._relay(client, fault)
        except OSError:
            pass  # the other end went: that is what this is about
        finally:
            self._drop(client)

    def _relay(self, client: socket.socket, fault: Fault | None) -> None:
        centre = self._keep(socket.create_connection(self._upstream, timeout=5.0))
        try:
            # While a thread waits in recv, closing a socket tells the other end nothing: the first
            # request and its answer pass in this thread alone.
            centre.sendall(_message(client))
            if fault is not None and _answer_badly(centre, client, fault):
                return
            threading.Thread(target=_pump, args=(client, centre), daemon=True).start()
            _pump(centre, client)
        finally:
            self._drop(centre)


def _answer_badly(centre: socket.socket, client: socket.socket, fault: Fault) -> bool:
    """Pass the first answer on up to the fault's place; True: the connection is over."""
    if fault.kind == "slow":
        # One byte at a time, each in a packet of its own.
        for byte in centre.recv(400):
            client.sendall(bytes([byte]))
        return False
    answer = _message(centre)
    place = _offset(answer, fault.place)
    if fault.kind == "corrupt":
        client.sendall(answer[:place] + bytes([answer[place] ^ 0x40]) + answer[place + 1 :])
        return False
    client.sendall(answer[:place])
    if fault.kind == "stall":
        _swallow(client)
    elif fault.kind == "reset":
        _reset(client)
    return True


def _offset(answer: bytes, place: str | int) -> int:
    if isinstance(place, int):
        return place
    end = answer.index(b"\r\n\r\n") + 4
    return {
        "head": end // 2,
        "body": end,
        "middle": (end + len(answer)) // 2,
        "last": len(answer) - 1,
    }[place]


def _message(source: socket.socket) -> bytes:
    """One whole message of HTTP, head and body, or what came before the other end went."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        if not (data := source.recv(65_536)):
            return seen
        seen += data
    head, _, body = seen.partition(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    missing = sum(lengths) - len(body)
    while missing > 0 and (data := source.recv(65_536)):
        seen += data
        missing -= len(data)
    return seen


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _swallow(client: socket.socket) -> None:
    """Say nothing more until the other end gives up."""
    while client.recv(65_536):
        pass


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
